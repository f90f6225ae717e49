"""Finished rows that wait for the others of their shard: in memory and, soon after, staged."""

from __future__ import annotations

import marshal
import math
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from runner.checkpoint.database import Writer
from runner.checkpoint.records import Output, encode, read_staged, with_crcs
from runner.checkpoint.shards.columns import BATCH_CHARS, BATCH_ROWS, batches, staged

_ROW_CHARS = 500  # that a row takes beside its columns
_HELD_CHARS = BATCH_CHARS  # less would be a batch in a shard that is read again, too
_SHORT = 2000  # characters of a row that need not be counted exactly
_INSERT = "INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Unsealed:
    """The finished rows of a session by shard, for the checkpoint's only writer.

    Each is staged within ``hold_s`` seconds; those whose shard is sealed before never are. A kill in that time takes
    nothing, as they are made again from their recorded answers. What takes too much memory is staged and let go.
    """

    def __init__(self, writer: Writer, shard_rows: int, hold_s: float) -> None:
        self._writer, self._shard_rows, self._hold_s = writer, shard_rows, hold_s
        self._rows: defaultdict[int, dict[int, Output]] = defaultdict(dict)
        self._new: defaultdict[int, list[Output]] = defaultdict(list)  # those of them that are not staged
        self._chars = Counter[int]()  # of each shard
        self._staged_at = -math.inf  # the first rows at once

    def check(self, rows: Iterable[int]) -> None:
        """Raise sqlite3.IntegrityError for a row that is held."""
        for row in rows:
            if row in self._rows.get(row // self._shard_rows, ()):
                raise sqlite3.IntegrityError(f"row {row} is finished already")

    def is_due(self, more: Sequence[Output] = ()) -> bool:
        """Whether it is time to stage what is held, and ``more``, if that is anything."""
        is_time = time.monotonic() - self._staged_at >= self._hold_s or self._chars.total() > _HELD_CHARS
        return is_time and bool(self._new or more)

    def stage(self, more: Iterable[Output] = ()) -> None:
        """Stage what is held, and ``more``, inside the caller's transaction."""
        rows = [row for some in self._new.values() for row in some]
        self._writer.connection.executemany(_INSERT, with_crcs(staged([*rows, *more])))

    def add(self, rows: Iterable[Output], *, are_staged: bool) -> Counter[int]:
        """Hold rows, which are staged as all before them if the transaction with ``stage`` succeeded; by shard."""
        by_shard = defaultdict[int, list[Output]](list)
        for row in rows:
            by_shard[row.row // self._shard_rows].append(row)
        for shard, some in by_shard.items():
            self._rows[shard].update((row.row, row) for row in some)
            self._new[shard] += some
            self._chars[shard] += _chars(some)
        if are_staged:
            self._new.clear()
            self._staged_at = time.monotonic()
            if self._chars.total() > _HELD_CHARS:
                self._rows.clear()
                self._chars.clear()
        return Counter({shard: len(some) for shard, some in by_shard.items()})

    def within(self, shard: int) -> Iterable[int]:
        """The rows of a shard that are held."""
        return self._rows.get(shard, {})

    def rows_of(self, shard: int, span: tuple[int, int]) -> Iterable[Sequence[Output]]:
        """The rows [start, stop) of a shard that is complete, some at a time."""
        rows = self._rows.get(shard, {})
        if len(rows) == span[1] - span[0] and self._chars[shard] <= _HELD_CHARS:  # as many as one batch may have
            starts = range(*span, BATCH_ROWS)
            return ([rows[row] for row in range(at, min(at + BATCH_ROWS, span[1]))] for at in starts)
        with self._writer.commit():
            self.stage()
        self.add([], are_staged=True)
        return batches(read_staged(self._writer.connection, "WHERE row >= ? AND row < ?", span))

    def forget(self, shard: int) -> None:
        """Let go of the rows of a shard that is sealed."""
        for held in (self._rows, self._new, self._chars):
            held.pop(shard, None)


def _chars(rows: Sequence[Output]) -> int:
    """What rows take, and their columns no less than in JSON."""
    columns = [row.columns for row in rows]
    chars = 6 * len(marshal.dumps(columns, 2))  # of which JSON has 6 for a byte at most; 2: nothing is left out
    return _ROW_CHARS * len(rows) + (chars if chars < _SHORT * len(rows) else len(encode(columns)))
