"""What errors of disks, and of SQLite on them, mean: each a UserError that says what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runner.types import UserError
from runner.words import AGAIN, MACHINE_TROUBLE, number_of

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR}
_RESUME = f"{AGAIN} to resume"
_AGAIN = f", but its folder can: the disk, a share or a quota may have refused it for a moment; {_RESUME}"
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_GARBLED = ("Could not decode to UTF-8", "malformed JSON")  # messages about flipped bits in a text
_SHOWN = 200  # characters of what is wrong


class DamagedError(Exception):
    """Stored data does not match its checksum."""


DISK_ERRORS = (sqlite3.Error, DamagedError, UnicodeDecodeError, json.JSONDecodeError, OSError)


@contextlib.contextmanager
def disk_errors(run_dir: Path, doing: str = "written") -> Iterator[None]:
    """Let DISK_ERRORS inside come out as ``disk_error`` has them."""
    try:
        yield
    except DISK_ERRORS as error:
        raise disk_error(run_dir, error, doing) from error


def disk_error(run_dir: Path, error: Exception, doing: str = "written") -> Exception:
    """An error of the disk or SQLite as a UserError: a full or failing disk exits with 3, the rest with 2.

    ``doing``: what was tried, ``written`` or ``read``. Programming errors (a row recorded twice, SQL that is wrong)
    come back as they are.
    """
    if isinstance(error, sqlite3.Error):
        return _database_error(run_dir, error, doing)
    if isinstance(error, OSError):
        return _file_error(run_dir, error, doing)
    return damaged(run_dir, str(error)[:_SHOWN])


def damaged(run_dir: Path, why: str) -> UserError:
    """The error for a checkpoint that cannot be trusted."""
    return UserError(
        f"{run_dir / 'run.db'} is damaged ({why}): `rowmill repair {run_dir}` keeps whatever is intact in it and "
        "in the shards; or use another run_name"
    )


def suspected(run_dir: Path, why: str) -> UserError:
    """The error for a checkpoint that SQLite calls damaged, as it does when the disk could not be read, too."""
    path = run_dir / "run.db"
    path = path if path.exists() else path.with_name("run.db.tmp")
    try:
        _read_through(path)
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as again:
            if again.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return UserError(f"{path} could not be read at first ({why}), but now: {_RESUME}", exit_code=3)
    except sqlite3.Error:
        pass
    except OSError as error:
        return _file_error(run_dir, error, "read")
    return damaged(run_dir, why)


def _database_error(run_dir: Path, error: sqlite3.Error, doing: str) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    path = run_dir / "run.db"
    if code == sqlite3.SQLITE_FULL:
        return _file_error(run_dir, OSError(errno.ENOSPC, str(error)), doing)
    if code in _CORRUPT:
        return suspected(run_dir, str(error)[:_SHOWN])
    if any(what in str(error) for what in _GARBLED):
        return damaged(run_dir, str(error)[:_SHOWN])
    if code in _REFUSED:
        if (found := _refusal(run_dir, doing)) is not None:
            return _file_error(run_dir, found, doing)
        return UserError(f"{path} could not be {doing} ({error}; {_free(run_dir)}){_AGAIN}", exit_code=3)
    if code == sqlite3.SQLITE_BUSY:
        return UserError(f"{path} is locked by another program: close it, then run again")
    return error


def _refusal(run_dir: Path, doing: str) -> OSError | None:
    """What the system says to us about the checkpoint and its folder. SQLite keeps that to itself."""
    right = os.R_OK if doing == "read" else os.R_OK | os.W_OK
    try:
        next(run_dir.iterdir(), None)
        for path in filter(Path.exists, (run_dir / "run.db", run_dir / "run.db.tmp")):
            if not os.access(path, right):
                return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            _read_through(path)
        if doing != "read":
            with tempfile.TemporaryFile(dir=run_dir) as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _read_through(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _file_error(run_dir: Path, error: OSError, doing: str) -> UserError:
    if (trouble := machine_trouble(error, _free(run_dir))) is not None:
        return UserError(f"{run_dir} cannot be {doing}: {trouble}", exit_code=3)
    if error.errno in NO_LOCKS:
        text = f"{run_dir} lies on a file system without locks ({error}): choose another output.dir"
        return UserError(text, exit_code=2)
    if error.errno in _FORBIDDEN | _NO_PLACE:
        remedy = "check the folder's permissions" if doing == "read" else "choose another output.dir"
        return UserError(f"{run_dir} cannot be {doing} ({error}): {remedy}", exit_code=2)
    return UserError(f"{run_dir} cannot be {doing} ({error}): {_RESUME}", exit_code=3)


def machine_trouble(error: OSError, known: str | None = None) -> str | None:
    """What is wrong with the machine, and what to do, if that is why a file cannot be used; ``known`` goes along."""
    if (number := number_of(error)) not in MACHINE_TROUBLE:
        return None
    why, remedy = MACHINE_TROUBLE[number]
    told = f"{error}; {known}" if known else str(error)
    return f"{why} ({told}): {remedy}, then {_RESUME}"


def _free(run_dir: Path) -> str:
    try:
        return f"{shutil.disk_usage(run_dir).free / 2**20:.0f} MiB free"
    except OSError:
        return "free space unknown"
