"""A sheet of an Excel workbook as an Arrow table, its first row the columns' names."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.csv import narrow
from runner.data.readers.documents.archives import check_size
from runner.data.readers.documents.sheets import open_sheets
from runner.data.readers.table import read_files, unique_names
from runner.types import UserError
from runner.words import did_you_mean


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The rows of the sheet ``conf.table``, or of the only one; cells are what a CSV file of it would hold."""
    if find_spec("openpyxl") is None:
        raise UserError("dataset.path", "needs the package openpyxl: pip install 'rowmill[documents]'", file=path)

    def tables(paths: list[Path], cached: Path | None) -> pa.Table:
        found = [_table(file, conf.table) for file in paths]
        return narrow(pa.concat_tables(found, promote_options="default"), cached)

    return read_files(conf, path, offline, tables)


def _table(path: Path, name: str | None) -> pa.Table:
    """All cells as text, null where there is none; columns without a name or a cell are left out."""
    names, *rows = _rows(path, name)
    if not rows:
        raise UserError("dataset.path", "has no rows: empty data set", file=path)
    width = max(map(len, [names, *rows]))
    columns = [[row[at] or None if at < len(row) else None for row in [names, *rows]] for at in range(width)]
    columns = [cells for cells in columns if any(cells)]
    header = unique_names(path, [cells[0] or "" for cells in columns])
    return pa.table({name: pa.array(cells[1:], pa.string()) for name, cells in zip(header, columns, strict=True)})


def _rows(path: Path, name: str | None) -> list[list[str]]:
    """The rows that hold something, the columns' names first."""
    try:
        check_size(path)
        with closing(open_sheets(path)) as sheets:
            return _chosen(path, sheets, name)
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        text = "cannot be read as an Excel workbook: it is none, or it is damaged"
        raise UserError("dataset.path", text, file=path) from error
    except Exception as error:  # a file may be damaged in any way
        raise UserError("dataset.path", f"cannot be read as an Excel workbook: {error!r:.200}", file=path) from error


def _chosen(path: Path, sheets: Iterator[tuple[str, Iterator[list[str]]]], name: str | None) -> list[list[str]]:
    others: dict[str, list[list[str]]] = {}
    for title, rows in sheets:
        if name is not None and title.lower() == name.lower():
            return [*rows] or [[]]
        first = next(rows, None)
        if first is not None:
            others[title] = [first, *([] if others or name is not None else rows)]
    if name is not None:
        raise UserError("dataset.table", f"has no sheet {name!r}{did_you_mean(name, [*others])}", file=path)
    if len(others) > 1:
        raise UserError("dataset.table", f"has the sheets {', '.join(others)}: name one of them", file=path)
    return next(iter(others.values()), [[]])
