"""Files that appear whole or not at all, on the disk when they say so; locks.

Modules:
errors  What errors of disks, and of SQLite on them, mean: each a UserError that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.words import count_of

if TYPE_CHECKING:
    import pyarrow as pa

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES, errno.EPERM}
SYNC_SECONDS = 0.5  # the time that a sync itself takes comes on top


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
    return None if file_sha256(path) == sha256 else f"{path} has changed since it was written"


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
