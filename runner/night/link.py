"""What connects a worker to the supervisor that started it: how it reports, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any, ClassVar

from runner.checkpoint.deaths import Death

EXIT_CRASHED, EXIT_NO_MEMORY = 70, 71  # of a worker whose exception nobody caught
# What MLX, Metal, CUDA and the C++ library say when memory runs out.
NO_MEMORY = re.compile(
    r"insufficient memory|unable to allocate|out of memory|OutOfMemory|bad_alloc|attempting to allocate|MemoryError",
    re.IGNORECASE,
)


class Link:
    """A worker's side: what it is told at its start, and a pipe for what it reports.

    ``death``: how the worker before it ended. ``began``: when the first of them was started, in monotonic seconds.
    """

    current: ClassVar[Link | None] = None

    def __init__(self, reports: int, began: float, death: Death | None) -> None:
        self._reports, self.began, self.death = reports, began, death

    def report(self, **facts: Any) -> None:
        """Tell the supervisor; it may be gone."""
        with contextlib.suppress(OSError):
            os.write(self._reports, json.dumps(facts).encode() + b"\n")
