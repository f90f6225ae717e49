"""Several labels a row and levels decided anew: without a prior, or from another threshold on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from runner.results.quality.columns import questions_of
from runner.results.quality.rescore import (
    ROUNDING,
    Decision,
    Floats,
    Rescoring,
    likeliest,
    replaced,
    softmax,
    stored_in,
    structs,
)
from runner.results.run import Run
from runner.text.questions.question import LABELS, MULTI, SCALE, SCHEMA, Question
from runner.types import UserError


class SeveralAnew:
    """The labels of a question as another decision makes them. UserError where the run does not hold what that needs.

    ``decision.threshold`` is the probability from which on each label is given, in place of all thresholds of the run.
    """

    def __init__(self, run: Run, question: Question, decision: Decision) -> None:
        if decision.temperature is not None:
            raise UserError("--temperature", "several labels a row are not calibrated", value=decision.temperature)
        prelude, names = run.prelude, question.names
        self.question = question
        taken = {} if decision.prior else prior_of(run, question)
        self._off = np.array([taken[name]["yes"] - taken[name]["no"] if taken else 0.0 for name in names])
        chosen = ((prelude.get("thresholds") or {}).get("columns") or {}).get(question.column) or {}
        given = question.threshold if isinstance(question.threshold, dict) else dict.fromkeys(names, question.threshold)
        own = {name: given.get(name, 0.5) for name in names} | {name: one["threshold"] for name, one in chosen.items()}
        never = {name: np.inf if one is None else one for name, one in own.items()}
        least = never if decision.threshold is None else dict.fromkeys(names, decision.threshold)
        self._least = np.array([least[name] for name in names], np.float64)

    @property
    def columns(self) -> list[str]:
        """The columns that follow from the decision, and that it is made from."""
        return [self.question.column, self.question.beside("confidence"), self.question.beside("probabilities")]

    def table(self, table: pa.Table) -> pa.Table:
        """The table with these columns as the decision makes them."""
        column, confidence, probabilities = self.columns
        names = self.question.names
        there, stored = stored_in(table, probabilities, names)
        likely = _shifted(stored, self._off)
        given = self._given(likely)
        sure = np.full(len(table), np.nan)
        sure[there] = np.where(given, likely, 1 - likely).min(axis=1)
        chosen = iter([[name for name, one in zip(names, row, strict=True) if one] for row in given])
        labels = [next(chosen) if one else None for one in there]
        table = replaced(table, column, pa.array(labels, pa.list_(pa.string())))
        table = replaced(table, confidence, pa.array(sure, from_pandas=True))
        return replaced(table, probabilities, structs(likely, there, table, probabilities))

    def _given(self, likely: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which labels each row gets: the likeliest ``most`` of those from their thresholds on."""
        given = likely >= self._least - (ROUNDING if self._off.any() else 0)
        if self.question.most is not None:
            order = np.argsort(-np.where(given, likely, -1.0), axis=1, kind="stable")
            given[np.arange(len(given))[:, None], order[:, self.question.most :]] = False
        return given


class LevelsAnew:
    """The levels of a question as they would be without the run's prior, which is all that can be decided anew."""

    def __init__(self, run: Run, question: Question, decision: Decision) -> None:
        for option, value in (("--temperature", decision.temperature), ("--threshold", decision.threshold)):
            if value is not None:
                raise UserError(option, "levels on a scale have none", value=value)
        prior = prior_of(run, question)
        self.question = question
        self._off = np.array([prior[name] for name in question.names], np.float64)

    @property
    def columns(self) -> list[str]:
        """The columns that follow from the decision, and that it is made from."""
        question = self.question
        return [question.column, *map(question.beside, ("expected", "spread", "confidence", "probabilities"))]

    def table(self, table: pa.Table) -> pa.Table:
        """The table with these columns as the decision makes them."""
        question, values = self.question, np.array(self.question.values)
        column, *others, probabilities = self.columns
        there, stored = stored_in(table, probabilities, question.names)
        with np.errstate(divide="ignore"):
            likely = softmax(np.log(stored) + self._off)
        expected = likely @ values
        spread = np.sqrt((likely * (values - expected[:, None]) ** 2).sum(axis=1))
        for name, found in zip(others, (expected, spread, likely.max(axis=1)), strict=True):
            numbers = np.full(len(table), np.nan)
            numbers[there] = found
            table = replaced(table, name, pa.array(numbers, from_pandas=True))
        best = iter(likeliest(likely))
        levels = [question.level(question.names[next(best)]) if one else None for one in there]
        table = replaced(table, column, pa.array(levels, table.schema.field(column).type))
        return replaced(table, probabilities, structs(likely, there, table, probabilities))


def deciding_anew(run: Run, decision: Decision) -> list[SeveralAnew | LevelsAnew | Rescoring]:
    """What decides the answers to all questions of a run that a decision is about: to levels, only one on the prior."""
    asked = [one for one in questions_of(run) if one.kind != SCHEMA]
    about = [one for one in asked if one.kind != SCALE or not decision.prior] or asked
    return [_deciding(run, one, decision) for one in about] or [Rescoring(run, decision)]


def _deciding(run: Run, question: Question, decision: Decision) -> SeveralAnew | LevelsAnew | Rescoring:
    if question.kind == LABELS:
        return Rescoring(run, decision, question.column)
    return (SeveralAnew if question.kind == MULTI else LevelsAnew)(run, question, decision)


def prior_of(run: Run, question: Question) -> dict[str, Any]:
    """What the run's prior takes off a question's choices, by name. UserError if it has none."""
    prior = (run.prelude.get("priors") or {}).get(question.column)
    if not prior:
        raise UserError("--no-prior", f"{run.path} has no prior to leave out")
    return dict(prior["logprobs"])


def _shifted(likely: Floats, off: Floats) -> Floats:
    """Probabilities of yes whose log-odds are so much higher."""
    if not off.any():
        return likely
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1 / (1 + np.exp(-(np.log(likely) - np.log1p(-likely) + off))))
