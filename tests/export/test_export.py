"""Every format out holds the rows of the run, and every mistake costs one line and writes nothing."""

import csv
import gzip
import io
import json
import os
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path
from unittest import mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from huggingface_hub import HfApi

import runner
from runner.checkpoint.records import Output
from runner.cli import main
from runner.config.load import load_config
from runner.export import files
from runner.export.files import WRITERS, Writing
from runner.results.run import Run
from runner.session.prepare import prepare
from runner.session.session import open_store
from runner.types import UserError
from tests.support import runs
from tests.support.runs import json_lines

MAIL = 'id,text,kind\n1,"win, money ""now""",spam\n2,see you at lunch,ham\n3,,spam\n4,meeting at 3,ham\n'
AS_TYPED = ["job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake"]
AS_TYPED += ['prompt.user="Ham or spam? {{ text }}"', "output.keep=[id,kind]", "run_name=mail", "output.shard_rows=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of four rows, one of them in error."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "mail.csv").write_text(MAIL)
    before = Path.cwd()
    os.chdir(folder)
    try:
        runner.run(AS_TYPED)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(finished, monkeypatch):
    monkeypatch.chdir(finished)
    yield finished
    for path in finished.glob("out[.-]*"):
        path.unlink()


@pytest.fixture
def export(folder, capsys):
    def run(*words):
        code = main(["export", "outputs/mail", *words])
        said = capsys.readouterr()
        return (code, said.out) if code == 0 else (code, said.err)

    return run


@pytest.fixture
def rows(folder):
    return [{"row": number, **row} for number, row in enumerate(datasets.load_from_disk("outputs/mail"))]


def test_parquet(export, rows):
    assert export("out.parquet") == (0, "4 of 4 rows written to out.parquet\n")
    table = pq.read_table("out.parquet")
    assert table.to_pylist() == rows
    assert table.schema.field("probabilities").type == pa.struct([("ham", pa.float64()), ("spam", pa.float64())])


@pytest.mark.parametrize(
    ("name", "unpack"),
    [
        ("out.jsonl", bytes),
        ("out.ndjson", bytes),
        ("out.jsonl.gz", gzip.decompress),
        ("out.jsonl.zst", lambda packed: zstandard.ZstdDecompressor().decompressobj().decompress(packed)),
    ],
)
def test_json_lines(export, rows, name, unpack):
    assert export(name)[0] == 0
    assert [json.loads(line) for line in unpack(Path(name).read_bytes()).splitlines()] == rows


def test_csv_is_flat_and_tells_null_from_empty(export, rows):
    assert export("out.csv", "--join")[0] == 0
    text = Path("out.csv").read_text()
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    assert [row["text"] for row in found] == ['win, money "now"', "see you at lunch", "", "meeting at 3"]
    assert float(found[0]["probabilities_ham"]) == rows[0]["probabilities"]["ham"]
    assert found[0]["usage_finish_reason"] == "choice"
    assert found[2]["error"] == "prompt.user: column text is null"
    assert text.splitlines()[3].endswith(',"prompt.user: column text is null",0,0,0,"error",0,,')


def test_tab_separated(export):
    assert export("out.tsv", "--columns", "id,label")[0] == 0
    assert Path("out.tsv").read_text().splitlines()[0] == '"id"\t"label"'


def test_sqlite_has_types_a_key_and_a_table_of_any_name(export, rows):
    assert export("out.db", "--table", "mail labels")[0] == 0
    database = sqlite3.connect("out.db")
    found = database.execute(
        'SELECT row, id, label, confidence, usage_prompt_tokens, error FROM "mail labels"'
    ).fetchall()
    assert found == [
        (r["row"], r["id"], r["label"], r["confidence"], r["usage"]["prompt_tokens"], r["error"]) for r in rows
    ]
    (schema,) = database.execute("SELECT sql FROM sqlite_master").fetchone()
    assert '"row" INTEGER PRIMARY KEY' in schema
    assert '"confidence" FLOAT' in schema or '"confidence" REAL' in schema
    database.close()


