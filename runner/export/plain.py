"""Values of any Arrow type as JSON, and as the flat cells that CSV and SQLite can hold."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pyarrow as pa


def to_json(value: Any) -> str:
    """One line of valid JSON. NaN and infinities become null, bytes base64, dates and times ISO 8601."""
    try:
        return _STRICT(value)
    except ValueError:  # a number that JSON does not have
        return _STRICT(_finite(value))


def flat(table: pa.Table) -> pa.Table:
    """The table with a column for each part of a struct, such as usage_prompt_tokens, and lists as JSON text."""
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = _unfolded(table)
    columns = [_cells(column) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _unfolded(table: pa.Table) -> pa.Table:
    columns, names = [], []
    taken = set(table.column_names)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not pa.types.is_struct(column.type):
            columns.append(column)
            names.append(name)
            continue
        for part, values in zip(column.type, pa.table({name: column}).flatten().columns, strict=True):
            new = f"{name}_{part.name}"
            while new in taken:
                new += "_"
            taken.add(new)
            columns.append(values)
            names.append(new)
    return pa.Table.from_arrays(columns, names=names)


def _cells(column: pa.ChunkedArray) -> Any:
    kind = column.type
    t = pa.types
    if t.is_nested(kind) or t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        return pa.array([None if value is None else _text(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string()) if t.is_null(kind) or t.is_dictionary(kind) else column


def _text(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else to_json(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).encode
