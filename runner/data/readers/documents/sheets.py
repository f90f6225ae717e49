"""Workbooks of Excel as the text that Excel shows, as far as cells tell."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from runner.console import warn_once

_TIME = re.compile(r"(?i)[hs]")  # in the format of a cell
_LITERAL = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.')
_FORMULA = re.compile(rb"<f[ >/]")


def xlsx_text(path: Path) -> str:
    """The sheets in their order under their names, a line for each row, its cells separated by tabs."""
    with closing(open_sheets(path)) as sheets:
        texts = ((name, "\n".join(map(_line, rows))) for name, rows in sheets)
        return "\n\n".join(f"{name}\n{text}" for name, text in texts if text)


def open_sheets(path: Path) -> Generator[tuple[str, Iterator[list[str]]]]:
    """The name of each sheet with its rows that hold something: cells as Excel shows them, as far as they tell.

    Of a formula what it gave when the file was saved; itself where no program has computed it, which is told.
    """
    import openpyxl

    # Of parts that hold no cells, as of validation, and of dates that are none, which are shown as errors.
    warnings.filterwarnings("ignore", module="openpyxl")
    with ExitStack() as opened:
        file = opened.enter_context(path.open("rb"))  # of any name, as what is piped in has none
        books = [
            opened.enter_context(closing(openpyxl.load_workbook(file, read_only=True, data_only=computed)))
            for computed in ([True, False] if _has_formulas(path) else [True])
        ]
        for views in zip(*(book.worksheets for book in books), strict=True):
            yield views[0].title, _rows(path, *views)


READ = {".xlsx": xlsx_text}


def _has_formulas(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.startswith("xl/worksheets/"))
        return any(_FORMULA.search(archive.read(name)) for name in names)


def _rows(path: Path, *views: Any) -> Iterator[list[str]]:
    for view in views:
        view.reset_dimensions()  # which some programs write down wrong
    for rows in zip(*(view.iter_rows() for view in views), strict=True):
        cells = [_shown(path, *same) for same in zip(*rows, strict=True)]
        if any(cells):
            yield cells


def _line(cells: list[str]) -> str:
    texts = (" ".join(line.strip() for line in cell.splitlines()).replace("\t", " ") for cell in cells)
    return "\t".join(texts).rstrip("\t")


def _shown(path: Path, cell: Any, as_formula: Any = None) -> str:
    value = cell.value
    if value is None:
        is_text = cell.data_type == "str"  # an empty one, as IF(..., "") gives
        formula = None if is_text or as_formula is None else as_formula.value
        return "" if formula is None else _not_computed(path, cell.coordinate, str(getattr(formula, "text", formula)))
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime) and not _TIME.search(_LITERAL.sub("", cell.number_format)):
        return value.date().isoformat()
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    if isinstance(value, int | float):
        number = str(value) if isinstance(value, int) else f"{value:.15g}"  # as many digits as Excel keeps
        if "%" in _LITERAL.sub("", cell.number_format):
            return format((Decimal(number) * 100).normalize(), "f") + "%"
        return number
    return _unescaped(str(value))


def _not_computed(path: Path, cell: str, formula: str) -> str:
    what = "of a workbook saved by no program that computes, so it and its like are read as texts"
    todo = "open and save it in Excel or LibreOffice"
    warn_once((path, "formulas"), "%s: cell %s is the formula %s %s: %s", path, cell, formula[:40], what, todo)
    return formula


def _unescaped(text: str) -> str:
    """The text of a cell, in which Excel writes `_x000D_` and the like for what XML cannot hold."""
    if "_x" not in text:
        return text
    from openpyxl.utils.escape import unescape

    return str(unescape(text)).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
