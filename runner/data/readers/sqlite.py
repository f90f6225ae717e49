"""A table or view of an SQLite database as an Arrow table.

SQLite gives every cell a type of its own: a column is of the type that holds all its values, text where numbers and
texts are mixed, and prompts show what each cell holds. A blob beside texts or numbers, or a text that is no UTF-8,
concerns its own row, and only where it is used. The rows come in the order of their rowid; those of a view in
the view's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.data.columns import Columns, NoUnicode, record_batch
from runner.data.conf import DatasetConf
from runner.data.load import CACHE_VERSION, hash_json, local_paths
from runner.data.readers import Loaded
from runner.data.readers.table import IN_MEMORY_BYTES, cache_file, store, unique_names
from runner.types import UserError
from runner.words import did_you_mean

_BATCH_ROWS = 10_000


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The rows of ``conf.table``."""
    paths = local_paths(path, conf.kind, offline)
    if len(paths) > 1:
        raise UserError("dataset.path", f"the pattern matches {paths[0]}, {paths[1]}, ...: give one database file")
    return Loaded(*read_sqlite(paths[0], conf.table))


def read_sqlite(path: Path, table: str | None) -> tuple[pa.Table, str]:
    """The rows, and a hash of what they hold; ``table`` None is the only one. UserError if it cannot be read."""
    if path.is_dir():
        raise UserError("dataset.path", "is a folder; dataset=sqlite reads a database file", file=path)
    try:
        with contextlib.closing(_connect(path)) as connection:
            connection.execute("BEGIN")
            return _read(connection, path, _chosen(connection, path, table))
    except sqlite3.Error as error:
        raise UserError("dataset.path", f"cannot be read as an SQLite database: {error}", file=path) from error


def _connect(path: Path) -> sqlite3.Connection:
    """A read-only connection; a database in a folder that cannot be written to is opened as immutable."""
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
        connection.text_factory = _text
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            connection.close()
            if "unable to open" not in str(error):
                raise
        else:
            return connection
    raise UserError("dataset.path", "cannot be opened as an SQLite database", file=path)


def _chosen(connection: sqlite3.Connection, path: Path, table: str | None) -> str:
    query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    names = [name for (name,) in connection.execute(f"{query} ORDER BY name")]
    if table is None and len(names) == 1:
        return str(names[0])
    if table is None:
        raise UserError(
            "dataset.table", f"has {', '.join(names)}: name one of them" if names else "has no tables", file=path
        )
    found = [name for name in names if name.lower() == table.lower()]
    if not found:
        raise UserError("dataset.table", f"has no table {table!r}{did_you_mean(table, names)}", file=path)
    return str(found[0])


def _read(connection: sqlite3.Connection, path: Path, table: str) -> tuple[pa.Table, str]:
    """Two passes in one transaction: the first finds the columns' types and the hash, the second converts."""
    digest, columns, size = hashlib.sha256(), Columns(), 0
    for rows in _batches(connection, path, table):
        text = repr([list(row.items()) for row in rows]).encode(errors="surrogatepass")
        digest.update(text)
        size += len(text)
        columns.add(rows)
    contents = digest.hexdigest()
    if not size:
        raise UserError("dataset.path", f"table {table} has no rows: empty data set", file=path)
    cached = None if size <= IN_MEMORY_BYTES else cache_file(hash_json(CACHE_VERSION, "sqlite", contents))
    schema = columns.schema()
    return store(schema, (record_batch(rows, schema) for rows in _batches(connection, path, table)), cached), contents


def _batches(connection: sqlite3.Connection, path: Path, table: str) -> Iterator[list[dict[str, Any]]]:
    cursor = _select(connection, table)
    names = unique_names(path, [column[0] for column in cursor.description])
    while rows := list(islice(cursor, _BATCH_ROWS)):
        yield [dict(zip(names, row, strict=True)) for row in rows]


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return NoUnicode(content)


def _select(connection: sqlite3.Connection, table: str) -> sqlite3.Cursor:
    quoted = '"' + table.replace('"', '""') + '"'
    try:
        return connection.execute(f"SELECT * FROM {quoted} ORDER BY _rowid_")
    except sqlite3.OperationalError:  # a view, or a table without rowids
        return connection.execute(f"SELECT * FROM {quoted}")
