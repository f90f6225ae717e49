"""Files that appear whole or not at all, and errors of disks, and of SQLite on them, as UserErrors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.types import UserError
from runner.words import count_of

if TYPE_CHECKING:
    import pyarrow as pa

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_GARBLED = ("Could not decode to UTF-8", "malformed JSON")  # messages about flipped bits in a text
_SHOWN = 200  # characters of what is wrong


class DamagedError(Exception):
    """Stored data does not match its checksum."""


class Written(NamedTuple):
    """A published file: its length in bytes and the hex SHA-256 of its content."""

    bytes: int
    sha256: str


def write_stream(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, power: bool) -> Written:
    """Publish an Arrow IPC stream at ``path``: written beside it, synced, renamed. The same rows give the same bytes.

    With ``power`` the rename, too, is on the disk when this returns. What fails half-way leaves ``path`` untouched.
    """
    import pyarrow as pa  # late: readers of a run do not need it

    with _published(path, power=power) as file:
        with pa.ipc.new_stream(file, schema) as stream:
            for rows in tables:
                stream.write_table(rows.combine_chunks())
        file.flush()
        sync(file.fileno(), power=power)
        file.seek(0)
        written = Written(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return written


def damage(path: Path, size: int, sha256: str) -> str | None:
    """How a published file differs from what was written; None if it does not. Reads it at 0.5 to 2 GB/s."""
    if not path.is_file():
        return f"{path} is missing"
    if (found := path.stat().st_size) != size:
        return f"{path} has {count_of(found, 'byte')} instead of {size:,}"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return None if same else f"{path} has changed since it was written"


def write_dataset(run_dir: Path, files: Sequence[tuple[str, str]], *, power: bool) -> None:
    """Make ``run_dir`` loadable by ``datasets.load_from_disk``, with the rows of ``files`` (name, SHA-256) in order.

    The format is that of ``Dataset.save_to_disk``; the features follow from the Arrow schema.
    """
    keys = ("_format_columns", "_format_type", "_split")
    state: dict[str, Any] = dict.fromkeys(keys) | {"_format_kwargs": {}, "_output_all_columns": False}
    state["_data_files"] = [{"filename": name} for name, _ in files]
    state["_fingerprint"] = hashlib.sha256("".join(digest for _, digest in files).encode()).hexdigest()[:16]
    write_json(run_dir / "dataset_info.json", {}, power=power)
    write_json(run_dir / "state.json", state, power=power)


def write_json(path: Path, value: Any, *, power: bool) -> None:
    """Publish ``value`` as JSON at ``path`` by rename."""
    write_text(path, json.dumps(value, indent=2) + "\n", power=power)


def write_text(path: Path, text: str, *, power: bool) -> None:
    """Publish ``text`` at ``path`` by rename."""
    with _published(path, power=power) as file:
        file.write(text.encode())
        file.flush()
        if power:
            sync(file.fileno(), power=True)


def copy_file(source: Path, path: Path, *, power: bool) -> None:
    """Publish a copy of ``source`` at ``path`` by rename."""
    with _published(path, power=power) as file:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        sync(file.fileno(), power=power)


@contextlib.contextmanager
def _published(path: Path, *, power: bool) -> Iterator[Any]:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()  # a full disk gets its space back
        raise
    if power:
        sync_folder(path.parent)


def sync(descriptor: int, *, power: bool) -> None:
    """Flush a file to its disk; with ``power`` also out of the disk's cache where fsync alone does not (macOS)."""
    if power and hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (renames, new files) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(run_dir: Path, doing: str = "written") -> Iterator[None]:
    """Turn errors of the disk or SQLite into a UserError: a full or failing disk exits with 3, the rest with 2.

    ``doing``: what was tried, ``written`` or ``read``. Programming errors (a row recorded twice, SQL that is wrong)
    pass through.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _database_error(run_dir, error, doing) from error
    except (DamagedError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(run_dir, str(error)[:_SHOWN]) from error
    except OSError as error:
        raise _file_error(run_dir, error, doing) from error


def damaged(run_dir: Path, why: str) -> UserError:
    """The error for a checkpoint that cannot be trusted."""
    return UserError(
        f"{run_dir / 'run.db'} is damaged ({why}): `rowmill repair {run_dir}` keeps whatever is intact in it and "
        "in the shards; or use another run_name"
    )


def _database_error(run_dir: Path, error: sqlite3.Error, doing: str) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    path = run_dir / "run.db"
    if code == sqlite3.SQLITE_FULL:
        return _no_space(run_dir)
    if code in _CORRUPT or any(what in str(error) for what in _GARBLED):
        return damaged(run_dir, str(error)[:_SHOWN])
    if code in _UNWRITABLE:
        return UserError(f"{path} cannot be {doing} ({error}): check the folder's permissions")
    if code == sqlite3.SQLITE_IOERR:
        return UserError(
            f"{path}: the disk is failing ({error}; {_free(run_dir)}): what was committed is safe", exit_code=3
        )
    if code == sqlite3.SQLITE_BUSY:
        return UserError(f"{path} is locked by another program: close it, then run again")
    return error


def _file_error(run_dir: Path, error: OSError, doing: str) -> Exception:
    if error.errno in _NO_SPACE:
        return _no_space(run_dir)
    if error.errno in _FORBIDDEN | _NO_PLACE:
        remedy = "check the folder's permissions" if doing == "read" else "choose another output.dir"
        return UserError(f"{run_dir} cannot be {doing} ({error}): {remedy}")
    if error.errno == errno.EIO:
        return UserError(f"{run_dir}: the disk is failing ({error}): what was committed is safe", exit_code=3)
    return error


def _no_space(run_dir: Path) -> UserError:
    return UserError(
        f"the disk of {run_dir} is full ({_free(run_dir)}): make room, then run the same command again to resume",
        exit_code=3,
    )


def _free(run_dir: Path) -> str:
    try:
        return f"{shutil.disk_usage(run_dir).free / 2**20:.0f} MiB free"
    except OSError:
        return "free space unknown"
