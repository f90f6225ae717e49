"""Arrow data checked before a cell is read: offsets and indices that lead outside of their buffers.

A file may claim that a text lies anywhere in memory; reading it then ends the process, or shows what lies there.
Whether the bytes make sense (UTF-8, times of a day) is left to who reads them: a cell that does not concerns its own
row only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from runner.types import UserError

Others = tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...]
_DECIMALS = (pa.types.is_decimal32, pa.types.is_decimal64, pa.types.is_decimal128, pa.types.is_decimal256)
_TEXTS = (
    (pa.types.is_string, pa.binary()),
    (pa.types.is_large_string, pa.large_binary()),
    (pa.types.is_string_view, pa.binary_view()),
)
_SAME_IN_PYTHON: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_date,
    lambda kind: any(test(kind) for test, _ in _TEXTS),
    lambda kind: any(kind == other for _, other in _TEXTS),
)
_CHECKED = (
    *_TEXTS,
    (pa.types.is_date64, pa.int64()),
    (pa.types.is_time32, pa.int32()),
    (pa.types.is_time64, pa.int64()),
    *((test, pa.binary(size)) for test, size in zip(_DECIMALS, (4, 8, 16, 32), strict=True)),
)
_PLAIN = (
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_binary_view, pa.binary()),
    (pa.types.is_null, pa.string()),
)


_AS_SHOWN = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}  # as Python has them; others are what they store


def _as_shown(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    cells = [None if cell is None else cell if pa.types.is_boolean(kind) else str(cell) for cell in column.to_pylist()]
    return pa.chunked_array([pa.array(cells, kind)])


def check_layout(table: pa.Table, where: str) -> None:
    """Raise UserError naming the first column that refers to what lies outside of its buffers."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = _other(column.type, _CHECKED)
        for chunk in column.chunks:
            try:
                chunk.validate()  # first: as another type its buffers are as long as it says itself
                pa.array(_As(chunk, kind)).validate(full=True)
            except (pa.ArrowException, IndexError, ValueError) as error:
                problem = str(error).partition("\n")[0]
                raise UserError(
                    "dataset.path", f"{where} is damaged: column {name!r} refers beyond what it holds: {problem}"
                ) from None


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as this type; texts are copied as they are, UTF-8 or not."""
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        as_bytes = pa.array(_As(column, _other(column.type, _TEXTS))).cast(_other(kind, _TEXTS))
        return pa.array(_As(as_bytes, kind))


def alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether a cell of one type and the same cell in the other are the same to Python; nulls are so in any type."""
    t = pa.types
    if one == other or t.is_null(one):
        return True
    if t.is_dictionary(one) or t.is_dictionary(other):
        kinds = [kind.value_type if t.is_dictionary(kind) else kind for kind in (one, other)]
        return alike(*kinds)
    if t.is_struct(one) and t.is_struct(other):
        return all(alike(field.type, other.field(field.name).type) for field in one)
    if t.is_nested(one) and t.is_nested(other) and one.num_fields == other.num_fields and one.id == other.id:
        return all(alike(one.field(at).type, other.field(at).type) for at in range(one.num_fields))
    if t.is_timestamp(one) and t.is_timestamp(other):
        return bool(one.tz == other.tz)
    return any(test(one) and test(other) for test in _SAME_IN_PYTHON)


def plain(table: pa.Table) -> pa.Table:
    """The table with ordinary types in place of those whose rows Arrow cannot take: views, runs, lists of nulls."""
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_run_end_encoded(kind):
            column = pa.chunked_array(map(_without_runs, table.column(at).chunks), kind.value_type)
        elif isinstance(kind, pa.BaseExtensionType) and kind.extension_name in _AS_SHOWN:
            column = _as_shown(table.column(at), _AS_SHOWN[kind.extension_name])
        elif not pa.types.is_null(kind) and (other := _other(kind, _PLAIN)) != kind and "view<" not in str(kind):
            column = pa.chunked_array([cast(chunk, other) for chunk in table.column(at).chunks], other)
        else:
            continue
        table = table.set_column(at, field.with_type(column.type), column)
    return table


def _without_runs(column: Any) -> pa.Array:
    """Each value as often as its run is long, whatever its type: Arrow itself can do so for some only."""
    import numpy as np

    places = np.arange(column.offset, column.offset + len(column))
    return column.values.take(pa.array(np.searchsorted(column.run_ends.to_numpy(), places, side="right")))


@dataclass(frozen=True)
class _As:
    """An array as one of another type with the same buffers, through Arrow's C data interface."""

    array: pa.Array
    type: pa.DataType

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        return self.type.__arrow_c_schema__(), self.array.__arrow_c_array__()[1]


def _other(kind: pa.DataType, others: Others) -> pa.DataType:
    """The type with ``others`` in place of those that pass their tests."""
    t = pa.types
    for test, other in others:
        if test(kind):
            return other
    if isinstance(kind, pa.BaseExtensionType):
        return _other(kind.storage_type, others)
    if t.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _other(kind.value_type, others), kind.ordered)
    if t.is_run_end_encoded(kind):
        return pa.run_end_encoded(kind.run_end_type, _other(kind.value_type, others))
    return _nested(kind, others) if t.is_nested(kind) else kind


def _nested(kind: pa.DataType, others: Others) -> pa.DataType:
    t = pa.types
    if t.is_map(kind):
        entries = [field.with_type(_other(field.type, others)) for field in (kind.key_field, kind.item_field)]
        return pa.map_(*entries, kind.keys_sorted)
    fields = [kind.field(at).with_type(_other(kind.field(at).type, others)) for at in range(kind.num_fields)]
    if t.is_struct(kind):
        return pa.struct(fields)
    if t.is_union(kind):
        return pa.union(fields, kind.mode, kind.type_codes)
    if t.is_fixed_size_list(kind):
        return pa.list_(fields[0], kind.list_size)
    makers = ((t.is_list, pa.list_), (t.is_large_list, pa.large_list), (t.is_list_view, pa.list_view))
    return next((make(fields[0]) for test, make in makers if test(kind)), None) or pa.large_list_view(fields[0])
