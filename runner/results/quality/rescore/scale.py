"""Levels on a scale decided again: without a prior."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from runner.results.quality.rescore.arrays import likeliest, replaced, softmax, stored_in, structs
from runner.results.quality.rescore.decision import Decision, prior_of
from runner.results.run import Run
from runner.text.questions.question import Question
from runner.types import UserError


class ScaleRescoring:
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
