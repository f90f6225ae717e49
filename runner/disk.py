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
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.types import UserError
from runner.words import AGAIN, MACHINE_TROUBLE, count_of, number_of

if TYPE_CHECKING:
    import pyarrow as pa

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR}
_RESUME = f"{AGAIN} to resume"
_AGAIN = f", but its folder can: the disk, a share or a quota may have refused it for a moment; {_RESUME}"
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES, errno.EPERM}
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_GARBLED = ("Could not decode to UTF-8", "malformed JSON")  # messages about flipped bits in a text
_SHOWN = 200  # characters of what is wrong
SYNC_SECONDS = 0.5  # the time that a sync itself takes comes on top


class DamagedError(Exception):
    """Stored data does not match its checksum."""


DISK_ERRORS = (sqlite3.Error, DamagedError, UnicodeDecodeError, json.JSONDecodeError, OSError)


class Written(NamedTuple):
    """A published file: its length in bytes and the hex SHA-256 of its content."""

    bytes: int
    sha256: str


def write_stream(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> Written:
    """Publish an Arrow IPC stream at ``path``, on the disk when this returns. The same rows give the same bytes."""
    import pyarrow as pa  # late: readers of a run do not need it

    with _published(path) as file:
        with pa.ipc.new_stream(file, schema) as stream:
            for rows in tables:
                stream.write_table(rows.combine_chunks())
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


def write_dataset(run_dir: Path, files: Sequence[tuple[str, str]], *, synced: bool) -> None:
    """Make ``run_dir`` loadable by ``datasets.load_from_disk``, with the rows of ``files`` (name, SHA-256) in order.

    The format is that of ``Dataset.save_to_disk``; the features follow from the Arrow schema.
    """
    keys = ("_format_columns", "_format_type", "_split")
    state: dict[str, Any] = dict.fromkeys(keys) | {"_format_kwargs": {}, "_output_all_columns": False}
    state["_data_files"] = [{"filename": name} for name, _ in files]
    state["_fingerprint"] = hashlib.sha256("".join(digest for _, digest in files).encode()).hexdigest()[:16]
    write_json(run_dir / "dataset_info.json", {}, synced=synced)
    write_json(run_dir / "state.json", state, synced=synced)


def write_json(path: Path, value: Any, *, synced: bool = False) -> None:
    """Publish ``value`` as JSON at ``path``."""
    write_text(path, json.dumps(value, indent=2) + "\n", synced=synced)


def write_text(path: Path, text: str, *, synced: bool = False) -> None:
    """Publish ``text`` at ``path``; what is not ``synced`` may be empty after a power cut."""
    with _published(path, synced=synced) as file:
        file.write(text.encode())


def write_together(contents: Mapping[Path, str]) -> None:
    """Make new text files and their folders: all of the files or, if one fails, none."""
    made = []
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            made.append(path)
            path.write_text(text, encoding="utf-8")
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def copy_file(source: Path, path: Path) -> None:
    """Publish a copy of ``source`` at ``path``, on the disk when this returns."""
    with _published(path) as file, source.open("rb") as content:
        shutil.copyfileobj(content, file, 1 << 20)


def as_its_folder(path: str | Path, flags: int) -> int:
    """``os.open`` for a new file that may be read by those who may look into its folder, and by nobody else."""
    return os.open(path, flags, 0o666 & Path(path).parent.stat().st_mode)


@contextlib.contextmanager
def _published(path: Path, *, synced: bool = True) -> Iterator[Any]:
    """A file that is written beside ``path`` and gets its name at the end; what fails leaves ``path`` untouched."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w+b", opener=as_its_folder) as file:
            yield file
        if synced:
            publish_file(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()  # a full disk gets its space back
        raise


def publish_file(temporary: Path, path: Path) -> None:
    """Rename a file. When this returns, content and name are on the disk; a power cut leaves the old one or the new."""
    with temporary.open("rb+") as file:
        sync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync(descriptor: int) -> None:
    """Flush a file to its disk, also out of the disk's cache where fsync alone does not (macOS)."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        with contextlib.suppress(OSError):  # a file system that lacks it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (renames, new files) to the disk, where the file system knows how to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that we may pass through, but not read
        return
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


class Syncer:
    """Keeps a file that grows on its disk: whatever ``wrote`` told of is there a second later.

    A thread does it, so that nobody waits for the disk.
    """

    def __init__(self, path: Path) -> None:
        """Sync an existing file of which this process is the only writer, and its name."""
        self._descriptor = os.open(path, os.O_RDWR)
        self._dirty = True
        self._error: OSError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(path.parent,), name="sync", daemon=True)
        self._thread.start()

    def wrote(self) -> None:
        """Something was written. Raises the OSError of a sync that failed since."""
        self._dirty = True
        if self._error is not None:
            raise self._error

    def sync(self) -> None:
        """Sync what was written before this call, if anything was."""
        if self._dirty:
            self._dirty = False
            sync(self._descriptor)

    def close(self) -> None:
        """Sync for the last time; may be repeated."""
        if self._descriptor >= 0:
            self._ended.set()
            self._thread.join()
            try:
                self.sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def _work(self, folder: Path) -> None:
        try:
            self.sync()
            sync_folder(folder)
            while not self._ended.wait(SYNC_SECONDS):
                self.sync()
        except OSError as error:
            self._error = error


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed; False, without waiting, if another process has the lock.

    The lock is the kernel's, so that a killed holder leaves nothing to clean up. Raises OSError (ENOLCK and its like)
    on a share that has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
