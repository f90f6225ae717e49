"""A question about a row and the columns of its answer; plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.text.labels import Choice
from runner.words import alike

LABELS, MULTI, SCALE, SCHEMA = "labels", "multi", "scale", "schema"
LABEL = "{label}"  # where a question about several labels names the one that is asked about
_ANSWERS = {LABELS: "label", MULTI: "labels", SCALE: "level", SCHEMA: "answer"}  # of a question without a name


@dataclass(frozen=True)
class Question:
    """``key``: where the configuration has it. ``choices``: labels or levels; ``values``: of a scale's levels.

    ``ask`` is how it is put to the model, ``where`` a condition on earlier answers, ``gold`` the column with the right
    ones (None: ``dataset.gold``). ``most`` labels at most, each from its ``threshold`` on: one for all or by label.
    """

    key: str
    name: str
    kind: str
    choices: tuple[Choice, ...] = ()
    values: tuple[float, ...] = ()
    ask: str = ""
    where: str | None = None
    gold: str | None = None
    most: int | None = None
    threshold: Any = 0.5
    schema: Any = None
    max_tokens: int | None = None

    @cached_property
    def names(self) -> list[str]:
        """The labels or levels."""
        return [choice.name for choice in self.choices]

    @property
    def is_numeric(self) -> bool:
        """Whether the levels of a scale are the numbers that they are called."""
        return self.kind == SCALE and self.names == [f"{value:g}" for value in self.values]

    def variables(self, about: Choice | None = None) -> dict[str, Any]:
        """What a template sees of it and, if several labels may fit, of the one that it is about."""
        shown: dict[str, Any] = {"labels": [vars(choice) for choice in self.choices]}
        if self.kind == MULTI or self.name:
            shown["label"] = vars(about) if about else None
        if self.name:
            shown["question"] = self.ask.replace(LABEL, about.surface) if about else self.ask
        return shown

    def thresholds(self, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """The probability from which on each of several labels is given: the ``chosen`` one, infinite for never."""
        given = self.threshold if isinstance(self.threshold, dict) else dict.fromkeys(self.names, self.threshold)
        own = {name: given.get(name, 0.5) for name in self.names} | {k: one["threshold"] for k, one in chosen.items()}
        return {name: math.inf if one is None else one for name, one in own.items()}

    def gold_in(self, gold: str | None) -> str | None:
        """The column with the right answers, where ``gold`` is the data set's: that of a question without a name."""
        return self.gold or (gold if not self.name else None)

    @property
    def column(self) -> str:
        """The output column of the answer."""
        return self.name or _ANSWERS[self.kind]

    def beside(self, what: str) -> str:
        """The output column of something about the answer, such as its confidence."""
        return f"{self.name}_{what}" if self.name else what

    def columns(self, answer: Any, **details: Any) -> dict[str, Any]:
        """The answer, and what is known of it, by their output columns; or the types of all of these."""
        return {self.column: answer, **{self.beside(what): value for what, value in details.items()}}

    def level(self, name: str) -> Any:
        """A level as the output has it: a number where it is one."""
        value = self.values[self.names.index(name)]
        return (int(value) if value == int(value) and self.is_whole else value) if self.is_numeric else name

    @property
    def is_whole(self) -> bool:
        """Whether all levels of a scale are whole numbers."""
        return all(value == int(value) for value in self.values)

    def value(self, cell: Any) -> float | None:
        """What a cell of the answer's or the gold column says on the scale; None for nothing."""
        if isinstance(cell, str):
            near = (cell,) if cell in self.names else alike(cell, self.names)
            if len(near) == 1:
                return self.values[self.names.index(near[0])]
        try:
            number = float(cell)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if self.values[0] <= number <= self.values[-1] else None  # False for NaN
