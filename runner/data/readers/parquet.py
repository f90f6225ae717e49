"""Parquet to Arrow: dictionaries become plain columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.table import aligned, common_schema, read_batches, refuse_twice
from runner.types import UserError

_BATCH_ROWS = 10_000


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The rows of the files."""
    return read_batches(conf, path, offline, _read_parquet)


def _read_parquet(paths: list[Path]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    schema = common_schema(paths, [_schema(path) for path in paths], _cells)
    return schema, (aligned(batch, schema) for path in paths for batch in _batches(path))


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        refuse_twice(path, schema.names)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UserError("dataset.path", f"is not a readable Parquet file: {error}", file=path) from error
    return _plain(schema)


def _cells(path: Path, name: str) -> Iterator[pa.Array]:
    return (batch.column(name) for batch in _batches(path, [name]))


def _batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    dictionaries = [field.name for field in pq.read_schema(path) if pa.types.is_dictionary(field.type)]
    # As they are in the file: pyarrow's own conversion of their indices refuses texts that are no UTF-8.
    with pq.ParquetFile(path, memory_map=True, read_dictionary=dictionaries) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=columns)


def _plain(schema: pa.Schema) -> pa.Schema:
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema]
    return pa.schema(fields, schema.metadata)