def test_sqlite_holds_numbers_larger_than_its_integers(tmp_path):
    values = {"small": pa.array([1, None], pa.uint8()), "large": pa.array([2**64 - 1, None], pa.uint64())}
    assert WRITERS["sqlite"](str(tmp_path / "out.db"), [pa.table(values)], Writing()) == 2
    database = sqlite3.connect(tmp_path / "out.db")
    assert database.execute("SELECT * FROM rows").fetchall() == [(1, str(2**64 - 1)), (None, None)]
    database.close()


def test_sqlite_has_structs_as_json_where_it_lacks_columns_and_names_of_its_own(tmp_path):
    wide = pa.array([{f"p{i}": i for i in range(990)}, None])
    usage = pa.array([{"a": 1, "b": {"c": 2}}, None])
    columns = {"row": pa.array([5, 6]), "Row": pa.array([1, 2]), "ROW_": pa.array([3, 4]), "wide": wide, "usage": usage}
    said = []
    table = pa.table(columns | {f"c{i}": pa.array([i, i]) for i in range(10)})
    assert WRITERS["sqlite"](str(tmp_path / "out.db"), [table], Writing(key="row", say=said.append)) == 2
    with sqlite3.connect(tmp_path / "out.db") as database:
        found = database.execute("SELECT row, Row__, ROW_, usage_a, usage_b_c FROM rows").fetchone()
        assert found == (5, 1, 3, 1, 2)
        (whole,), none = database.execute("SELECT wide FROM rows").fetchall()
    assert json.loads(whole)["p989"] == 989 and none == (None,)
    assert [line.split()[:3] for line in said] == [["wide", "is", "one"], ["column", "Row", "is"]]
    many = pa.table({f"c{i}": pa.array([i]) for i in range(1000)})
    with pytest.raises(UserError, match=r"at most 999 columns, and there are 1,000: choose some with --columns"):
        WRITERS["sqlite"](str(tmp_path / "many.db"), [many], Writing())
    assert not (tmp_path / "many.db").exists()


def test_csv_has_structs_as_json_where_a_spreadsheet_lacks_columns(tmp_path):
    said = []
    table = pa.table({"a": pa.array([1]), "p": pa.array([{f"p{i}": i for i in range(16_384)}])})
    assert WRITERS["csv"](str(tmp_path / "out.csv"), [table], Writing(say=said.append)) == 1
    head, row = (tmp_path / "out.csv").read_text().splitlines()
    assert head == '"a","p"' and row.startswith('1,"{""p0"": 0, ""p1"": 1,')
    assert said == ["p is one column of JSON: a spreadsheet holds at most 16,384 columns"]


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        (pa.array([Decimal("12345678901234567890.123")]), "12345678901234567890.123"),
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "P1M2DT0.000000003S"),
        (pa.array([93_784_500], pa.duration("ms")), "P1DT2H3M4.5S"),
        (pa.array([-1], pa.duration("ns")), "-PT0.000000001S"),
        (pa.array(["a"], pa.string_view()), "a"),
        (pa.array([b"\xff"], pa.binary_view()), "/w=="),
        (pa.array([{}], pa.struct([])), "{}"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), '[["a", 1]]'),
        (pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1)),
    ],
)
def test_cells_of_any_type_keep_their_value_in_csv_and_sqlite(values, cell, tmp_path):
    for kind in ("csv", "sqlite"):
        assert WRITERS[kind](str(tmp_path / kind), [pa.table({"x": values})], Writing()) == 1
    assert list(csv.reader((tmp_path / "csv").open()))[1] == [cell]
    with sqlite3.connect(tmp_path / "sqlite") as database:
        assert database.execute("SELECT x FROM rows").fetchone() == (cell,)


def test_a_type_that_a_format_lacks_is_told_in_one_line(tmp_path):
    table = pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(UserError, match=r"x.parquet cannot be written: .*month_day_nano_interval"):
        WRITERS["parquet"](str(tmp_path / "x.parquet"), [table], Writing())


