import json

import pytest

from jobs.benchmark import BenchmarkConf, prompts
from runner.cli import main
from runner.types import UserError


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
        ({"workload": "shard"}, "shared, unique, documents"),
        ({"against": ["vllm"]}, "mlx_lm.generate"),
        ({"against": ["mlx_lm.generate"], "output": 0}, "benchmark.output"),
    ],
)
def test_wrong_keys_say_what_is_valid(wrong, says):
    with pytest.raises(UserError, match=says):
        BenchmarkConf(**wrong)


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


def test_choice_scoring_is_measured_too(tiny_model_folder, tmp_path):
    words = ["benchmark.n=3", "benchmark.prefix=20", "benchmark.suffix=5", "benchmark.output=0", "benchmark.repeat=1"]
    assert main(["benchmark", *words, f"model.path={tiny_model_folder}", f"output.dir={tmp_path}"]) == 0
    (one,) = json.loads((tmp_path / "benchmark.json").read_text())
    assert one["tokens_equal"] is None
