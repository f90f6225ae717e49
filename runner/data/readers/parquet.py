"""Parquet to Arrow: dictionaries become plain columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.table import aligned, common_schema, read_batches, unique_names
from runner.types import UserError

_BATCH_ROWS = 10_000


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The rows of the files."""
    return read_batches(conf, path, offline, _read_parquet)


def _read_parquet(paths: list[Path]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    files = [_open_parquet(path) for path in paths]
    schema = common_schema(paths, [_plain(file.schema_arrow) for file in files])
    return schema, (aligned(batch, schema) for file in files for batch in file.iter_batches(_BATCH_ROWS))


def _open_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError("dataset.path", f"{path} is not a readable Parquet file: {error}") from None
    unique_names(path, file.schema_arrow.names)
    return file


def _plain(schema: pa.Schema) -> pa.Schema:
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema]
    return pa.schema(fields, schema.metadata)
