"""The preview says what the run will do, and does none of it."""

import json
import re
import struct
import sys
from pathlib import Path

import pytest

from runner.cli import main
from runner.config.load import load_config
from runner.engine.budget import KVShape, kv_shape
from runner.models.tensors import weight_bytes
from runner.session.preview import preview
from runner.session.sample import PLACES, ROWS_A_PLACE
from runner.types import UserError

LABEL = ["job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "run_name=mail"]
PROMPT = "prompt.user=Is this mail ham or spam? One of ham and spam is right. Mail: {{ text }}"


@pytest.fixture
def folder(folder):
    write_mail(40)
    return folder


def write_mail(rows):
    lines = (f"{i},mail number {i},{'ham' if i % 2 else 'spam'}\n" for i in range(rows))
    Path("mail.csv").write_text("id,text,kind\n" + "".join(lines))


def figures_of(*words):
    return preview(load_config([*words]), show=False)


def test_the_shared_prefix_and_the_rest_make_the_prompt(folder):
    figures = figures_of(*LABEL, PROMPT)
    assert [prompt["row"] for prompt in figures["prompts"]] == [0, 1, 2]
    for number, prompt in enumerate(figures["prompts"]):
        assert prompt["prefix"].startswith("user: Is this mail ham or spam?")
        assert prompt["prefix"].endswith("Mail: mail number ")
        assert prompt["suffix"] == f"{number}\n\nassistant:"
        assert prompt["shared_tokens"] == len(prompt["prefix"])
        assert prompt["tokens"] == len(prompt["prefix"] + prompt["suffix"])


def test_the_share_from_cache_is_the_prefix_of_all_rows_but_the_first(folder):
    figures = figures_of(*LABEL, PROMPT)
    total = figures["prompt_tokens"]["mean"] * 40
    assert figures["shared_share"] == pytest.approx(39 * figures["prompts"][0]["shared_tokens"] / total)
    assert figures["shared_share"] > 0.5


def test_identical_prompts_count_as_served(folder):
    Path("mail.csv").write_text("text\n" + "the same\n" * 10)
    assert figures_of(*LABEL, PROMPT)["shared_share"] == pytest.approx(0.9)


def test_a_large_data_set_is_looked_at_in_several_places(folder):
    write_mail(5000)
    figures = figures_of(*LABEL, PROMPT)
    assert figures["rows"] == 5000
    assert figures["rows_looked_at"] == PLACES * ROWS_A_PLACE
    assert figures["prompt_tokens"]["max"] - figures["prompt_tokens"]["min"] == len("4999") - len("0")


def test_nothing_is_written(folder):
    figures_of(*LABEL, PROMPT)
    assert [path.name for path in folder.iterdir()] == ["mail.csv"]


def test_what_the_answer_may_look_like(folder):
    assert figures_of(*LABEL, PROMPT)["choices"] == {"ham": 3, "spam": 4}
    generate = figures_of("job=generate", *LABEL[1:], PROMPT, "engine.max_tokens=7")
    assert generate["choices"] is None
    assert generate["max_tokens"] == 7


def test_rows_that_cannot_be_rendered_are_counted(folder, capsys):
    Path("mail.csv").write_text('id,text\n1,fine\n2,\n3,"fine too"\n')
    figures = figures_of(*LABEL, "prompt.user={{ text[0] }}")
    assert figures["rows"] == 3
    assert figures["unusable_rows"] == 1
    assert "prompt.user" in figures["unusable"]
    assert main(["preview", *LABEL, "prompt.user={{ text[0] }}"]) == 0
    assert "1 row will be in error, the first with: prompt.user" in capsys.readouterr().out


def test_no_usable_row_at_all_is_refused(folder):
    with pytest.raises(UserError, match="none of the 40 rows"):
        figures_of(*LABEL, "prompt.user={{ text.nope.nope }}")


def test_time_is_told_only_after_a_trial_of_the_same_run(folder, capsys):
    assert figures_of(*LABEL, PROMPT)["time"] is None
    assert main(["run", *LABEL, PROMPT]) == 0
    capsys.readouterr()
    assert figures_of(*LABEL, PROMPT)["time"]["left"] == 0
    other = figures_of(*LABEL, PROMPT, "seed=5")
    assert other["time"] is None
    assert other["differs"] == ["seed: 0 -> 5"]


def test_text_and_json(folder, capsys):
    assert main(["preview", *LABEL, PROMPT]) == 0
    said = capsys.readouterr().out
    assert "[shared: user: Is this mail ham or spam?" in said
    assert re.search(r"cache +\d+\.\d% of the prompt tokens", said)
    assert "one of ham (3), spam (4)" in said
    assert "known before a trial" in said
    assert main(["preview", *LABEL, PROMPT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 40


def test_cells_cannot_steer_the_terminal(folder, capsys):
    Path("mail.csv").write_text("text\nred \x1b[31m alert\n")
    assert main(["preview", *LABEL, PROMPT]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\\x1b[31m" in said


GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "intermediate_size": 2880,
    "rope_theta": 150000,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_attention_heads": 64,
    "head_dim": 64,
    "hidden_size": 2880,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}


def test_kv_bytes_of_gpt_oss_20b():
    shape = kv_shape(GPT_OSS, "metal")
    assert shape == KVShape(token_bytes=24_576, sliding_bytes=24_576, window=128)
    assert shape.sequence_bytes(1000) == 1000 * 24_576 + 128 * 24_576
    assert shape.sequence_bytes(1000, shared=900) == 100 * 24_576 + 128 * 24_576
    assert kv_shape(GPT_OSS, "cpu").token_bytes == 2 * 24_576
    assert [kv_shape(GPT_OSS, "metal", bits).token_bytes for bits in (8, 4)] == [13_056, 6_912]  # as the help says


def test_kv_bytes_are_unknown_where_mlx_lm_makes_no_model_of_the_configuration():
    assert kv_shape({"num_hidden_layers": 2}, "cuda") is None
    assert kv_shape({**GPT_OSS, "model_type": "nobody_knows"}, "cuda") is None


def write_weights(folder, tensors):
    start, header = 0, {}
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    content = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)


def test_weights_as_stored_or_as_float32(tmp_path):
    quantised = {"a.weight": ("U32", [8, 4], 128), "a.scales": ("F16", [8, 1], 16), "a.biases": ("F16", [8, 1], 16)}
    write_weights(tmp_path, {**quantised, "norm.weight": ("F32", [32], 128)})
    config = {"quantization": {"group_size": 64, "bits": 4, "a": {"group_size": 32, "bits": 4}}}
    assert weight_bytes(tmp_path, config, "metal") == 128 + 16 + 16 + 128
    assert weight_bytes(tmp_path, config, "cpu") == 4 * (8 * 32 + 32)


def test_weights_that_cannot_be_read_are_unknown(tmp_path):
    assert weight_bytes(tmp_path, {}, "cpu") is None
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert weight_bytes(tmp_path, {}, "cpu") is None


@pytest.mark.parametrize(
    ("name", "value", "coloured"), [("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False)]
)
def test_tokens_have_colours_on_a_terminal_that_shows_them(folder, monkeypatch, capsys, name, value, coloured):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["preview", *LABEL, PROMPT]) == 0
    assert ("\x1b[" in capsys.readouterr().out) is coloured
