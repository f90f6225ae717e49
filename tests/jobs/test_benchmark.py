import json
import subprocess
from pathlib import Path

import pytest

import jobs.benchmark
from jobs.benchmark.measure import BenchmarkConf, prompts
from jobs.benchmark.peers import shared_tokens
from runner.cli import main
from runner.types import UserError
from tests.support.starts import Popen


@pytest.fixture(autouse=True)
def _quick_starts(monkeypatch):
    """Measurements in processes of their own, which have their imports already."""
    monkeypatch.setattr(subprocess, "Popen", Popen)


def test_workloads_share_what_they_say():
    shared = prompts(BenchmarkConf(n=5, prefix=30, suffix=7), 1000)
    assert len({tuple(row[:30]) for row in shared}) == 1
    assert len({tuple(row) for row in shared}) == 5
    assert {len(row) for row in shared} == {37}
    unique = prompts(BenchmarkConf(workload="unique", n=5, prefix=30, suffix=7), 1000)
    assert len({tuple(row[:30]) for row in unique}) == 5
    documents = prompts(BenchmarkConf(workload="documents", documents=3, questions=4, prefix=30, suffix=7), 1000)
    assert len(documents) == 12
    assert len({tuple(row[:30]) for row in documents}) == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"workload": "run"}, "run_dir"),
        ({"batch_sizes": [4, 0]}, "batch_sizes"),
        ({"batch_sizes": []}, "batch_sizes"),
        ({"against": ["vllm"]}, "mlx_lm.generate"),
        ({"against": ["mlx_lm.generate"], "output": 0}, "benchmark.output"),
        ({"against": ["mlx_lm.generate"], "workload": "card"}, "card measures rowmill only"),
    ],
)
def test_wrong_keys_say_what_is_valid(wrong, says):
    with pytest.raises(UserError, match=says):
        BenchmarkConf(**wrong)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("benchmark.workload=shard", "it can be shared, unique, documents, run, card"),
        ("benchmark.n=0", "it must be at least 1"),
        ("benchmark.repeat=0", "it must be at least 1"),
        ("benchmark.response=1", "it must be at least 2"),
        ("engine.batch_size=0", "it must be at least 1"),
        ("engine.memory_gb=-1.5", "it must be at least 0"),
        ("fleet=local", "is not a configuration key; valid: benchmark, model, engine, output, offline"),
        ("engine.backend=tpu", "it can be auto, metal, cuda, cpu, fake"),
    ],
)
def test_wrong_words_cost_one_line(word, says, capsys):
    assert main(["benchmark", word]) == 2
    said = f"{word}: {says}" if says.startswith("it ") else f"fleet {says}"
    assert capsys.readouterr().err.strip() == f"rowmill: {said}"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    tiny_model_folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(jobs.benchmark, "benchmark", lambda *_: pytest.fail("measured"))
    where = [f"model.path={tiny_model_folder}", f"output.dir={tmp_path}/file/below", "engine.backend=cpu"]
    assert main(["benchmark", *where]) != 0
    assert "file/below cannot be written" in capsys.readouterr().err


def test_the_command_measures_all_engines_on_the_same_prompts(tiny_model_folder, tmp_path, capsys):
    words = ["benchmark.n=3", "benchmark.prefix=20", "benchmark.suffix=5", "benchmark.output=4", "benchmark.repeat=1"]
    peers = "benchmark.against=[mlx_lm.generate,mlx_lm.batch_generate,mlx_lm.batch_generate+prefix]"
    model = [f"model.path={tiny_model_folder}", "engine.backend=cpu", f"output.dir={tmp_path}"]
    assert main(["benchmark", *words, peers, *model]) == 0
    assert "speed" in capsys.readouterr().out
    measured = json.loads((tmp_path / "benchmark.json").read_text())
    assert [one["engine"] for one in measured] == [
        "rowmill",
        "mlx_lm.generate",
        "mlx_lm.batch_generate",
        "mlx_lm.batch_generate+prefix",
    ]
    for one in measured:
        assert one["tokens_equal"] == 1
        assert one["rows_per_s"] > 0
        assert one["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4], [1, 2, 3, 9]], 2),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3, 9]], 2),
        ([[5, 6]], 1),
        ([[5], [5, 6]], 0),
        ([[7, 1], [5, 6]], 0),
    ],
)
def test_the_prefix_given_to_mlx_lm_is_what_all_rows_begin_with(rows, shared):
    assert shared_tokens(rows) == shared


