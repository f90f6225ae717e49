"""``rowmill init`` proposes a configuration that runs as it was written."""

import gzip
import json
import shlex
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner import open_run
from runner.cli import main
from runner.config.init import propose
from runner.types import UserError


def write_csv(name, rows, header="id,text,kind"):
    Path(name).write_text(header + "\n" + "".join(f"{row}\n" for row in rows))


def run_as_told(capsys):
    """Type the command that init printed, with the fake engine."""
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("run "))
    words = shlex.split(line.removeprefix("run").strip())
    assert words[0] == "rowmill"
    assert main([*words[1:], "engine.backend=fake", "run_name=out"]) == 0
    return list(open_run("outputs/out").rows())


def test_labels_from_a_column(folder, capsys):
    write_csv("mail.csv", (f"{i},mail number {i} of many,{('ham', 'yes')[i % 2]}" for i in range(20)))
    assert main(["init", "mail.csv"]) == 0
    assert "'kind'" in Path("my_conf/job/mail.yaml").read_text()
    rows = run_as_told(capsys)
    assert len(rows) == 20
    assert {row["label"] for row in rows} <= {"ham", "yes"}
    assert not any(row["error"] for row in rows)


@pytest.mark.parametrize("write", [list, json.dumps])
def test_columns_with_offsets_propose_spans(folder, capsys, write):
    names = ["Bob", "Ann"]
    rows = [
        {"gold": write([{"start": 0, "end": 3, "label": "PER"}]), "body": f"{names[i % 2]} wrote a mail, number {i}"}
        for i in range(8)
    ]
    Path("mail.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"gold": None, "body": "none"}]))
    assert main(["init", "mail.jsonl"]) == 0
    assert '{name: "PER", description: null}' in Path("my_conf/job/mail.yaml").read_text()
    rows = run_as_told(capsys)
    assert len(rows) == 9
    assert all(row["error"] is None and row["spans"] is not None for row in rows)


@pytest.mark.parametrize(
    ("cells", "kind", "labels", "columns"),
    [
        ([["price"], ["price", "time"], []], "multi", ("price", "time"), ["labels", "confidence", "probabilities"]),
        (["price; time", "time", "price"], "multi", ("price", "time"), ["labels", "confidence", "probabilities"]),
        ([1, 3, 5, 2, 4], "scale", ("1", "5"), ["level", "expected", "spread", "confidence", "probabilities"]),
        (["low", "high"], "labels", ("high", "low"), ["label", "confidence", "probabilities"]),
    ],
)
def test_the_kind_of_question_fits_the_column(folder, capsys, cells, kind, labels, columns):
    rows = [{"text": f"mail number {i} of many", "mark": cells[i % len(cells)], "id": i} for i in range(60)]
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = propose("mail.jsonl")
    assert (found.gold, found.kind, found.labels) == ("mark", kind, labels)
    assert main(["new", "job", f"a_{folder.name.lower()}", "--data", "mail.jsonl"]) == 0
    assert "rowmill init mail.jsonl" in capsys.readouterr().out
    assert main(["init", "mail.jsonl"]) == 0
    row = run_as_told(capsys)[0]
    assert set(columns) <= row.keys() and row["error"] is None
    assert open_run("outputs/out").figures["evaluation"]["rows"] == 60


def test_numbers_that_count_something_are_no_scale(folder):
    rows = [
        {
            "text": f"mail number {i} of many",
            "age": 20 + i % 40,
            "year": 2000 + i % 5,
            "storeId": 1 + i % 5,
            "n": i % 6 / 2,
        }
        for i in range(60)
    ]
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert propose("mail.jsonl").gold is None


def test_levels_with_gaps_are_a_scale_in_any_file(folder):
    import pandas as pd

    rows = pd.DataFrame({"text": [f"mail number {i}" for i in range(60)], "mark": [1.0 + i % 5 for i in range(60)]})
    rows.loc[7, "mark"] = None
    rows.to_csv("mail.csv", index=False)
    rows.to_parquet("mail.parquet")
    for path in ("mail.csv", "mail.parquet"):
        found = propose(path)
        assert (found.gold, found.kind, found.labels) == ("mark", "scale", ("1", "5"))


def test_all_columns_with_answers_are_told_and_can_be_asked_in_one_pass(folder, capsys):
    rows = [
        {
            "text": f"mail number {i} of many",
            "stars": 1 + i % 5,
            "1st tone": "calm" if i % 3 else "angry",
            "topics": [["tea"], ["tea", "pots"]][i % 2],
        }
        for i in range(30)
    ]
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", "mail.jsonl"]) == 0
    assert [one.column for one in propose("mail.jsonl").others] == ["stars", "1st tone"]
    (line,) = [
        line for line in Path("my_conf/job/mail.yaml").read_text().splitlines() if line.startswith("# questions:")
    ]
    text = Path("my_conf/job/mail.yaml").read_text()
    asked = text[text.index(line) :].replace("# ", "", 1).replace("\n#   -", "\n  -")
    Path("my_conf/job/mail.yaml").write_text(f"defaults: [label]\n{asked}")
    Path("my_conf/prompt/mail.yaml").write_text("user: '{{ text }} {{ question }}'\n")
    made = run_as_told(capsys)
    assert {"stars", "_1st_tone", "topics"} <= made[0].keys()
    assert set(open_run("outputs/out").figures["evaluations"]) == {"stars", "_1st_tone", "topics"}


def test_texts_without_labels_get_answers(folder, capsys):
    Path("a.jsonl").write_text("".join(json.dumps({"q": f"question {i}?", "n": i}) + "\n" for i in range(20)))
    assert main(["init", "a.jsonl"]) == 0
    assert all(row["text"] for row in run_as_told(capsys))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_table_that_is_not_separated_by_commas(folder, capsys, mark):
    rows = (f"{i},mail number {i} of many,{('ham', 'yes')[i % 2]}" for i in range(20))
    write_csv("mail.csv", (row.replace(",", mark) for row in rows), "id,text,kind".replace(",", mark))
    assert main(["init", "mail.csv"]) == 0
    assert [row["id"] for row in run_as_told(capsys)] == list(range(20))


def test_how_a_file_is_read_can_be_said(folder, capsys):
    Path("mail.csv").write_text("id;text\n1;größe\n2;weiß nicht\n", "utf-16-le")
    assert main(["init", "mail.csv"]) == 2
    assert "did you mean dataset.encoding=utf-16-le?" in capsys.readouterr().err
    assert main(["init", "mail.csv", "dataset.encoding=utf-16-le"]) == 0
    assert [row["input_text"] for row in run_as_told(capsys)] == ["größe", "weiß nicht"]
    assert main(["init", "mail.csv", "dataset.limit=2", "--name", "other"]) == 2
    said = capsys.readouterr().err
    assert "dataset.limit does not say how a file is read" in said
    assert "valid: dataset, dataset.table, dataset.encoding, dataset.delimiter, dataset.document\n" in said


def test_what_a_file_without_a_telling_name_is_can_be_said(folder, capsys):
    Path("mails").write_text("one line\nanother line\n")
    assert main(["init", "mails", "dataset=texts"]) == 2
    assert "there is no such reader (did you mean 'text'?)" in capsys.readouterr().err
    assert main(["init", "mails", "dataset=text"]) == 0
    assert [row["input_text"] for row in run_as_told(capsys)] == ["one line", "another line"]


def test_a_pattern_is_several_files(folder, capsys):
    for name in ("a1.csv", "a2.csv"):
        write_csv(name, (f"{i};mail number {i} of many;{('ham', 'yes')[i % 2]}" for i in range(10)), "id;text;kind")
    assert main(["init", "a*.csv", "--name", "both"]) == 0
    assert len(run_as_told(capsys)) == 20
    assert main(["init", "b*.csv"]) == 2
    assert "no file matches the pattern b*.csv" in capsys.readouterr().err


def test_an_array_of_objects(folder, capsys):
    Path("a.json").write_text(json.dumps([{"q": f"question {i}?", "n": i} for i in range(20)], indent=1))
    assert main(["init", "a.json"]) == 0
    assert [row["n"] for row in run_as_told(capsys)] == list(range(20))


def test_columns_of_lists_and_of_cells_that_are_no_texts_are_looked_at(folder, capsys):
    films = [{"Title": "The Whole Nine Yards", "tags": ["a", "b"], "at": [[1.5]]}, {"Title": 1776}, {"Title": None}]
    Path("films.json").write_text(json.dumps(films * 3))
    assert main(["init", "films.json"]) == 0
    assert "'Title'" not in Path("my_conf/job/films.yaml").read_text()
    assert "Title" in Path("my_conf/prompt/films.yaml").read_text()
    late = pa.table(
        {"text": ["a film", "a book"], "at": [["x", "y"], ["z"]], "until": pa.array([0, 10**7], pa.date32())}
    )
    damaged = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")]
    )
    pq.write_table(late.append_column("note", damaged), "late.parquet")
    assert main(["init", "late.parquet"]) == 0


