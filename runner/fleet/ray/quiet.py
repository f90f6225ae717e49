"""Ray's signal handlers and what its libraries write, kept away from ours."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STDERR = 2


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ray puts handlers of its own in place of ours, and its libraries write to the standard error as they like."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with unheard():
            yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: neither did Ray
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def silence(ray: Any) -> None:
    """Ray prints what its daemons say of processes that die to the standard output, even if it is to print no logs."""
    ray._private.worker._worker_logs_enabled = False


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is written to the standard error, also by libraries in C++, is lost."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # closed: so it is anyhow
        yield
        return
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
