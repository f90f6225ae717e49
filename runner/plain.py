"""Values of any kind as JSON, the same in prompts, exports and reports."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

_DAY = 86_400 * 10**9  # nanoseconds


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON, on one line without ``indent``; texts and the order of keys stay as they are.

    NaN and infinities become null, bytes base64, dates, times and durations ISO 8601, decimals (never as 1E-7)
    and UUIDs their text.
    """
    try:
        return _encoder(indent).encode(value)
    except (ValueError, TypeError):  # a number or a key that JSON does not have
        return _encoder(indent).encode(_finite(value))


def _encoder(indent: int | None) -> json.JSONEncoder:
    return (
        _LINE
        if indent is None
        else json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _finite(value.tolist())
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, timedelta):
        return duration_text(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def duration_text(value: timedelta) -> str:
    """A duration as ISO 8601 has it: P1DT2H3M4.5S."""
    nanoseconds = value // timedelta(microseconds=1) * 1000 + getattr(value, "nanoseconds", 0)  # which pandas has
    days, rest = divmod(abs(nanoseconds), _DAY)
    text = (f"{days}D" if days else "") + _clock(rest)
    return f"{'-' if nanoseconds < 0 else ''}P{text or 'T0S'}"


def interval_text(months: int, days: int, nanoseconds: int) -> str:
    """An interval of the calendar as ISO 8601 has it, each part with a sign of its own: P14M-3DT4H."""
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    text = date + _clock(abs(nanoseconds), "-" if nanoseconds < 0 else "")
    return f"P{text or 'T0S'}"


def _clock(nanoseconds: int, sign: str = "") -> str:
    seconds, fraction = divmod(nanoseconds, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    second = f"{seconds}.{fraction:09}".rstrip("0").rstrip(".")
    parts = [
        f"{sign}{part}{unit}" for part, unit in ((str(hours), "H"), (str(minutes), "M"), (second, "S")) if part != "0"
    ]
    return "T" + "".join(parts) if parts else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(_plain(name)): _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)
