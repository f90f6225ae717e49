"""Files as bytes, decompressed by what they are and not by what they are called, and texts as UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from runner.types import UserError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}


def compression(path: Path) -> str | None:
    """gzip, zstd, bz2 or lz4 by the file's first bytes; None for a file that is not compressed."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def open_stream(path: Path) -> pa.NativeFile:
    """The decompressed bytes of the file for pyarrow's readers, which raise OSError where they are damaged."""
    return pa.input_stream(str(path), compression=compression(path))


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
                for number, line in enumerate(file, 1):
                    yield path, number, without_mark(line)
        except UnicodeError:
            raise undecodable(path, encoding) from None
        except OSError as error:
            raise UserError("dataset.path", f"is damaged after line {number}: {error}", file=path) from error


def without_mark(line: bytes) -> bytes:
    """A line without byte order marks at its beginning: files that were joined have them in the middle, too."""
    while line.startswith(codecs.BOM_UTF8):
        line = line.removeprefix(codecs.BOM_UTF8)
    return line


def undecodable(path: Path, encoding: str) -> UserError:
    """What is wrong with a text that is not in this encoding, with its first such line."""
    other = "latin-1" if is_utf8(encoding) else "utf-8"
    line = _undecodable_line(path, encoding)
    return UserError(
        "dataset.path", f"line {line} is not {encoding}; did you mean dataset.encoding={other}?", file=path
    )


def _undecodable_line(path: Path, encoding: str) -> int:
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with open_bytes(path) as file:
        while some := file.read(1 << 16):
            before = decoder.getstate()
            try:
                line += decoder.decode(some).count("\n")
            except UnicodeError:
                decoder.setstate(before)
                with contextlib.suppress(UnicodeError):
                    for byte in some:
                        line += decoder.decode(bytes([byte])).count("\n")
                break
    return line


class _Recoded(io.RawIOBase):
    """A text in any encoding as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._file, self._decoder = file, codecs.getincrementaldecoder(encoding)()
        self._left, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            some = self._file.read(1 << 16)
            self._ended = not some
            self._left = self._decoder.decode(some, final=self._ended).encode()
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
