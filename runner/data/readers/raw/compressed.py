"""Files as bytes, decompressed by what they are and not by what they are called."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from runner.console import warn_once

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_MAGIC |= {b"\xfd7zXZ": "xz"}
_SKIPPED = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f: a frame of zstd or lz4 that holds no data
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": partial(zlib.decompressobj, 31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
_MAGIC_BYTES, _PACKED_BYTES = 8, 16 << 10


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


def explained(problem: str) -> str:
    """What an error of ``open_stream`` means: as ``zstd`` does, it refuses what follows frames and is none."""
    if "Unknown frame descriptor" in problem or "frameType_unknown" in problem:
        return f"something follows its compressed data that is none, or they are damaged ({problem})"
    return problem


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
                warn_once((self._path, "rest"), "%s: what follows the %s data is left out", self._path, self._kind)
            return False
        self._packed, self._unpack = rest, _DECOMPRESSORS[self._kind]()
        return True
