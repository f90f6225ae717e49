r"""How a CSV file is written: its delimiter, whether quotes are quotes, and what backslashes mean.

A quote in the middle of a quoted cell must be doubled. Where it is not, backslashes before quotes tell what is meant
(MySQL); where tabs stand between the cells, and each line has as many as the header, quotes are letters, as programs
write that quote nothing; otherwise nobody can know where the cell ends, and the file is refused.

``\N`` without quotes is how PostgreSQL and MySQL write a null. A file with tabs that has it is taken for what their
COPY and OUTFILE write: backslashes stand for line ends, tabs and themselves, and quotes are letters.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast

from runner.data.readers.raw.compressed import Made
from runner.data.readers.raw.encodings import open_bytes
from runner.types import UserError

NULL = r"\N"
LARGEST_BLOCK_BYTES = 1 << 30
log = logging.getLogger("rowmill")
_ESCAPED = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_BLANKS = re.compile(r'"[ \t]+(?=[,;|\t\r\n]|$)')
_MEANT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "Z": "\x1a"}


@dataclass(frozen=True)
class Dialect:
    """How a file is written. ``skip``: lines before the header; ``escaped``: quotes in cells have a backslash.

    ``quotes``: whether cells may stand in quotes; ``copied``: whether backslashes stand for other characters.
    """

    delimiter: str
    encoding: str
    skip: int = 0
    escaped: bool = False
    quotes: bool = True
    copied: bool = False

    @property
    def as_stored(self) -> bool:
        """Whether ``open`` gives the file's own bytes."""
        return not (self.escaped or self.copied)

    def open(self, path: Path) -> BinaryIO:
        """The file as UTF-8, backslashes before quotes and line ends replaced."""
        file = open_bytes(path, self.encoding)
        if self.as_stored:
            return file
        return cast(BinaryIO, io.BufferedReader(_Replaced(file, _doubled if self.escaped else _on_one_line), 1 << 20))


def _doubled(text: bytes) -> bytes:
    return re.sub(rb'\\(["\\])', lambda found: b'""' if found[1] == b'"' else b"\\", text)


def _on_one_line(text: bytes) -> bytes:
    return re.sub(rb"\\(\r?\n|\t|.)", lambda found: _ON_ONE_LINE.get(found[1], found[0]), text)


_ON_ONE_LINE = {b"\n": rb"\n", b"\r\n": rb"\r\n", b"\t": rb"\t"}


class _Replaced(Made):
    """A file's bytes with what stands behind backslashes replaced."""

    def __init__(self, file: BinaryIO, replaced: Callable[[bytes], bytes]) -> None:
        super().__init__(file)
        self._replaced, self._rest = replaced, b""

    def _read(self) -> None:
        some = self._file.read(1 << 16)
        text, self._rest, self._ended = self._rest + some, b"", not some
        if some and (len(text) - len(text.rstrip(b"\\"))) % 2:  # what the last one stands before is not read yet
            text, self._rest = text[:-1], text[-1:]
        self._left = self._replaced(text)


def unescaped(cell: str) -> str:
    """What a cell of a copied file means."""
    return _ESCAPED.sub(_meant, cell)


