"""CSV to an Arrow table, through pyarrow's streaming reader, with errors that name the line."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.compressed import is_utf8, open_bytes, open_stream, undecodable
from runner.data.readers.table import aligned, read_files, store, unique_names
from runner.text.written import NUMBER
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")
_BLOCK_BYTES = 8 << 20
_LARGEST_BLOCK_BYTES = 1 << 30
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
        return _narrow(pa.concat_tables(tables, promote_options="default"), cached)
    finally:
        for file in filter(None, as_text):
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Dialect:
    """How a file is written. ``skip``: lines before the header; ``escaped``: quotes in cells have a backslash."""

    delimiter: str
    encoding: str
    skip: int = 0
    escaped: bool = False

    def open(self, path: Path) -> BinaryIO:
        """The file as UTF-8, its quotes doubled."""
        file = open_bytes(path, self.encoding)
        return cast(BinaryIO, io.BufferedReader(_Doubled(file), 1 << 20)) if self.escaped else file


class _Doubled(io.RawIOBase):
    """CSV with doubled quotes, of one with backslashes before quotes and backslashes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._read, self._left = file, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            some = self._file.read(1 << 16)
            text, self._read = self._read + some, b""
            if not text:
                return 0
            if some and (len(text) - len(text.rstrip(b"\\"))) % 2:
                text, self._read = text[:-1], text[-1:]
            self._left = re.sub(rb'\\(["\\])', lambda found: b'""' if found[1] == b'"' else b"\\", text)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _text_table(path: Path, target: Path | None, given: str | None, encoding: str) -> pa.Table:
    """All cells as text, written to ``target`` if the file is large."""
    dialect = _dialect(path, given, encoding)
    table = _read_text_cells(path, dialect, target)
    if given is None and len(names := table.column_names) == 1 and (other := other_delimiter(names[0])):
        raise UserError(
            "dataset.path",
            f"has a single column {names[0][:80]!r}; did you mean dataset.delimiter={other!r}? "
            f"If not, set dataset.delimiter={dialect.delimiter!r}",
            file=path,
        )
    _refuse_open_quote(path, table, dialect)
    return table


def _dialect(path: Path, delimiter: str | None, encoding: str) -> _Dialect:
    """As the keys say, and the file: a first line ``sep=;`` as Excel writes it, backslashes before quotes."""
    said = None
    with contextlib.suppress(UnicodeError), open_bytes(path, encoding) as file:
        said = re.match(rb'(?:\xef\xbb\xbf)?"?sep=(.)"?\r?\n', file.readline(20))
    found = _Dialect(delimiter or (said[1].decode() if said else "\t" if ".tsv" in path.suffixes else ","), encoding)
    found = replace(found, delimiter=found.delimiter.replace(r"\t", "\t"), skip=1 if said else 0)
    _check_options(found.delimiter)
    if _has_escapes(path, encoding) and (line := _malformed_line(path, found)):
        found = replace(found, escaped=True)
        if _malformed_line(path, found):
            raise UserError("dataset.path", f"line {line} has a quote inside of a cell that is not doubled", file=path)
        log.info("%s has backslashes before quotes, which are read as parts of cells", path)
    return found


def _has_escapes(path: Path, encoding: str) -> bool:
    before = b""
    with contextlib.suppress(UnicodeError, OSError), open_bytes(path, encoding) as file:
        while some := file.read(1 << 20):
            if b'\\"' in before + some:
                return True
            before = some[-1:]
    return False


def _malformed_line(path: Path, dialect: _Dialect) -> int | None:
    """The first line of the first record in which a quote ends no cell."""
    start = 1
    try:
        for _, end in _records(path, dialect):
            start = end + 1
    except csv.Error:
        return start
    return None


def other_delimiter(header: str) -> str | None:
    """What seems to separate the names in a header that has no comma; None if nothing does."""
    found = re.search(r"[;\t|]", header)
    return found[0] if found and "," not in header else None


def _read_text_cells(path: Path, dialect: _Dialect, target: Path | None) -> pa.Table:
    block = _BLOCK_BYTES
    while True:
        try:
            return _store_text_cells(path, dialect, block, target)
        except OSError as error:
            raise UserError("dataset.path", f"cannot be read: {error}", file=path) from error
        except (pa.ArrowInvalid, UnicodeError) as error:
            if "straddling" not in str(error) or block >= _LARGEST_BLOCK_BYTES:
                raise _csv_error(path, dialect, str(error)) from error
            block *= 8


