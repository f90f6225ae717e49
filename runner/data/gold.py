"""Right answers: which label a cell of the gold column means.

A cell is a label's name or, where ``dataset.classes`` or the data set itself names its classes, the number of one. A
number may be written as 1, 1.0 or "1", a yes or no as JSON's true and false or as Python's True and False. There is no
right answer where the cell is null, empty or not a number, cannot be read, or is -1, which data sets of the hub have
for it; unless a label is called so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from runner.data.cells import values
from runner.types import UnreadableCell, UserError

_WHOLE = re.compile(r"(-?[0-9]{1,9})(\.0+)?")


def gold_name(value: Any, classes: Sequence[str], labels: Collection[str] = ()) -> str | None:
    """The label that a cell means; None for none. ``classes``: the names of 0, 1, ...; ``labels``: further ones."""
    if value is None or isinstance(value, UnreadableCell) or value != value:  # NaN
        return None
    spelled, number = _spellings(value), _whole(value)
    known = next((text for text in spelled if text in classes or text in labels), None)
    if known is not None:
        return known
    if number is not None and 0 <= number < len(classes):
        return classes[number]
    nothing = spelled[0] == "" or (number == -1 and bool(classes or labels))
    return None if nothing else spelled[0]


def gold_values(table: pa.Table, gold: str) -> list[Any]:
    """The different cells of the gold column; UserError for lists and objects."""
    import pyarrow.compute as pc

    try:
        return values(gold, pc.unique(table.column(gold)))
    except pa.ArrowException as error:
        raise UserError(
            "dataset.gold", "labels cannot be compared with a column of lists or objects", value=gold
        ) from error


def _spellings(value: Any) -> tuple[str, ...]:
    """How a label may be written that this cell means, the usual way first."""
    if isinstance(value, bool):
        return str(value).lower(), str(value)
    number = _whole(value)
    if number is None or isinstance(value, int):
        return (str(value),)
    return (value, str(number)) if isinstance(value, str) else (str(number), str(value))


def _whole(value: Any) -> int | None:
    """The whole number that a cell holds, however it is written."""
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value)
        return int(found[1]) if found else None
    if isinstance(value, float | Decimal):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return int(value) if isinstance(value, int) else None
