r"""A level on a scale, with the expected value and the spread of the model's answer.

``job.scale=[1,5]`` asks for a whole number from 1 to 5, ``job.scale=[0,0.5,1]`` for one of these numbers, and
``job.scale=[low,medium,high]`` for a level by name, the lowest first:

    rowmill run job=label 'job.scale=[1,5]' dataset=csv dataset.path=mail.csv run_name=levels \
        'prompt.user=How urgent is this mail, from 1 (not at all) to 5 (at once)? Mail: {{ text }}'

Named levels may have descriptions, as labels do: ``job.scale={low: can wait, high: today}``. The template finds the
levels in ``labels``.

All levels are scored: ``level`` is the likeliest one, ``expected`` the mean of the levels' values, weighted by their
probabilities, and ``spread`` the standard deviation around it; named levels count as 1, 2, 3 and so on. ``confidence``
is the level's probability. ``expected`` is finer than ``level`` and mostly nearer to the right value. Where one level
is the beginning of another, as 1 is of 10, what the longer one has is taken off the shorter one's probability.

With ``dataset.gold`` the run ends with the share of exact levels, the mean absolute error of ``level`` and of
``expected``, the quadratically weighted kappa and Spearman's rank correlation, with 95% bootstrap intervals.
``job.prior=batch`` removes a preference for some levels; ``rowmill evaluate`` and ``rowmill export`` with
``--no-prior`` give the levels as they would be without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from jobs.label.choice import normalise
from jobs.label.questions import Asked
from runner.text.questions.question import Question
from runner.types import Columns, Completion, Request


@dataclass
class Level(Asked):
    """Levels scored in one request. ``longer``: for each level those that go on where it ends, in tokens."""

    question: Question
    requests: list[Request]
    biases: list[list[float]] = field(default_factory=list)
    longer: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.biases = [[0.0] * len(self.question.names)]
        self.longer = [[] for _ in self.question.names]

    def columns(self) -> dict[str, pa.DataType]:
        """The output columns."""
        question, number = self.question, pa.float64()
        plain = (pa.int64() if question.is_whole else number) if question.is_numeric else pa.string()
        by_level = pa.struct([(name, number) for name in question.names])
        return question.columns(plain, expected=number, spread=number, confidence=number, probabilities=by_level)

    def take_tokens(self, levels: Sequence[tuple[int, ...]]) -> None:
        """Learn from the levels' tokens which of them begin others."""
        self.longer = [
            [at for at, other in enumerate(levels) if len(other) > len(one) and other[: len(one)] == one]
            for one in levels
        ]

    def read(self, answers: list[Completion]) -> Columns:
        """The likeliest level, and the mean and the standard deviation of all."""
        names, values = self.question.names, self.question.values
        scores = self.scores(answers[0])
        likely = normalise(tuple(one - bias for one, bias in zip(scores, self.biases[0], strict=True)))
        best = max(range(len(names)), key=likely.__getitem__)
        expected = sum(p * value for p, value in zip(likely, values, strict=True))
        spread = math.sqrt(sum(p * (value - expected) ** 2 for p, value in zip(likely, values, strict=True)))
        known = {"expected": expected, "spread": spread, "confidence": likely[best]}
        level, by_level = self.question.level(names[best]), dict(zip(names, likely, strict=True))
        return self.question.columns(level, **known, probabilities=by_level)

    def scores(self, answer: Completion) -> list[float]:
        """The log-probabilities that the answer ends with a level and does not go on to a longer one."""
        logprobs, found = answer.logprobs or (), []
        for one, longer in zip(logprobs, self.longer, strict=True):
            nearest = [at for at in longer if not any(at in self.longer[other] for other in longer)]
            rest = 1 - sum(math.exp(logprobs[at] - one) for at in nearest) if nearest else 1.0
            found.append(one + math.log(rest) if rest > 0 else -math.inf)
        return found
