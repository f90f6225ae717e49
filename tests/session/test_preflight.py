import json
import re
import shutil
import struct

import pytest

from runner.cli import main
from runner.engine.budget import Budget
from runner.machine import device
from runner.machine.device import Device
from runner.sequences import Sequence
from runner.session.preflight import labels_line
from runner.types import UserError

GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "vocab_size": 201088,
    "rope_theta": 150000,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "eos_token_id": 256,
}
# What Metal recommends as the working set of Macs with so many GB of memory.
MACS = {16: 11_453_251_584, 24: 17_179_869_184, 32: 22_906_503_168, 64: 51_539_607_552}


def hollow(folder, bits, group_size):
    """A model folder of full size whose file of weights has its header only, and takes no room on the disk."""
    import mlx.core as mx
    from mlx_lm.models import gpt_oss

    from jobs.convert.quantise import flat, quantise, write_config

    model = gpt_oss.Model(gpt_oss.ModelArgs.from_dict(GPT_OSS_20B))
    config = quantise(model, GPT_OSS_20B, bits, group_size)
    header, end = {}, 0
    for name, array in flat(model).items():
        header[name] = {"dtype": "U8", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    write_config(folder, config)
    mx.clear_cache()


@pytest.fixture(scope="module")
def models(tiny_model_folder, tmp_path_factory):
    """gpt-oss-20b in its four sizes, hollow."""
    folders = {}
    for bits, group in ((8, 64), (6, 32), (5, 32), (4, 32)):
        folder = tmp_path_factory.mktemp("models") / f"gpt-oss-20b-{bits}bit-gs{group}"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tiny_model_folder / name, folder / name)
        hollow(folder, bits, group)
        folders[bits] = folder
    return folders


@pytest.fixture
def mac(monkeypatch):
    """Call it with the GB of the Mac that this machine is to be."""

    def become(gigabytes):
        found = Device("metal", f"Apple M1 ({gigabytes} GB)", None, MACS[gigabytes])
        monkeypatch.setattr(device, "set_up", lambda *_: found)

    return become


@pytest.fixture
def words(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "a short text\n" * 100)
    job = ["job=generate", "dataset=csv", f"dataset.path={rows}", "prompt.user='{{ text }}'", "prompt.chat=false"]
    return [*job, f"output.dir={tmp_path / 'outputs'}"]


def test_the_four_sizes_are_those_of_the_card(models):
    from runner.models.tensors import weight_bytes

    sizes = {bits: weight_bytes(folder, {}, "metal") / 1e9 for bits, folder in models.items()}
    assert sizes == pytest.approx({8: 22.23, 6: 18.30, 5: 15.69, 4: 13.08}, abs=0.05)


@pytest.mark.parametrize(
    ("gigabytes", "bits", "tries"),
    [
        (16, 8, "a smaller model"),
        (16, 4, "a smaller model"),
        (24, 8, "model=gpt_oss_20b_q4g32"),
        (24, 6, "model=gpt_oss_20b_q4g32"),
        (24, 5, "model=gpt_oss_20b_q4g32"),
        (24, 4, None),
        (32, 8, "model=gpt_oss_20b_q6g32"),
        (32, 6, None),
        (64, 8, None),
    ],
)
def test_each_mac_runs_what_fits_and_names_the_largest_that_would(models, mac, words, capsys, gigabytes, bits, tries):
    mac(gigabytes)
    code = main(["preview", f"model.path={models[bits]}", *words])
    told = capsys.readouterr()
    for part in ("weights", "KV caches", "work space", f"this machine can give {MACS[gigabytes] / 1e9:.2f} GB"):
        assert part in told.out
    assert code == (3 if tries else 0)
    if tries:
        line = told.err.strip().splitlines()[-1]
        found = re.search(
            rf"needs ([\d.]+) GB, this machine can give ([\d.]+) GB; try {tries} or engine.memory_gb", line
        )
        assert found
        assert float(found[1]) > float(found[2]) == pytest.approx(MACS[gigabytes] / 1e9, abs=0.5)


def test_run_refuses_before_weights_load(models, mac, words, capsys, monkeypatch):
    from runner.engine import weights

    mac(24)
    monkeypatch.setattr(weights, "load", lambda *_: pytest.fail("the weights were loaded"))
    assert main(["run", f"model.path={models[6]}", *words]) == 3
    told = capsys.readouterr().err
    assert "memory: weights 18.31 GB" in told
    assert "needs 20 GB, this machine can give 17 GB; try model=gpt_oss_20b_q4g32 or engine.memory_gb" in told


