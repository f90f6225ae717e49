"""Files that appear whole or not at all: written beside their place, synced, renamed. Part of the store."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa


class Written(NamedTuple):
    """A published file: its length in bytes and the hex SHA-256 of its content."""

    bytes: int
    sha256: str


def write_stream(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, power: bool) -> Written:
    """Publish an Arrow IPC stream at ``path``: written beside it, synced, renamed. The same rows give the same bytes.

    With ``power`` the rename, too, is on the disk when this returns. What fails half-way leaves ``path`` untouched.
    """
    import pyarrow as pa  # late: whoever only looks at a run needs none of it

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
    """What has happened to a published file since; None if it is as it was. Reads all of it, at 0.5 to 2 GB/s."""
    if not path.is_file():
        return f"{path} is missing"
    if (found := path.stat().st_size) != size:
        return f"{path} has {found} bytes instead of {size}"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return None if same else f"{path} has another content than it was written with"


def write_dataset(run_dir: Path, files: Sequence[tuple[str, str]], *, power: bool) -> None:
    """Make ``run_dir`` loadable by ``datasets.load_from_disk``, with the rows of ``files`` (name, SHA-256) in order.

    The format is that of ``Dataset.save_to_disk``; the features are left to be read from the Arrow schema.
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
    """Put a folder's entries (renames, new files) on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
