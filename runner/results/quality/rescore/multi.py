"""Several labels a row decided again: without a prior, or from another threshold on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from runner.results.quality.rescore.arrays import ROUNDING, Floats, replaced, stored_in, structs
from runner.results.quality.rescore.decision import Decision, prior_of
from runner.results.run import Run
from runner.text.questions.question import Question
from runner.types import UserError


class MultiRescoring:
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
        least = question.thresholds(chosen)
        least = least if decision.threshold is None else dict.fromkeys(names, decision.threshold)
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


def _shifted(likely: Floats, off: Floats) -> Floats:
    """Probabilities of yes whose log-odds are so much higher."""
    if not off.any():
        return likely
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1 / (1 + np.exp(-(np.log(likely) - np.log1p(-likely) + off))))