def test_a_bound_that_the_others_do_not_keep_is_refused(tiny_model_folder, tmp_path, capsys):
    words = ["engine.max_kv_size=16", "benchmark.against=[mlx_lm.generate]", f"model.path={tiny_model_folder}"]
    assert main(["benchmark", *words, f"output.dir={tmp_path}"]) == 2
    assert "engine.max_kv_size" in capsys.readouterr().err


def test_one_token_is_prefill_and_its_time_is_that_to_the_first(tiny_model_folder, tmp_path):
    words = ["benchmark.workload=documents", "benchmark.documents=2", "benchmark.questions=2", "benchmark.output=1"]
    sizes = ["benchmark.prefix=20", "benchmark.suffix=5", "benchmark.repeat=1", "benchmark.batch_sizes=[1,3]"]
    where = [f"model.path={tiny_model_folder}", f"output.dir={tmp_path}", "engine.backend=cpu"]
    assert main(["benchmark", *words, *sizes, *where]) == 0
    measured = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(one["n"], one["batch_size"]) for one in measured] == [(4, 1), (4, 3)]
    for one in measured:
        assert 0 < one["first_token_s"] <= one["seconds"]
        assert one["prefill_tokens_per_s"] == pytest.approx(100 / one["seconds"])
        assert one["decode_tokens_per_s"] is None


def test_choice_scoring_is_measured_too(tiny_model_folder, tmp_path):
    words = ["benchmark.n=3", "benchmark.prefix=20", "benchmark.suffix=5", "benchmark.output=0", "benchmark.repeat=1"]
    assert main(["benchmark", *words, f"model.path={tiny_model_folder}", f"output.dir={tmp_path}"]) == 0
    (one,) = json.loads((tmp_path / "benchmark.json").read_text())
    assert one["tokens_equal"] is None


def test_the_card_line_names_model_machine_and_versions(tiny_model_folder, tmp_path, capfd):
    words = ["benchmark.workload=card", "benchmark.response=6", "benchmark.suffix=5", "benchmark.batch_sizes=[1,3]"]
    where = [f"model.path={tiny_model_folder}", "engine.backend=cpu", f"output.dir={tmp_path}"]
    assert main(["benchmark", *words, *where]) == 0
    told = capfd.readouterr()
    assert "1 at once: responses of 6 tokens ...\n3 at once: responses of 6 tokens ...\n" in told.err
    line = told.out.splitlines()[0]
    for part in (
        "tiny (",
        "(cpu)",
        "single stream",
        "3 streams",
        "s to the first token",
        "6-token responses",
        "mlx-lm ",
    ):
        assert part in line
    measured = json.loads((tmp_path / "card.json").read_text())["measured"]
    assert [(one["streams"], one["prompt"], one["response"]) for one in measured] == [(1, 5, 6), (3, 5, 6)]
    for one in measured:
        assert 0 < one["first_token_s"] < one["seconds"]
        assert one["tokens_per_s"] == pytest.approx(
            one["streams"] * 5 / (one["seconds"] - one["first_token_s"]), rel=1e-6
        )
        assert one["peak_bytes"] > 0


def test_the_prompts_of_an_earlier_run_are_measured_with_their_own_choices(tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\n" + "".join(f"row number {i}\n" for i in range(20)))
    words = [
        "job=label",
        "job.labels=[good,bad]",
        "dataset=csv",
        "dataset.path=rows.csv",
        "prompt.user=Say: {{ text }}",
    ]
    model = [f"model.path={tiny_model_folder}", "prompt.chat=false"]
    assert main(["run", *words, *model, "run_name=mine", "engine.backend=cpu"]) == 0
    measure = ["benchmark.workload=run", "benchmark.run_dir=outputs/mine", "benchmark.n=6", "benchmark.repeat=1"]
    assert main(["benchmark", *measure, "benchmark.output=0", model[0], "engine.backend=cpu"]) == 0
    (one,) = json.loads(Path("outputs/benchmark.json").read_text())
    assert (one["workload"], one["n"]) == ("run", 6)
    assert one["prefix"] == len("Say: row number ") and 1 <= one["suffix"] <= 2  # a token is a byte


def test_llama_cpp_asks_for_a_gguf_file(tiny_model_folder, tmp_path, capsys):
    words = ["benchmark.against=[llama.cpp]", f"model.path={tiny_model_folder}", f"output.dir={tmp_path}"]
    assert main(["benchmark", *words, "engine.backend=cpu"]) == 2
    assert "GGUF" in capsys.readouterr().err
