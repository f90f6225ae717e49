"""When a run works: inside a window of the day, on mains power, while nobody else needs the machine."""

from __future__ import annotations

import datetime
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from runner.keys import key
from runner.night.power import Machine
from runner.types import UserError

LOOK_SECONDS = 5.0  # between two looks at clock, power and load
_PATIENCE_SECONDS = 0.5  # between two looks at a signal to stop, in a pause
WINDOW, BATTERY, LOAD = "window", "battery", "load"  # kinds of obstacles
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}

log = logging.getLogger("rowmill")


@dataclass
class ScheduleConf:
    """When the run may work. It pauses when it may not, and continues by itself.

    Attributes:
        window: Hours of the day, such as 22:00-07:00.
        release_after: How long a pause may last before the model's memory is given back, such as 10m or 1h30m.
        stop_after: End the run after this time, as Ctrl-C does.
        on_battery: Whether to run or to pause without mains power.
        max_load: Pause while other programs keep more than this many CPU cores busy.
        keep_awake: Keep the machine from sleeping while the run works or waits for its window; the display may sleep.
    """

    window: str | None = None
    release_after: str = "10m"
    stop_after: str | None = None
    on_battery: str = key("run", among=("run", "pause"))
    max_load: float | None = key(None, least=0)
    keep_awake: bool = True


def check_schedule(conf: ScheduleConf) -> None:
    """Raise UserError for texts that are not times of day or durations."""
    Schedule(conf)


class Obstacle(NamedTuple):
    """Why a run must not work now: WINDOW, BATTERY or LOAD, and the same in words."""

    kind: str
    text: str


class Schedule:
    """A ScheduleConf with its texts parsed."""

    def __init__(self, conf: ScheduleConf) -> None:
        self.conf = conf
        self.window = None if conf.window is None else _window(conf.window)
        self.release_after_s = _seconds("schedule.release_after", conf.release_after)
        self.stop_after_s = math.inf if conf.stop_after is None else _seconds("schedule.stop_after", conf.stop_after)

    def obstacle(self, machine: Machine) -> Obstacle | None:
        """Why the run must not work now; None if it may."""
        if self.window and not _inside(machine.now().time(), *self.window):
            return Obstacle(WINDOW, f"outside schedule.window={self.conf.window}")
        if self.conf.on_battery == "pause" and machine.on_battery():
            return Obstacle(BATTERY, "on battery power")
        if self.conf.max_load is not None and (load := machine.load()) > self.conf.max_load:
            return Obstacle(LOAD, f"other programs keep {load:.1f} CPU cores busy")
        return None


class Gate:
    """What a run passes before every step. ``began``: its start in the machine's monotonic seconds.

    ``stopped`` returns whether a stop was requested, ``stop`` requests one. ``tell(paused, why)`` is called when a
    pause begins and ends.
    """

    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        began: float,
        stopped: Callable[[], bool],
        stop: Callable[[], None],
        tell: Callable[[bool, Obstacle], None] = lambda paused, why: None,
    ) -> None:
        self._schedule, self._machine, self._began = schedule, machine, began
        self._stopped, self._stop, self._tell = stopped, stop, tell
        self._looked = -math.inf
        self.paused_s = 0.0
        self.is_over = False  # because of stop_after

    def wait(self, beat: Callable[[], None] = lambda: None, release: Callable[[], None] | None = None) -> bool:
        """Return True when the run may work, False when it must stop; most calls look at nothing and cost nothing.

        ``beat`` is called all the time in a pause, ``release`` once if it gets long (None: nothing is held yet).
        """
        if self._machine.monotonic() - self._looked < LOOK_SECONDS:
            return True
        self._looked = self._machine.monotonic()
        if self._over():
            return False
        if why := self._schedule.obstacle(self._machine):
            self._pause(why, beat, release)
        return not self._stopped()

    def _over(self) -> bool:
        if self._machine.monotonic() - self._began < self._schedule.stop_after_s:
            return False
        if not self.is_over:
            log.info("schedule.stop_after=%s has passed", self._schedule.conf.stop_after)
            self.is_over = True
            self._stop()
        return True

    def _pause(self, why: Obstacle, beat: Callable[[], None], release: Callable[[], None] | None) -> None:
        self._tell(True, why)
        paused = self._machine.monotonic()
        while not self._stopped() and not self._over():
            beat()
            self._machine.sleep(_PATIENCE_SECONDS)
            now = self._machine.monotonic()
            if release and now - paused > self._schedule.release_after_s:
                log.info("a long pause: releasing the model's memory")
                release()
                release = None
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if not self._schedule.obstacle(self._machine):
                    self._tell(False, why)
                    break
        self.paused_s += self._machine.monotonic() - paused


def _window(text: str) -> tuple[datetime.time, datetime.time]:
    match = re.fullmatch(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", text.strip())
    numbers = [int(number) for number in match.groups()] if match else []
    if not numbers or max(numbers[::2]) > 23 or max(numbers[1::2]) > 59 or numbers[:2] == numbers[2:]:
        raise UserError("schedule.window", "it must be two different times of day, such as 22:00-07:00", value=text)
    return datetime.time(numbers[0], numbers[1]), datetime.time(numbers[2], numbers[3])


def _inside(now: datetime.time, start: datetime.time, stop: datetime.time) -> bool:
    return start <= now < stop if start < stop else now >= start or now < stop


def _seconds(name: str, text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != str(text).replace(" ", ""):
        raise UserError(name, "it must be a duration such as 8h, 90m or 1h30m", value=text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
