"""The worker: a process that a supervisor started to do what the command line says."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from runner.checkpoint.deaths import Death
from runner.night.link import EXIT_CRASHED, EXIT_NO_MEMORY, NO_MEMORY, Link


def main(spec: Mapping[str, Any]) -> int:
    """Run the command line of ``spec`` (see ``runner.night.supervisor``); the exit code."""
    from runner import cli
    from runner.console import muted, open_streams, tell
    from runner.early import raise_again

    raise_again()
    open_streams()
    sys.argv = list(spec["argv"])
    # Python writes to the user's terminal itself, so that a bar is a bar; what C++ writes goes through the supervisor.
    sys.stderr = os.fdopen(spec["stderr"], "w", buffering=1, errors="backslashreplace")
    threading.Thread(target=_end_with, args=(spec["alive"],), daemon=True).start()
    code = EXIT_CRASHED

    def end() -> None:
        with muted(sys.stdout):
            sys.stdout.flush()
        os._exit(code)

    atexit.register(end)  # first in, last out: behind it come only ends of libraries, and some crash
    death = Death(*spec["death"]) if spec["death"] else None
    Link.current = Link(spec["reports"], spec["began"], death)
    try:
        code = cli.main(spec["arguments"])
    except Exception as error:
        tell(traceback.format_exc().rstrip())
        if NO_MEMORY.search(f"{type(error).__name__}: {error}"):
            code = EXIT_NO_MEMORY
    return code


def _end_with(alive: int) -> None:
    """Die with the supervisor, whose end of the pipe closes when it dies: what counts is on disk."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGKILL)
