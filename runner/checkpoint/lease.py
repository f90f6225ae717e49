"""One writer for each run directory: the lease."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from runner.disk import as_its_folder, lock
from runner.disk.errors import NO_LOCKS, disk_errors
from runner.types import UserError

LOCK = "run.lock"
_NOBODY = {errno.ENOENT, errno.ENOTDIR, *NO_LOCKS}  # without locks, no run can be at work


class Lease:
    """The right to write in a run directory, held until ``release`` or the end of the process, however it ends.

    ``run.lock`` holds the pid for the message only. A child made by ``fork`` without ``exec`` shares the lease and
    would keep it alive.
    """

    def __init__(self, run_dir: Path) -> None:
        """Take the lease of an existing directory; UserError naming the holder's pid if another has it."""
        with disk_errors(run_dir):
            self._descriptor = as_its_folder(run_dir / LOCK, os.O_RDWR | os.O_CREAT)
            try:
                self._take(run_dir)
            except BaseException:
                self.release()
                raise

    def _take(self, run_dir: Path) -> None:
        if not _lock(self._descriptor):
            pid = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(f"{run_dir} is in use by process {pid}: wait for it, stop it, or use another run_name")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    @property
    def held(self) -> bool:
        """Whether ``release`` has not been called yet."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Give the lease back; the lock file stays, for unlinking it would let two holders in."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


class Held:
    """The files of a run at work, which nobody else may remove, replace or cut short."""

    def __init__(self, growing: Path, *others: Path) -> None:
        """``growing`` is never shortened by its writer, as SQLite's log may be."""
        self._growing, self._size = growing, 0
        self._places = {path: _placed(path)[0] for path in (growing, *others)}

    def lost(self) -> Path | None:
        """The first file that is no longer what it was."""
        for path, before in self._places.items():
            place, size = _placed(path)
            if place != before or (path is self._growing and size < self._size):
                return path
            if path is self._growing:
                self._size = size
        return None


def _placed(path: Path) -> tuple[tuple[int, int] | None, int]:
    """What lies at the path, as the system knows it, and its length."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


def _lock(descriptor: int) -> bool:
    # A few tries: ``holder`` below takes the lock for a microsecond to ask whether anyone has it.
    for _ in range(10):
        if lock(descriptor):
            return True
        time.sleep(0.02)
    return False


def holder(run_dir: Path) -> int | None:
    """The pid of the process that holds the lease of ``run_dir``, 0 if it is not known, None if nobody does."""
    try:
        with (run_dir / LOCK).open("rb") as file:
            return None if lock(file.fileno(), shared=True) else int(file.read(32) or 0)
    except OSError as error:
        if error.errno not in _NOBODY:
            raise
        return None


def fresh_dir(run_dir: Path) -> Path:
    """The first of ``name``, ``name-2``, ``name-3``... beside ``run_dir`` that does not exist; nothing is created."""
    count = 1
    path = run_dir
    while path.exists():
        count += 1
        path = run_dir.with_name(f"{run_dir.name}-{count}")
    return path
