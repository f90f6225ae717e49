"""Tables with the flat cells that CSV and SQLite can hold."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.data.cells import shown
from runner.data.columns import free_name
from runner.plain import to_json

# How cells begin that Excel, LibreOffice or Google Sheets compute, full-width signs (in East Asia) and unseen ones too.
_FORMULA = "^[\\s\\x00\u00a0\u200b\u3000\ufeff]*[=+\\-@\\t\\r|%\uff1d\uff0b\uff0d\uff20]"


def flat(table: pa.Table, whole: Sequence[str] = ()) -> pa.Table:
    """The table with a column for each part of a struct, such as usage_prompt_tokens, and lists as JSON text.

    The columns named in ``whole`` become JSON text as they are.
    """
    for name in whole:
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.chunked_array([_cells(table.column(at))]))
    while any(_has_parts(column.type) for column in table.schema):
        table = _unfolded(table)
    columns = [_cells(column) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def inert(table: pa.Table) -> pa.Table:
    """A flat table with an apostrophe before all texts, names of columns too, that a spreadsheet would compute."""
    texts = [at for at, column in enumerate(table.columns) if pa.types.is_string(column.type)]
    for at in texts:
        column = table.column(at)
        quoted = pc.binary_join_element_wise(pa.scalar("'"), column, "")
        changed = pc.if_else(pc.match_substring_regex(column, _FORMULA), quoted, column)
        table = table.set_column(at, table.column_names[at], changed)
    return table.rename_columns([f"'{name}" if re.match(_FORMULA, name) else name for name in table.column_names])


def too_wide(schema: pa.Schema, most: int) -> list[str]:
    """The structs, the widest first, that must stay whole for ``flat`` to make at most so many columns."""
    widths = {field.name: _width(field.type) for field in schema}
    structs = [field.name for field in schema if widths[field.name] > 1]
    whole: list[str] = []
    for name in sorted(structs, key=lambda name: -widths[name]):
        if sum(widths.values()) <= most:
            break
        whole.append(name)
        widths[name] = 1
    return whole


def _width(kind: pa.DataType) -> int:
    return sum(_width(part.type) for part in kind) if _has_parts(kind) else 1


def _has_parts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.num_fields)


def _unfolded(table: pa.Table) -> pa.Table:
    columns, names = [], []
    taken = set(table.column_names)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not _has_parts(column.type):
            columns.append(column)
            names.append(name)
            continue
        for part, values in zip(column.type, pa.table({name: column}).flatten().columns, strict=True):
            columns.append(values)
            names.append(free_name(f"{name}_{part.name}", taken))
            taken.add(names[-1])
    return pa.Table.from_arrays(columns, names=names)


def _cells(column: pa.ChunkedArray) -> Any:
    kind, t = column.type, pa.types
    if t.is_nested(kind) or t.is_interval(kind) or t.is_duration(kind) or _is_bytes(kind):
        return pa.array([None if value is None else _text(value) for value in shown(column)], pa.string())
    if t.is_null(kind) or t.is_dictionary(kind) or t.is_string_view(kind):
        return _as_text(column)
    return _as_text(column) if t.is_timestamp(kind) and not _is_known(kind) else _valid(column)


def _is_bytes(kind: pa.DataType) -> bool:
    t = pa.types
    return any(is_it(kind) for is_it in (t.is_binary, t.is_large_binary, t.is_fixed_size_binary, t.is_binary_view))


def _is_known(kind: pa.DataType) -> bool:
    """Whether there is such a time zone."""
    try:
        return bool(pa.scalar(0, kind).cast(pa.string()))
    except pa.ArrowInvalid:
        return False


def _as_text(column: pa.ChunkedArray) -> Any:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if value is None else str(value) for value in shown(column)], pa.string())


def _valid(column: pa.ChunkedArray) -> Any:
    """The column, its texts as UTF-8."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array(shown(column), column.type)
    return column


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    found = to_json(value)
    return str(json.loads(found)) if found.startswith('"') else found  # intervals and durations are texts in JSON
