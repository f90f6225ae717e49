"""Plain text to Arrow: one row a line, column ``text``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.compressed import lines
from runner.data.readers.table import read_batches
from runner.types import UserError

_BATCH_ROWS = 10_000


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """A row for each line of the files."""
    return read_batches(conf, path, offline, lambda paths: _read_text(paths, conf.encoding))


def _read_text(paths: list[Path], encoding: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    schema = pa.schema([("text", pa.string())])

    def batches() -> Iterator[pa.RecordBatch]:
        rows = (_text_row(*line) for line in lines(paths, encoding))
        while some := list(islice(rows, _BATCH_ROWS)):
            yield pa.RecordBatch.from_arrays([pa.array(some)], schema=schema)

    return schema, batches()


def _text_row(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeError:
        raise UserError(
            "dataset.path", f"line {number} is not UTF-8; did you mean dataset.encoding=latin-1?", file=path
        ) from None
