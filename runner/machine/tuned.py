"""What ``rowmill tune`` found for models of one shape on this machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from runner import cache
from runner.disk.errors import disk_errors
from runner.machine.facts import package_version

_NAMES = ("_name_or_path", "transformers_version", "architectures")  # in a config.json, whatever the shape


class Tuned(NamedTuple):
    """Sequences at once to begin with, prompt tokens in a step, operations and megabytes of a Metal command buffer;
    None: as usual.
    """

    batch_size: int | None = None
    prefill_tokens: int | None = None
    buffers: tuple[int, int] | None = None

    @classmethod
    def of(cls, kind: str, machine: str, config: Mapping[str, Any]) -> Tuned:
        """What was kept for a device and a model's config.json."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found = record(kind, machine, config)["chosen"]
            buffers = found.get("buffers")
            pair = (int(buffers[0]), int(buffers[1])) if buffers else None
            return cls(_whole(found.get("batch_size")), _whole(found.get("prefill_tokens")), pair)
        return USUAL

    def said(self) -> str:
        """For people; "" where nothing is other than usual."""
        parts = [
            self.batch_size and f"batches begin with {self.batch_size} sequences",
            self.prefill_tokens and f"up to {self.prefill_tokens:,} prompt tokens a step",
            self.buffers and f"command buffers of {self.buffers[0]:,} operations and {self.buffers[1]:,} MB",
        ]
        return ", ".join(part for part in parts if part)


USUAL = Tuned()


def record(kind: str, machine: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rowmill tune`` has measured (``measured``) and chosen (``chosen``) for a device (see ``Device.place``) and
    a configuration (see ``EngineConf.costly``); {} if nothing was kept.
    """
    return cache.remembered(_key(kind, machine, config)) or {}


def keep(kind: str, machine: str, config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """``found`` becomes the ``record``. UserError where it cannot be written."""
    with disk_errors(cache.cache_dir()):
        cache.keep(_key(kind, machine, config), found)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _key(kind: str, machine: str, config: Mapping[str, Any]) -> object:
    shape = {name: value for name, value in config.items() if name not in _NAMES}
    versions = package_version("mlx"), package_version("rowmill")
    return "tuned in turns", kind, machine, versions, json.dumps(shape, sort_keys=True, default=str)
