"""A run from Python: the examples in the docstrings, and runs that are not finished."""

import doctest
import json
import re
import sys
from types import SimpleNamespace

import pytest

import runner
from runner.checkpoint.database import connect
from runner.config.load import load_config
from runner.session.session import run_session
from runner.types import UserError
from tests.support.runs import StopAfter

MAIL = "id,text,kind\n1,win money now,spam\n2,see you at lunch,ham\n3,cheap pills,spam\n4,meeting at 3,ham\n"


@pytest.fixture
def folder(folder):
    (folder / "mail.csv").write_text(MAIL)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(60)))
    return folder


def test_the_examples_in_the_docstrings(folder):
    parser, checker = doctest.DocTestParser(), doctest.DocTestRunner()
    for documented in (runner.run, runner.open_run):
        test = parser.get_doctest(documented.__doc__, {}, documented.__name__, None, None)
        assert test.examples
        checker.run(test)
    assert checker.summarize().failed == 0


def interrupted(steps, *words, job=("job=generate",)):
    fixed = [*job, "dataset=jsonl", "dataset.path=rows.jsonl", "prompt.user={{ text }}", "run_name=half"]
    fixed += ["engine.backend=fake", "engine.batch_size=5", "engine.window=40"]
    with pytest.raises(KeyboardInterrupt):
        run_session(load_config([*fixed, *words]), StopAfter(steps))
    return runner.open_run("outputs/half")


@pytest.mark.parametrize("shard_rows", [10, 1000])
def test_the_rows_of_an_interrupted_run(folder, shard_rows):
    run = interrupted(8, f"output.shard_rows={shard_rows}")
    assert run.status["state"] == "interrupted"
    rows = list(run.rows())
    assert 0 < len(rows) == run.status["finished"] < 60
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    assert all(row["text"] and row["error"] is None and row["usage"]["finish_reason"] == "stop" for row in rows)
    if shard_rows == 1000:
        with pytest.raises(UserError, match="no finished shard yet"):
            _ = run.dataset


def test_staged_rows_have_their_input_beside_them(folder):
    rows = list(interrupted(8, "output.keep=[text]", job=("job=label", "job.labels=[a,b]")).rows())
    assert rows
    assert all(row["text"] == f"row {row['row']}" and row["label"] in "ab" for row in rows)


def test_errors_are_rows_with_their_place(folder):
    (folder / "some.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "c"}\n')
    words = ["job=generate", "dataset=jsonl", "dataset.path=some.jsonl", "prompt.user={{ text }}", "run_name=some"]
    runner.run([*words, "engine.backend=fake"])
    assert runner.open_run("outputs/some").errors == [{"row": 1, "error": "prompt.user: column text is null"}]


def test_a_changed_input_is_refused(folder):
    run = interrupted(8)
    (folder / "rows.jsonl").write_text('{"text": "another"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl does not hold the rows that outputs/half was made from"):
        _ = run.source


def test_what_is_no_run(folder):
    with pytest.raises(UserError, match=r"mail.csv is not a run directory"):
        runner.open_run("mail.csv")
    (folder / "empty").mkdir()
    connect(folder / "empty", power=False).close()
    with pytest.raises(UserError, match="the run never started"):
        _ = runner.open_run("empty").status


def test_a_missing_shard_is_named(folder):
    words = ["job=generate", "dataset=jsonl", "dataset.path=rows.jsonl", "prompt.user={{ text }}", "run_name=whole"]
    runner.run([*words, "engine.backend=fake"])
    (folder / "outputs" / "whole" / "data-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00000.arrow cannot be read"):
        list(runner.open_run("outputs/whole").rows())


def test_a_notebook_shows_a_bar(folder, monkeypatch, capsys):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "prompt.user={{ id }}", "run_name=bar"]
    runner.run([*words, "engine.backend=fake"])
    assert re.search(r"100%\|.*\| 4 of 4 rows, .* 0 errors", capsys.readouterr().err)
