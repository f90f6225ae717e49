"""Which column of a data set looks like right answers, and to what kind of question."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import pyarrow as pa

from runner.data.cells import shown
from runner.data.gold import members_of
from runner.data.source import DataSource
from runner.text.questions.question import LABELS, MULTI, SCALE

LOOKED_AT = 2000  # rows
MOST_LABELS = 20
LABEL_CHARS = 40
_SCALE_NAMES = ("rating", "stars", "score", "grade", "level", "urgency", "priority", "severity", "satisfaction")
_LABEL_NAMES = ("label", "class", "category", "kind", "sentiment", "topic", "tag", "target", "gold", "answer", "intent")
# The last word of what numbers are called that stand for something else than a level: storeId, page_no, year.
_COUNTED = {
    *("id", "ids", "no", "nr", "num", "number", "index", "idx", "key", "code", "count", "total", "size", "length"),
    *("words", "chars", "tokens", "page", "row", "line", "version", "fold", "split", "part", "batch", "year", "month"),
    *("week", "day", "hour", "age", "user", "store", "shop", "branch", "group"),
}


class Answers(NamedTuple):
    """A column that looks like answers: these, to a ``kind`` of question (labels, multi, scale)."""

    column: str
    answers: tuple[str, ...]
    kind: str


def answer_columns(source: DataSource, text: str) -> list[Answers]:
    """The columns that look like answers, the likeliest one first.

    Few short values that come again and again are labels, lists of such values several labels a row, and small whole
    numbers a scale; a telling name counts.
    """
    candidates = []
    for name in source.column_names:
        kind = source.schema.field(name).type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name == text or not (is_text or is_list or is_number):
            continue
        if (is_list or is_text) and (members := _members(source, name)):
            candidates.append((False, len(members), Answers(name, members, MULTI)))
            continue
        if is_list:
            continue
        distinct, count = _distinct(source, name)
        known = name.lower() in _LABEL_NAMES
        few = 2 <= len(distinct) <= MOST_LABELS and all(0 < len(value.strip()) <= LABEL_CHARS for value in distinct)
        if few and (known or (is_text and count >= 5 * len(distinct))):
            candidates.append((not known, len(distinct), Answers(name, tuple(sorted(distinct)), LABELS)))
        elif few and is_number and (levels := _levels(name, distinct, count)):
            is_told = name.lower() in _SCALE_NAMES
            candidates.append((not is_told, len(distinct), Answers(name, levels, SCALE)))
    return [one for _, _, one in sorted(candidates)]


def _levels(name: str, distinct: set[str], count: int) -> tuple[str, ...]:
    """The lowest and the highest level of a column of small whole numbers; none if they look like something else."""
    numbers = [float(value) for value in distinct]
    word = (re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name) or [""])[-1].lower()
    if word in _COUNTED or not all(number.is_integer() for number in numbers):
        return ()
    low, high = int(min(numbers)), int(max(numbers))
    is_told = name.lower() in _SCALE_NAMES
    usual = low in (0, 1) and high in (3, 4, 5, 6, 7, 10) and len(distinct) >= 3 and count >= 5 * len(distinct)
    return (str(low), str(high)) if high - low <= 100 and (is_told or usual) else ()


def _members(source: DataSource, name: str) -> tuple[str, ...]:
    """The labels in a column of lists, or of texts that are lists; none if there are many, or long ones."""
    counts: Counter[str] = Counter()
    sets: set[frozenset[str]] = set()
    for value in shown(source.table(0, LOOKED_AT, [name])[name]):
        if value is not None:
            found = members_of(value)
            sets.add(frozenset(found))
            counts.update(found)
        if len(counts) > MOST_LABELS:
            return ()
    short = all(len(one) <= LABEL_CHARS and len(one.split()) <= 4 for one in counts)
    several = len(sets) > 1 and any(len(one) > 1 for one in sets)
    return tuple(sorted(counts)) if several and short and counts.total() >= 2 * len(counts) else ()


def _distinct(source: DataSource, name: str) -> tuple[set[str], int]:
    """A column's different values in all rows, as far as they are few, and how many cells have one."""
    import pyarrow.compute as pc

    distinct: set[str] = set()
    count = 0
    for start in range(0, len(source), LOOKED_AT):
        column = source.table(start, start + LOOKED_AT, [name])[name]
        count += len(column) - column.null_count
        distinct.update(str(value) for value in shown(pc.unique(column)) if value is not None and value == value)
        if len(distinct) > MOST_LABELS:
            break
    return distinct, count
