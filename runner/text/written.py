"""Cells of files without types, such as CSV: texts that compute as the numbers they read as.

Whether such a file's column is taken for numbers depends on all its cells; what a template makes of a cell must not.
Texts and whole numbers have no parts by name: those of a cell of the column ``row`` are the row's cells.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_NUMBER = re.compile(NUMBER, re.ASCII)
_MOST_DIGITS = 4000  # Python refuses to read longer ones
_NUMBER_FORMAT = re.compile(r"[bcdeEfFgGnoxX%,_+]|^0")
Operator = Callable[[Any, Any], Any]


class Written(str):
    """A cell that reads as a number: a text, and the number where it is computed with or compared to a number."""

    __slots__ = ("number",)
    number: int | float

    def __new__(cls, text: str, number: int | float) -> Written:
        """The text, and what it reads as."""
        found = super().__new__(cls, text)
        found.number = number
        return found

    @property
    def plain(self) -> int | float | str:
        """The number if it is printed as it is written, the text otherwise."""
        return self.number if str(self.number) == self else str(self)

    def __bool__(self) -> bool:
        return bool(self.number)

    def __hash__(self) -> int:
        return super().__hash__()

    def __format__(self, spec: str) -> str:
        return format(self.number, spec) if _NUMBER_FORMAT.search(spec) else super().__format__(spec)

    def __int__(self) -> int:
        return int(self.number)

    def __float__(self) -> float:
        return float(self.number)

    def __index__(self) -> int:
        if isinstance(self.number, int):
            return self.number
        raise TypeError(f"{self} is no integer")

    def __round__(self, digits: int | None = None) -> int | float:
        return round(self.number, digits)

    def __abs__(self) -> int | float:
        return abs(self.number)

    def __neg__(self) -> int | float:
        return -self.number

    def __pos__(self) -> int | float:
        return self.number

    def __floor__(self) -> int:
        return math.floor(self.number)

    def __ceil__(self) -> int:
        return math.ceil(self.number)


def _both(compute: Operator, text: str | None) -> tuple[Operator, Operator]:
    """An operator and the same with its sides exchanged: of numbers, or as texts have it."""

    def left(one: Written, other: Any) -> Any:
        if isinstance(other, int | float | Written):
            return compute(one.number, getattr(other, "number", other))
        return getattr(str, text)(one, other) if text else NotImplemented

    def right(one: Written, other: Any) -> Any:
        if isinstance(other, int | float | Written):
            return compute(getattr(other, "number", other), one.number)
        if text == "__mod__" and isinstance(other, str):
            return str.__mod__(other, one)
        return compute(other, one.number if text == "__mul__" else str(one)) if text else NotImplemented

    return left, right


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Written, f"__{_name}__", _both(getattr(operator, _name), f"__{_name}__")[0])
for _name in ("add", "mul", "mod", "sub", "truediv", "floordiv", "pow"):
    _text = f"__{_name}__" if _name in ("add", "mul", "mod") else None
    for _side, _made in zip(("", "r"), _both(getattr(operator, _name), _text), strict=True):
        setattr(Written, f"__{_side}{_name}__", _made)


def plain(value: Any) -> Any:
    """A value for JSON: cells that are printed as they are written are numbers."""
    if isinstance(value, Written):
        return value.plain
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def key_of(mapping: Mapping[Any, Any], key: Any) -> Any:
    """The key as the mapping has it: a text, or a number."""
    return key.number if isinstance(key, Written) and key not in mapping else key


def as_written(value: Any) -> Any:
    """A cell as it stands in its file: one that reads as a number is both."""
    if isinstance(value, str):
        return Written(value, _read(value)) if len(value) < _MOST_DIGITS and _NUMBER.match(value) else value
    return Written(str(value), value) if type(value) in (int, float) else value


def _read(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


class _Whole:
    """A cell with the row's cells as its parts."""

    cells: Mapping[str, Any]


class _Number(_Whole, int):
    """A whole number."""


class _Text(_Whole, str):
    """A text, with the methods of one."""


class _WrittenNumber(_Whole, Written):
    """A text that reads as a number."""


_WHOLE: dict[type, Callable[[Any], Any]] = {
    int: _Number,
    str: _Text,
    Written: lambda cell: _WrittenNumber(str(cell), cell.number),
}


def has_no_parts(cell: Any) -> bool:
    """Whether it has none by name, so that ``with_parts`` gives it some."""
    return type(cell) in _WHOLE


def with_parts(cell: Any, cells: Mapping[str, Any]) -> Any:
    """The cell, its parts by name those of the row."""
    found = _WHOLE[type(cell)](cell)
    found.cells = cells
    return found


def parts_of(value: Any, name: Any) -> Any:
    """What has the part of this name: the value, or the row."""
    own = isinstance(value, str) and (not isinstance(name, str) or hasattr(str, name))
    return value.cells if isinstance(value, _Whole) and not own else value
