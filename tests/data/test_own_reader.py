"""Promises of a reader of one's own: a class of the user's reads the rows, and all else works as with any data set."""

from pathlib import Path

import pyarrow as pa
import pytest

from runner import open_run, run
from runner.cli import main
from runner.types import UserError
from tests.support.runs import json_lines

READER = """
from dataclasses import dataclass
import json

@dataclass
class Pages:
    path: str
    pages: int = 3
    form: str = "dicts"

    def read(self):
        import pyarrow as pa

        book = open(self.path).read()
        rows = [{"text": f"page {n} of {book}", "gold": "no" if n % 2 else "yes"} for n in range(self.pages)]
        if self.form == "dicts":
            return rows
        if self.form == "generator":
            return (row for row in rows)
        if self.form == "table":
            return pa.Table.from_pylist(rows)
        if self.form == "batches":
            return (batch for batch in pa.Table.from_pylist(rows).to_batches(max_chunksize=2))
        if self.form == "nothing":
            return []
        if self.form == "number":
            return 7
        if self.form == "texts":
            return ["a", "b"]
        if self.form == "twice":
            return pa.table([["a"], ["b"]], names=["x", "x"])
        raise KeyError(self.form)

@dataclass
class Silent:
    pages: int = 3

@dataclass
class Numbers:
    def read(self):
        return [{"text": f"page {n}"} for n in range(3)]

class Plain:
    def read(self):
        return []
"""
RUN = ["dataset=pages", "job=generate", "prompt.user={{ text }}", "engine.backend=fake", "run_name=r"]


@pytest.fixture(autouse=True)
def _folder(folder):
    Path("own/dataset").mkdir(parents=True)
    Path("own/mine.py").write_text(READER)
    Path("own/dataset/pages.yaml").write_text("_target_: mine.Pages\npath: book.txt\n")
    Path("book.txt").write_text("a book")


def refusal(*words):
    with pytest.raises(UserError) as error:
        run([*RUN, *words], "own")
    return str(error.value)


def kept():
    return open_run("outputs/r").source.table(0, 99, ["text"])["text"].to_pylist()


@pytest.mark.parametrize("form", ["dicts", "generator", "table", "batches"])
def test_rows_come_in_any_form(form):
    figures = run([*RUN, f"dataset.form={form}", "dataset.pages=5"], "own")
    assert figures["rows"] == 5
    assert kept() == [f"page {n} of a book" for n in range(5)]


def test_the_same_rows_in_another_form_are_the_same_data():
    run([*RUN, "dataset.form=table"], "own")
    first = open_run("outputs/r").identity["dataset"]["fingerprint"]
    run([*RUN[:-1], "dataset.form=batches", "run_name=other"], "own")
    assert open_run("outputs/other").identity["dataset"]["fingerprint"] == first


def test_rows_are_chosen_as_from_any_data_set():
    run([*RUN, "dataset.pages=9", "dataset.where=gold == no", "dataset.shuffle_seed=1", "dataset.limit=2"], "own")
    assert len(kept()) == 2
    assert all(int(text.split()[1]) % 2 for text in kept())


def test_answers_are_compared_with_its_gold_column():
    words = ["job=label", 'job.labels=["yes","no"]', "dataset.gold=gold"]
    figures = run([*(word for word in RUN if word != "job=generate"), *words], "own")
    assert figures["evaluation"]["rows"] == 3


def test_a_run_goes_on_with_the_same_reader_and_data():
    run(RUN, "own")
    assert run(RUN, "own")["rows"] == 3


def test_a_run_whose_reader_has_other_code_is_refused_and_the_file_named():
    run(RUN, "own")
    Path("own/mine.py").write_text(READER + "\n# changed\n")
    assert "reader.mine.py" in refusal()


def test_a_run_whose_data_have_changed_is_refused():
    run(RUN, "own")
    Path("book.txt").write_text("another book")
    assert "dataset.fingerprint" in refusal()


def test_a_run_without_a_reader_of_the_users_has_the_identity_it_always_had():
    Path("rows.csv").write_text("text\na\n")
    run([*RUN[1:], "dataset=csv", "dataset.path=rows.csv"])
    identity = open_run("outputs/r").identity
    assert "reader" not in identity
    assert "_target_" not in identity["dataset"]


def test_the_reader_is_named_on_the_command_line():
    words = ["dataset=own", "dataset._target_=mine.Pages", "dataset.path=book.txt", "dataset.pages=2"]
    assert run([*RUN[1:], *words], "own")["rows"] == 2


