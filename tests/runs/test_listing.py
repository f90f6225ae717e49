"""All runs of a folder at a glance, and one of them deleted."""

import json
import os
import pty
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

from runner import run
from runner.checkpoint.lease import Lease
from runner.checkpoint.records import with_crc
from runner.cli import main
from runner.runs.delete import delete_run
from runner.runs.listing import cells, list_runs
from runner.types import UserError
from tests.support.runs import interrupt, overrides, write_rows


@pytest.fixture(autouse=True)
def folder(folder):
    write_rows(40)


def labelled(*more):
    Path("gold.csv").write_text("text,kind\nwin,spam\nhello,ham\nbye,ham\n")
    words = ["job=label", "job.labels=[ham,spam]", "dataset.path=gold.csv", "dataset.gold=kind"]
    return run(overrides(*words, "run_name=labels", *more))


def test_runs_of_every_state_stand_in_one_table():
    run(overrides("run_name=done"))
    interrupt(overrides("run_name=part"), after=3)
    figures = labelled("output.dir=outputs/nested")
    Path("outputs/torn").mkdir()
    Path("outputs/torn/run.db").write_text("no database")
    Path("outputs/notes").mkdir()
    found = {one["name"]: one for one in list_runs(Path("outputs"))}
    assert list(found) == ["done", "nested/labels", "part", "torn"]
    assert (found["done"]["state"], found["done"]["rows"], found["done"]["finished"]) == ("finished", 40, 40)
    assert (found["done"]["job"], found["done"]["model"], found["done"]["accuracy"]) == ("generate", "fake", None)
    assert found["part"]["state"] == "interrupted" and found["part"]["finished"] < 40
    assert found["nested/labels"]["accuracy"] == figures["evaluation"]["accuracy"]
    assert "is damaged" in found["torn"]["problem"] and found["torn"]["rows"] is None
    size = sum(path.stat().st_size for path in Path("outputs/done").iterdir())
    assert found["done"]["bytes"] == size
    assert "3.0/min" in cells(found["done"] | {"rows_per_s": 0.05})


def test_numbers_are_sorted_from_the_largest_and_unknown_ones_come_last(capsys):
    run(overrides("run_name=large"))
    run(overrides("run_name=small", "dataset.limit=2"))
    Path("outputs/torn").mkdir()
    Path("outputs/torn/run.db").write_text("no database")
    assert [one["name"] for one in list_runs(Path("outputs"), "rows")] == ["large", "small", "torn"]
    assert [one["name"] for one in list_runs(Path("outputs"), "age")] == ["small", "large", "torn"]
    capsys.readouterr()
    assert main(["runs", "--json", "--sort", "rows"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["large", "small", "torn"]
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "job", "model", "state", "rows", "errors", "speed", "age", "size", "accuracy"]
    assert lines[1].split()[:6] == ["large", "generate", "fake", "finished", "40", "0"]


def test_an_accuracy_from_before_the_rows_changed_is_not_shown():
    labelled()
    file = Path("outputs/labels/figures.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "errors": 1}))
    assert list_runs(Path("outputs"))[0]["accuracy"] is None


def test_a_folder_without_runs_says_so(capsys):
    Path("empty").mkdir()
    assert main(["runs", "empty"]) == 0
    assert capsys.readouterr().out == "empty holds no runs\n"
    assert main(["runs", "gone"]) == 2


def test_delete_removes_a_run_and_nothing_beside_it():
    run(overrides("run_name=one"))
    run(overrides("run_name=two"))
    assert main(["delete", "outputs/one", "--yes"]) == 0
    assert not Path("outputs/one").exists() and Path("outputs/two/run.db").exists() and Path("rows.csv").exists()


def test_delete_removes_a_damaged_run():
    run(overrides("run_name=one"))
    Path("outputs/one/run.db").unlink()
    delete_run(Path("outputs/one"))
    assert not Path("outputs/one").exists()


def test_delete_refuses_a_run_at_work_a_link_and_a_folder_with_files_of_others():
    run(overrides("run_name=one"))
    lease = Lease(Path("outputs/one"))
    with pytest.raises(UserError, match="in use by process"):
        delete_run(Path("outputs/one"))
    lease.release()
    Path("link").symlink_to("outputs/one")
    with pytest.raises(UserError, match="is a link"):
        delete_run(Path("link"))
    Path("outputs/one/thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        delete_run(Path("outputs/one"))
    with pytest.raises(UserError, match="not a run directory"):
        delete_run(Path())
    assert Path("outputs/one/run.db").exists()


def test_delete_asks_and_takes_only_yes_for_yes(monkeypatch, capsys):
    run(overrides("run_name=one"))
    assert main(["delete", "outputs/one"]) == 2  # nobody can be asked
    assert "--yes" in capsys.readouterr().err
    assert main(["delete", "outputs"]) == 2
    assert "outputs is not a run directory" in capsys.readouterr().err
    for answer, left in (("\n", True), ("no\n", True), ("\x04", True), ("y\n", False)):
        main_side, side = pty.openpty()
        os.write(main_side, answer.encode())
        with os.fdopen(side) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            assert main(["delete", "outputs/one"]) == 0
        os.close(main_side)
        assert Path("outputs/one").exists() is left


def test_on_a_narrow_terminal_only_the_models_name_is_cut(monkeypatch, capsys):
    run(overrides())
    long = "an-organisation-with-a-model-of-a-long-name-6bit"
    config = yaml.safe_load(Path("outputs/run/config.yaml").read_text())
    Path("outputs/run/config.yaml").write_text(yaml.safe_dump({**config, "model": {"path": long}}))
    with sqlite3.connect("outputs/run/run.db") as connection:
        identity = json.loads(connection.execute("SELECT identity FROM run").fetchone()[0])
        values = with_crc(json.dumps({**identity, "model": {"path": long}}))
        connection.execute("UPDATE run SET identity = ?, crc = ?", values)
    monkeypatch.setenv("COLUMNS", "72")
    capsys.readouterr()
    assert main(["runs"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:4] == ["run", "generate", "an-or…6bit", "finished"]
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["runs"]) == 0
    assert long in capsys.readouterr().out


def test_a_folder_that_may_not_be_read_hides_no_other_and_is_one_line_wherever_it_is_named(monkeypatch, capsys):
    """Tests may run as root, whom nothing is forbidden."""

    def stat(self, original=Path.stat, **options):
        if "locked" in self.parts[:-1]:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, **options)

    run(overrides())
    Path("outputs/locked").mkdir()
    Path("outputs/two\nlines").mkdir()
    shutil.copy("outputs/run/run.db", "outputs/two\nlines")
    monkeypatch.setattr(Path, "stat", stat)
    capsys.readouterr()
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["name", "run", "two\\nlines"]
    assert "outputs/locked cannot be read" in err
    for words in ("status X", "delete --yes X", "diff outputs/run X", "run dataset.path=X/mail.csv"):
        assert main(words.replace("X", "outputs/locked").split()) == 2
        assert "outputs/locked" in capsys.readouterr().err.splitlines()[-1]
