"""The standard input, or a named pipe, as a data set: kept in a file, as an interrupted run needs the rows again.

What is piped in goes into a file of the cache folder, of which the run directory gets a copy as soon as it exists. A
run that is resumed without a pipe reads that copy; what is piped in again must be the same, as any data set must.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from runner.cache import cache_dir, hold, remove_orphans
from runner.data.conf import STDIN
from runner.disk import copy_file
from runner.disk.errors import disk_errors
from runner.types import UserError

COPY = "stdin"  # the copy's name in the run directory

log = logging.getLogger("rowmill")


def is_pipe(path: str) -> bool:
    """Whether what lies there can be read only once: the standard input, or a named pipe."""
    return path == STDIN or Path(path).expanduser().is_fifo()


def spooled(run_dir: Path | None, path: str = STDIN) -> Path:
    """A file with all that is piped in now or, if nothing is, that was piped into the run of this directory.

    A named pipe is read only if the run has no copy yet: opening it waits for who writes. Raises UserError if there is
    neither.
    """
    copy = run_dir / COPY if run_dir is not None else None
    kept = copy is not None and copy.is_file()
    pipe = _standard_input() if path == STDIN else None if kept else Path(path).expanduser().open("rb")
    if pipe is not None:
        spool = _new_file()
        with spool.open("wb") as file:
            shutil.copyfileobj(pipe, file, 1 << 20)
        if spool.stat().st_size:
            return spool
    if copy is not None and kept:
        what = "the standard input is empty" if path == STDIN else f"{path} is a pipe"
        log.info("%s: reusing the rows that the earlier session kept in %s", what, copy)
        return copy
    raise UserError("dataset.path", "it reads the standard input, but nothing is piped in", value=path)


def _standard_input() -> Any:
    return None if sys.stdin is None or sys.stdin.isatty() else getattr(sys.stdin, "buffer", None)


def keep_copy(spool: Path, run_dir: Path, *, anew: bool = False) -> None:
    """Put the file into the run directory, where a later session finds it, ``anew`` or only once. Raises UserError."""
    copy = run_dir / COPY
    with disk_errors(run_dir):
        if not copy.exists() or (anew and not copy.samefile(spool)):
            copy_file(spool, copy)


def _new_file() -> Path:
    """A file in a folder of its own in the cache, deleted when the process ends or, after a kill, by the next one."""
    parent = cache_dir() / "stdin"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
        holder = hold(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the standard input to {parent}: {error}; set ROWMILL_CACHE to another folder"
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(holder.close)
    remove_orphans(parent)
    return folder / COPY
