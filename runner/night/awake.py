"""The machine is kept awake while a run works; the display may sleep."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from types import TracebackType


class Awake:
    """Holds off sleep until ``release``, or the end of this process, however it ends.

    macOS: ``caffeinate -i -w PID``. Linux: ``systemd-inhibit`` around a ``tail`` that ends with this process. Where
    neither is available, nothing is held off.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._command = _command(os.getpid()) if wanted else None
        self._holder: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Begin; may be repeated."""
        if self._command and self._holder is None:
            silent = subprocess.DEVNULL
            with contextlib.suppress(OSError):
                self._holder = subprocess.Popen(
                    self._command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True
                )

    def release(self) -> None:
        """Let the machine sleep when it wants to; may be repeated."""
        if self._holder is not None:
            with contextlib.suppress(ProcessLookupError):
                self._holder.terminate()
            self._holder.wait()
            self._holder = None

    def __enter__(self) -> Awake:
        self.hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def _command(pid: int) -> list[str] | None:
    if sys.platform == "darwin":
        return ["caffeinate", "-i", "-w", str(pid)]
    if shutil.which("systemd-inhibit") is None:
        return None
    inhibit = ["systemd-inhibit", "--what=idle:sleep", "--who=rowmill", "--why=a run is at work", "--mode=block"]
    return [*inhibit, "tail", f"--pid={pid}", "-f", "/dev/null"]
