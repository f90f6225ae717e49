"""A sheet of a workbook is a data set, its cells what a CSV file of it would hold."""

import datetime
import zipfile

import openpyxl
import pytest

from runner.data.conf import DatasetConf
from runner.data.load import kind_of
from runner.data.readers import table
from runner.data.source import open_source
from runner.types import UserError

SHEET = [
    ["id", "Review Text", "day", "share", None, "mixed"],
    [1, "one\ntwo\tthree", datetime.date(2024, 2, 29), 0.125, "x", 5],
    [None] * 6,
    [2, " 007", datetime.datetime(2024, 3, 1, 8, 30), None, None, True],
    [3, None, None, 0.5, "=A2+1", "1.50", 10],
]
ROWS = [
    ("id", [1, 2, 3]),
    ("Review Text", ["one\ntwo\tthree", " 007", None]),
    ("day", ["2024-02-29", "2024-03-01 08:30:00", None]),
    ("share", ["12.5%", None, "0.5"]),
    ("column_5", ["x", None, "=A2+1"]),
    ("mixed", ["5", "TRUE", "1.50"]),
    ("column_7", [None, None, 10]),
]


@pytest.fixture
def file(tmp_path):
    """A workbook whose sheet does not begin in its corner, with an empty sheet behind it."""
    book = openpyxl.Workbook()
    book.active.title = "Mails"
    for at, row in enumerate(SHEET, 2):
        for column, cell in enumerate(row, 2):
            book.active.cell(at, column, cell)
    book.active["E3"].number_format = "0.0%"
    book.create_sheet("Empty")
    book.save(tmp_path / "a.xlsx")
    return tmp_path / "a.xlsx"


def test_a_formula_that_no_program_has_computed_is_told(file, caplog):
    source(file)
    source(file)
    said = "cell F6 is the formula =A2+1 of a workbook saved by no program that computes, so it and its like are read"
    assert caplog.text.count(said) == 1


def source(path, **conf):
    return open_source(DatasetConf(kind=kind_of("a.xlsx"), path=str(path), **conf))


@pytest.mark.parametrize("most_bytes", [table.IN_MEMORY_BYTES, 0])
def test_rows_are_what_the_sheet_shows(file, monkeypatch, most_bytes):
    monkeypatch.setattr(table, "IN_MEMORY_BYTES", most_bytes)
    file = file.rename(file.with_suffix(""))  # as what is piped in
    for _ in range(2):
        opened = source(file)
        found = opened.table(0, 3, opened.column_names)
        assert [(name, found[name].to_pylist()) for name in found.column_names] == ROWS


def test_of_several_sheets_one_is_named(file):
    book = openpyxl.load_workbook(file)
    book["Empty"].append(["id"])
    book["Empty"].append([7])
    book.save(file)
    assert [row["id"] for row in source(file, table="empty").rows()] == [7]
    for name, message in (
        (None, "has the sheets Mails, Empty: name one of them"),
        ("Mail", "has no sheet 'Mail' .*Mails"),
    ):
        with pytest.raises(UserError, match=message):
            source(file, table=name)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([["id"]], "has no rows"),
        ([["a", "a"], [1, 2]], "more than one column named 'a'"),
        (None, "is not excel but a zip archive|cannot be read as an Excel workbook: it is none, or"),
    ],
)
def test_mistakes_are_one_line(tmp_path, rows, message):
    book = openpyxl.Workbook()
    for row in rows or ():
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    if rows is None:
        (tmp_path / "a.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes()[:900])
    with pytest.raises(UserError, match=message):
        source(tmp_path / "a.xlsx")


def test_a_formula_that_gave_an_empty_text_is_an_empty_cell_and_escapes_are_read(file):
    book = openpyxl.Workbook()
    for row in (["id", "note"], [1, "=IF(A2=1,0,A2)"], [2, "a_x000D_\nb_xD800_"]):
        book.active.append(row)
    book.save(file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet] = parts[sheet].replace(b'<c r="B2">', b'<c r="B2" t="str">')
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert [row["note"] for row in source(file).rows()] == [None, "a\r\nb\ufffd"]
