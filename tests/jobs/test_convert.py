import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.checkpoint.lease import Lease
from runner.cli import main
from runner.models.tensors import read_tensors

SMALL = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "experts_per_token": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 8,
    "rope_theta": 150000,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 512,
    "quantization_config": {"quant_method": "mxfp4"},
}


@pytest.fixture(scope="module")
def checkpoint(tiny_model_folder, tmp_path_factory):
    """A tiny gpt-oss as the hub has it, experts in MXFP4, with the byte tokenizer of the tiny llama."""
    from tests.support.checkpoints import write_hub_checkpoint

    folder = tmp_path_factory.mktemp("hub") / "gpt-oss-tiny"
    ids = json.loads((tiny_model_folder / "config.json").read_text())
    config = SMALL | {name: ids[name] for name in ("vocab_size", "eos_token_id")}
    write_hub_checkpoint(folder, config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model_folder / name, folder / name)
    (folder / "LICENSE").write_text("\n   Apache License\n   Version 2.0\n")
    return folder


def convert(source, folder, *words):
    return main(["convert", f"model.path={source}", f"convert.folder={folder}", "engine.backend=cpu", *words])


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "q6"
    assert convert(checkpoint, folder, "convert.bits=6", "convert.group_size=32") == 0
    return folder


def test_experts_in_mxfp4_become_affine(converted):
    config = json.loads((converted / "config.json").read_text())
    assert config["quantization"]["mode"] == "affine"
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (6, 32)
    tensors = read_tensors(converted)
    experts = tensors["model.layers.0.mlp.experts.gate_proj.weight"]
    assert experts.size_bytes == 4 * 64 * 64 * 6 // 8
    assert "model.layers.0.mlp.experts.gate_proj.biases" in tensors


