"""Rows in error are named as the data name them: by file, by custom_id, by key."""

import json
import shutil
from pathlib import Path

import pytest

import runner
from runner import run
from runner.cli import main
from runner.data.kept import naming
from tests.support.page import Page
from tests.support.runs import interrupt, overrides

pytestmark = pytest.mark.usefixtures("folder")


def documents():
    Path("notes").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        Path("notes", name).write_text("" if name == "b.txt" else f"text of {name}")
    return overrides("dataset=documents", "dataset.path=notes")


def requests():
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}
    lines = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in "ab"]
    lines[1]["url"] = "/v1/nothing"
    Path("batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["job=openai_batch", "dataset=openai_batch", "dataset.path=batch.jsonl", "run_name=run"]
    return [*words, "engine.backend=fake"]


def table(*names):
    rows = [{"text": None if name in (7, "seven") else f"tea {name}", "Key": name, "name": "n"} for name in names]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return overrides("dataset=jsonl", "dataset.path=rows.jsonl")


def said(capsys):
    """What status and the report say."""
    capsys.readouterr()
    assert main(["status", "outputs/run"]) == 0
    status = capsys.readouterr().out
    assert main(["report", "outputs/run"]) == 0
    page = Page(Path("outputs/run/report.html").read_text())
    return status, " ".join(" ".join(page.text).split())


@pytest.mark.parametrize(
    ("words", "row", "name"),
    [
        (documents, 1, "b.txt"),
        (requests, 1, "b"),
        (lambda: table("one", "two", "seven"), 2, "seven"),
        (lambda: table(1, 7), 1, "7"),
    ],
    ids=["file", "custom_id", "key", "number"],
)
def test_a_row_in_error_is_named_as_the_data_name_it_wherever_errors_are_listed(words, row, name, capsys):
    run(words())
    (failed,) = runner.open_run("outputs/run").errors
    assert (failed["row"], failed["name"]) == (row, name)
    status, page = said(capsys)
    assert f": row {row} ({name})\n" in status
    assert f"row {row} ({name}) : " in page or f"row {row} ({name}): " in page


def test_rows_of_shards_that_are_not_whole_are_named_while_the_data_are_there(capsys):
    names = ["seven", *map(str, range(20))]
    interrupt(table(*names))
    run_ = runner.open_run("outputs/run")
    assert run_.status["state"] == "interrupted"
    assert run_.errors == [{"row": 0, "error": run_.errors[0]["error"], "name": "seven"}]
    assert "row 0 (seven)" in said(capsys)[1]
    Path("rows.jsonl").unlink()
    assert [sorted(one) for one in runner.open_run("outputs/run").errors] == [["error", "row"]]
    assert "row 0" in said(capsys)[0]


def test_a_damaged_shard_hides_the_names_and_not_the_figures(capsys):
    run(documents())
    Path("outputs/run/data-00000.arrow").write_bytes(b"")
    assert main(["status", "outputs/run"]) == 0
    assert "1 x unreadable\n" in capsys.readouterr().out


def test_a_name_cannot_steer_the_terminal(capsys):
    run(table("one", "seven"))
    shutil.rmtree("outputs")
    rows = [{"text": None, "id": "\x1b[31mred" + "x" * 500}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(overrides("dataset=jsonl", "dataset.path=rows.jsonl"))
    capsys.readouterr()
    assert main(["status", "outputs/run"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b[31mredxxx" in shown and "…" in shown


def test_columns_of_the_known_names_are_taken_in_order_however_they_are_written():
    assert naming({"name": "name", "ID": "ID", "text": "text"}) == ["ID", "name"]
    assert naming({"input_error": "error", "File": "File"}) == ["File"]
    assert naming({"text": "text", "line": "line"}) == []
