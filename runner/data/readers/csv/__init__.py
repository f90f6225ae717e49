"""CSV to an Arrow table, through pyarrow's streaming reader, with errors that name the line.

Modules:
dialect  How a CSV file is written: its delimiter, whether quotes are quotes, and what backslashes mean.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import re
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.csv.dialect import (
    LARGEST_BLOCK_BYTES,
    NULL,
    Dialect,
    dialect_of,
    other_delimiter,
    ragged_line,
    records,
    unescaped,
)
from runner.data.readers.raw.compressed import open_stream
from runner.data.readers.raw.encodings import is_utf8, undecodable
from runner.data.readers.table import aligned, read_files, store, unique_names
from runner.text.written import NUMBER
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")
_BLOCK_BYTES = 8 << 20
_MARK = "\ufeff"
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,8})\.(0|[0-9]{0,5}[1-9])$"
_LOOKED_AT, _FEW, _MOSTLY = 1000, 3, 0.9  # cells, and how many of them are numbers in a column that is said to be odd
_TINY = r"^(-0\.0|-?0\.000[0-9]+)$"  # Python prints these with an exponent, or they are minus zero


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The rows of CSV files; see ``runner.data.readers.table`` for the types."""
    return read_files(conf, path, offline, lambda paths, cached: read_csv(paths, conf.delimiter, conf.encoding, cached))


def read_csv(paths: list[Path], delimiter: str | None, encoding: str, cached: Path | None) -> pa.Table:
    """A table of all rows; see ``runner.data.readers.table`` for the types. Raises UserError naming the line at fault.

    ``delimiter`` None: a comma, or a tab in files called .tsv.
    """
    as_text = [cached.with_suffix(f".text{number}.arrow") if cached else None for number in range(len(paths))]
    try:
        tables = [_text_table(*file, delimiter, encoding) for file in zip(paths, as_text, strict=True)]
        return narrow(pa.concat_tables(tables, promote_options="default"), cached)
    finally:
        for file in filter(None, as_text):
            file.unlink(missing_ok=True)


def _text_table(path: Path, target: Path | None, given: str | None, encoding: str) -> pa.Table:
    """All cells as text, written to ``target`` if the file is large."""
    dialect = dialect_of(path, given, encoding)
    table = _read_text_cells(path, dialect, target)
    if given is None and len(names := table.column_names) == 1 and (other := other_delimiter(names[0])):
        raise UserError(
            "dataset.path",
            f"has a single column {names[0][:80]!r}; did you mean dataset.delimiter={other!r}? "
            f"If not, set dataset.delimiter={dialect.delimiter!r}",
            file=path,
        )
    if len(table.column_names) == 1:
        _tell_blank_lines(path, dialect)
    return table


def _tell_blank_lines(path: Path, dialect: Dialect) -> None:
    """Say that lines which may stand for empty cells are left out, as they are where there are more columns."""
    blank, between = list[int](), list[int]()
    found = dropwhile(lambda row: not row[0], records(path, dialect) if _has_blank_lines(path, dialect) else ())
    with contextlib.suppress(csv.Error):
        for cells, line in found:
            between += blank if cells else []
            blank = [] if cells else [*blank, line]
    if between:
        log.warning(
            '%s: %s between its rows left out, the first is line %d; in a file of one column an empty cell is ""',
            *(path, count_of(len(between), "blank line"), between[0]),
        )


def _has_blank_lines(path: Path, dialect: Dialect) -> bool:
    before = b""
    with dialect.open(path) as file:
        while some := file.read(1 << 20):
            if re.search(rb"\n\r?\n|\r\r", before + some):
                return True
            before = some[-2:]
    return False


def _read_text_cells(path: Path, dialect: Dialect, target: Path | None) -> pa.Table:
    block = _BLOCK_BYTES
    while True:
        try:
            return _store_text_cells(path, dialect, block, target)
        except OSError as error:
            raise UserError("dataset.path", f"cannot be read: {error}", file=path) from error
        except UnicodeError as error:
            raise undecodable(path, dialect.encoding) from error
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or block >= LARGEST_BLOCK_BYTES:
                raise _csv_error(path, dialect, str(error)) from error
            block *= 8


