"""Which committed answer belongs to which request, so that equal requests are computed once.

Digests are random: an index over all of them that every commit keeps up to date costs it a page of the write-ahead log
for each answer, more than all else that it writes. So the latest digests are in memory, and the table takes them some
thousand at a time and in order, into the first of several levels. Each level holds eight times what the one before it
does; what is too much for it moves on, a slice of neighbouring digests at a time, which share pages where they go (as
in a log-structured merge tree: O'Neil et al., 1996). A digest's way costs some kB, whatever the number of rows.

The table is derived from the answers; those behind ``digested.upto`` are not in it yet.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Any

from runner.checkpoint.records import conditions, with_crc

FRESH = 4096  # digests held in memory: some 0.7 MB
RATIO = 8  # of the sizes of two levels
LEVELS = 5  # the last one takes whatever comes, from some 17 million digests on
_ADD = """INSERT OR REPLACE INTO digests
SELECT ?, digest, row, number FROM completions WHERE rowid > ? AND digest NOTNULL ORDER BY digest"""
_SLICE = "level = ? AND digest >= ? AND digest < ?"
_MOVE = f"INSERT OR REPLACE INTO digests SELECT level + 1, digest, row, number FROM digests WHERE {_SLICE}"
_BEHIND = "SELECT digest FROM digests WHERE level = ? AND digest >= ? ORDER BY digest LIMIT 1 OFFSET ?"
_FIRST, _END = b"", b"\xff" * 64  # before and behind all digests

Key = tuple[int, int]


class Digests:
    """The digests of a checkpoint, for its only writer; its methods run inside the caller's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Bring the table up to date with the answers of earlier sessions."""
        self._connection = connection
        self._fresh: dict[bytes, Key] = {}
        self._sizes = Counter(dict(connection.execute("SELECT level, count(*) FROM digests GROUP BY level")))
        self._from = [_FIRST] * LEVELS  # where the next slice of each level begins
        self._add()

    def follow(self, records: Iterable[tuple[Any, ...]]) -> None:
        """Take note of answers (row, number, digest, ...) that the transaction adds."""
        self._fresh.update((digest, (row, number)) for row, number, digest, *_ in records if digest is not None)
        if len(self._fresh) >= FRESH:
            self._add()

    def forgot(self) -> None:
        """Answers were deleted: new ones may get their rowids."""
        if (last := self._last()) < self._upto():
            self._mark(last)

    def find(self, digests: Iterable[bytes]) -> list[Key]:
        """Where the answers to these requests may be: (row, number). An entry may be stale."""
        wanted = list(digests)
        keys = [self._fresh[digest] for digest in wanted if digest in self._fresh]
        levels = f"level IN ({', '.join(str(level) for level, size in self._sizes.items() if size)})"
        for where, values in conditions("digest", (digest for digest in wanted if digest not in self._fresh)):
            keys += self._connection.execute(f"SELECT row, number FROM digests WHERE {levels} AND {where}", values)
        return keys

    def _add(self) -> None:
        upto, last = self._upto(), self._last()
        level = next(level for level in range(LEVELS) if last - upto <= _most(level))
        self._sizes[level] += self._connection.execute(_ADD, (level, upto)).rowcount
        self._mark(last)
        self._fresh.clear()
        for level in range(LEVELS - 1):
            while self._sizes[level] > _most(level):
                self._move_on(level)

    def _move_on(self, level: int) -> None:
        start = self._from[level]
        behind = self._connection.execute(_BEHIND, (level, start, FRESH)).fetchone()
        moved = (level, start, behind[0] if behind else _END)
        self._sizes[level + 1] += self._connection.execute(_MOVE, moved).rowcount
        self._sizes[level] -= self._connection.execute(f"DELETE FROM digests WHERE {_SLICE}", moved).rowcount
        self._from[level] = behind[0] if behind else _FIRST

    def _mark(self, upto: int) -> None:
        self._connection.execute("UPDATE digested SET upto = ?, crc = ?", with_crc(upto))

    def _upto(self) -> int:
        return int(self._connection.execute("SELECT upto FROM digested").fetchone()[0])

    def _last(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(rowid), 0) FROM completions").fetchone()[0])


def _most(level: int) -> float:
    """How many digests a level holds."""
    return FRESH * RATIO ** (level + 1) if level < LEVELS - 1 else math.inf
