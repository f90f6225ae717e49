"""What went into each shard: a hash of every input row and of its key, recorded when the shard is sealed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from runner.checkpoint.records import Shard, checked, read_shards, with_crc
from runner.data.rowhash import hash_column, hash_table
from runner.disk import damage


class Inputs(Protocol):
    """The rows that a run would have now, by position."""

    column_names: list[str]
    keys: np.ndarray | None  # a hash [N] of each row's key

    def __len__(self) -> int: ...

    def fingerprint_of(self, rows: int) -> str:
        """What tells the first ``rows`` rows from any others."""
        ...

    def hashes(self, start: int, stop: int, places: bool = False) -> bytes:
        """A hash of each of rows [start, stop), 8 bytes long; ``places``: of their places in a file, too."""
        ...

    def table(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """These columns of rows [start, stop)."""
        ...


class Compared(NamedTuple):
    """A sealed shard's rows from ``start`` on: their hashes as they were and, of those still there, as they are now.

    ``keys``: as they were, if they were recorded. ``whole``: whether the hashes are of all that a row holds.
    """

    shard: Shard
    start: int
    before: np.ndarray
    now: np.ndarray
    keys: np.ndarray | None
    whole: bool

    @property
    def is_same(self) -> bool:
        """Whether each row is what it was."""
        return np.array_equal(self.before, self.now)


def record(connection: sqlite3.Connection, inputs: Inputs | None, shard: int, span: tuple[int, int]) -> None:
    """Note the hashes of a shard's rows [start, stop), inside the caller's transaction."""
    if inputs is not None:
        keys = None if inputs.keys is None else inputs.keys[slice(*span)].tobytes()
        values = with_crc(shard, inputs.hashes(*span), keys)
        connection.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?)", values)


def hashed(inputs: Inputs, start: int, stop: int) -> np.ndarray:
    """The hashes of rows [start, stop)."""
    return _array(inputs.hashes(start, stop) if start < stop else b"")


def compared(
    connection: sqlite3.Connection,
    run_dir: Path,
    shard_rows: int,
    kept: Mapping[str, str],
    inputs: Inputs,
    key: str | None = None,
) -> Iterator[Compared]:
    """Each sealed shard's rows, compared with those at the same positions now. Raises DamagedError.

    Shards of earlier versions have no hashes: the input columns ``kept`` in them are compared. Where no keys were
    recorded, they are those in the kept column ``key``.
    """
    for shard in list(read_shards(connection)):
        start = shard.shard * shard_rows
        stop = min(start + shard.rows, len(inputs))
        found = connection.execute("SELECT * FROM inputs WHERE shard = ?", (shard.shard,)).fetchone()
        _, before, keys = checked("inputs", *found) if found else (None, None, None)
        names = {name: column for name, column in kept.items() if column in inputs.column_names}
        known = None
        if (before is None or (keys is None and key is not None)) and names:
            known = _kept_table(run_dir, shard, names)
        if keys is None and known is not None and key in known.column_names:
            keys = hash_column(known[key])
        whole = before is not None
        if before is not None:
            now = _as_recorded(inputs, start, _array(before))
        elif known is not None:
            before, now = hash_table(known), _array(hash_table(inputs.table(start, stop, known.column_names)))
            whole = len(names) == len(kept) == len(inputs.column_names)
        else:
            before, now = b"", _array(b"")
        yield Compared(shard, start, _array(before), now, None if keys is None else _array(keys), whole)


def _as_recorded(inputs: Inputs, start: int, before: np.ndarray) -> np.ndarray:
    """The hashes of the rows from ``start`` on; earlier versions hashed their places in a file, too."""
    stop = min(start + len(before), len(inputs))
    now = hashed(inputs, start, stop)
    before = before[: len(now)]
    if np.array_equal(before, now):
        return now
    placed = _array(inputs.hashes(start, stop, places=True)) if start < stop else now
    return np.where(before == placed, before, now)


def _kept_table(run_dir: Path, shard: Shard, names: Mapping[str, str]) -> pa.Table | None:
    """The input columns in a shard, under the names that they have in the input; None if it is damaged."""
    if damage(run_dir / shard.file, shard.bytes, shard.sha256) is not None:
        return None
    table = pa.ipc.open_stream((run_dir / shard.file).read_bytes()).read_all()
    return table.select(list(names)).rename_columns(list(names.values()))


def _array(hashes: bytes) -> np.ndarray:
    return np.frombuffer(hashes, np.uint64)
