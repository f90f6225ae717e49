"""One session's night: the schedule, the machine's sleep and the notices, put together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.night.awake import Awake
from runner.night.notify import NotifyConf, notify
from runner.night.power import ThisMachine
from runner.night.schedule import BATTERY, Gate, Obstacle, Schedule, ScheduleConf
from runner.signals import Stop
from runner.types import UserError

log = logging.getLogger("rowmill")


class Night:
    """``began``: when the first process of this command line was started, in monotonic seconds (None: now)."""

    def __init__(
        self, schedule: ScheduleConf, whom: NotifyConf, run_dir: Path, stop: Stop, began: float | None
    ) -> None:
        self.machine = ThisMachine()
        self._schedule, self._whom, self.run_dir = schedule, whom, run_dir
        self._awake = Awake(schedule.keep_awake)
        start = self.machine.monotonic() if began is None else began
        self.gate = Gate(Schedule(schedule), self.machine, start, stop.is_asked, stop.ask, self._tell)

    def wait(self) -> bool:
        """Wait until the run may begin; False if it must stop instead."""
        return self.gate.wait()

    def waiter(
        self, leave_out: Callable[[float], None], meanwhile: Callable[[], None]
    ) -> Callable[[Callable[[], None], Callable[[], None]], bool]:
        """What an engine passes before every step; the seconds of its pauses go to ``leave_out``.

        ``meanwhile`` is called all the time in a pause.
        """

        def wait(beat: Callable[[], None], release: Callable[[], None]) -> bool:
            before = self.gate.paused_s

            def wait_on() -> None:
                beat()
                meanwhile()

            go_on = self.gate.wait(wait_on, release)
            if self.gate.paused_s != before:
                leave_out(self.gate.paused_s - before)
            return go_on

        return wait

    @contextlib.contextmanager
    def notifying(self, outcome: Callable[[], str], *, supervised: bool) -> Iterator[None]:
        """Keep the machine awake and notify the user of how the block ends; ``outcome`` describes a good end.

        An unforeseen exception is reported by the supervisor, if there is one, when it gives up.
        """
        try:
            with self._awake:
                yield
        except KeyboardInterrupt:
            if self.gate.is_over:
                self._notify("stopped", f"stopped after {self._schedule.stop_after}")
            raise
        except Exception as error:
            if isinstance(error, UserError) or not supervised:
                self._notify("failed", str(error) or type(error).__name__)
            raise
        self._notify("finished", outcome())

    def _tell(self, paused: bool, why: Obstacle) -> None:
        said = ("paused", why.text) if paused else ("resumed", f"the pause is over ({why.text})")
        log.info("%s: %s", *said)
        if paused and why.kind == BATTERY:
            self._awake.release()
        elif not paused:
            self._awake.hold()
        self._notify(*said)

    def _notify(self, event: str, what: str) -> None:
        notify(self._whom, event, f"{self.run_dir.name} {event}: {what}", str(self.run_dir.resolve()))
