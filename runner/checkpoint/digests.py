"""Which committed answer belongs to which request, so that equal requests are computed once.

Digests are random: an index over them that every commit keeps up to date costs it a page of the write-ahead log for
each answer, more than all else that it writes. So the latest digests are in memory, and the table takes them some
thousand at a time and in order. It is derived from the answers; those behind ``digested.upto`` are not in it yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from runner.checkpoint.database import conditions
from runner.checkpoint.records import with_crc

FRESH = 4096  # digests held in memory: some 0.7 MB
_ADD = """INSERT OR REPLACE INTO digests
SELECT digest, row, number FROM completions WHERE rowid > ? AND digest NOTNULL ORDER BY digest"""

Key = tuple[int, int]


class Digests:
    """The digests of a checkpoint, for its only writer; its methods run inside the caller's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Bring the table up to date with the answers of earlier sessions."""
        self._connection = connection
        self._fresh: dict[bytes, Key] = {}
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
        for where, values in conditions("digest", (digest for digest in wanted if digest not in self._fresh)):
            keys += self._connection.execute(f"SELECT row, number FROM digests WHERE {where}", values)
        return keys

    def _add(self) -> None:
        self._connection.execute(_ADD, (self._upto(),))
        self._mark(self._last())
        self._fresh.clear()

    def _mark(self, upto: int) -> None:
        self._connection.execute("UPDATE digested SET upto = ?, crc = ?", with_crc(upto))

    def _upto(self) -> int:
        return int(self._connection.execute("SELECT upto FROM digested").fetchone()[0])

    def _last(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(rowid), 0) FROM completions").fetchone()[0])
