"""Values of any kind as JSON, the same in prompts, exports and reports."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON, on one line without ``indent``; texts and the order of keys stay as they are.

    NaN and infinities become null, bytes base64, dates and times ISO 8601, decimals (never as 1E-7) and UUIDs
    their text.
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
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(_plain(name)): _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)
