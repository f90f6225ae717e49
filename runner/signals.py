"""Ctrl-C, SIGTERM and their like: an end after the step in flight while the loop works, at once otherwise."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)  # XCPU: `ulimit -t`


def heeded() -> list[signal.Signals]:
    """SIGNALS, but a SIGHUP that is ignored, as under ``nohup``, stays so."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not is_ignored]


class Stop:
    """``asked`` is set by a signal while ``gentle``, that is while somebody watches it."""

    def __init__(self) -> None:
        self.asked = False
        self.gentle = False
        self.by: str | None = None  # the name of the latest signal

    def is_asked(self) -> bool:
        """Whether an end has been asked for."""
        return self.asked

    def ask(self) -> None:
        """Ask for an end after the step in flight."""
        self.asked = True

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Inside, the first signal only sets ``asked``, and a second Ctrl-C raises KeyboardInterrupt."""
        self.gentle = True
        try:
            yield
        finally:
            self.gentle = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name
        if not self.gentle or (self.asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A Stop that SIGNALS reach; the handlers before it are restored. Outside the main thread none do."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._handle) for number in heeded()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
