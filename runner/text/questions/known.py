"""The answers that columns can have: what else a condition asks for would never be so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.text.questions.question import LABELS, MULTI, SCHEMA, Question
from runner.text.schema.columns import column_of
from runner.text.schema.dialects import modern, unwrapped
from runner.types import UserError
from runner.words import did_you_mean

_EQUAL = ("==", "!=")


@dataclass(frozen=True)
class Known:
    """What the column ``of`` can hold: ``values``, each ``called`` so; with ``between`` all that lies there."""

    of: str
    values: tuple[Any, ...]
    called: str = "value"
    between: bool = False

    def or_else(self, other: Known) -> Known:
        """What this one or the other can hold."""
        return replace(self, values=tuple(dict.fromkeys([*self.values, *other.values])))

    def check(self, op: str, literal: str) -> None:
        """Raise UserError if the column never is, or is not, what it is held against."""
        texts = [str(value) for value in self.values]
        if literal in texts:
            return
        number, are_texts = _number(literal), all(isinstance(value, str) for value in self.values)
        if self.between:
            low, high = min(self.values), max(self.values)
            if not low <= number <= high:
                raise UserError(f"{self.of} has {self.called}s from {low:g} to {high:g}, and never {literal!r}")
        elif are_texts or (op in _EQUAL and number not in self.values):
            raise UserError(f"{self.of} has no {self.called} {literal!r}{did_you_mean(literal, texts)}")


def _number(literal: str) -> float:
    try:
        return float(literal)
    except ValueError:
        return float("nan")


def of_questions(questions: Iterable[Question]) -> dict[str, Known]:
    """What the answers to questions can be, by column; parts of objects as ``column.part``."""
    found: dict[str, Known] = {}
    for one in questions:
        of = f"the question {one.name}" if one.name else f"the column {one.column}"
        if one.kind == SCHEMA:
            schema = modern(json.loads(json.dumps(unwrapped(one.schema))))
            found |= of_values(column_of(schema, schema).known(one.column))
        elif one.is_numeric:
            found[one.column] = Known(of, one.values, "level", between=True)
        else:
            found[one.column] = Known(of, tuple(one.names), "label" if one.kind in (LABELS, MULTI) else "level")
    return found


def of_values(values: Mapping[str, tuple[Any, ...]]) -> dict[str, Known]:
    """What a schema leaves of columns and their parts."""
    return {path: Known(path, some) for path, some in values.items()}


def top(path: str) -> str:
    """The column that something is, or is a part of."""
    return path.partition(".")[0]


def check_known(where: Iterable[tuple[str, str, str | None]], known: Mapping[str, Known]) -> None:
    """Raise UserError for a condition, as columns with what they are held against, that is never so."""
    for name, op, literal in where:
        if literal is not None and name in known:
            known[name].check(op, literal)
