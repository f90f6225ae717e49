"""Rows as a file: Parquet, JSON lines, CSV or an SQLite database, written beside its place and renamed."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from runner.export.plain import flat, to_json
from runner.types import UserError

STDOUT = "-"
_PACKED = {".gz": "gzip", ".zst": "zstd"}


@contextlib.contextmanager
def fresh(target: str, *, overwrite: bool) -> Iterator[Path]:
    """A path beside ``target`` to write to, which takes its place at the end; UserError if it exists."""
    path = Path(target).expanduser()
    if path.exists() and (not overwrite or path.is_dir()):
        what = "is a folder" if path.is_dir() else "exists: --overwrite replaces it"
        raise UserError(f"{path} {what}; nothing was written")
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def opened(target: str, *, overwrite: bool) -> Iterator[BinaryIO]:
    """``target`` for writing: compressed by its name (.gz, .zst), or the standard output for ``-``."""
    if target == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with fresh(target, overwrite=overwrite) as path, path.open("wb") as file:
        packed = _PACKED.get(Path(target).suffix)
        with contextlib.ExitStack() as stack:
            yield cast(BinaryIO, stack.enter_context(pa.CompressedOutputStream(file, packed)) if packed else file)


def write_lines(target: str, records: Iterable[Any], *, overwrite: bool) -> int:
    """A line of JSON for each record; how many."""
    count = 0
    with opened(target, overwrite=overwrite) as file:
        for record in records:
            file.write(to_json(record).encode() + b"\n")
            count += 1
    return count


def write_jsonl(target: str, tables: Iterable[pa.Table], *, overwrite: bool) -> int:
    """JSON lines."""
    return write_lines(target, (row for table in tables for row in table.to_pylist()), overwrite=overwrite)


def write_csv(target: str, tables: Iterable[pa.Table], *, overwrite: bool) -> int:
    """CSV with a header; texts are quoted, a null is an empty cell without quotes."""
    from pyarrow import csv

    flattened = map(flat, tables)
    first = next(flattened)
    count = 0
    delimiter = "\t" if ".tsv" in Path(target).suffixes else ","
    with (
        opened(target, overwrite=overwrite) as file,
        csv.CSVWriter(file, first.schema, write_options=csv.WriteOptions(delimiter=delimiter)) as writer,
    ):
        for table in (one for tables_ in ([first], flattened) for one in tables_):
            writer.write_table(table)
            count += len(table)
    return count


def write_parquet(target: str, tables: Iterable[pa.Table], *, overwrite: bool) -> int:
    """Parquet, compressed with zstd, a group of rows for each table."""
    import pyarrow.parquet as pq

    if target == STDOUT:
        raise UserError("--format", "it needs a file, not the standard output", value="parquet")
    rest = iter(tables)
    first = next(rest)
    count = 0
    with (
        fresh(target, overwrite=overwrite) as path,
        pq.ParquetWriter(path, first.schema, compression="zstd") as writer,
    ):
        for table in (one for tables_ in ([first], rest) for one in tables_):
            writer.write_table(table)
            count += len(table)
    return count


def write_sqlite(
    target: str, tables: Iterable[pa.Table], *, overwrite: bool, name: str = "rows", key: str | None = None
) -> int:
    """A table of an SQLite database; ``key``: the column with the rows' positions, if there is one."""
    from sqlite_utils import Database

    if target == STDOUT:
        raise UserError("--format", "it needs a file, not the standard output", value="sqlite")
    flattened = (_storable(flat(table)) for table in tables)
    first = next(flattened)
    with fresh(target, overwrite=overwrite) as path:
        path.unlink(missing_ok=True)
        database = Database(path, execute_plugins=False)
        try:
            key = key if key in first.column_names else None
            table = database.table(name)
            table.create({field.name: _sqlite_type(field.type) for field in first.schema}, pk=key)
            database.execute("PRAGMA synchronous = OFF")  # the file is renamed when it is whole
            with database.atomic():
                for one in (one for tables_ in ([first], flattened) for one in tables_):
                    table.insert_all(one.to_pylist(), pk=key)
            return int(table.count)
        finally:
            database.close()


def _storable(table: pa.Table) -> pa.Table:
    """The table with texts for numbers that may be larger than SQLite's integers."""
    kinds = [pa.string() if pa.types.is_uint64(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))


def _sqlite_type(kind: pa.DataType) -> type:
    t = pa.types
    if t.is_integer(kind) or t.is_boolean(kind):
        return int
    return float if t.is_floating(kind) else str


WRITERS: dict[str, Callable[..., int]] = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "sqlite": write_sqlite,
}
