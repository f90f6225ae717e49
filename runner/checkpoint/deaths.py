"""The rows in flight at this moment, on disk, and the deaths of earlier sessions with the rows they took down.

``run.flight`` is a few bytes that outlive the process. The supervisor reads from it whether the run makes progress, and
the next session which rows a death took down. It is written with plain ``pwrite`` calls, a microsecond each, and never
synced: the system keeps them when a process dies.

Two kinds of deaths count: those that a supervisor saw while it lived itself, and those that took the whole machine
down. When somebody kills supervisor and worker together, nobody is to blame.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runner.checkpoint.records import with_crc
from runner.disk import as_its_folder
from runner.machine.facts import boot_id
from runner.words import count_of

FLIGHT = "run.flight"
_HEAD = struct.Struct("<QQQ?I")  # session, beats, answers on disk, at work, rows
_MOST_ROWS = 4096
ALONE_AFTER, QUARANTINED_AFTER = 2, 3  # deaths of a row
_SHRINK = 0.7  # of the budget, for each death caused by lack of memory
_LEAST_SHARE = 0.05
_LAST_SESSION = "SELECT session, ended, provenance FROM sessions ORDER BY session DESC LIMIT 1"


class Death(NamedTuple):
    """What a supervisor saw. ``session`` of ``run_dir`` is 0 if the process died before it had one."""

    session: int
    why: str
    memory: bool = False
    run_dir: str | None = None


@dataclass
class Deaths:
    """All deaths of a run so far: how often each row was in flight at one, and the cause of its last."""

    rows: Counter[int] = field(default_factory=Counter)
    why: dict[int, str] = field(default_factory=dict)
    memory: int = 0

    @property
    def budget_share(self) -> float:
        """The share of batch size and KV memory to use, from 0 to 1: less after each death for lack of memory."""
        return max(_LEAST_SHARE, _SHRINK**self.memory)

    def alone(self) -> frozenset[int]:
        """Rows to be computed one at a time, in an engine of their own."""
        return frozenset(row for row, count in self.rows.items() if count >= ALONE_AFTER)

    def quarantined(self) -> dict[int, str]:
        """Rows that are not computed again, with their errors."""
        reason = "quarantined: the process died {} times while this row was computed, the last time {}"
        return {row: reason.format(n, self.why[row]) for row, n in self.rows.items() if n >= QUARANTINED_AFTER}


def read_deaths(connection: sqlite3.Connection) -> Deaths:
    """The deaths recorded in a checkpoint."""
    deaths = Deaths()
    for why, memory, rows in connection.execute("SELECT why, memory, rows FROM deaths ORDER BY rowid"):
        taken = json.loads(rows)
        deaths.rows.update(taken)
        deaths.why.update(dict.fromkeys(taken, why))
        deaths.memory += memory
    return deaths


def note_death(connection: sqlite3.Connection, run_dir: Path, seen: Death | None) -> str | None:
    """Record how the last session died, if it did and there is something to blame; returns a line for the log.

    Call it before the new session is recorded.
    """
    last = connection.execute(_LAST_SESSION).fetchone()
    if last is None:
        return None
    session, ended, provenance = last
    flight = read_flight(run_dir)
    rows = flight.rows if flight.session == session else ()
    if seen is None or seen.session != session:
        if ended is not None or not _machine_went_down(provenance):
            return None
        seen = Death(session, "when the machine went down")
    connection.execute("BEGIN IMMEDIATE")
    add_death(connection, seen, rows)
    end_session(connection, session, f"died {seen.why}")
    connection.execute("COMMIT")
    return f"session {session} died {seen.why}, with {count_of(len(rows), 'row')} in progress"


def add_death(connection: sqlite3.Connection, death: Death, rows: Collection[int]) -> None:
    """Record a death that took these rows down, within a transaction."""
    values = with_crc(death.session, time.time(), death.why, int(death.memory), json.dumps(sorted(rows)))
    connection.execute("INSERT INTO deaths VALUES (?, ?, ?, ?, ?, ?)", values)


def end_session(connection: sqlite3.Connection, session: int, why: str) -> None:
    """Record that a session has ended, within a transaction."""
    connection.execute("UPDATE sessions SET ended = ?, why = ? WHERE session = ?", (time.time(), why, session))


def _machine_went_down(provenance: str | None) -> bool:
    before = json.loads(provenance or "{}").get("machine", {}).get("boot")
    return bool(before and boot_id()) and before != boot_id()


class InFlight(NamedTuple):
    """``beats`` grows while the session makes progress, ``done`` with its answers; ``working``: a model is at work."""

    session: int = 0
    beats: int = 0
    done: int = 0
    working: bool = False
    rows: tuple[int, ...] = ()


class Flight:
    """The file of one session, open for its only writer. A full disk does not disturb it."""

    def __init__(self, run_dir: Path, session: int) -> None:
        """Start with nothing in flight."""
        self._descriptor = as_its_folder(run_dir / FLIGHT, os.O_RDWR | os.O_CREAT)
        self.session, self._beats, self._done = session, 0, 0
        self._working = False
        self._count = 0
        self.beat(rows=())

    def beat(self, answers: int = 0, rows: Collection[int] | None = None) -> None:
        """The session makes progress: ``answers`` more of its answers are on disk.

        ``rows``: those in the engine from now on (None: the same as before).
        """
        self._beats += 1
        self._done += answers
        some = [] if rows is None else sorted(rows)[:_MOST_ROWS]
        self._count = self._count if rows is None else len(some)
        head = _HEAD.pack(self.session, self._beats, self._done, self._working, self._count)
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, head + struct.pack(f"<{len(some)}q", *some), 0)

    def work(self, working: bool) -> None:
        """Whether the supervisor may expect beats."""
        self._working = working
        self.beat()

    def close(self) -> None:
        """What was in flight stays on record; it counts only if the session turns out to have died."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def read_flight(run_dir: Path) -> InFlight:
    """What the last session had in flight; nothing if that cannot be read."""
    try:
        data = (Path(run_dir) / FLIGHT).read_bytes()
        session, beats, done, working, count = _HEAD.unpack_from(data)
        rows = struct.unpack_from(f"<{min(count, _MOST_ROWS)}q", data, _HEAD.size)
    except (OSError, struct.error):
        return InFlight()
    return InFlight(session, beats, done, working, rows)
