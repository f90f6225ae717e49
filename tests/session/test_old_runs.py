"""Interrupted runs of an earlier version, as it left them in ``old_runs``: read, and gone on with."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import runner
from runner.cli import main

KEPT = Path(__file__).parent / "old_runs"  # run.db as its version's tables and each run's rows, and config.yaml
ROWS = 24
LABEL = ["job=label", "job.labels=[ham,spam]", "prompt.user=Ham or spam? {{ text }}"]
SCHEMA = "{type: object, properties: {n: {type: integer}, kind: {enum: [a, b]}}, required: [n, kind]}"
RUNS = {
    "renamed": [*LABEL, "dataset.gold=label"],
    "label_prior": [*LABEL, "dataset.gold=kind", "job.prior=batch", "calibrate.rows=0.2", "output.keep=[text]"],
    "generate": ["job=generate", "prompt.user={{ text }}", f"output.schema={SCHEMA}", "engine.temperature=0.7"],
    "synthesize": ["job=synthesize", "job.target=12", "job.ahead=4"],
    "summarize": ["job=summarize", "dataset.gold=summary_of_old"],
}
FINISHED = {"renamed": 16, "label_prior": 8, "generate": 16, "synthesize": 6, "summarize": 16}


def write_rows(path, gold, **more):
    rows = [{"text": f"mail {i} about tea.", gold: "ham" if i % 2 else "spam", **more} for i in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(params=RUNS)
def name(request, tmp_path, monkeypatch):
    """An old run of this name in the current folder, with its data."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", "kind", summary_of_old="tea")
    write_rows(tmp_path / "named.jsonl", "label")
    folder = tmp_path / "outputs" / request.param
    folder.mkdir(parents=True)
    shutil.copyfile(KEPT / f"{request.param}.yaml", folder / "config.yaml")
    with closing(sqlite3.connect(folder / "run.db")) as connection:
        for part in ("schema", request.param):
            connection.executescript((KEPT / f"{part}.sql").read_text())
    return request.param


def completions(name):
    with closing(sqlite3.connect(f"outputs/{name}/run.db")) as connection:
        return set(connection.execute("SELECT row, number, digest, body FROM completions"))


def test_an_old_run_can_be_read(name, capsys):
    run = runner.open_run(f"outputs/{name}")
    assert (run.status["state"], run.status["finished"]) == ("interrupted", FINISHED[name])
    assert len(list(run.rows())) == FINISHED[name]
    assert run.config["run_name"] == name
    for words in (["status"], ["watch"], ["report"], ["diff", f"outputs/{name}"]):
        assert main([words[0], f"outputs/{name}", *words[1:]]) == 0
    assert main(["export", f"outputs/{name}", "rows.csv"]) == 0
    if "label" in run.columns.job:
        assert main(["evaluate", f"outputs/{name}", "--gold", "label" if name == "renamed" else "kind"]) == 0
        assert "accuracy" in capsys.readouterr().out


def test_an_old_run_goes_on_and_computes_nothing_again(name):
    before, answers = list(runner.open_run(f"outputs/{name}").rows()), completions(name)
    data = "named" if name == "renamed" else "rows"
    words = ["dataset=jsonl", f"dataset.path={data}.jsonl", "engine.backend=fake", "engine.batch_size=4"]
    words += ["engine.window=8", "output.shard_rows=1000", f"run_name={name}"]
    figures = runner.run([*words, *RUNS[name]])
    assert (figures["finished"], figures["sessions"], figures["errors"]) == (figures["rows"], 2, 0)
    assert list(runner.open_run(f"outputs/{name}").rows())[: len(before)] == before
    assert answers <= completions(name)