def test_the_weights_are_those_of_the_checkpoint(checkpoint, converted):
    import mlx.core as mx

    from runner.engine.weights import load_lazily

    def experts(folder):
        return load_lazily(folder)[0].model.layers[1].mlp.experts.down_proj

    old, new = experts(checkpoint), experts(converted)
    old = mx.dequantize(old.weight, old.scales, None, 32, 4, "mxfp4").astype(mx.float32)
    new = mx.dequantize(new.weight, new.scales, new.biases, 32, 6).astype(mx.float32)
    step = 2 * float(mx.abs(old).max()) / 63
    assert float(mx.abs(old - new).max()) <= step


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (5, 32), (4, 32), (4, 64)])
def test_every_recipe_has_the_bits_that_it_says(checkpoint, tmp_path, capsys, bits, group):
    folder = tmp_path / "model"
    assert convert(checkpoint, folder, f"convert.bits={bits}", f"convert.group_size={group}", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["bits_per_weight"] == pytest.approx(bits + 32 / group, rel=0.05)
    assert done["disk_bytes"] >= done["weight_bytes"] == sum(t.size_bytes for t in read_tensors(folder).values())


def test_what_stays_in_higher_precision_is_told(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "q4", "convert.bits=4") == 0
    told = capsys.readouterr().out
    assert "model.layers.*.mlp.router.weight: 8.5 bits, 2 tensors" in told
    assert "model.norm.weight: 16 bits, 1 tensors" in told
    assert told.startswith("5.168 bits per weight (4 bits, groups of 32)\n")


def test_the_model_runs(converted, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\ngood\nbad\n")
    words = ["job=label", "job.labels=[yes,no]", "dataset=csv", f"dataset.path={rows}", "prompt.user={{ text }}"]
    where = [f"model.path={converted}", "prompt.chat=false", f"output.dir={tmp_path}", "engine.backend=cpu"]
    assert main(["run", *words, *where]) == 0


def test_the_card_says_what_was_measured_and_what_not(checkpoint, converted):
    card = (converted / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert f"| Base model | `{checkpoint}` |" in card
    assert "base_model:" not in card.split("---")[1]  # a folder of this disk means nothing to the hub
    assert "| Bits, group size | 6, 32 |" in card
    for part in ("On disk", "Kept in higher precision", "`model.layers.*.mlp.router.weight`", "Not measured"):
        assert part in card
    assert (converted / "LICENSE").is_file()
    assert (converted / "tokenizer.json").is_file()


def test_a_folder_that_exists_is_left_alone(checkpoint, converted, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}
    assert convert(checkpoint, converted) == 2
    assert "exists already" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}


def test_widths_that_do_not_divide_are_refused(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "model", "convert.group_size=128") == 2
    said = capsys.readouterr().err
    assert "convert.group_size=128" in said
    assert "try convert.group_size=32" in said
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_before_anything_is_written(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert convert(checkpoint, tmp_path / "model") == 3
    assert "only 0 B are free" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_seen_before_anything_is_written(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "model", "engine.memory_gb=0.0001") == 3
    assert "of memory, but only 100.0 kB are available" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [4, 6])
def test_the_memory_foretold_is_that_which_is_taken(checkpoint, tmp_path, monkeypatch, capsys, bits):
    import mlx.core as mx

    from jobs.convert import quantise as module

    foretold = []
    # The forecast is said only where it refuses.
    check = module._check_memory
    monkeypatch.setattr(module, "_check_memory", lambda *given: (foretold.append(given[1]), check(*given)))
    before = mx.get_active_memory()  # of other tests in this process
    assert convert(checkpoint, tmp_path / "model", f"convert.bits={bits}", "--json") == 0
    taken = json.loads(capsys.readouterr().out)["peak_bytes"] - before
    assert taken == pytest.approx(foretold[0], rel=0.3)


def test_a_model_of_the_hub_comes_with_its_licence_and_its_card(checkpoint, tmp_path, monkeypatch):
    from tests.support.hub import fake_hub, use

    with fake_hub(checkpoint, "own/gpt-oss-tiny") as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        assert convert("own/gpt-oss-tiny", tmp_path / "made", "convert.bits=8") == 0
    card = (tmp_path / "made" / "README.md").read_text()
    assert "base_model: own/gpt-oss-tiny\n" in card
    assert "license: apache-2.0\n" in card


def test_what_a_killed_process_left_is_cleared(checkpoint, tmp_path):
    part = tmp_path / ".part-model"
    part.mkdir()
    (part / "model-00007-of-00009.safetensors").write_text("half")
    assert convert(checkpoint, tmp_path / "model", "convert.bits=4") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not list((tmp_path / "model").glob("*00007*"))


def test_two_conversions_do_not_write_into_each_other(checkpoint, tmp_path, capsys):
    part = tmp_path / ".part-model"
    part.mkdir()
    lease = Lease(part)
    try:
        assert convert(checkpoint, tmp_path / "model") == 2
    finally:
        lease.release()
    assert "in use by process" in capsys.readouterr().err
    assert part.is_dir()


def test_a_conversion_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    import mlx.core as mx

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    assert convert(checkpoint, tmp_path / "model") == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["convert.bits=7"], "convert.bits=7: it can be 2, 3, 4, 5, 6, 8"),
        (["convert.group_size=48"], "32, 64, 128"),
        (["convert.bit=6"], "did you mean"),
        (["model.path=/nowhere/at/all"], "does not exist"),
        ([], "convert needs a model"),
    ],
)
def test_wrong_words_cost_one_line(words, says, capsys):
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_a_recipe_that_was_not_made_says_how(capsys, tmp_path, cache):
    assert main(["run", "model=gpt_oss_20b_q8g64", "dataset.limit=1", f"output.dir={tmp_path}"]) == 2
    assert "rowmill convert model=gpt_oss_20b_q8g64" in capsys.readouterr().err


def test_a_recipe_is_found_where_convert_puts_it(checkpoint, tmp_path, cache):
    from runner.config.conf import ModelConf
    from runner.models.recipes import model_path

    assert main(["convert", f"model.path={checkpoint}", "convert.bits=8", "convert.group_size=64"]) == 0
    made = model_path(ModelConf(base=str(checkpoint), bits=8, group_size=64))
    assert Path(made).name == "gpt-oss-tiny-8bit-gs64"
    assert (Path(made) / "config.json").is_file()