def test_export_joins_the_columns_it_gives(capsys):
    run([*RUN, "output.keep=[]"], "own")
    assert main(["export", "outputs/r", "out.jsonl", "--join"]) == 0
    rows = json_lines("out.jsonl")
    assert rows[2]["gold"] == "yes"


def test_the_card_and_the_report_name_the_reader():
    from runner.export.hub import card
    from runner.export.select import Selection

    Path("own/dataset/numbers.yaml").write_text("_target_: mine.Numbers\n")
    run([*RUN[1:], "dataset=numbers", "output.report=true"], "own")
    selection = Selection(open_run("outputs/r"), False, None, None)
    assert "| input | `mine.Numbers` (own reader) |" in card("me/data", selection, 3, pa.schema([]))
    assert "mine.Numbers" in Path("outputs/r/report.html").read_text().partition("Everything that determines")[0]


def test_preview_shows_its_rows(capsys):
    assert main(["preview", *RUN, "--config-dir", "own"]) == 0
    assert "page 0 of a book" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset._target_=???"], "dataset._target_ is not set"),
        (["dataset.page=4"], "dataset.page is not a key of mine.Pages (did you mean 'pages'?)"),
        (["dataset.pages=many"], "dataset.pages=many: it must be a whole number"),
        (["dataset.table=t"], "dataset.table is not a key of mine.Pages"),
        (["dataset.limit=many"], "dataset.limit=many: it must be a whole number or null"),
        (["dataset._target_=mine.Page"], "mine has no Page (did you mean 'Pages'?)"),
        (["dataset._target_=mine.Plain"], "is not a class marked with @dataclass"),
        (["dataset._target_=mine.Silent", "dataset.path=null"], "the class has no method read()"),
        (["dataset._target_=json.Pages"], "write modules=[json]"),
        (["dataset._target_=nowhere.Pages"], "module nowhere cannot be imported"),
        (["dataset._target_=Pages"], "it must be module.Class"),
        (["dataset.path=null"], "dataset.path is not set: mine.Pages needs it"),
        (["dataset.path=gone.txt"], "read() fails at "),
        (["dataset.form=raise"], "KeyError: 'raise'"),
        (["dataset.form=number"], "read() returns 7, not a pyarrow.Table, record batches or dicts"),
        (["dataset.form=texts"], "row 0 of read() is 'a', not a pyarrow.Table, record batches or dicts"),
        (["dataset.form=nothing"], "empty data set"),
        (["dataset.form=twice"], "columns of the same name"),
        (["dataset.where=gold == 7"], "no row of mine.Pages matches"),
        (["dataset.gold=golden"], "dataset.gold: no column 'golden' (did you mean 'gold'?)"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_right(words, said):
    found = refusal(*words)
    assert said in found
    assert "\n" not in found


def test_init_proposes_a_configuration_that_runs(capsys):
    assert main(["init", "mine.Pages", "path=book.txt", "pages=20", "--config-dir", "own", "--name", "found"]) == 0
    assert "20 rows; job label on column 'text'" in capsys.readouterr().out
    words = ["dataset=found", "job=found", "engine.backend=fake", "run_name=r"]
    assert run(words, "own")["rows"] == 20


def test_a_misspelt_key_in_a_file_without_a_reader_names_the_file():
    Path("own/dataset/pages.yaml").write_text("kind: csv\npath: rows.csv\nlimitt: 3\n")
    found = refusal()
    assert "dataset.limitt is not a configuration key (did you mean 'limit'?)" in found
    assert "own/dataset/pages.yaml" in found


def test_batches_larger_than_memory_may_hold_leave_no_file_behind(monkeypatch):
    import runner.data.readers.own
    from runner.data.conf import DatasetConf
    from runner.data.source import open_source

    monkeypatch.setattr(runner.data.readers.own, "IN_MEMORY_BYTES", 10)
    monkeypatch.setenv("ROWMILL_CACHE", str(Path("cache").absolute()))
    conf = DatasetConf.of({"_target_": "mine.Pages", "path": "book.txt", "form": "batches", "pages": 50})
    source = open_source(conf, folders=["own"])
    assert [row["gold"] for row in source.rows()] == ["no" if n % 2 else "yes" for n in range(50)]
    assert not [file for file in Path("cache").rglob("*") if file.is_file()]
    assert isinstance(source.table(0, 1, ["text"]), pa.Table)
