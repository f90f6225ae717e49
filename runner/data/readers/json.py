"""JSON to Arrow: files of one object a line, or of one array of objects, become a table.

Types are JSON's own; a missing key is null; of a column of mixed types, or one that is nested deeper than Arrow files
can hold, see ``runner.data.columns``.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from runner.console import warn_once
from runner.data.columns import Columns, record_batch
from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.raw.encodings import lines, open_bytes, undecodable
from runner.data.readers.table import read_batches
from runner.types import UserError

log = logging.getLogger("rowmill")
_BATCH_ROWS = 10_000
_BATCH_CHARS = 16 << 20
_READ_BYTES = 1 << 20
_CUT_CHARS = 16  # characters of an error's place before the end of what was read, where it may be for lack of more
_EXACT = 17  # characters of a number that is held as it is
_SPACE = re.compile(r"[ \t\n\r]*")
_NOT_ZERO = re.compile(r"-?[0.]*[1-9]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The objects of JSON files."""
    return read_batches(conf, path, offline, lambda paths: read_json(paths, conf.encoding))


def read_json(paths: list[Path], encoding: str = "utf-8") -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Two passes: the first finds every column and its type, the second converts. UserError names the line at fault."""
    columns, first = Columns(), dict[str, Any]()
    for rows in _batches(paths, encoding):
        columns.add(rows)
        first = first or rows[0]
    if columns.rows == 1:
        _tell_rows_inside(paths[0], first)
        _tell_columns(paths[0], first)
    schema = columns.schema()
    return schema, (record_batch(rows, schema) for rows in _batches(paths, encoding))


def _tell_twice(path: Path, name: str, line: int) -> None:
    what = "twice in one object: the last value is taken, in other rows, too"
    warn_once((path, "twice"), "%s line %d has %r %s", path, line, name, what)


def _tell_rounded(path: Path, line: int, text: str, read: float) -> None:
    what = "has more digits than 64 bits hold" if read else "is too small for 64 bits"
    message = "%s line %d: %s %s and is read as %s; in quotes it stays"
    warn_once((path, "rounded"), message, path, line, text[:40], what, read)


def _is_rounded(text: str, read: float) -> bool:
    """Whether a number is none that any program writes of ``read``: neither the shortest one nor all of its digits."""
    if len(text) <= _EXACT or text == repr(read):
        return False
    exact = Decimal(text)
    return exact != Decimal(f"{read:.{len(exact.as_tuple().digits)}g}")


def _tell_rows_inside(path: Path, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(one, dict) for one in value):
            log.warning(
                "%s is one object, so one row; the %d objects in its %r would be rows if the file were that list alone",
                *(path, len(value), name),
            )


def _tell_columns(path: Path, row: dict[str, Any]) -> None:
    """Of a single object that seems to be a table by columns, as pandas writes one unless told otherwise."""
    sizes = {len(value) if isinstance(value, list | dict) else 0 for value in row.values()}
    nested = any(isinstance(one, dict | list) for value in row.values() if isinstance(value, list) for one in value)
    if len(row) > 1 and len(sizes) == 1 and max(sizes) > 1 and not nested:
        log.warning(
            "%s is one object, so one row; if its %d parts are columns of %d rows, write it as one object a row "
            "(pandas: to_json(orient='records', lines=True))",
            *(path, len(row), *sizes),
        )


def _batches(paths: list[Path], encoding: str) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for path in paths:
        for row, chars in _objects(path, encoding):
            rows.append(row)
            size += chars
            if len(rows) == _BATCH_ROWS or size > _BATCH_CHARS:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def _objects(path: Path, encoding: str) -> Iterator[tuple[dict[str, Any], int]]:
    if _is_array(path, encoding):
        return _read(path, encoding, _array)
    return _read(path, encoding, _values) if _starts_values(path, encoding) else _lines(path, encoding)


def _is_array(path: Path, encoding: str) -> bool:
    with open_bytes(path, encoding) as file, contextlib.suppress(UnicodeError):
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    raise undecodable(path, encoding)


def _lines(path: Path, encoding: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of a file that has one on every line, and how long they are."""
    decoder = _Decoder(path)
    for _, number, line in lines([path], encoding):
        if line.isspace():
            continue
        decoder.line = number
        try:
            row = _checked(decoder.decode(line.decode()), path, number, b"\\u" in line)
        except UnicodeError:
            raise undecodable(path, "utf-8", number, line) from None
        except (ValueError, RecursionError) as error:
            raise _malformed(path, number, error) from None
        yield row, len(line)


