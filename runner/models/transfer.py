"""Bytes on their way, fetched or converted: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

from runner.words import size

LINE_SECONDS = 60.0
log = logging.getLogger("rowmill")


class Bar(tqdm):  # type: ignore[type-arg]
    """Takes what tqdm takes."""

    def __init__(self, *given: Any, **options: Any) -> None:
        options |= {"unit": "B", "unit_scale": True, "leave": False, "disable": not sys.stderr.isatty()}
        super().__init__(*given, **options)
        self._what, self._whole = options.get("desc") or "", options.get("total")
        self._done, self._told = options.get("initial") or 0, time.monotonic()

    def update(self, n: float | None = 1) -> bool | None:
        """So many more bytes."""
        self._done += n or 0
        if self.disable and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            whole = f" of {size(int(self._whole))}" if self._whole else ""
            log.info("%s: %s%s", self._what, size(int(self._done)), whole)
        return super().update(n)
