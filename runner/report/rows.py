"""The finished rows of a run, sealed or staged, as Arrow tables: read shard by shard, never all at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from runner.records import Staged

_STAGED = f"SELECT {', '.join(Staged._fields)} FROM staged ORDER BY row"
_STAGED_ROWS = 10_000  # at once


class Outputs:
    """Reads what ``run_dir`` holds; ``connection`` is open on its checkpoint. Staged rows have no input columns."""

    def __init__(self, run_dir: Path, connection: sqlite3.Connection, shard_rows: int) -> None:
        self._run_dir, self._connection, self._shard_rows = run_dir, connection, shard_rows
        self._files = dict(connection.execute("SELECT shard, file FROM shards ORDER BY shard"))

    def tables(self) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Positions of rows and their columns; shards whose file is gone are left out."""
        for shard in self._files:
            table = self._shard(shard)
            if table is not None and len(table):
                first = shard * self._shard_rows
                yield np.arange(first, first + len(table)), table
        staged = map(Staged._make, self._connection.execute(_STAGED))
        while rows := [row for _, row in zip(range(_STAGED_ROWS), staged, strict=False)]:
            yield np.array([row.row for row in rows]), pa.Table.from_pylist([_columns(row) for row in rows])

    def take(self, positions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """These rows' columns as Python values, by position; unfinished ones are left out."""
        found: dict[int, dict[str, Any]] = {}
        missing: list[int] = []
        for shard, group in groupby(sorted(set(positions)), key=lambda row: row // self._shard_rows):
            rows = list(group)
            table = self._shard(shard) if shard in self._files else None
            if table is None:
                missing += rows
                continue
            taken = table.take(pa.array([row - shard * self._shard_rows for row in rows]))
            found.update(zip(rows, taken.to_pylist(), strict=True))
        for row in missing:
            for staged in self._connection.execute(_STAGED.replace("ORDER BY", "WHERE row = ? ORDER BY"), (row,)):
                found[row] = _columns(Staged._make(staged))
        return found

    def _shard(self, shard: int) -> pa.Table | None:
        try:
            with pa.memory_map(str(self._run_dir / self._files[shard])) as stream:
                return pa.ipc.open_stream(stream).read_all()
        except (OSError, pa.ArrowException):
            return None


def _columns(row: Staged) -> dict[str, Any]:
    return {**json.loads(row.body), "error": row.error, "usage": row.usage._asdict()}
