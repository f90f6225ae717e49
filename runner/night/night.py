"""One session's night: the schedule, the machine's sleep and the notices, put together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from runner.interrupt import Stop
from runner.night.awake import Awake
from runner.night.machine import Machine, ThisMachine
from runner.night.notify import notify
from runner.night.schedule import Gate, Schedule
from runner.types import UserError

if TYPE_CHECKING:
    from runner.prepare import Prepared
    from runner.store import Store

log = logging.getLogger("rowmill")


class Night:
    """``began``: when the first process of this command line was started, in monotonic seconds (None: now)."""

    def __init__(self, ready: Prepared, stop: Stop, began: float | None, machine: Machine | None = None) -> None:
        machine = machine or ThisMachine()
        conf = ready.config.conf
        self._ready, self._awake = ready, Awake(conf.schedule.keep_awake)
        start = machine.monotonic() if began is None else began
        self.gate = Gate(Schedule(conf.schedule), machine, start, stop.is_asked, stop.ask, self._tell)

    def wait(self) -> bool:
        """Wait until the run may begin; False if it must stop instead."""
        return self.gate.wait()

    def waiter(self, store: Store) -> Callable[[Callable[[], None], Callable[[], None]], bool]:
        """What an engine passes before every step; pauses are left out of the store's clock."""

        def wait(beat: Callable[[], None], release: Callable[[], None]) -> bool:
            before = self.gate.paused_s
            go_on = self.gate.wait(beat, release)
            if self.gate.paused_s != before:
                store.leave_out(self.gate.paused_s - before)
            return go_on

        return wait

    @contextlib.contextmanager
    def told(self, *, supervised: bool) -> Iterator[None]:
        """Keep the machine awake, and tell the user how what happens inside ends.

        An unforeseen exception is told by the supervisor, if there is one, when it gives up.
        """
        try:
            with self._awake:
                yield
        except KeyboardInterrupt:
            if self.gate.is_over:
                self._notify("stopped", f"stopped after {self._ready.config.conf.schedule.stop_after}")
            raise
        except Exception as error:
            if isinstance(error, UserError) or not supervised:
                self._notify("failed", str(error) or type(error).__name__)
            raise
        self._notify("finished", f"all {self._ready.rows:,} rows are finished")

    def _tell(self, paused: bool, why: str) -> None:
        log.info("%s: %s", "paused" if paused else "going on, no longer", why)
        if paused and "battery" in why:
            self._awake.release()
        elif not paused:
            self._awake.hold()
        self._notify("paused" if paused else "resumed", why if paused else f"no longer {why}")

    def _notify(self, event: str, what: str) -> None:
        name = self._ready.run_dir.name
        notify(self._ready.config.conf.notify, event, f"{name} {event}: {what}", str(self._ready.run_dir.resolve()))