def _meant(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code.isdigit() else _MEANT.get(code, code)


def dialect_of(path: Path, delimiter: str | None, encoding: str) -> Dialect:
    """As the keys say, and the file: a first line ``sep=;`` as Excel writes it, quotes and backslashes in cells."""
    said = None
    with contextlib.suppress(UnicodeError), open_bytes(path, encoding) as file:
        said = re.match(rb'(?:\xef\xbb\xbf)?"?sep=(.)"?\r?\n', file.readline(20))
    found = Dialect(delimiter or (said[1].decode() if said else "\t" if ".tsv" in path.suffixes else ","), encoding)
    found = replace(found, delimiter=found.delimiter.replace(r"\t", "\t"), skip=1 if said else 0)
    _check_delimiter(found.delimiter)
    with contextlib.suppress(UnicodeError, OSError):  # told where the rows are read
        return _by_signs(path, found)
    return found


def _by_signs(path: Path, found: Dialect) -> Dialect:
    signs = _signs(path, found)
    copied = replace(found, quotes=False, copied=True)
    if "null" in signs and found.delimiter == "\t" and ragged_line(path, copied) is None:
        log.info(r"%s is read as PostgreSQL's COPY and MySQL write: \N is null, \t a tab, \n a line end", path)
        return copied
    if "null" in signs:
        log.info(r"%s: \N is null", path)
    return _with_quotes(path, found, "escape" in signs) if "quote" in signs else found


def _with_quotes(path: Path, found: Dialect, escapes: bool) -> Dialect:
    fault, spans = _fault(path, found)
    if escapes and fault and not _fault(path, replace(found, escaped=True))[0]:
        log.info("%s has backslashes before quotes, which are read as parts of cells", path)
        return replace(found, escaped=True)
    bare = replace(found, quotes=False)
    if found.delimiter == "\t" and (fault or spans) and ragged_line(path, bare) is None:
        log.info("%s: quotes are read as parts of cells", path)
        return bare
    if fault and (fault := _fault(path, found, partial(_BLANKS.sub, '"'))[0]):
        with found.open(path) as file:
            other = other_delimiter(file.readline().decode(errors="replace"))
        hint = f"; did you mean dataset.delimiter={other!r}?" if found.delimiter == "," and other else ""
        raise UserError("dataset.path", fault + hint, file=path)
    return found


def other_delimiter(header: str) -> str | None:
    """What seems to separate the names in a header that has no comma; None if nothing does."""
    found = re.search(r"[;\t|]", header)
    return found[0] if found and "," not in header else None


def _signs(path: Path, dialect: Dialect) -> set[str]:
    """Which of quotes, backslashes before quotes and nulls the file has."""
    mark = re.escape(dialect.delimiter.encode())
    signs = {"quote": rb'"', "escape": rb'\\"', "null": rb"(?:^|[\r\n]|%s)\\N(?=[\r\n]|%s|$)" % (mark, mark)}
    found, before = set[str](), b""
    with contextlib.suppress(UnicodeError, OSError), open_bytes(path, dialect.encoding) as file:
        while some := file.read(1 << 20):
            text = before + some
            backslash = b"\\" in text
            found |= {
                name
                for name, sign in signs.items()
                if name not in found and (backslash or name == "quote") and re.search(sign, text)
            }
            before = some[-4:]
    return found


def _fault(path: Path, dialect: Dialect, edit: Callable[[str], str] | None = None) -> tuple[str, bool]:
    """What is wrong with the first record in which a quote ends no cell; whether a record before spans lines."""
    start, spans = 1 + dialect.skip, False
    try:
        for _, end in records(path, dialect, edit):
            spans = spans or end > start
            start = end + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            return f"line {start} opens a quote that is never closed", spans
        return f"line {start} has a quote inside of a cell that is not doubled", spans
    return "", spans


def ragged_line(path: Path, dialect: Dialect) -> int | None:
    """The number of the first line whose cells do not match the header's; a row may span lines."""
    width, start = 0, 1 + dialect.skip
    try:
        for cells, end in records(path, dialect):
            width = width or len(cells)
            if cells and len(cells) != width:
                return start
            start = end + 1
    except csv.Error:
        return start
    return None


def records(path: Path, dialect: Dialect, edit: Callable[[str], str] | None = None) -> Iterator[tuple[list[str], int]]:
    """The cells of each record and the number of its last line; csv.Error for a record that never ends."""
    csv.field_size_limit(LARGEST_BLOCK_BYTES)
    text = io.TextIOWrapper(dialect.open(path), "utf-8", errors="replace", newline="")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    reader = csv.reader(map(edit, text) if edit else text, delimiter=dialect.delimiter, quoting=quoting, strict=True)
    for cells in islice(reader, dialect.skip, None):
        yield cells, reader.line_num


def _check_delimiter(delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '\r\n"' or not delimiter.isascii():
        raise UserError("dataset.delimiter", "it must be one ASCII character", value=repr(delimiter))
