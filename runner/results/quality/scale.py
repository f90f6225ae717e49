"""How near levels on a scale are to the gold ones, with bootstrap intervals over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runner.results.quality.bootstrap import interval, resample
from runner.results.quality.shapes import NONE, ScaleFigures
from runner.text.questions.question import Question

FINE = 2000  # steps of the scale's length within which errors count as equal in the bootstrap
Floats = npt.NDArray[np.float64]


def scale_figures(question: Question, gold: Floats, said: Floats, expected: Floats) -> ScaleFigures:
    """Of rows with gold: how many were ``answered`` and the share of all that is exact (``accuracy``).

    Of those answered: the mean absolute error of the level, of the ``expected`` value and of always answering the
    median, the mean error (``bias``), the quadratically weighted kappa and Spearman's rank correlation (None where one
    side does not vary). All are values on the scale; NaN: no answer.
    """
    there = np.isfinite(said)
    found = ScaleFigures(kind="scale", column=question.column, rows=len(gold), answered=int(there.sum()))
    found["confusion"] = _confusion(question, gold, said)
    if not there.any():
        return found | ScaleFigures(accuracy=0.0, intervals={})
    pairs, counts = np.unique(np.stack([gold[there], said[there]]), axis=1, return_counts=True)
    g, s = pairs
    drawn = resample(counts)
    levels = np.array(question.values)
    first, second = (nearest(levels, values) for values in (g, s))
    error = np.abs(g - s)
    exact = np.array([*np.where(error == 0, 1, 0), 0])
    missing = np.array([*counts, len(gold) - counts.sum()])
    found |= ScaleFigures(
        accuracy=float((error == 0) @ counts / len(gold)),
        mae=float(error @ counts / counts.sum()),
        mae_constant=float(np.abs(gold[there] - np.median(gold[there])).mean()),
        bias=float((s - g) @ counts / counts.sum()),
        kappa=_kappa(first, second, counts, len(levels)),
        spearman=_spearman(gold[there], said[there]),
        intervals={
            "accuracy": interval(resample(missing) @ exact / len(gold)),
            "mae": interval(drawn @ error / counts.sum()),
            "kappa": interval(weighted_kappas(drawn, first, second, len(levels))),
            "spearman": interval(spearmans(drawn, g, s)),
        },
    )
    if np.isfinite(expected[there]).all():
        error = np.abs(expected[there] - gold[there])
        found["mae_expected"] = float(error.mean())
        length = (levels[-1] - levels[0]) / FINE
        steps, which, counts = np.unique((error / length).astype(np.int64), return_inverse=True, return_counts=True)
        means = np.bincount(which, error) / counts
        found["intervals"]["mae_expected"] = interval(resample(counts) @ means / counts.sum()) if len(steps) else []
    return found


def weighted_kappas(counts: Any, first: Any, second: Any, levels: int) -> Floats:
    """Quadratically weighted kappa (Cohen 1968) of samples in which pair k of levels occurs ``counts[:, k]`` times."""
    rows = counts.sum(axis=1).astype(np.float64)
    a, b = (counts @ np.eye(levels)[side] for side in (first, second))
    weights = np.subtract.outer(np.arange(levels), np.arange(levels)) ** 2.0
    chance = np.einsum("si,ij,sj->s", a, weights, b) / rows**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - counts @ ((first - second) ** 2.0) / rows / chance)


def spearmans(counts: Any, first: Floats, second: Floats) -> Floats:
    """Spearman's correlation of samples in which the pair of values k occurs ``counts[:, k]`` times."""
    a, b = (_ranks(counts, side) for side in (first, second))
    rows = counts.sum(axis=1, keepdims=True)
    a, b = a - (counts * a).sum(axis=1, keepdims=True) / rows, b - (counts * b).sum(axis=1, keepdims=True) / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((counts * a * b).sum(1) / np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1)))


def _ranks(counts: Any, values: Floats) -> Floats:
    """The mean rank of each pair's value in each sample."""
    _, place = np.unique(values, return_inverse=True)
    by_value = counts @ np.eye(place.max() + 1)[place]
    return np.asarray((np.cumsum(by_value, axis=1) - by_value / 2)[:, place])


def nearest(levels: Floats, values: Floats) -> Any:
    """The place of the level that each value is nearest to."""
    return np.abs(values[:, None] - levels[None, :]).argmin(axis=1)


def _kappa(first: Any, second: Any, counts: Any, levels: int) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    if len({*first.tolist(), *second.tolist()}) < 2:
        return None
    known = list(range(levels))
    return float(cohen_kappa_score(first, second, labels=known, weights="quadratic", sample_weight=counts))


def _spearman(first: Floats, second: Floats) -> float | None:
    from scipy.stats import spearmanr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def _confusion(question: Question, gold: Floats, said: Floats) -> dict[str, dict[str, int]]:
    levels = np.array(question.values)
    names, none = question.names, len(question.values)
    golds = nearest(levels, gold)
    answers = np.where(np.isfinite(said), nearest(levels, np.nan_to_num(said)), none)
    matrix = np.zeros((none, none + 1), np.int64)
    np.add.at(matrix, (golds, answers), 1)
    return {name: dict(zip([*names, NONE], matrix[at].tolist(), strict=True)) for at, name in enumerate(names)}
