"""One writer for each run directory: the lease, and what the machine's refusals mean to the user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from runner.types import UserError

LOCK = "run.lock"
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


_GARBLED = ("Could not decode to UTF-8", "malformed JSON")  # said of flipped bits in a text
_SHOWN = 200  # characters of what is wrong


class DamagedError(Exception):
    """A checksum does not hold."""


class Lease:
    """The right to write in a run directory, held until ``release`` or the end of the process, however it ends.

    The lock is the kernel's (``flock``), so a killed holder leaves nothing to clean up; ``run.lock`` holds the pid for
    the message only. A child made by ``fork`` without ``exec`` shares the lease and would keep it alive.
    """

    def __init__(self, run_dir: Path) -> None:
        """Take the lease of an existing directory; UserError naming the holder's pid if another has it."""
        self._descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(self._descriptor):
            pid = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise UserError(
                f"{run_dir} is in use by process {pid or 'unknown'}: wait for it, stop it, or use another run_name"
            )
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    @property
    def held(self) -> bool:
        """Whether ``release`` has not been called yet."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Give the lease back; the lock file stays, for unlinking it would let two holders in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _lock(descriptor: int) -> bool:
    # A few tries: ``holder`` below takes the lock for a microsecond to ask whether anyone has it.
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def holder(run_dir: Path) -> int | None:
    """The pid of the process that holds the lease of ``run_dir``, 0 if it is not known, None if nobody does."""
    try:
        with (run_dir / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32) or 0)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return None


def fresh_dir(run_dir: Path) -> Path:
    """The first of ``name``, ``name-2``, ``name-3``... beside ``run_dir`` that does not exist; nothing is created."""
    count = 1
    path = run_dir
    while path.exists():
        count += 1
        path = run_dir.with_name(f"{run_dir.name}-{count}")
    return path


@contextlib.contextmanager
def disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn what the disk or SQLite refuses into a UserError: no space and failing disks exit with 3, the rest with 2.

    Programming errors (a row recorded twice, SQL that is wrong) pass through.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _database_error(run_dir, error) from error
    except (DamagedError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(run_dir, str(error)[:_SHOWN]) from error
    except OSError as error:
        raise _file_error(run_dir, error) from error


def damaged(run_dir: Path, why: str) -> UserError:
    """What to say of a checkpoint that cannot be trusted."""
    return UserError(
        f"{run_dir / 'run.db'} is damaged ({why}): `rowmill repair {run_dir}` keeps what is sound of it and of the "
        "shards; or use another run_name"
    )


def _database_error(run_dir: Path, error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    path = run_dir / "run.db"
    if code == sqlite3.SQLITE_FULL:
        return _no_space(run_dir)
    if code in _CORRUPT or any(what in str(error) for what in _GARBLED):
        return damaged(run_dir, str(error)[:_SHOWN])
    if code in _UNWRITABLE:
        return UserError(f"{path} cannot be opened for writing ({error}): check the folder's permissions")
    if code == sqlite3.SQLITE_IOERR:
        return UserError(f"{path}: the disk fails ({error}; {_free(run_dir)}): what was committed is safe", 3)
    if code == sqlite3.SQLITE_BUSY:
        return UserError(f"{path} is locked by another program: close it, then run again")
    return error


def _file_error(run_dir: Path, error: OSError) -> Exception:
    if error.errno in _NO_SPACE:
        return _no_space(run_dir)
    if error.errno in _FORBIDDEN | _NO_PLACE:
        return UserError(f"{run_dir} cannot be written ({error}): choose another output.dir")
    if error.errno == errno.EIO:
        return UserError(f"{run_dir}: the disk fails ({error}): what was committed is safe", 3)
    return error


def _no_space(run_dir: Path) -> UserError:
    return UserError(
        f"the disk of {run_dir} is full ({_free(run_dir)}): make room, then run the same line to resume", 3
    )


def _free(run_dir: Path) -> str:
    try:
        return f"{shutil.disk_usage(run_dir).free / 2**20:.0f} MiB free"
    except OSError:
        return "free space unknown"
