"""Files as bytes, decompressed by what they are and not by what they are called, and texts as UTF-8."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import io
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from runner.types import UserError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_MAGIC |= {b"\xfd7zXZ": "xz"}
_SKIPPED = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f: a frame of zstd or lz4 that holds no data
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": partial(zlib.decompressobj, 31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
_MAGIC_BYTES, _PACKED_BYTES = 8, 16 << 10
_OTHERS = ("cp1252", "cp1251", "cp932", "gb18030", "cp949", "big5")
_NOT_LATIN = re.compile(b"[\x80-\x84\x86-\x9f]")  # control characters there, and letters in cp1252
log = logging.getLogger("rowmill")


def compression(path: Path) -> str | None:
    """gzip, zstd, bz2, lz4 or xz by the file's first bytes; None for a file that is not compressed."""
    with path.open("rb") as file:
        head = file.read(_MAGIC_BYTES)
        while head[1:4] == _SKIPPED and head[0] >> 4 == 5:
            file.seek(int.from_bytes(head[4:], "little"), io.SEEK_CUR)
            head = file.read(_MAGIC_BYTES)
    return _packed_by(head)


def _packed_by(head: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def open_stream(path: Path) -> pa.NativeFile:
    """The decompressed bytes of the file for pyarrow's readers, which raise OSError where they are damaged."""
    packed = compression(path)
    if packed in _DECOMPRESSORS:
        return pa.PythonFile(io.BufferedReader(_Members(path, packed), 1 << 20), "r")
    return pa.input_stream(str(path), compression=packed)


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


def undecodable(path: Path, encoding: str, number: int = 0, line: bytes = b"") -> UserError:
    """What is wrong with a text that is not in this encoding, with its first such line, looked for unless given."""
    if not number:
        number, line = _undecodable_line(path, encoding)
    return UserError("dataset.path", f"line {number} is not {encoding}; {other_encodings(line)}", file=path)


def other_encodings(text: bytes) -> str:
    """What to say of a text that is not in the encoding that was said: how it reads in others."""
    with contextlib.suppress(UnicodeError):
        text.decode()
        return "did you mean dataset.encoding=utf-8?"
    first = next((at for at, byte in enumerate(text) if byte > 127), 0)
    some, readings = text[max(0, first - 8) : first + 40], dict[str, str]()
    for name in _OTHERS:
        with contextlib.suppress(UnicodeError):
            reading = _decoded(some, name)
            if all(char.isprintable() or char.isspace() for char in reading):
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
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return number, b""
    with open_bytes(path) as file:
        return number, next(islice(file, number - 1, None), b"")


class Made(io.RawIOBase):
    """Bytes that are made of a file's, some at a time."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._left, self._ended = file, b"", False

    def _read(self) -> None:
        """Put the next bytes into ``_left``, which is empty; ``_ended`` once there are no more."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            self._read()
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class _Members(Made):
    """What a file's compressed parts hold, one after the other, however many: files that were joined have several.

    What follows them and is none is left out, as ``gzip`` does: silently if all of it is zeros, as tapes are filled up.
    """

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path.open("rb"))
        self._path, self._kind, self._packed = path, kind, b""
        self._unpack: Any = _DECOMPRESSORS[kind]()

    def _read(self) -> None:
        if self._unpack.eof and not self._begin_next():
            self._ended = True
            return
        if not (packed := self._packed or self._file.read(_PACKED_BYTES)):
            raise OSError(f"the {self._kind} data end too early")
        self._packed = b""
        try:
            self._left = self._unpack.decompress(packed)
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(str(error)) from error

    def _begin_next(self) -> bool:
        rest = self._unpack.unused_data.lstrip(b"\0")
        while len(rest) < _MAGIC_BYTES and (more := self._file.read(_PACKED_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if _packed_by(rest) != self._kind:
            if rest:
                _tell_rest(self._path, self._kind)
            return False
        self._packed, self._unpack = rest, _DECOMPRESSORS[self._kind]()
        return True


@cache
def _tell_rest(path: Path, kind: str) -> None:
    """Say so once, however often the file is read."""
    log.warning("%s: what follows the %s data is left out", path, kind)


@cache
def _tell_not_latin(byte: bytes) -> None:
    """Say once that a text has what its encoding has no letters for."""
    log.warning(
        "dataset.encoding=latin-1: byte 0x%s is a control character there; did you mean cp1252, where it is %r?",
        *(byte.hex(), byte.decode("cp1252", "replace")),
    )


class _Recoded(Made):
    """A text in any encoding as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._is_latin = codecs.lookup(encoding).name == "iso8859-1"

    def _read(self) -> None:
        some = self._file.read(1 << 16)
        self._ended = not some
        if self._is_latin and (found := _NOT_LATIN.search(some)):
            _tell_not_latin(found[0])
        self._left = self._decoder.decode(some, final=self._ended).encode()
