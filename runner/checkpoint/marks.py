"""Marks of progress over a run's time: for speed, memory and slots as curves, bounded however long it takes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from runner.checkpoint.records import Output
from runner.machine.facts import peak_memory
from runner.sequences import Gauge

EVERY_SECONDS = 1.0
MOST = 2000  # marks kept of a run, beside the last of each session
LATEST, LATEST_CHARS = 10, 1000  # finished rows kept to look at, characters of a column
_COLUMNS = (
    *("session", "time", "elapsed_s", "finished", "errors", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("shards", "memory_bytes", "slots", "slots_total", "seats"),
)
_INSERT = f"INSERT INTO progress ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_UPDATE = f"UPDATE progress SET {', '.join(f'{name} = ?' for name in _COLUMNS)} WHERE rowid = ?"
_ACTIVE = "SELECT coalesce(sum(s), 0.0) FROM (SELECT max(elapsed_s) AS s FROM progress GROUP BY session)"
_THIN = """
DELETE FROM progress WHERE rowid IN (SELECT id FROM (
    SELECT rowid AS id, row_number() OVER (ORDER BY rowid) AS place,
        max(rowid) OVER (PARTITION BY session) AS last FROM progress) WHERE place % 2 = 0 AND id != last)
"""


def active_seconds(connection: sqlite3.Connection) -> float:
    """For how many seconds sessions were at work; that of a killed one is known to the second."""
    return float(connection.execute(_ACTIVE).fetchone()[0])


class Marks:
    """The writer of one session's marks; the store calls it inside its transactions.

    A mark is written every second. Once there are MOST, every other one is deleted, and from then on the newest mark
    is moved along until the time between two has doubled: the table stays small, and its last row is never older than
    a second. ``gauge`` is asked for memory and slots; without one the process's own peak memory is noted. ``shown``
    gives what those who watch see of these rows: their columns, and the input's text.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        session: int,
        shown: Callable[[Sequence[Output]], list[dict[str, Any]]] | None = None,
    ) -> None:
        self._connection, self._session, self._shown = connection, session, shown or _columns
        self._before = active_seconds(connection)
        self._count = connection.execute("SELECT count(*) FROM progress").fetchone()[0]
        self._limit = max(MOST, 2 * self._count)
        self._latest: deque[Output] = deque(maxlen=LATEST)
        self._measured: tuple[Any, ...] = (None, None, None, None)  # memory, slots in use, all slots, seats
        self._open: tuple[int, float] | None = None  # the newest mark: its rowid, the elapsed time it began at
        self.start(None)

    def start(self, gauge: Callable[[], Gauge] | None) -> None:
        """Restart the session's clock."""
        self._gauge = gauge or (lambda: Gauge(memory_bytes=peak_memory()))
        self._clock = self._noted = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds: they were spent in a pause."""
        self._clock += seconds

    def active_s(self) -> float:
        """For how long this session and those before it have been at work."""
        return self._before + time.monotonic() - self._clock

    def finish(self, rows: Iterable[Output]) -> None:
        """Rows that are now finished, for the next mark."""
        self._latest.extend(rows)

    def note(self, totals: Iterable[int], shards: int, *, last: bool = False) -> None:
        """Write a mark if it is time to. ``totals``: finished, errors, prompt, cached and completion tokens."""
        now = time.monotonic()
        if not last and now - self._noted < EVERY_SECONDS:
            return
        self._noted, elapsed = now, now - self._clock
        if not last:  # at the end the engine is gone, and the latest figures stand
            gauge = self._gauge()
            seats = None if gauge.seats is None else json.dumps(gauge.seats)
            self._measured = (gauge.memory_bytes, gauge.slots, gauge.slots_total, seats)
        self._put(elapsed, (self._session, time.time(), elapsed, *totals, shards, *self._measured))
        self._put_latest()

    def _put(self, elapsed: float, values: tuple[Any, ...]) -> None:
        between = (self._before + elapsed) * 2 / MOST
        if self._open is not None and elapsed - self._open[1] < between:
            self._connection.execute(_UPDATE, (*values, self._open[0]))
            return
        self._open = (int(self._connection.execute(_INSERT, values).lastrowid or 0), elapsed)
        self._count += 1
        if self._count > self._limit:
            self._connection.execute(_THIN)
            self._count = self._connection.execute("SELECT count(*) FROM progress").fetchone()[0]
            self._limit = max(MOST, 2 * self._count)

    def _put_latest(self) -> None:
        if self._latest:
            pairs = zip(self._latest, self._shown(list(self._latest)), strict=True)
            rows = [(row.row, row.error, _brief(columns)) for row, columns in pairs]
            self._connection.execute("DELETE FROM latest")
            self._connection.executemany("INSERT INTO latest VALUES (?, ?, ?)", rows)


def _columns(rows: Sequence[Output]) -> list[dict[str, Any]]:
    return [row.columns for row in rows]


def _brief(columns: dict[str, Any]) -> str:
    """A row's columns as JSON with long texts cut."""
    whole = json.dumps(columns)
    if len(whole) <= LATEST_CHARS:
        return whole
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in columns.items()}
    return json.dumps({name: text[:LATEST_CHARS] for name, text in texts.items()})


def read_marks(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """A run's marks in order: the columns of ``progress`` and ``active_s``, the seconds at work up to the mark.

    ``seats``: how many answers each seat of a fleet has given in the session; None without a fleet.
    """
    before, latest, marks = 0.0, 0.0, []
    session = None
    found = connection.execute("SELECT * FROM progress ORDER BY rowid")
    for values in found:
        mark: dict[str, Any] = dict.fromkeys(_COLUMNS) | dict(
            zip((name for name, *_ in found.description), values, strict=True)
        )
        mark["seats"] = mark["seats"] and json.loads(mark["seats"])
        if mark["session"] != session:
            session, before = mark["session"], latest
        latest = before + mark["elapsed_s"]
        marks.append({**mark, "active_s": latest})
    return marks
