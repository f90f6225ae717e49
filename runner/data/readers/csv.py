"""CSV to an Arrow table, through pyarrow's streaming reader, with errors that name the line."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.compressed import open_bytes, open_stream
from runner.data.readers.table import aligned, check_encoding, read_files, store, unique_names
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")
_BLOCK_BYTES = 8 << 20
_LARGEST_BLOCK_BYTES = 1 << 30
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,8})\.(0|[0-9]{0,5}[1-9])$"
_ANY_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
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
        return _narrow(pa.concat_tables(tables, promote_options="default"), cached)
    finally:
        for file in filter(None, as_text):
            file.unlink(missing_ok=True)


def _text_table(path: Path, target: Path | None, delimiter: str | None, encoding: str) -> pa.Table:
    """All cells as text, written to ``target`` if the file is large."""
    given, delimiter = delimiter, delimiter or ("\t" if ".tsv" in path.suffixes else ",")
    delimiter = "\t" if delimiter == r"\t" else delimiter
    _check_options(delimiter, encoding)
    table = _read_text_cells(path, delimiter, encoding, target)
    if given is None and len(names := table.column_names) == 1 and (other := other_delimiter(names[0])):
        raise UserError(
            "dataset.path",
            f"{path} has a single column {names[0][:80]!r}; did you mean dataset.delimiter={other!r}? "
            f"If not, set dataset.delimiter={delimiter!r}",
        )
    _refuse_open_quote(path, table, delimiter, encoding)
    return table


def other_delimiter(header: str) -> str | None:
    """What seems to separate the names in a header that has no comma; None if nothing does."""
    found = re.search(r"[;\t|]", header)
    return found[0] if found and "," not in header else None


def _read_text_cells(path: Path, delimiter: str, encoding: str, target: Path | None) -> pa.Table:
    block = _BLOCK_BYTES
    while True:
        try:
            return _store_text_cells(path, delimiter, encoding, block, target)
        except OSError as error:
            raise UserError("dataset.path", f"{path} cannot be read: {error}") from error
        except (pa.ArrowInvalid, UnicodeError) as error:
            if "straddling" not in str(error) or block >= _LARGEST_BLOCK_BYTES:
                raise _csv_error(path, delimiter, encoding, str(error)) from error
            block *= 8


def _store_text_cells(path: Path, delimiter: str, encoding: str, block: int, target: Path | None) -> pa.Table:
    from pyarrow import csv as pacsv

    read = pacsv.ReadOptions(block_size=block, encoding=encoding)
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def reader(convert: Any) -> Any:
        return pacsv.open_csv(open_stream(path), read_options=read, parse_options=parse, convert_options=convert)

    header = reader(pacsv.ConvertOptions()).schema.names
    names = unique_names(path, header)
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in header},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    schema = pa.schema([(name, pa.string()) for name in names])
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in reader(convert))
    return store(schema, batches, target)


def _narrow(table: pa.Table, cached: Path | None) -> pa.Table:
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
        found = pc.match_substring_regex(cells, pattern=_ANY_NUMBER)
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


def _csv_error(path: Path, delimiter: str, encoding: str, message: str) -> UserError:
    """What pyarrow found, with the line in the file, which pyarrow does not know."""
    if "Empty CSV" in message:
        return UserError("dataset.path", f"{path} has no rows: empty data set")
    if "UTF8" in message or "codec" in message:
        line = _undecodable_line(path, encoding)
        return UserError(
            "dataset.path", f"{path} line {line} is not {encoding}; did you mean dataset.encoding=latin-1?"
        )
    if found := re.search(r"Expected (\d+) columns, got (\d+)", message):
        ragged = _ragged_line(path, delimiter, encoding)
        where = f"line {ragged}" if ragged else "a line"
        cells = count_of(int(found[2]), "cell")
        return UserError("dataset.path", f"{path} {where} has {cells}, the header has {found[1]}")
    return UserError("dataset.path", f"{path} cannot be read as CSV: {message.splitlines()[0][:200]}")


def _check_options(delimiter: str, encoding: str) -> None:
    if len(delimiter) != 1 or delimiter in '\r\n"' or not delimiter.isascii():
        raise UserError("dataset.delimiter", "it must be one ASCII character", value=repr(delimiter))
    check_encoding(encoding)


def _undecodable_line(path: Path, encoding: str) -> int:
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return 1


def _ragged_line(path: Path, delimiter: str, encoding: str) -> int | None:
    """The number of the first line whose cells do not match the header's; a row may span lines."""
    width, start = 0, 1
    try:
        for cells, end in _records(path, delimiter, encoding):
            width = width or len(cells)
            if cells and len(cells) != width:
                return start
            start = end + 1
    except csv.Error:
        return start
    return None


def _refuse_open_quote(path: Path, table: pa.Table, delimiter: str, encoding: str) -> None:
    """A quote that is never closed swallows the rest of the file into one cell: refuse it."""
    last = table.column(table.num_columns - 1)[-1].as_py() if len(table) else None
    if not last or ("\n" not in last and "\r" not in last):
        return
    start = 1
    try:
        for _, end in _records(path, delimiter, encoding):
            start = end + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise UserError("dataset.path", f"{path} line {start} opens a quote that is never closed") from None


def _records(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[list[str], int]]:
    """The cells of each record and the number of its last line; csv.Error for a record that never ends."""
    csv.field_size_limit(_LARGEST_BLOCK_BYTES)
    text = io.TextIOWrapper(open_bytes(path), encoding, errors="replace", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    for cells in reader:
        yield cells, reader.line_num
