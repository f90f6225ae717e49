"""Bytes on their way, fetched or converted: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import AGAIN, size

LINE_SECONDS = 60.0
SPARE_DISK_BYTES = 200 << 20
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


def check_room(folder: Path, needed: int) -> None:
    """UserError, with exit code 3, where a converted model of so many bytes does not fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_DISK_BYTES:
        have = f"only {size(free)} are free: make room, then {AGAIN}"
        raise UserError(f"{folder}: the converted model takes {size(needed)}, but {have}", exit_code=EXIT_CANNOT_RUN)


def save_tensors(path: Path, arrays: dict[str, Any]) -> None:
    """Write a safetensors file. UserError, with exit code 3, where the disk does not take it: MLX does not say why."""
    import mlx.core as mx

    try:
        mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    except RuntimeError as error:
        have = f"is the disk full ({size(shutil.disk_usage(path.parent).free)} free)? Make room, then {AGAIN}"
        place = next(folder for folder in path.parents if ".part-" not in str(folder))
        text = f"{place}: {path.name} cannot be written ({error}): {have}"
        raise UserError(text, exit_code=EXIT_CANNOT_RUN) from error
