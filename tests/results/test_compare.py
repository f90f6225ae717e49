"""``rowmill diff`` tells two runs apart, in what they were and in what came out."""

import json
from pathlib import Path

import numpy as np
import pytest

from runner.cli import main
from runner.config.conf import EngineConf
from runner.results.compare import compare
from runner.results.scores import kappa
from runner.types import UserError

KEYS = [
    *("run", "job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake"),
    "prompt.user=Ham or spam? {{ text }}",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (f"{i},mail number {i}\n" for i in range(300))
    Path("mail.csv").write_text("id,text\n" + "".join(lines))
    return tmp_path


def run(name, *words):
    assert main([*KEYS, f"run_name={name}", *words]) in (0, 1)
    return Path("outputs") / name


def test_the_same_run_twice(folder, capsys):
    figures = compare(run("a"), run("b", "output.shard_rows=7"))
    assert figures["configuration"] == []
    assert figures["versions"] == []
    assert figures["rows"] == 300
    assert figures["columns"] == {"label": 1.0}
    assert figures["kappa"] == 1.0
    assert figures["flips"] == []


def test_another_prompt_flips_rows(folder, capsys):
    keys = [word for word in KEYS if not word.startswith("prompt.user")]
    a = run("a")
    assert main([*keys, "prompt.user=Spam or ham? {{ text }}", "run_name=b", "engine.window=64"]) == 0
    figures = compare(a, Path("outputs/b"))
    assert figures["configuration"] == ['prompt.user: "Ham or spam? {{ text }}" -> "Spam or ham? {{ text }}"']
    assert f"engine.window: {EngineConf.window} -> 64" in figures["versions"]
    labels = [[row["label"] for row in _rows(name)] for name in ("a", "b")]
    flipped = [i for i, pair in enumerate(zip(*labels, strict=True)) if len(set(pair)) == 2]
    assert figures["flipped"] == len(flipped) > 10
    assert len(figures["flips"]) == 10
    assert all(flip["row"] in flipped and flip["text"] == f"mail number {flip['row']}" for flip in figures["flips"])
    assert figures["columns"]["label"] == pytest.approx(1 - len(flipped) / 300)
    capsys.readouterr()
    assert main(["diff", "outputs/a", "outputs/b"]) == 0
    said = capsys.readouterr().out
    assert "300 finished in both" in said
    assert "Cohen's kappa" in said
    assert "mail number" in said
    assert main(["diff", "outputs/a", "outputs/b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(figures))


def _rows(name):
    from runner import open_run

    return open_run(f"outputs/{name}").rows()


def test_rows_of_other_order_are_matched_by_a_column(folder, capsys):
    a, b = run("a"), run("b", "dataset.shuffle_seed=3", "dataset.limit=100")
    assert compare(a, b)["rows"] is None
    assert main(["diff", str(a), str(b)]) == 0
    assert "--by COLUMN" in capsys.readouterr().out
    figures = compare(a, b, by="id")
    assert figures["rows"] == 100
    assert figures["columns"] == {"label": 1.0}
    with pytest.raises(UserError, match=r"--by=nope: .* it has id, text"):
        compare(a, b, by="nope")


def test_errors_on_one_side(folder):
    keys = [word for word in KEYS if not word.startswith("prompt.user")]
    a = run("a")
    assert main([*keys, "prompt.user={{ text[13] }}{{ text }}", "run_name=b"]) == 1
    figures = compare(a, Path("outputs/b"))
    assert figures["errors"]["in_a"] == figures["errors"]["in_both"] == 0
    assert figures["errors"]["in_b"] == 10


def test_runs_of_different_jobs_share_no_column(folder):
    keys = [word for word in KEYS if not word.startswith("job")]
    assert main([*keys, "job=generate", "run_name=b"]) == 0
    figures = compare(run("a"), Path("outputs/b"))
    assert figures["columns"] == {}
    assert figures["kappa"] is None
    assert figures["rows"] == 300


def test_no_run_is_refused(folder, capsys):
    assert main(["diff", ".", "outputs"]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_kappa_is_agreement_beyond_chance_and_none_where_chance_alone_agrees():
    labels = (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    # Half of the rows by chance (25 * 30 + 25 * 20 of 50 * 50), 35 of 50 observed.
    assert kappa(*labels, np.array([20, 5, 10, 15])) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    nothing = np.zeros(0, np.int64)
    assert kappa(nothing, nothing, nothing) is None
    assert kappa(np.array([0]), np.array([0]), np.array([3])) is None
