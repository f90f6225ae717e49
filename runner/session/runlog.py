"""``run.log``: what a run's sessions said."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.disk import as_its_folder

log = logging.getLogger("rowmill")


@contextlib.contextmanager
def run_log(run_dir: Path) -> Iterator[None]:
    """Append this session's log to ``run.log``."""
    handler = _LogFile(run_dir / "run.log", encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """On a full disk the log ends; the run says why it does."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=as_its_folder)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the base class's name
        """Let it be."""
