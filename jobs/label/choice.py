"""One of some labels: all of them scored, or a written answer in which one is looked for."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from statistics import mean

import numpy as np
import pyarrow as pa

from jobs.label.match import Matcher
from jobs.label.questions import Asked
from runner.sequences import MANY_SCORES
from runner.text.questions.question import Question
from runner.types import Columns, Completion, Request, RowError

TOP = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))


@dataclass
class Decided(Asked):
    """What scored and written labels have in common: a confidence, below ``abstain_below`` no label."""

    question: Question
    requests: list[Request]
    abstain_below: float | None

    def columns(self) -> dict[str, pa.DataType]:
        """The output columns."""
        return self.question.columns(pa.string(), confidence=pa.float64(), **self.details())

    def details(self) -> dict[str, pa.DataType]:
        """What is known of a label beside its confidence."""
        return {"abstained": pa.bool_()} if self.abstain_below is not None else {}

    def decide(self, label: str, confidence: float, details: Columns) -> Columns:
        """The output columns, the label left out if the confidence is too low."""
        sure = self.abstain_below is None or confidence >= self.abstain_below
        abstained = {"abstained": not sure} if self.abstain_below is not None else {}
        return self.question.columns(label if sure else None, confidence=confidence, **abstained, **details)


@dataclass
class ScoredLabel(Decided):
    """Labels scored in one request. ``biases``: what a prior takes off each score; ``temperature``: a calibration's.

    The probabilities of ``every`` label are kept, or of the ``top`` likeliest, or both.
    """

    logprobs: bool = False
    top: int | None = None
    every: bool = True
    biases: list[list[float]] = field(default_factory=list)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.biases = [[0.0] * len(self.question.names)]

    def details(self) -> dict[str, pa.DataType]:
        by_label = pa.struct([(name, pa.float64()) for name in self.question.names])
        kept = {"top": TOP} if self.top else {}
        kept |= {"probabilities": by_label} if self.every else {}
        kept |= {"logprobs": by_label} if self.logprobs else {}
        return super().details() | kept

    def read(self, answers: list[Completion]) -> Columns:
        """The likeliest label; of equal ones the first in ``labels``."""
        if answers[0].likeliest is not None:
            return self._ranked(answers[0].likeliest, answers[0].others)
        names, logprobs = self.question.names, self.scores(answers[0])
        scores = [(one - bias) / self.temperature for one, bias in zip(logprobs, self.biases[0], strict=True)]
        probabilities = dict(zip(names, rounded(normalise(tuple(scores))), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        details: Columns = {"probabilities": probabilities} if self.every else {}
        if self.top:
            first = heapq.nlargest(self.top, probabilities.items(), key=lambda item: item[1])
            details["top"] = [{"label": name, "probability": one} for name, one in first if one > 0]
        if self.logprobs:
            details["logprobs"] = dict(zip(names, logprobs, strict=True))
        return self.decide(best, probabilities[best], details)

    def _ranked(self, likeliest: tuple[tuple[int, float], ...], others: float | None) -> Columns:
        """The same where the scores of the likeliest labels are known, and those of the others together."""
        *probabilities, _ = normalise((*(score for _, score in likeliest), -math.inf if others is None else others))
        names = [self.question.choices[place].name for place, _ in likeliest]
        top = [{"label": name, "probability": one} for name, one in zip(names, probabilities, strict=True)]
        return self.decide(names[0], probabilities[0], {"top": top})


@dataclass
class WrittenLabel(Decided):
    """A label looked for in one answer, or the majority in several."""

    def __post_init__(self) -> None:
        self._matcher = Matcher({choice.name: choice.surface for choice in self.question.choices})

    def columns(self) -> dict[str, pa.DataType]:
        if len(self.requests) == 1:
            return {"label": pa.string(), "text": pa.string()}
        return super().columns() | {"votes": pa.list_(pa.string()), "text": pa.list_(pa.string())}

    def read(self, answers: list[Completion]) -> Columns:
        """The label of the only answer; else the majority among the answers, its share of them all, what they were.

        Of labels with as many votes the one with the higher mean log-probability wins, then the first in ``labels``.
        """
        if len(self.requests) == 1:
            return {"label": self._matcher.match(answers[0].text), "text": answers[0].text}
        votes = [self._vote(answer.text) for answer in answers]
        cast = sorted({vote for vote in votes if vote is not None}, key=self.question.names.index)
        if not cast:
            self._matcher.match(answers[0].text)  # raises: it is not a label
        means = {
            name: mean(a.mean_logprob or 0.0 for a, v in zip(answers, votes, strict=True) if v == name) for name in cast
        }
        best = max(cast, key=lambda name: (votes.count(name), means[name]))
        texts = [answer.text for answer in answers]
        return self.decide(best, votes.count(best) / len(votes), {"votes": votes, "text": texts})

    def _vote(self, text: str) -> str | None:
        try:
            return self._matcher.match(text)
        except RowError:
            return None


def rounded(numbers: list[float]) -> list[float]:
    """Very many numbers with 32 bits each, as scores have; fewer as they are."""
    return list(map(float, np.array(numbers, np.float32))) if len(numbers) > MANY_SCORES else numbers


def normalise(logprobs: tuple[float, ...]) -> list[float]:
    """Probabilities that sum to 1, from log-probabilities up to a constant; RowError if none are available."""
    top = max(logprobs)
    if not math.isfinite(top) or any(map(math.isnan, logprobs)):
        raise RowError("no probabilities", f"the labels' log-probabilities are {logprobs}")
    weights = [math.exp(logprob - top) for logprob in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]
