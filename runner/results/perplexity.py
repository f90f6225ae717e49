"""Perplexity of a run's windows, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """``nll``: mean of ``tokens`` scored ones, in nats. Errors are standard errors over windows, None for one only."""

    perplexity: float
    standard_error: float | None
    nll: float
    tokens: int
    windows: int


def estimate(nlls: Sequence[float], scored: Sequence[int]) -> Estimate:
    """From the windows' sums of negative log-likelihoods and their numbers of tokens.

    The mean is a ratio of sums, so its error is the ratio estimator's: the spread of what each window has above its
    share (Cochran, Sampling Techniques, 1977, 6.3). The perplexity's error is that of the mean times the perplexity.
    """
    total, count, n = math.fsum(nlls), sum(scored), len(nlls)
    mean = total / count
    error = None
    if n > 1:
        spread = math.fsum((nll - mean * tokens) ** 2 for nll, tokens in zip(nlls, scored, strict=True))
        error = math.sqrt(n / (n - 1) * spread) / count
    perplexity = exp(mean)
    return Estimate(perplexity, None if error is None else error * perplexity, mean, count, n)


def exp(value: float) -> float:
    """Infinity where a float holds no more."""
    return math.exp(value) if value < 709 else math.inf