def _starts_values(path: Path, encoding: str) -> bool:
    """Whether the first line with anything in it is the beginning of an object, or more than one object."""
    first = next((line for _, _, line in lines([path], encoding) if not line.isspace()), b"")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return first.lstrip().startswith(b"{")
    return False


def _array(text: _Text) -> Iterator[tuple[Any, int, int]]:
    """The values of an array: each, its line and its length."""
    text.take("[")
    while text.next() != "]":
        yield text.value()
        if text.next() != "]":
            text.take(",")
    text.take("]")
    if text.next():
        raise ValueError("something follows the array")


def _values(text: _Text) -> Iterator[tuple[Any, int, int]]:
    """Values one after the other, on any lines, perhaps with commas between them."""
    while text.next():
        yield text.value()
        if text.next() == ",":
            text.take(",")


def _read(path: Path, encoding: str, how: _How) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of a file, and how long they are; a few are in memory at a time."""
    with contextlib.closing(_Text(path, encoding)) as text:
        try:
            for row, number, chars in how(text):
                yield _checked(row, path, number, True), chars
        except UnicodeError:
            raise undecodable(path, encoding) from None
        except (ValueError, RecursionError) as error:
            raise _malformed(path, text.line, error) from None
        except OSError as error:
            raise UserError("dataset.path", f"is damaged after line {text.line}: {error}", file=path) from error


class _Decoder(json.JSONDecoder):
    """JSON as Python reads it; of a name that occurs twice in an object, the last value, which is told once a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(object_pairs_hook=self._object, parse_float=self._fraction)
        self._path, self.line = path, 0

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            _tell_twice(self._path, next(name for name in found if names.count(name) > 1), self.line)
        return found

    def _fraction(self, text: str) -> float:
        found = float(text)
        if math.isinf(found):
            problem = f"the number {text[:40]} is too large for 64 bits; in quotes it stays as it is"
            raise UserError("dataset.path", f"line {self.line}: {problem}", file=self._path)
        if (not found and _NOT_ZERO.match(text)) or _is_rounded(text, found):
            _tell_rounded(self._path, self.line, text, found)
        return found


class _Text:
    """A file's JSON text, read as far as it is needed. ``line`` is the number of the line reached.

    Raises ValueError for what is not JSON or not UTF-8.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.line = 1
        self._file = open_bytes(path, encoding)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._json = _Decoder(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._go(space.end() if space else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def take(self, mark: str) -> None:
        """Go past the next character; ValueError if it is not this one."""
        if (found := self.next()) != mark:
            raise ValueError(f"expected {mark} but found {found or 'the end'}")
        self._go(self._at + 1)

    def value(self) -> tuple[Any, int, int]:
        """Go past the next value; it, its line and how many characters it has."""
        number = self.line
        while True:
            try:
                self._json.line = number
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = "Unterminated" in error.msg or error.pos > len(self._text) - _CUT_CHARS
                if self._ended or not cut:
                    raise ValueError(error.msg) from None
            else:
                if end < len(self._text) or self._ended:  # a number might go on
                    chars = end - self._at
                    self._go(end)
                    return value, number, chars
            self._read()

    def _go(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self._at = at

    def _read(self) -> None:
        """Read as much again as is unread."""
        self._text, self._at = self._text[self._at :], 0
        some = self._file.read(max(_READ_BYTES, len(self._text)))
        self._text += self._decoder.decode(some, final=not some)
        self._ended = not some


_How = Callable[[_Text], Iterator[tuple[Any, int, int]]]


def _malformed(path: Path, number: int, error: Exception) -> UserError:
    if isinstance(error, RecursionError):
        return UserError("dataset.path", f"line {number} is nested too deeply", file=path)
    what = error.msg if isinstance(error, json.JSONDecodeError) else error
    return UserError("dataset.path", f"line {number} is not JSON: {what}", file=path)


def _checked(row: Any, path: Path, number: int, escaped: bool) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError("dataset.path", f"line {number} is not a JSON object but {type(row).__name__}", file=path)
    return cast(dict[str, Any], _without_surrogates(row) if escaped else row)


def _without_surrogates(value: Any) -> Any:
    """Arrow holds valid Unicode only, and no names with a NUL: an unpaired surrogate, and that, becomes U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_surrogates(k).replace("\0", "\ufffd"): _without_surrogates(v) for k, v in value.items()}
    return [_without_surrogates(v) for v in value] if isinstance(value, list) else value