def test_objects_of_several_shapes_are_no_text_to_ask_about(folder, capsys):
    rows = [{"title": f"title {i}", "parsed": {"parts": [{"a": "x" * 9000}] if i % 2 else {"b": 1}}} for i in range(4)]
    Path("papers.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["init", "papers.jsonl"]) == 0
    assert not any(row["error"] for row in run_as_told(capsys))
    assert "{{ title }}" in Path("my_conf/prompt/papers.yaml").read_text()


def test_long_documents_are_summarised(folder, capsys):
    Path("papers.jsonl").write_text("".join(json.dumps({"body": f"{i} words " * 800}) + "\n" for i in range(3)))
    assert main(["init", "papers.jsonl"]) == 0
    assert 'column: "body"' in Path("my_conf/job/papers.yaml").read_text()
    assert all(row["summary"] for row in run_as_told(capsys))


def test_names_that_rowmill_has_get_another_one(folder, capsys):
    write_csv("label.csv", (f"{i},some text {i},x{i % 3}" for i in range(30)))
    assert main(["init", "label.csv"]) == 0
    assert Path("my_conf/job/my_label.yaml").is_file()
    assert len(run_as_told(capsys)) == 30
    assert main(["init", "label.csv", "--name", "label"]) == 2
    assert "my_label" in capsys.readouterr().err


def test_odd_labels_and_file_names_stay_what_they_are(folder, capsys):
    labels = ["yes", "1.50", 'a "b"', "c: d", "- e", "{f}"]
    rows = (json.dumps({"text": f"number {i} of many texts", "class": labels[i % 6]}) for i in range(60))
    with gzip.open("my data (1).jsonl.gz", "wt") as file:
        file.write("\n".join(rows))
    assert main(["init", "my data (1).jsonl.gz"]) == 0
    assert {row["label"] for row in run_as_told(capsys)} <= set(labels)


@pytest.mark.parametrize("name", ["größe", "日本", "it's, [of] (mine)\\"])
def test_what_init_says_works_for_any_name_in_any_folder(tmp_path, monkeypatch, capsys, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    write_csv(f"{name}.csv", (f"{i},mail number {i} of many,{('ham', 'yes')[i % 2]}" for i in range(20)))
    assert main(["init", f"{name}.csv", "--config-dir", f"{name} too"]) == 0
    assert {row["label"] for row in run_as_told(capsys)} <= {"ham", "yes"}


def test_a_table_of_a_database(folder, capsys):
    with sqlite3.connect("x.db") as connection:
        connection.execute("CREATE TABLE t (body TEXT, stars INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(f"body number {i}", i) for i in range(9)])
        connection.execute("CREATE TABLE u (n INTEGER)")
    assert main(["init", "x.db"]) == 2
    assert "dataset.table: x.db has t, u: name one of them" in capsys.readouterr().err
    assert main(["init", "x.db", "dataset.table=t"]) == 0
    assert "9 rows" in capsys.readouterr().out
    assert main(["init", "x.db", "--table", "t", "--name", "y"]) == 0
    assert len(run_as_told(capsys)) == 9


def test_nothing_is_overwritten(folder, capsys):
    write_csv("mail.csv", (f"{i},mail number {i},{'ab'[i % 2]}" for i in range(20)))
    assert main(["init", "mail.csv"]) == 0
    Path("my_conf/job/mail.yaml").write_text("mine")
    assert main(["init", "mail.csv"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert Path("my_conf/job/mail.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such file"),
        ("data.xyz", "a", "add dataset=csv, or the right kind"),
        ("empty.csv", "", "empty"),
        ("numbers.csv", "a,b\n1,2\n", "no column of texts"),
    ],
)
def test_what_cannot_be_proposed(folder, capsys, name, content, message):
    if content is not None:
        Path(name).write_text(content)
    assert main(["init", name]) == 2
    assert message in capsys.readouterr().err
    assert not Path("my_conf").exists()


@pytest.mark.parametrize("names", ["id,Review Text,The Kind", "id,label-coarse,1st", "row, text,loop", "a.b,self,none"])
def test_columns_with_any_name_are_proposed_and_used(folder, capsys, names):
    write_csv("odd.csv", (f"{i},a mail of many words {i},{('ham', 'yes')[i % 2]}" for i in range(20)), names)
    assert main(["init", "odd.csv"]) == 0
    rows = run_as_told(capsys)
    assert len(rows) == 20
    assert not any(row["error"] for row in rows)
    assert {row["label"] for row in rows} <= {"ham", "yes"}


def test_a_list_that_all_rows_have_is_no_answer(folder):
    rows = [{"text": f"penguin number {i} of many", "stage": "Adult, 1 Egg"} for i in range(20)]
    Path("penguins.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert propose("penguins.jsonl").job == "generate"


def test_what_counts_as_labels(folder):
    write_csv("a.csv", (f"{i},text number {i},{i % 4},name {i}" for i in range(40)), "id,text,label,who")
    assert propose("a.csv").labels == ("0", "1", "2", "3")
    write_csv("b.csv", (f"{i},text number {i},{i % 4},name {i}" for i in range(40)), "id,text,stars,who")
    assert (propose("b.csv").gold, propose("b.csv").kind) == ("stars", "scale")
    with pytest.raises(UserError, match="no such file"):
        propose("c.csv")


def test_a_folder_that_cannot_be_made_is_told_in_one_line(folder, capsys):
    write_csv("mail.csv", (f"{i},mail number {i},ham" for i in range(4)))
    Path("my_conf").write_text("a file")
    assert main(["init", "mail.csv"]) == 2
    assert capsys.readouterr().err.startswith("rowmill: my_conf cannot be written: ")


def test_the_labels_of_a_sorted_file_are_all_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"a text about something {at},{'spam' if at < 2500 else 'ham'}\n" for at in range(5000)]
    Path("mail.csv").write_text("text,kind\n" + "".join(rows))
    assert propose("mail.csv").labels == ("ham", "spam")