def _store_text_cells(path: Path, dialect: Dialect, block: int, target: Path | None) -> pa.Table:
    from pyarrow import csv as pacsv

    read = pacsv.ReadOptions(block_size=block, skip_rows=dialect.skip)
    quote = '"' if dialect.quotes else False
    parse = pacsv.ParseOptions(delimiter=dialect.delimiter, quote_char=quote, newlines_in_values=dialect.quotes)

    def reader(convert: Any) -> Any:
        plain = is_utf8(dialect.encoding) and dialect.as_stored
        file = open_stream(path) if plain else pa.PythonFile(dialect.open(path), "r")
        return pacsv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert)

    header = reader(pacsv.ConvertOptions()).schema.names
    names = unique_names(path, [header[0].lstrip(_MARK), *header[1:]])
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in header},
        null_values=["", NULL],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    schema = pa.schema([(name, pa.string()) for name in names])
    cells = _meant if dialect.copied else _without_marks
    batches = (pa.RecordBatch.from_arrays(cells(batch), schema=schema) for batch in reader(convert))
    return store(schema, batches, target)


def _without_marks(batch: pa.RecordBatch) -> list[pa.Array]:
    """The columns; files that were joined have byte order marks at the beginning of rows."""
    import pyarrow.compute as pc

    first, *others = batch.columns
    if pc.any(pc.starts_with(first, pattern=_MARK)).as_py():
        first = pc.utf8_ltrim(first, characters=_MARK)
    return [first, *others]


def _meant(batch: pa.RecordBatch) -> list[pa.Array]:
    """The columns, what backslashes stand for in place of them."""
    import pyarrow.compute as pc

    columns = _without_marks(batch)
    for at, column in enumerate(columns):
        if pc.any(pc.match_substring(column, "\\")).as_py():
            columns[at] = pa.array([cell and unescaped(cell) for cell in column.to_pylist()], pa.string())
    return columns


def narrow(table: pa.Table, cached: Path | None) -> pa.Table:
    """Columns whose every cell is a number, printed as Python prints it, get that type. Fills the file ``cached``."""
    types = [_number_type(column) for column in table.columns]
    for name, kind in zip(table.column_names, types, strict=True):
        if pa.types.is_string(kind):
            _tell_odd_cell(name, table.column(name))
    schema = pa.schema([(name, kind) for name, kind in zip(table.column_names, types, strict=True)])
    if schema == table.schema and cached is None:
        return table
    return store(schema, (aligned(batch, schema) for batch in table.to_batches()), cached)


def _number_type(column: pa.ChunkedArray) -> pa.DataType:
    import pyarrow.compute as pc

    def every(cells: Any, pattern: str) -> bool:
        return pc.all(pc.match_substring_regex(cells, pattern=pattern)).as_py() is True  # None: no cell but null

    start = column.slice(0, 100)
    if every(start, _INTEGER) and every(column, _INTEGER):
        return pa.int64()
    if every(start, _DECIMAL) and every(column, _DECIMAL):
        tiny = pc.any(pc.match_substring_regex(column, pattern=_TINY)).as_py()
        return pa.string() if tiny else pa.float64()
    return pa.string()


def _tell_odd_cell(name: str, column: pa.ChunkedArray) -> None:
    """Say which cell makes a column of numbers one of texts."""
    import pyarrow.compute as pc

    def numbers(cells: Any) -> tuple[Any, int]:
        found = pc.match_substring_regex(cells, pattern=NUMBER)
        count = pc.sum(found).as_py() or 0
        return found, count if count > max(_FEW, _MOSTLY * (len(found) - found.null_count)) else 0

    if not numbers(column.slice(0, _LOOKED_AT))[1]:
        return
    found, count = numbers(column)
    odd = pc.index(found, False).as_py()
    if count and odd >= 0:
        log.warning(
            "column %r is text because of %r in row %d; %s of its cells are numbers",
            *(name, column[odd].as_py()[:80], odd + 1, f"{count:,}"),
        )


def _csv_error(path: Path, dialect: Dialect, message: str) -> UserError:
    """What pyarrow found, with the line in the file, which pyarrow does not know."""
    if "Empty CSV" in message:
        return UserError("dataset.path", "has no rows: empty data set", file=path)
    if "UTF8" in message:
        return undecodable(path, dialect.encoding)
    if found := re.search(r"Expected (\d+) columns, got (\d+)", message):
        ragged = ragged_line(path, dialect)
        where = f"line {ragged}" if ragged else "a line"
        cells = count_of(int(found[2]), "cell")
        text = f"{where} has {cells}, the header has {found[1]}"
        return UserError("dataset.path", text + _other_delimiter_hint(path, dialect), file=path)
    return UserError("dataset.path", f"cannot be read as CSV: {message.splitlines()[0][:200]}", file=path)


def _other_delimiter_hint(path: Path, dialect: Dialect) -> str:
    with contextlib.suppress(csv.Error, StopIteration):
        header, _ = next(records(path, dialect))
        if len(header) == 1 and (other := other_delimiter(header[0])):
            return f"; did you mean dataset.delimiter={other!r}?"
    return ""