def test_an_input_column_called_row_is_not_taken_for_the_row_s_position(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mail.csv").write_text("row,text\n7,win\n7,lunch\n")
    runner.run([*(word for word in AS_TYPED if not word.startswith("output.keep")), "output.report=false"])
    assert main(["export", "outputs/mail", "out.db"]) == 0
    database = sqlite3.connect("out.db")
    assert database.execute("SELECT row_, row, text FROM rows").fetchall() == [(0, 7, "win"), (1, 7, "lunch")]
    database.close()
    assert main(["export", "outputs/mail", "argilla.json", "--format", "argilla", "--text", "row"]) == 0
    records = json.loads(Path("argilla.json").read_text())
    assert [(one["id"], one["fields"]) for one in records] == [("0", {"row": "7"}), ("1", {"row": "7"})]
    assert main(["export", "outputs/mail", "tasks.json", "--format", "label-studio", "--text", "row"]) == 0
    assert [one["data"] for one in json.loads(Path("tasks.json").read_text())][1] == {"row": "7", "row_": 1}


@pytest.mark.parametrize("name", ["out.db", "out.csv", "out.parquet"])
def test_a_place_that_cannot_be_written_to_is_told_in_one_line(export, name):
    Path(f"{name}.tmp").mkdir()
    code, said = export(name)
    Path(f"{name}.tmp").rmdir()
    assert code == 2
    assert said.startswith(f"rowmill: {name} cannot be written: ")


def test_the_standard_output(folder, rows):
    done = runs.rowmill("export", "outputs/mail", "-")
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert done.stderr == "4 of 4 rows written to -\n"


def test_join_puts_the_input_beside_the_output(export):
    assert export("out.jsonl", "--join")[0] == 0
    found = json_lines("out.jsonl")
    assert [row["text"] for row in found] == ['win, money "now"', "see you at lunch", None, "meeting at 3"]
    assert list(found[0])[:4] == ["row", "id", "kind", "label"]


def test_join_keeps_both_columns_of_a_name(folder, capsys):
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "run_name=answers"]
    runner.run([*words, 'prompt.user="Answer: {{ kind }}"'])
    assert main(["export", "outputs/answers", "out.jsonl", "--join"]) == 0
    row = json.loads(Path("out.jsonl").read_text().splitlines()[1])
    assert row["input_text"] == "see you at lunch"
    assert row["text"] != row["input_text"]
    assert row["kind"] == "ham"


