"""What a later stage answered, put into the columns of the rows that it was asked about."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runner.chain.plan import STAGE, Stage
from runner.results.run import Run


@dataclass
class Answers:
    """What a later stage answered: ``table`` has its rows in the order of ``rows`` [N], those of the first stage."""

    stage: Stage
    rows: np.ndarray
    table: pa.Table

    @classmethod
    def read(cls, stage: Stage, run: Run) -> Answers:
        """All finished rows of its run, which keeps the first stage's row in its first column."""
        row = next(iter(run.columns.kept))
        blocks = [table for _, table in run.blocks([row, *stage.columns.values(), "error", "usage"])]
        table = pa.concat_tables(blocks) if blocks else pa.table({row: pa.array([], pa.int64())})
        rows = table[row].to_numpy()
        if len(rows) > 1 and (np.diff(rows) < 0).any():
            order = np.argsort(rows)
            rows, table = rows[order], table.take(order)
        return cls(stage, rows, table)

    def into(self, columns: dict[str, Any], start: int, count: int, wanted: Collection[str]) -> None:
        """Put them into those ``columns`` of the rows [start, start + count) that are ``wanted``."""
        low, high = np.searchsorted(self.rows, [start, start + count])
        here, at = self.table.slice(low, high - low), self.rows[low:high] - start
        is_here = np.zeros(count, np.bool_)
        is_here[at] = True
        sources = {**self.stage.columns, "error": "error", "usage": "usage"}
        order = np.arange(count)
        order[is_here] = count + np.arange(len(here))
        for name in (*sources, *self.stage.cleared, STAGE):
            if name not in wanted:
                continue
            old = _plain(columns[name]) if name in columns else None
            new = self._new(here, sources.get(name), name, old)
            old = pa.nulls(count, new.type) if old is None else old
            new = new if new.type == old.type else new.cast(old.type)
            columns[name] = pa.concat_arrays([old, new]).take(pa.array(order))

    def _new(self, here: pa.Table, source: str | None, name: str, old: pa.Array | None) -> pa.Array:
        if name == STAGE:
            return pa.array([self.stage.name] * len(here), pa.string())
        if source in here.column_names:
            return _plain(here[source])
        return pa.nulls(len(here), pa.null() if old is None else old.type)


def _plain(found: Any) -> pa.Array:
    """One array of whatever chunks; words in dictionaries as words."""
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found
