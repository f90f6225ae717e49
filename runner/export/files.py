"""Rows as a file: Parquet, JSON lines, CSV or an SQLite database, written beside its place and renamed."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from runner.data.cells import records
from runner.disk import sync, sync_folder
from runner.export.plain import flat, inert, too_wide
from runner.plain import to_json
from runner.types import UserError

STDOUT, TABLE = "-", "rows"
_UNWRITABLE = (OSError, sqlite3.OperationalError, pa.ArrowException)
_SHEET_COLUMNS = 16_384  # of a sheet in Excel and LibreOffice
_PACKED = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Writing:
    """How rows are written. ``safe``: see ``inert``. ``table`` names an SQLite table; ``key`` is the column with the
    rows' positions, if there is one. ``say`` tells what is other than usual.
    """

    overwrite: bool = False
    safe: bool = False
    table: str = TABLE
    key: str | None = None
    say: Callable[[str], None] = lambda text: None


class Fresh:
    """Files that are written beside their places, and take them together at the end or, if one fails, not at all."""

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite, self._paths = overwrite, dict[Path, Path]()
        self._files = contextlib.ExitStack()

    def beside(self, target: str) -> Path:
        """Where to write what is to be ``target``; UserError if that exists."""
        path = Path(target).expanduser()
        if path.exists() and (not self._overwrite or path.is_dir()):
            what = "is a folder" if path.is_dir() else "exists: --overwrite replaces it"
            raise UserError(f"{path} {what}; nothing was written")
        self._paths[path] = path.with_name(path.name + ".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._paths[path]

    def opened(self, target: str) -> BinaryIO:
        """``target`` for writing: compressed by its name (.gz, .zst), or the standard output for ``-``."""
        if target == STDOUT:
            self._files.callback(sys.stdout.buffer.flush)
            return sys.stdout.buffer
        file = self._files.enter_context(self.beside(target).open("wb"))
        packed = _PACKED.get(Path(target).suffix)
        if packed is None:
            return file
        return cast(BinaryIO, self._files.enter_context(pa.CompressedOutputStream(file, packed)))

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: Any) -> None:
        try:
            self._files.__exit__(kind, error, *rest)
            if error is None:
                self._publish()
        except _UNWRITABLE as problem:
            if not self._paths:
                raise
            error = problem
        finally:
            for temporary in self._paths.values():
                with contextlib.suppress(OSError):
                    temporary.unlink()
        if self._paths and isinstance(error, _UNWRITABLE):
            raise UserError(f"{next(iter(self._paths))} cannot be written: {error}") from error

    def _publish(self) -> None:
        for temporary in self._paths.values():
            with temporary.open("rb+") as file:
                sync(file.fileno())
        self._rename_all()
        for path in self._paths:
            with contextlib.suppress(OSError):  # they are there: nothing behind this may fail
                sync_folder(path.parent)

    def _rename_all(self) -> None:
        """Give the files their names. If one cannot have it, those before it get back what they had under theirs."""
        done: dict[Path, Path | None] = {}  # what has its new file, and where its old one lies
        try:
            for path, temporary in self._paths.items():
                if len(self._paths) > 1 and path.exists():
                    done[path] = path.replace(path.with_name(path.name + ".tmp.old"))
                temporary.replace(path)
                done.setdefault(path)
        except BaseException:
            for path, old in done.items():
                with contextlib.suppress(OSError):
                    old.replace(path) if old else path.unlink()
            raise
        for old in filter(None, done.values()):
            with contextlib.suppress(OSError):  # as below
                old.unlink()


def write_lines(target: str, records: Iterable[Any], *, overwrite: bool) -> int:
    """A line of JSON for each record; how many."""
    count = 0
    with Fresh(overwrite=overwrite) as fresh:
        file = fresh.opened(target)
        for record in records:
            file.write(to_json(record).encode() + b"\n")
            count += 1
    return count


def write_jsonl(target: str, tables: Iterable[pa.Table], how: Writing) -> int:
    """JSON lines."""
    return write_lines(target, (row for table in tables for row in records(table)), overwrite=how.overwrite)


def write_csv(target: str, tables: Iterable[pa.Table], how: Writing) -> int:
    """CSV with a header; texts are quoted, a null is an empty cell without quotes."""
    from pyarrow import csv

    flattened = _flattened(tables, _SHEET_COLUMNS, "a spreadsheet", how)
    flattened = map(inert, flattened) if how.safe else flattened
    first = next(flattened)
    count = 0
    delimiter = "\t" if ".tsv" in Path(target).suffixes else ","
    options = csv.WriteOptions(delimiter=delimiter)
    with (
        Fresh(overwrite=how.overwrite) as fresh,
        csv.CSVWriter(fresh.opened(target), first.schema, write_options=options) as writer,
    ):
        for table in chain([first], flattened):
            writer.write_table(table)
            count += len(table)
    return count


def _flattened(tables: Iterable[pa.Table], most: int, reader: str, how: Writing) -> Iterator[pa.Table]:
    """The tables without structs, those left whole for which ``reader`` has too few columns."""
    whole: list[str] | None = None
    for table in tables:
        if whole is None:
            whole = too_wide(table.schema, most)
            for name in whole:
                how.say(f"{name} is one column of JSON: {reader} holds at most {most:,} columns")
        yield flat(table, whole)


def write_parquet(target: str, tables: Iterable[pa.Table], how: Writing) -> int:
    """Parquet, compressed with zstd, a group of rows for each table."""
    import pyarrow.parquet as pq

    rest = iter(tables)
    first = next(rest)
    count = 0
    with (
        Fresh(overwrite=how.overwrite) as fresh,
        pq.ParquetWriter(fresh.beside(target), first.schema, compression="zstd") as writer,
    ):
        for table in chain([first], rest):
            writer.write_table(table)
            count += len(table)
    return count


def write_sqlite(target: str, tables: Iterable[pa.Table], how: Writing) -> int:
    """A table of an SQLite database."""
    from sqlite_utils import Database
    from sqlite_utils.db import SQLITE_MAX_VARS

    flattened = (_storable(table) for table in _flattened(tables, SQLITE_MAX_VARS, "a table of SQLite", how))
    first = next(flattened)
    if (columns := first.num_columns) > SQLITE_MAX_VARS:
        few = f"at most {SQLITE_MAX_VARS:,} columns, and there are {columns:,}: choose some with --columns"
        raise UserError(f"{target}: an SQLite table has {few}")
    names = _distinct(first.column_names, how)
    with Fresh(overwrite=how.overwrite) as fresh:
        path = fresh.beside(target)
        path.open("wb").close()  # SQLite would not say why it cannot make a file
        database = Database(path, execute_plugins=False)
        try:
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):  # the file gets its name when it is whole
                database.execute(f"PRAGMA {pragma}")
            key = how.key if how.key in names else None
            table = database.table(how.table)
            table.create({n: _sqlite_type(field.type) for n, field in zip(names, first.schema, strict=True)}, pk=key)
            with database.atomic():
                for one in chain([first], flattened):
                    table.insert_all(records(one.rename_columns(names)), pk=key)
            return int(table.count)
        finally:
            database.close()


def _distinct(names: Sequence[str], how: Writing) -> list[str]:
    """Names that differ in more than the case of ASCII letters, which SQLite does not see."""
    taken: set[str] = set()
    found, all_names = [], set(map(_lower, names))
    for name in names:
        new = name
        while _lower(new) in (taken if new == name else taken | all_names):
            new += "_"
        if new != name:
            how.say(f"column {name} is called {new} there: SQLite does not tell small letters from capitals")
        taken.add(_lower(new))
        found.append(new)
    return found


def _lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def _storable(table: pa.Table) -> pa.Table:
    """The table with texts for numbers that may be larger than SQLite's integers or longer than its floats."""
    t = pa.types
    kinds = [pa.string() if t.is_uint64(kind) or t.is_decimal(kind) else kind for kind in table.schema.types]
    return table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))


def _sqlite_type(kind: pa.DataType) -> type:
    t = pa.types
    if t.is_integer(kind) or t.is_boolean(kind):
        return int
    return float if t.is_floating(kind) else str


WRITERS: dict[str, Callable[[str, Iterable[pa.Table], Writing], int]] = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "sqlite": write_sqlite,
}
