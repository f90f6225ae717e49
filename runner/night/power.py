"""Clock, power and load of the machine: the one place that asks it, with a fake in the tests."""

from __future__ import annotations

import datetime
import math
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from runner.machine.facts import output

_LOAD_SECONDS = 60.0  # over which the system averages the load


class Machine(Protocol):
    """What a schedule asks of the machine. ``helpers``: see ``ThisMachine``."""

    helpers: Callable[[], Collection[int]]

    def now(self) -> datetime.datetime:
        """The user's local time."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump; the same clock in all processes."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def on_battery(self) -> bool:
        """Whether there is no mains power."""
        ...

    def load(self) -> float:
        """How many CPU cores other programs keep busy, over about a minute."""
        ...


class ThisMachine:
    """The machine that this runs on. ``helpers``: the processes on it that work for this one and may be no children."""

    def __init__(self) -> None:
        self.helpers: Callable[[], Collection[int]] = tuple
        self._own, self._looked = 0.0, time.monotonic()
        self._used: float | None = None  # asked for when load is

    def now(self) -> datetime.datetime:
        return datetime.datetime.now()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def on_battery(self) -> bool:
        if sys.platform == "darwin":
            return "'Battery Power'" in output("pmset", "-g", "batt")
        supplies = [supply for supply in Path("/sys/class/power_supply").glob("*") if (supply / "online").exists()]
        mains = [supply for supply in supplies if _line(supply / "type") in ("Mains", "USB")]
        return bool(mains) and all(_line(supply / "online") == "0" for supply in mains)

    def load(self) -> float:
        """The system's load average without what this run takes, averaged the same way."""
        now, used = time.monotonic(), _cpu_seconds(self.helpers())
        passed = max(1e-3, now - self._looked)
        weight = math.exp(-passed / _LOAD_SECONDS)
        done = 0.0 if self._used is None else max(0.0, used - self._used)
        self._own = self._own * weight + done / passed * (1 - weight)
        self._looked, self._used = now, used
        return max(0.0, os.getloadavg()[0] - self._own)


def _cpu_seconds(helpers: Collection[int]) -> float:
    """Those of this process, of its children and of its helpers."""
    own = {str(pid) for pid in helpers}
    processes = [line.split() for line in output("ps", "-A", "-o", "pid=,ppid=,time=").splitlines()]
    times = [time for pid, parent, time in processes if pid in own or parent == str(os.getpid())]
    return sum(os.times()[:4]) + sum(map(_seconds, times))


def _seconds(clock: str) -> float:
    """Of ``1-02:03:04``, as ps writes times on Linux, or ``123:04.56``, as on macOS."""
    days, _, rest = clock.rpartition("-")
    parts = reversed(rest.split(":"))
    return 86400 * int(days or 0) + sum(float(part) * 60.0**power for power, part in enumerate(parts))


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
