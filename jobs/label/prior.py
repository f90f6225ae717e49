"""What a job measures before its first row: a preference for some labels, and how far to trust its confidence."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.types import Completion, Request, Row, RowError

CONTENT_FREE = ("N/A", "[MASK]", "")  # the texts of Zhao et al. 2021
ASKED_TOGETHER = 250  # requests, so that a large sample is not all rendered at once
FOLDS = 5  # of the cross-validation
TEMPERATURES = (0.05, 20.0)
Scores = npt.NDArray[np.float64]  # [rows, labels]


def score(requests: Sequence[Request]) -> Generator[list[Request], Any, tuple[list[int], Scores]]:
    """Ask for choices: which of the requests have finite log-probabilities for all of them, and these, a row for each.

    Raises RowError, the first failed request's, if none has.
    """
    answers = yield from ask(requests)
    usable = [at for at, answer in enumerate(answers) if is_scored(answer)]
    if not usable:
        raise nothing_scored(answers)
    return usable, np.array([answers[at].logprobs for at in usable])


def ask(requests: Sequence[Request]) -> Generator[list[Request], Any, list[Completion]]:
    """Ask some at a time: the answers, those that failed among them."""
    answers: list[Completion] = []
    for start in range(0, len(requests), ASKED_TOGETHER):
        some = list(requests[start : start + ASKED_TOGETHER])
        try:
            answers += yield some
        except RowError as problem:
            answers += problem.completions
    return answers


def is_scored(answer: Completion) -> bool:
    """Whether all choices have finite log-probabilities."""
    return bool(answer.logprobs) and all(map(math.isfinite, answer.logprobs or ()))


def nothing_scored(answers: Sequence[Completion]) -> RowError:
    """The first failed request's error."""
    return RowError.read(next((answer.error for answer in answers if answer.error), "no finite log-probabilities"))


def without_content(row: Row) -> list[Row]:
    """The row with its texts replaced by what says nothing, once for each of CONTENT_FREE."""
    return [
        {name: text if value is None or isinstance(value, str) else value for name, value in row.items()}
        for text in CONTENT_FREE
    ]


def content_free_prior(scores: Scores) -> Scores:
    """The logarithm of the mean distribution over labels (Zhao et al. 2021): [labels]."""
    return np.asarray(np.log(np.exp(log_softmax(scores)).mean(axis=0)))


def batch_prior(scores: Scores) -> Scores:
    """The mean log-probability by label (Batch Calibration, Zhou et al. 2024, in log space), up to a constant."""
    return log_softmax(scores.mean(axis=0))


def fit_temperature(scores: Scores, gold: npt.NDArray[np.int64]) -> float:
    """The temperature that makes the gold labels likeliest (Guo et al. 2017), within TEMPERATURES.

    The likelihood has one maximum in the inverse temperature, which a golden-section search narrows down.
    """

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(scores / math.exp(log_temperature))
        return -float(scaled[np.arange(len(gold)), gold].mean())

    low, high = map(math.log, TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)


def tried_out(scores: Scores, gold: npt.NDArray[np.int64]) -> dict[str, list[float]]:
    """What a temperature does to rows that it was not fitted on (cross-validation in FOLDS): before and after.

    ``loss`` is the mean negative log-likelihood of the gold labels, ``ece`` the expected calibration error.
    """
    from runner.results.scores import calibration_error

    fold = np.arange(len(gold)) % min(FOLDS, len(gold))
    fitted = [fit_temperature(scores[fold != one], gold[fold != one]) for one in range(fold.max() + 1)]
    figures: dict[str, list[float]] = {"loss": [], "ece": []}
    for temperatures in (np.ones(len(gold)), np.array(fitted)[fold]):
        logprobs = log_softmax(scores / temperatures[:, None])
        figures["loss"].append(-float(logprobs[np.arange(len(gold)), gold].mean()))
        right = logprobs.argmax(axis=1) == gold
        figures["ece"].append(calibration_error(np.exp(logprobs.max(axis=1)), right)[0])
    return figures


def calibrated(scores: Scores, gold: npt.NDArray[np.int64]) -> dict[str, Any]:
    """``temperature``: the one that is ``fitted``, or 1 where rows that it was not fitted on fare no better with it.

    ``held_out`` says how they fare; of a single row there are none.
    """
    fitted = fit_temperature(scores, gold)
    found: dict[str, Any] = {"temperature": 1.0, "fitted": fitted}
    if len(gold) > 1:
        found["held_out"] = figures = tried_out(scores, gold)
        if figures["loss"][1] < figures["loss"][0] and figures["ece"][1] <= figures["ece"][0]:
            found["temperature"] = fitted
    return found


def log_softmax(scores: Scores) -> Scores:
    """Log-probabilities that are normalised over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
