"""``run.log``: what a run's sessions said."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.disk import as_its_folder
from runner.words import escaped, open_words

log = logging.getLogger("rowmill")


@contextlib.contextmanager
def run_log(run_dir: Path) -> Iterator[None]:
    """Append this session's log to ``run.log``. A log that cannot be written is told, and does not keep a run up."""
    try:
        handler = _LogFile(run_dir / "run.log", encoding="utf-8", errors="replace")
    except OSError as error:
        log.warning("this session has no log: %s", error)
        yield
        return
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _Escaped(logging.Formatter):
    """A message may hold what is in a cell, and somebody looks at the file in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(open_words(super().format(record)))


class _LogFile(logging.FileHandler):
    """A log that ends, after saying so, where its disk takes no more: the run says itself why it does."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=as_its_folder)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the base class's name
        """Write nothing more."""
        log.removeHandler(self)
        log.warning("run.log ends here: %s", sys.exc_info()[1])
