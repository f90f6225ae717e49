"""What values a configuration key takes, said where the key is declared."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from runner.types import UserError


def key(default: Any, *, least: float | None = None, most: float | None = None, among: tuple[Any, ...] = ()) -> Any:
    """A dataclass field with bounds, or the values it can have (null beside them if that is the default)."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "among": among})


def check_keys(conf: Any, prefix: str = "") -> None:
    """Hold every value of a configuration tree against its ``key``. Raises UserError that names the key."""
    for field in dataclasses.fields(conf):
        name, value = prefix + field.name, getattr(conf, field.name)
        if dataclasses.is_dataclass(value):
            check_keys(value, f"{name}.")
        elif value is not None:
            _check(name, value, **field.metadata)


def _check(
    name: str, value: Any, least: float | None = None, most: float | None = None, among: tuple[Any, ...] = ()
) -> None:
    if among and value not in among:
        raise UserError(f"{name}={value}: it can be {', '.join(map(str, among))}")
    if least is not None and not value >= least:
        raise UserError(f"{name}={value}: it must be at least {least}")
    if most is not None and not value <= most:
        raise UserError(f"{name}={value}: it must be at most {most}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={value}: it must be a finite number")
