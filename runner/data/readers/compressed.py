"""Files as bytes, decompressed by what they are and not by what they are called."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

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


def open_bytes(path: Path) -> BinaryIO:
    """The decompressed bytes of the file."""
    return cast(BinaryIO, io.BufferedReader(open_stream(path), 1 << 20))


def lines(paths: list[Path]) -> Iterator[tuple[Path, int, bytes]]:
    """Every line of the files with its file and its number from 1, byte order marks left out; UserError if damaged."""
    for path in paths:
        number = 0
        try:
            with open_bytes(path) as file:
                for number, line in enumerate(file, 1):
                    yield path, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        except OSError as error:
            raise UserError("dataset.path", f"{path} is damaged after line {number}: {error}") from error