@pytest.mark.parametrize(
    ("output", "where", "column"),
    [
        (["schema", {"type": "object", "properties": {"kind": {"enum": ["bug", 'a "|" b']}}}], "{} == {}", "kind"),
        (["choices", ["bug", 'a "|" b']], "{} in [{}]", "text"),
    ],
)
def test_a_where_on_a_value_that_answers_can_never_have_is_refused(folder, capsys, output, where, column):
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "dataset.limit=1"]
    runner.run(
        [*words, f"output.{output[0]}={json.dumps(output[1])}", "prompt.user=Bug or wish?", f"run_name={column}"]
    )
    for value, code in (("bug", 0), ("'a \"|\" b'", 0), ("bugg", 2)):
        assert (
            main(
                [
                    "export",
                    f"outputs/{column}",
                    f"out-{code}.csv",
                    "--overwrite",
                    "--where",
                    where.format(column, value),
                ]
            )
            == code
        )
    assert f"--where: {column} has no value 'bugg' (did you mean 'bug'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("error is null", [0, 1, 3]),
        ("error is not null", [2]),
        ("confidence >= 0 and error is null and kind == ham", [1, 3]),
        ("usage.finish_reason == choice", [0, 1, 3]),
        ("probabilities.ham > 2", []),
        ("row in [0, 3]", [0, 3]),
        ("text is null", [2]),
        ("not (kind == spam or row == 1)", [3]),
    ],
)
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "out.csv", "out.db"])
def test_where(export, where, kept, name):
    words = ["--join"] if where.startswith("text") else []
    assert export(name, "--where", where, *words)[1] == f"{len(kept)} of 4 rows written to {name}\n"
    if name == "out.jsonl":
        assert [one["row"] for one in json_lines(name)] == kept
    if name == "out.parquet":
        assert pq.read_table(name)["row"].to_pylist() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.xyz"], "out.xyz: the name implies no format (.parquet"),
        (["out.parquet.gz"], "parquet files are not compressed as a whole"),
        (["out.jsonl", "--where", "confidnce > 1"], "--where: no column 'confidnce' (did you mean 'confidence'?)"),
        (["out.jsonl", "--where", "confidence >"], "--where: expected"),
        (
            ["out.jsonl", "--where", "label in [ham, spma]"],
            "--where: the column label has no label 'spma' (did you mean",
        ),
        (["out.jsonl", "--where", "confidence > high"], "--where: column 'confidence' holds double, not 'high'"),
        (["out.jsonl", "--columns", "id,lable"], "--columns: no column 'lable' (did you mean 'label'?)"),
        (["mail.csv"], "mail.csv exists: --overwrite replaces it; nothing was written"),
        (["outputs", "--format", "csv"], "outputs is a folder; nothing was written"),
        (["mail.csv/out.csv"], "mail.csv/out.csv cannot be written"),
        (["-", "--format", "parquet"], "--format=parquet: it needs a file"),
        (["out.jsonl", "--data", "nope.csv"], "no such file: nope.csv"),
        (["hub:nobody"], "hub:nobody: write hub:OWNER/NAME"),
        (["hub:a/b", "--format", "csv"], "data sets on the hub are written as parquet"),
        (["out.parquet", "--safe-csv"], "--safe-csv: it is for csv, and out.parquet is written as parquet"),
        (["out.csv", "--table", "mails"], "--table: it is for sqlite, and out.csv is written as csv"),
        (["out.csv", "--public"], "--public: it is for the hub, and out.csv is a file"),
        (["out.jsonl", "--format", "chat", "--columns", "label"], "--columns: it is for parquet, jsonl, csv, sqlite"),
        (["out.json", "--format", "argilla", "--columns", "label"], "and out.json is written as argilla"),
        (["out.csv", "--validation", "0.5"], "--validation: it is for chat, alpaca, prompt-completion"),
        (["out.jsonl", "--rejected", "--where", "id == 1"], "--where: it is for rows, and --rejected writes attempts"),
        (["out.json", "--format", "label-studio", "--text", "txet"], "--text: the input has no column 'txet'"),
    ],
)
def test_mistakes(export, folder, words, message):
    code, said = export(*words)
    assert code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(folder.glob("out.*"))
    assert (folder / "mail.csv").read_text() == MAIL


def test_a_run_at_work_has_as_many_unfinished_rows_as_were_not_read(export, monkeypatch):
    earlier = {**runner.open_run("outputs/mail").status, "finished": 1}
    monkeypatch.setattr(Run, "status", earlier)
    assert export("out.csv", "--where", "id > 1")[1] == "3 of 4 rows written to out.csv\n"


