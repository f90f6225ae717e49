"""Texts in any encoding as UTF-8, and what is said of those that are in another than was said."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from runner.console import warn_once
from runner.data.readers.raw.compressed import Made, open_stream
from runner.data.readers.raw.detection import LATIN, detected, is_wide, marked
from runner.types import UserError

_OTHERS = ("cp1252", "mac_roman", "cp1251", "cp932", "gb18030", "cp949", "big5")
_NOT_LATIN = re.compile(b"[\x80-\x84\x86-\x9f]")  # control characters there, and letters in cp1252
_WESTERN = re.compile(
    rb"\xc3[\x80-\x83\x87-\x91\x95-\xa9\xad-\xba\xbc-\xbf]"
)  # letters of UTF-8, hardly those of others
_HEAD_BYTES = 4096  # that tell the encoding
_LOOKED_AT = 16 << 20  # bytes of a file, for the encodings in which it can be
log = logging.getLogger("rowmill")


def open_bytes(path: Path, encoding: str = "utf-8") -> BinaryIO:
    """The decompressed bytes of the file; those of a text in another encoding as UTF-8, UnicodeError if it is not."""
    file = cast(BinaryIO, io.BufferedReader(open_stream(path), 1 << 20))
    return file if is_utf8(encoding) else cast(BinaryIO, io.BufferedReader(_Recoded(file, encoding), 1 << 20))


def is_utf8(encoding: str) -> bool:
    """Whether the encoding, which Python knows, is UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def lines(paths: list[Path], encoding: str = "utf-8") -> Iterator[tuple[Path, int, bytes]]:
    """Every line of the files with its file and its number from 1, byte order marks left out; UserError if damaged."""
    for path in paths:
        number = 0
        try:
            with open_bytes(path, encoding) as file:
                for number, line in enumerate(_lines(file), 1):
                    yield path, number, without_mark(line)
        except UnicodeError:
            raise undecodable(path, encoding) from None
        except OSError as error:
            raise UserError("dataset.path", f"is damaged after line {number}: {error}", file=path) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a text; one without any line feed ends them by carriage returns, as old Macs do."""
    first = file.readline()
    if first.endswith(b"\n") or b"\r" not in first:
        yield first
        yield from file
    else:
        yield from re.findall(rb"[^\r]*\r|[^\r]+", first)


def without_mark(line: bytes) -> bytes:
    """A line without byte order marks at its beginning: files that were joined have them in the middle, too."""
    while line.startswith(codecs.BOM_UTF8):
        line = line.removeprefix(codecs.BOM_UTF8)
    return line


def decoded(content: bytes, encoding: str, path: Path) -> str:
    """A whole text, in the encoding that it begins with a mark of or is told to be in; ValueError if it is in none."""
    head = content[:_HEAD_BYTES]
    if mark := marked(head):
        encoding = mark
    elif other := detected(head, encoding):
        log.warning("%s is read as %s, which its bytes show it to be in", path, other)
        encoding = other
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start} is not {encoding}; {other_encodings(content, io.BytesIO(content))}"
        ) from None
    if "\0" in text:
        raise ValueError("it is not text: it contains null bytes")
    return text


def undecodable(path: Path, encoding: str, number: int = 0, line: bytes = b"") -> UserError:
    """What is wrong with a text that is not in this encoding, with its first such line, looked for unless given."""
    if not number:
        number, line = _undecodable_line(path, encoding)
    mixed = is_utf8(encoding) and _has_letters(path, number)
    with open_bytes(path) as file:
        meant = (
            "lines before it are: the file mixes encodings, write it in one" if mixed else other_encodings(line, file)
        )
    return UserError("dataset.path", f"line {number} is not {encoding}; {meant}", file=path)


def _has_letters(path: Path, number: int) -> bool:
    """Whether lines before this one have more than ASCII."""
    with open_bytes(path) as file:
        return not all(line.isascii() for line in islice(file, number - 1))


def other_encodings(text: bytes, whole: BinaryIO) -> str:
    """What to say of a text that is not in the encoding that was said: how it reads in others.

    They are those in which all of its file can be read, as far as it is looked at: ``whole``.
    """
    with contextlib.suppress(UnicodeError):
        text.decode()
        return "did you mean dataset.encoding=utf-8?"
    if (name := detected(text[:_HEAD_BYTES], "ascii")) is not None:
        return f"did you mean dataset.encoding={name}?"
    first = next((at for at, byte in enumerate(text) if byte > 127), 0)
    some, readings = text[max(0, first - 8) : first + 40], dict[str, str]()
    looked_at = whole.read(_LOOKED_AT)
    for name in _OTHERS:
        with contextlib.suppress(UnicodeError):
            reading = _decoded(some, name)
            if all(char.isprintable() or char.isspace() for char in reading):
                _decoded(looked_at, name)
                readings.setdefault(reading[:24].strip(), name)
    said = ", ".join(f"{name} ({reading!r})" for reading, name in readings.items())
    return f"did you mean dataset.encoding={said or 'latin-1'}?"


def _decoded(text: bytes, encoding: str) -> str:
    """The text, whose last character may be cut off."""
    return codecs.getincrementaldecoder(encoding)().decode(text)


def _undecodable_line(path: Path, encoding: str) -> tuple[int, bytes]:
    """The first line that is not in this encoding, and its bytes; none of them in an encoding of wide characters."""
    decoder = codecs.getincrementaldecoder(encoding)()
    number = 1
    with open_bytes(path) as file:
        while some := file.read(1 << 16):
            before = decoder.getstate()
            try:
                number += decoder.decode(some).count("\n")
            except UnicodeError:
                decoder.setstate(before)
                with contextlib.suppress(UnicodeError):
                    for byte in some:
                        number += decoder.decode(bytes([byte])).count("\n")
                break
    if is_wide(encoding):
        return number, b""
    with open_bytes(path) as file:
        return number, next(islice(file, number - 1, None), b"")


def _tell_utf8(encoding: str, letter: bytes) -> None:
    """Say that a text seems to be UTF-8 in parts."""
    warn_once(
        (encoding, letter),
        "dataset.encoding=%s: the text has %r, which is how %r of utf-8 reads there; does the file mix encodings?",
        *(encoding, letter.decode(encoding, "replace"), letter.decode()),
    )


def _tell_not_latin(byte: bytes) -> None:
    """Say that a text has what its encoding has no letters for."""
    warn_once(
        ("latin-1", byte),
        "dataset.encoding=latin-1: byte 0x%s is a control character there; did you mean cp1252, where it is %r?",
        *(byte.hex(), byte.decode("cp1252", "replace")),
    )


class _Recoded(Made):
    """A text in any encoding as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._encoding, self._is_western = encoding, codecs.lookup(encoding).name in LATIN
        self._is_latin = codecs.lookup(encoding).name == "iso8859-1"

    def _read(self) -> None:
        some = self._file.read(1 << 16)
        self._ended = not some
        if self._is_latin and (found := _NOT_LATIN.search(some)):
            _tell_not_latin(found[0])
        if self._is_western and (found := _WESTERN.search(some)):
            _tell_utf8(self._encoding, found[0])
        self._left = self._decoder.decode(some, final=self._ended).encode()
