"""Samples of the same rows drawn anew, with fixed draws, and the 95% intervals of figures of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runner.results.quality.shapes import Interval

RESAMPLES = 1000
ENDS = [2.5, 97.5]  # of an interval, in percent of the samples
Ints = npt.NDArray[np.int64]


def resample(counts: Ints) -> Ints:
    """[RESAMPLES, kinds]: how often each kind of row would be in a new sample."""
    rows = int(counts.sum())
    return np.random.default_rng(0).multinomial(rows, counts / rows, RESAMPLES)


def interval(values: Any) -> Interval:
    """Where 95% of a figure's ``values`` lie; NaN: a sample that has none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return pair(*np.percentile(known, ENDS)) if len(known) else [None, None]


def pair(low: Any, high: Any) -> Interval:
    """Both ends as JSON has them."""
    return [finite(low), finite(high)]


def finite(value: Any) -> float | None:
    """A number as JSON has it; None where it is none."""
    return float(value) if np.isfinite(value) else None