def test_a_file_is_replaced_whole_or_not_at_all(export, folder):
    (folder / "out.jsonl").write_text("old")
    assert export("out.jsonl", "--overwrite", "--columns", "nope")[0] == 2
    assert (folder / "out.jsonl").read_text() == "old"
    assert export("out.jsonl", "--overwrite")[0] == 0
    assert len((folder / "out.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in folder.iterdir()) == ["mail.csv", "out.jsonl", "outputs"]


@pytest.mark.parametrize("words", ["label-studio out.xml", "chat out.valid.jsonl"])
def test_of_two_files_both_are_there_or_none(export, folder, monkeypatch, words):
    kind, beside = words.split()
    target = "out.json" if kind == "label-studio" else "out.jsonl"
    options = ["--format", kind, *(["--validation", "0.4"] if kind == "chat" else [])]
    (folder / beside).write_text("mine")
    assert export(target, *options)[0] == 2
    assert (folder / beside).read_text() == "mine" and not (folder / target).exists()
    synced = []

    def sync(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    (folder / beside).unlink()
    monkeypatch.setattr(files, "sync", sync)
    assert export(target, *options)[0] == 3
    assert not list(folder.glob("out.*"))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert export(target, *options)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.glob("out.*")}
    rename = Path.replace

    def replace(path, target):
        if path.name == f"{beside}.tmp":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert export(target, *options, "--where", "row < 2", "--overwrite")[0] == 3
    assert {path.name: path.read_bytes() for path in folder.glob("out.*")} == before
    for path in folder.glob("out.*"):
        path.unlink()
    assert export(target, *options)[0] == 3
    assert not list(folder.glob("out.*"))


def test_a_moved_input_is_found_and_a_changed_one_refused(export, folder):
    (folder / "mail.csv").rename(folder / "out-moved.csv")
    try:
        said = export("out.jsonl", "--join")[1]
        assert "no such file: mail.csv" in said and "--data PATH says where it is now" in said
        assert export("out.jsonl", "--data", "out-moved.csv")[0] == 0
        (folder / "out-moved.csv").write_text(MAIL + "5,more,ham\n")
        assert "does not hold the rows" in export("out.csv", "--data", "out-moved.csv")[1]
    finally:
        (folder / "mail.csv").write_text(MAIL)


def test_numbers_that_json_does_not_have():
    from runner.plain import to_json

    assert (
        to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": b"\x00"})
        == '{"a": null, "b": [null, 1.5], "c": "AA=="}'
    )


class Hub:
    """The hub's client, with the signatures of the real one; it keeps what is uploaded."""

    def __init__(self, monkeypatch, exists=False, private=True):
        self.api = mock.create_autospec(HfApi, instance=True)
        self.api.repo_exists.return_value = exists
        self.api.dataset_info.return_value.private = private
        self.api.upload_folder.side_effect = self.keep
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: self.api)
        self.files = {}

    def keep(self, folder_path, **details):
        self.files = {str(p.relative_to(folder_path)): p.read_bytes() for p in Path(folder_path).rglob("*.*")}


def test_the_hub_gets_parquet_and_a_card_privately(export, monkeypatch, rows):
    hub = Hub(monkeypatch)
    assert export("hub:me/mail", "--where", "error is null")[0] == 0
    hub.api.create_repo.assert_called_once_with("me/mail", repo_type="dataset", private=True)
    assert list(hub.files) == ["README.md", "data/train-00000-of-00001.parquet"]
    found = pq.read_table(io.BytesIO(hub.files["data/train-00000-of-00001.parquet"])).to_pylist()
    assert found == [row for row in rows if row["error"] is None]
    card = hub.files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["size_categories"] == ["n<1K"]
    assert "| rows | 3 (where `error is null`) |" in card
    assert "Ham or spam? {{ text }}" in card
    assert "| `label` | string |" in card
    assert str(Path.cwd()) not in card


def test_what_the_hub_has_is_not_replaced_or_published_by_accident(export, monkeypatch):
    hub = Hub(monkeypatch, exists=True)
    assert "exists: --overwrite" in export("hub:me/mail")[1]
    assert not hub.files
    assert export("hub:me/mail", "--overwrite")[0] == 0
    assert not hub.api.create_repo.called
    hub = Hub(monkeypatch, exists=True, private=False)
    assert "hub:me/mail is public" in export("hub:me/mail", "--overwrite")[1]
    assert not hub.files
    assert export("hub:me/mail", "--overwrite", "--public")[0] == 0
    hub = Hub(monkeypatch)
    assert export("hub:me/mail", "--public")[0] == 0
    assert hub.api.create_repo.call_args.kwargs["private"] is False


def test_a_hub_that_refuses(export, monkeypatch):
    hub = Hub(monkeypatch)
    hub.api.create_repo.side_effect = RuntimeError("401 Client Error\nmore")
    code, said = export("hub:me/mail")
    assert code == 2
    assert said == "rowmill: hub:me/mail cannot be written: 401 Client Error; `hf auth login` gives access\n"


def test_large_data_sets_are_several_files_on_the_hub(export, monkeypatch):
    from runner.export import hub as hub_module
    from runner.export import select

    monkeypatch.setattr(hub_module, "FILE_BYTES", 1)
    monkeypatch.setattr(select, "GATHER_ROWS", 2)
    hub = Hub(monkeypatch)
    assert export("hub:me/mail")[0] == 0
    parts = sorted(name for name in hub.files if name.endswith("parquet"))
    assert parts[0].endswith(f"train-00000-of-{len(parts):05d}.parquet")
    assert sum(pq.read_table(io.BytesIO(hub.files[name])).num_rows for name in parts) == 4


def test_label_studio_tasks_with_their_configuration(export):
    assert export("out.json", "--format", "label-studio")[0] == 0
    tasks = json.loads(Path("out.json").read_text())
    assert [task["data"] for task in tasks[:2]] == [
        {"text": 'win, money "now"', "row": 0},
        {"text": "see you at lunch", "row": 1},
    ]
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "fake"
    assert 0 <= prediction["score"] <= 1
    (result,) = prediction["result"]
    assert result == {
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [result["value"]["choices"][0]]},
    }
    assert result["value"]["choices"][0] in ("ham", "spam")
    assert tasks[2]["predictions"] == []
    config = Path("out.xml").read_text()
    assert '<Text name="text" value="$text"/>' in config
    assert '<Choices name="label" toName="text" choice="single">' in config
    assert '<Choice value="ham"/>' in config