def _store_text_cells(path: Path, dialect: _Dialect, block: int, target: Path | None) -> pa.Table:
    from pyarrow import csv as pacsv

    read = pacsv.ReadOptions(block_size=block, skip_rows=dialect.skip)
    parse = pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True)

    def reader(convert: Any) -> Any:
        plain = is_utf8(dialect.encoding) and not dialect.escaped
        file = open_stream(path) if plain else pa.PythonFile(dialect.open(path), "r")
        return pacsv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert)

    header = reader(pacsv.ConvertOptions()).schema.names
    names = unique_names(path, [header[0].lstrip(_MARK), *header[1:]])
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in header},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    schema = pa.schema([(name, pa.string()) for name in names])
    batches = (pa.RecordBatch.from_arrays(_without_marks(batch), schema=schema) for batch in reader(convert))
    return store(schema, batches, target)


def _without_marks(batch: pa.RecordBatch) -> list[pa.Array]:
    """The columns; files that were joined have byte order marks at the beginning of rows."""
    import pyarrow.compute as pc

    first, *others = batch.columns
    if pc.any(pc.starts_with(first, pattern=_MARK)).as_py():
        first = pc.utf8_ltrim(first, characters=_MARK)
    return [first, *others]


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


def _csv_error(path: Path, dialect: _Dialect, message: str) -> UserError:
    """What pyarrow found, with the line in the file, which pyarrow does not know."""
    if "Empty CSV" in message:
        return UserError("dataset.path", "has no rows: empty data set", file=path)
    if "UTF8" in message or "codec" in message:
        return undecodable(path, dialect.encoding)
    if found := re.search(r"Expected (\d+) columns, got (\d+)", message):
        ragged = _ragged_line(path, dialect)
        where = f"line {ragged}" if ragged else "a line"
        cells = count_of(int(found[2]), "cell")
        text = f"{where} has {cells}, the header has {found[1]}"
        return UserError("dataset.path", text + _other_delimiter_hint(path, dialect), file=path)
    return UserError("dataset.path", f"cannot be read as CSV: {message.splitlines()[0][:200]}", file=path)


def _other_delimiter_hint(path: Path, dialect: _Dialect) -> str:
    with contextlib.suppress(csv.Error, StopIteration):
        header, _ = next(_records(path, dialect))
        if len(header) == 1 and (other := other_delimiter(header[0])):
            return f"; did you mean dataset.delimiter={other!r}?"
    return ""


def _check_options(delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '\r\n"' or not delimiter.isascii():
        raise UserError("dataset.delimiter", "it must be one ASCII character", value=repr(delimiter))


def _ragged_line(path: Path, dialect: _Dialect) -> int | None:
    """The number of the first line whose cells do not match the header's; a row may span lines."""
    width, start = 0, 1 + dialect.skip
    try:
        for cells, end in _records(path, dialect):
            width = width or len(cells)
            if cells and len(cells) != width:
                return start
            start = end + 1
    except csv.Error:
        return start
    return None


def _refuse_open_quote(path: Path, table: pa.Table, dialect: _Dialect) -> None:
    """A quote that is never closed swallows the rest of the file into one cell: refuse it."""
    last = table.column(table.num_columns - 1)[-1].as_py() if len(table) else None
    if not last or ("\n" not in last and "\r" not in last):
        return
    start = 1
    try:
        for _, end in _records(path, dialect):
            start = end + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise UserError("dataset.path", f"line {start} opens a quote that is never closed", file=path) from None


def _records(path: Path, dialect: _Dialect) -> Iterator[tuple[list[str], int]]:
    """The cells of each record and the number of its last line; csv.Error for a record that never ends."""
    csv.field_size_limit(_LARGEST_BLOCK_BYTES)
    text = io.TextIOWrapper(dialect.open(path), "utf-8", errors="replace", newline="")
    reader = csv.reader(text, delimiter=dialect.delimiter, strict=True)
    for cells in islice(reader, dialect.skip, None):
        yield cells, reader.line_num
