"""The cache folder; what appears in it appears by rename: whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from runner.disk import file_sha256, lock, sync, sync_folder, write_text

_PART, _LOCK = ".part-", "lock"  # a temporary folder, and the file in it that its process holds
_TICK_S = 2.0  # the coarsest clock of a file system


def cache_dir() -> Path:
    """Where fetched wheels and converted models are kept: ``ROWMILL_CACHE``, else under the user's cache directory."""
    if chosen := os.environ.get("ROWMILL_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rowmill"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowmill"


def remembered(key: object) -> dict[str, Any] | None:
    """What was measured on this machine and kept under this key; None: nothing, or a damaged file."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads(_measured(key).read_text()))
    return None


def remember(key: object, found: Mapping[str, Any]) -> None:
    """Keep what was measured; where the disk does not let it, it is measured again another time."""
    with contextlib.suppress(OSError):
        keep(key, found)


def keep(key: object, found: Mapping[str, Any]) -> None:
    """The same, but raises OSError where the disk does not let it."""
    _measured(key).parent.mkdir(parents=True, exist_ok=True)
    write_text(_measured(key), json.dumps(found))


def _measured(key: object) -> Path:
    return cache_dir() / "costs" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def publish(folder: Path, build: Callable[[Path], None]) -> None:
    """Let ``build`` fill a temporary folder, then make it ``folder``, unless another process was faster.

    When this returns, the folder is on the disk; a power cut leaves all of it or nothing. What a killed process left
    is deleted first, so that there is room for it again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(folder.parent)
    with (
        tempfile.TemporaryDirectory(prefix=_PART, dir=folder.parent, ignore_cleanup_errors=True) as temporary,
        hold(Path(temporary)),
    ):
        built = Path(temporary) / folder.name
        built.mkdir()
        build(built)
        sync_below(built)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    sync_folder(folder.parent)


def hold(part: Path) -> BinaryIO:
    """Let others see that a process works in this temporary folder, until the file is closed."""
    new = part / "lock.new"
    file = new.open("wb")
    with contextlib.suppress(OSError):  # a share without locks
        lock(file.fileno())
        new.rename(part / _LOCK)
    return file


def sync_below(folder: Path) -> None:
    """Flush a folder, the names in it and the files' contents to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb+") as file:
                sync(file.fileno())


def remove_orphans(folder: Path) -> None:
    """Delete the temporary folders of killed processes: those that nobody holds, without a lock those of a day ago."""
    oldest = folder.stat().st_mtime - 86400
    for path in folder.glob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            if _is_free(path / _LOCK) if (path / _LOCK).exists() else path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _is_free(file: Path) -> bool:
    with file.open("rb") as opened:
        return lock(opened.fileno())


def kept_sha256(path: Path) -> str:
    """``file_sha256``, remembered for a file of many gigabytes, until anything has been written to it."""
    key = _state(path)
    if (known := remembered(key)) is not None and "sha256" in known:
        return str(known["sha256"])
    found = file_sha256(path)
    # What was written just now may be written again within the same tick of the file system's clock.
    if time.time() - max(path.stat().st_mtime, path.stat().st_ctime) > _TICK_S and key == _state(path):
        remember(key, {"sha256": found})
    return found


def _state(path: Path) -> tuple[object, ...]:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