def test_argilla_records(export):
    assert export("out.json", "--format", "argilla", "--where", "row < 3")[0] == 0
    records = json.loads(Path("out.json").read_text())
    assert records[0]["fields"] == {"text": 'win, money "now"'}
    assert records[0]["suggestions"]["label"]["value"] in ("ham", "spam")
    assert records[0]["suggestions"]["label"]["agent"] == "fake"
    assert records[2]["suggestions"] == {}
    assert [record["id"] for record in records] == ["0", "1", "2"]


def test_texts_are_checked_in_a_text_area(folder):
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "run_name=texts"]
    runner.run([*words, 'prompt.user="Answer: {{ kind }} {{ id }}"', "job.samples=2"])
    assert main(["export", "outputs/texts", "out.json", "--format", "label-studio"]) == 0
    task = json.loads(Path("out.json").read_text())[0]
    assert task["data"] == {"id": "1", "kind": "spam", "row": 0}
    assert task["predictions"][0]["result"][0]["type"] == "textarea"
    assert len(task["predictions"][0]["result"][0]["value"]["text"]) == 2
    assert '<TextArea name="text" toName="id"' in Path("out.xml").read_text()


EXPORT = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "runner.cli", "export", "outputs/many", sys.argv[1], "--join"], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_rows(tmp_path, monkeypatch, slow):
    """1,000,000 rows in four formats with --slow, else 10,000 in one."""
    rows = 1_000_000 if slow else 10_000
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("id,text\n" + "".join(f"{i},the text of row {i}\n" for i in range(rows)))
    words = ["job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=rows.csv", "engine.backend=fake"]
    ready = prepare(load_config([*words, "prompt.user={{ text }}", "run_name=many"]))
    columns = {"label": "ham", "confidence": 0.75, "probabilities": {"ham": 0.75, "spam": 0.25}}
    with open_store(ready) as store:
        for start in range(0, rows, 1000):
            store.finish([Output(row, columns) for row in range(start, start + 1000)])
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss counts bytes there, KiB elsewhere
    for name in ("out.parquet", "out.jsonl", "out.csv", "out.db")[: None if slow else 1]:
        done = runs.python(EXPORT, name)
        assert done.returncode == 0, done.stderr
        written, peak = done.stdout.splitlines()
        assert written == f"{rows:,} of {rows:,} rows written to {name}"
        assert int(peak) / unit < 1024  # MiB
