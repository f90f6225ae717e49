"""What is at work at this moment, on disk: a few bytes that outlive the process. Part of the store.

The supervisor reads from it whether the run gets on; the next session, which rows a death took down with it. It is
written with plain ``pwrite`` calls, a microsecond each, and never synced: the system keeps them when a process dies.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

FLIGHT = "run.flight"
_HEAD = struct.Struct("<QQQ?I")  # session, beats, answers on disk, at work, rows
_MOST_ROWS = 4096


class InFlight(NamedTuple):
    """``beats`` grows while the session gets on, ``done`` with its answers; ``working``: a model is at work."""

    session: int = 0
    beats: int = 0
    done: int = 0
    working: bool = False
    rows: tuple[int, ...] = ()


class Flight:
    """The file of one session, open for its only writer. A full disk does not disturb it."""

    def __init__(self, run_dir: Path, session: int) -> None:
        """Start with nothing in flight."""
        self._descriptor = os.open(run_dir / FLIGHT, os.O_RDWR | os.O_CREAT, 0o644)
        self.session, self._beats, self._done = session, 0, 0
        self._working = False
        self._count = 0
        self.beat(rows=())

    def beat(self, answers: int = 0, rows: Collection[int] | None = None) -> None:
        """The session gets on; ``answers`` more of its answers are on disk.

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