def test_benchmark_refuses_before_weights_load(models, mac, tmp_path, capsys):
    mac(24)
    assert main(["benchmark", f"model.path={models[6]}", f"output.dir={tmp_path}"]) == 3
    told = capsys.readouterr().err
    assert "memory: weights 18.31 GB, KV caches" in told
    assert "try model=gpt_oss_20b_q4g32 or engine.memory_gb" in told
    assert not (tmp_path / "benchmark.json").exists()


def test_memory_gb_is_a_limit_of_ones_own(models, mac, words, capsys):
    mac(64)
    assert main(["preview", f"model.path={models[6]}", "engine.memory_gb=18", *words]) == 3
    said = capsys.readouterr().err
    assert "engine.memory_gb allows 18 GB; try model=gpt_oss_20b_q5g32 or a larger engine.memory_gb" in said
    mac(24)
    assert main(["preview", f"model.path={models[6]}", "engine.memory_gb=23", *words]) == 0


def test_long_rows_can_be_too_much_where_short_ones_fit(models, mac, words, capsys):
    mac(32)
    assert main(["preview", f"model.path={models[6]}", *words]) == 0
    assert main(["preview", f"model.path={models[6]}", *words, "engine.max_tokens=120000"]) == 3
    assert "needs 24 GB" in capsys.readouterr().err
    assert main(["preview", f"model.path={models[6]}", *words, "engine.max_tokens=4000"]) == 0
    assert "so batches will be smaller" in capsys.readouterr().out


def test_preview_as_json_tells_the_figures_and_the_refusal(models, mac, words, capsys):
    mac(24)
    assert main(["preview", f"model.path={models[6]}", "--json", *words]) == 3
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["weights"] == pytest.approx(18.31e9, rel=1e-3)
    assert memory["limit"] == MACS[24]
    assert memory["batch_size"] == 32
    assert memory["kv_token"] == 24_576
    assert "needs 20 GB" in memory["refusal"]


class FakeMetal:
    """The part of mlx.core that wires memory."""

    def __init__(self):
        self.limit, self.set = 7, []

    def set_wired_limit(self, limit):
        before, self.limit = self.limit, limit
        self.set.append(limit)
        return before

    def synchronize(self):
        pass


def test_the_wired_limit_is_set_and_restored(monkeypatch):
    metal = FakeMetal()
    # MLX on a Mac, which a test's machine need not be.
    monkeypatch.setattr(device, "_import_mlx", lambda: metal)
    with device.wired(Device("metal", "Apple M1", None, 22_906_503_168)):
        assert metal.limit == 22_906_503_168
    assert metal.limit == 7
    with pytest.raises(KeyboardInterrupt), device.wired(Device("metal", "Apple M1", None, 5)):
        raise KeyboardInterrupt
    assert metal.limit == 7


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_no_other_machine_is_wired(kind, monkeypatch):
    # Whoever asks for MLX fails.
    monkeypatch.setattr(device, "_import_mlx", lambda: pytest.fail("nothing to set"))
    with device.wired(Device(kind, "", None, 5)), device.wired(None):
        pass


@pytest.mark.parametrize(
    ("machine", "macos", "translated", "says"),
    [
        ("x86_64", "14.5", "0", "MLX needs a Mac with Apple silicon; this is an Intel Mac"),
        ("x86_64", "14.5", "1", "this Python is an Intel build"),
        ("arm64", "13.6.1", "0", "MLX needs macOS 14 or newer; this is macOS 13.6.1"),
        ("arm64", "12.7", "0", "this is macOS 12.7"),
    ],
)
def test_a_mac_that_mlx_does_not_run_on_costs_one_line(monkeypatch, machine, macos, translated, says):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    monkeypatch.setattr(device.platform, "mac_ver", lambda: (macos, ("", "", ""), machine))
    monkeypatch.setattr(device, "output", lambda *_: f"{translated}\n")
    with pytest.raises(UserError, match=says) as refused:
        device.set_up("cpu")
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("macos", ["14.0", "15.2", "26.1"])
def test_newer_macs_pass(monkeypatch, macos):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(device.platform, "mac_ver", lambda: (macos, ("", "", ""), "arm64"))
    # All that follows it needs the Mac itself.
    device._check_mac()


def test_many_labels_are_counted_before_the_weights_load():
    choices = tuple((1 + at // 30, 1 + at % 30, 3) for at in range(300))
    budget = Budget(10**10, 10**9, 8, None, 512, 1 << 24, 1.0)
    asked = [Sequence((0, 0), [1, 2], 0, choices=choices, cut=True), Sequence((1, 0), [1], 9)]
    said = labels_line(asked, budget)
    assert said.startswith("labels: 300, scored in the likely ones of 311 places of their tree, up to 512")
    assert labels_line([Sequence((0, 0), [1, 2], 0, choices=((1,), (2,)))], budget) == ""
