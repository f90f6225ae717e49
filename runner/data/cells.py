"""Cells as Python values, those that Python cannot hold included.

Arrow holds more than Python objects can: dates beyond the year 9999, time zones that nobody knows, nanoseconds of a
day, texts whose bytes are no UTF-8. Such a cell, or such a part of a list or a struct, becomes an ``UnreadableCell``,
which concerns nobody who does not use it; every other cell of its column stays what it is.

A fraction of 16 or 32 bits is the shortest one that these bits stand for: 0.1, where Python has 0.10000000149011612.
An interval of months, days and nanoseconds, for which Python has nothing, is its text in ISO 8601.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from runner.plain import interval_text
from runner.types import RowError

Instead = Callable[[pa.Scalar, str], Any]  # what stands for a cell that cannot be read, and why it cannot


def _fail(cell: UnreadableCell, *_: object, **__: object) -> Any:
    raise RowError("unreadable", cell.why)


class UnreadableCell:
    """A cell that Python cannot hold: whoever uses it gets a RowError, which says ``why``."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python and Jinja look for in any value
            raise AttributeError(name)
        return _fail(self)

    __str__ = __repr__ = __format__ = __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__ = _fail
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __int__ = __float__ = __index__ = _fail
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _fail
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = _fail


def values(name: str, column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's cells as jobs and templates see them."""
    return _shortened(stored(name, column), column.type)


def stored(name: str, column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's cells, fractions as Python widens them: as hashes of rows have them."""
    return _values(column, lambda _, why: UnreadableCell(f"column {name!r}: {why}"))


def shown(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's cells for people and files: what Python cannot hold is spelled as Arrow spells it."""
    return _shortened(_values(column, lambda cell, _: _spelled(cell)), column.type)


def shortest(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of fractions of 16 or 32 bits as fractions of 64 that are printed the same."""
    if pa.types.is_float32(column.type):
        return column.cast(pa.string()).cast(pa.float64())
    import numpy as np

    cells = (None if cell is None else float(cell) for cell in column.to_pylist())
    return pa.array([c if c is None or c.is_integer() else float(str(np.float16(c))) for c in cells], pa.float64())


def records(table: pa.Table) -> list[dict[str, Any]]:
    """Rows for people and files."""
    columns = [shown(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def is_short(kind: pa.DataType) -> bool:
    """Whether these are fractions of 16 or 32 bits."""
    return bool(pa.types.is_float16(kind) or pa.types.is_float32(kind))


def _has_other(kind: pa.DataType) -> bool:
    """Whether cells of this type are not what Python widens or takes them to."""
    return is_short(kind) or bool(pa.types.is_interval(kind)) or any(map(_has_other, _parts(kind)))


def _parts(kind: pa.DataType) -> list[pa.DataType]:
    """The types of what a cell of this type consists of."""
    t = pa.types
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return [kind.value_type]
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if t.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.field(at).type for at in range(kind.num_fields)]


def _shortened(cells: list[Any], kind: pa.DataType) -> list[Any]:
    """The cells, each fraction of 16 or 32 bits in them as the shortest one that it stands for, intervals as texts."""
    if is_short(kind):
        return list(shortest(pa.array(cells, kind)).to_pylist())
    if not _has_other(kind):
        return cells
    if pa.types.is_interval(kind):
        return [cell and interval_text(*cell) for cell in cells]
    t, parts = pa.types, _parts(kind)
    if t.is_struct(kind):
        names = [field.name for field in kind]
        sides = [[cell and cell[name] for cell in cells] for name in names]
        rows = zip(*map(_shortened, sides, parts), strict=True)
        return [cell and dict(zip(names, row, strict=True)) for cell, row in zip(cells, rows, strict=True)]
    if t.is_map(kind):
        return [
            cell and list(zip(*map(_shortened, map(list, zip(*cell, strict=True)), parts), strict=True))
            for cell in cells
        ]
    if _is_list(kind):
        return [cell and _shortened(cell, parts[0]) for cell in cells]
    return cells if t.is_union(kind) else _shortened(cells, parts[0])


def _values(column: pa.Array | pa.ChunkedArray, instead: Instead) -> list[Any]:
    try:
        found = column.to_pylist()
        if not _may_lose(column.type) or _same(found, column):
            return list(found)
    except Exception:  # pyarrow raises many kinds
        pass
    return [_value(cell, instead) for cell in column]


def _value(cell: pa.Scalar, instead: Instead) -> Any:
    t, kind = pa.types, cell.type
    if not cell.is_valid:
        return None
    try:
        if t.is_struct(kind):
            return {field.name: _value(cell[at], instead) for at, field in enumerate(kind)}
        if t.is_map(kind):
            return [tuple(_value(part[at], instead) for at in range(2)) for part in cell.values]
        if _is_list(kind):
            return [_value(part, instead) for part in cell.values]
        if t.is_dictionary(kind):
            return _value(cell.value, instead)
        found = cell.as_py()
        if _may_lose(kind) and pa.scalar(found, kind) != cell:
            raise OverflowError
        return found
    except Exception as problem:  # pyarrow raises many kinds
        return instead(cell, _why(kind, problem))


def _why(kind: pa.DataType, problem: Exception) -> str:
    if isinstance(problem, OverflowError):
        return f"this {kind} lies outside of what Python can hold"
    if isinstance(problem, pa.ArrowInvalid) and pa.types.is_timestamp(kind):
        return f"the time zone {kind.tz!r} is not known"
    return str(problem).partition("\n")[0]


def _is_list(kind: pa.DataType) -> bool:
    t = pa.types
    tests = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view)
    return any(test(kind) for test in tests)


def _may_lose(kind: pa.DataType) -> bool:
    """Whether a cell of this type may become another value without an error."""
    return pa.types.is_time(kind) or pa.types.is_date64(kind) or any(map(_may_lose, _parts(kind)))


def _same(found: list[Any], column: pa.Array | pa.ChunkedArray) -> bool:
    return bool(pa.chunked_array([pa.array(found, column.type)]).equals(pa.chunked_array(column, type=column.type)))


def _spelled(cell: pa.Scalar) -> str | None:
    """Text for what Python cannot hold: bytes that are no UTF-8 as U+FFFD, times as ISO 8601."""
    t, kind = pa.types, cell.type
    try:
        if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
            return bytes(cell.as_buffer()).decode(errors="replace")
        if t.is_timestamp(kind) and kind.tz:
            cell = cell.cast(pa.timestamp(kind.unit, "UTC"))
        return str(cell.cast(pa.string()).as_py())
    except Exception:  # pyarrow raises many kinds
        return None
