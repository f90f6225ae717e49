"""How accurate labels and confidences are, with bootstrap intervals: arrays in, figures out.

The bootstrap draws how often each kind of row (gold label and label, or confidence and whether right) would occur in a
new sample of as many rows: the same as drawing rows, at a cost that does not grow with them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runner.results.quality.shapes import ClassFigures, LabelFigures, Share

RESAMPLES = 1000
BINS = 15  # of the expected calibration error (Guo et al. 2017), of equal width
FINE = 100  # parts of a bin within which confidences count as equal in the bootstrap
COVERAGES = [n / 10 for n in range(10, 0, -1)]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Rates(NamedTuple):
    """Figures of one or more samples: ``accuracy``, ``kappa``, ``macro_f1`` [S], the others by class [S, L]."""

    accuracy: Floats
    kappa: Floats
    macro_f1: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def label_figures(gold: Ints, label: Ints, names: list[str]) -> LabelFigures:
    """Accuracy, Cohen's kappa, macro F1, figures by class and the confusion of rows [R]; label L stands for none.

    A row without a label is wrong: it counts against accuracy and recall, and as a label of its own in kappa.
    ``baseline``: the most frequent gold label, ``favourite``: the most frequent answer.
    """
    from sklearn.metrics import precision_recall_fscore_support

    L = len(names)
    kinds, counts = np.unique(gold * (L + 1) + label, return_counts=True)
    golds, labels = kinds // (L + 1), kinds % (L + 1)
    weighted = {"sample_weight": counts}
    known = list(range(L))
    by_class = precision_recall_fscore_support(golds, labels, labels=known, zero_division=0, **weighted)
    low, high = _interval(rates(resample(counts), golds, labels, L))
    matrix = np.zeros((L, L + 1), np.int64)
    matrix[golds, labels] = counts
    return LabelFigures(
        accuracy=float((gold == label).mean()),
        kappa=kappa(golds, labels, counts),
        macro_f1=float(by_class[2].mean()),
        intervals={name: _pair(getattr(low, name), getattr(high, name)) for name in ("accuracy", "kappa", "macro_f1")},
        classes={
            name: ClassFigures(
                precision=float(by_class[0][at]),
                recall=float(by_class[1][at]),
                f1=float(by_class[2][at]),
                rows=int(matrix[at].sum()),
                intervals={k: _pair(getattr(low, k)[at], getattr(high, k)[at]) for k in ("precision", "recall", "f1")},
            )
            for at, name in enumerate(names)
        },
        confusion={
            name: dict(zip([*names, "(none)"], matrix[at].tolist(), strict=True)) for at, name in enumerate(names)
        },
        baseline=_most(matrix.sum(axis=1), names),
        favourite=_most(matrix[:, :L].sum(axis=0), names),
    )


def _most(counts: Ints, names: list[str]) -> Share | None:
    """The most frequent label, the first of several, and its share of all; None without any."""
    at = int(counts.argmax())
    return Share(label=names[at], share=float(counts[at] / counts.sum())) if counts[at] else None


def kappa(first: Ints, second: Ints, counts: Ints) -> float | None:
    """Cohen's kappa (1960) of two labellers, each pair of labels as often as ``counts`` says.

    None without rows, and where both give one label only: chance alone would agree as well.
    """
    from sklearn.metrics import cohen_kappa_score

    if len({*first.tolist(), *second.tolist()}) < 2:
        return None
    return float(cohen_kappa_score(first, second, sample_weight=counts))


def rates(counts: Ints, gold: Ints, label: Ints, L: int) -> Rates:
    """Figures of samples in which kind k of rows (``gold[k]``, ``label[k]``) occurs ``counts[:, k]`` times."""
    is_gold, is_label = (np.eye(L + 1)[kind][:, :L] for kind in (gold, label))
    actual, said = counts @ is_gold, counts @ is_label
    right = (counts * (gold == label)) @ is_gold
    rows = counts.sum(axis=1)
    accuracy = right.sum(axis=1) / rows
    chance = (actual * said).sum(axis=1) / rows.astype(np.float64) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = (accuracy - chance) / (1 - chance)
        f1 = np.nan_to_num(2 * right / (actual + said))
        return Rates(accuracy, kappa, f1.mean(axis=1), np.nan_to_num(right / said), np.nan_to_num(right / actual), f1)


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[float, list[float | None]]:
    """Expected calibration error: the mean distance of confidence from accuracy over BINS, and its interval."""
    fine = np.clip(np.ceil(confidence * BINS * FINE).astype(np.int64) - 1, 0, BINS * FINE - 1)
    kinds, which, counts = np.unique(fine * 2 + right, return_inverse=True, return_counts=True)
    gap = np.bincount(which, right - confidence) / counts  # by which accuracy exceeds confidence, in each kind
    in_bin = np.eye(BINS)[kinds // 2 // FINE]
    errors = np.abs((np.vstack([counts, resample(counts)]) * gap) @ in_bin).sum(axis=1) / len(confidence)
    return float(errors[0]), _pair(*np.percentile(errors[1:], [2.5, 97.5]))


def reliability(confidence: Floats, right: npt.NDArray[np.bool_]) -> list[list[float]]:
    """[mean confidence, share right, rows] of each of BINS that has rows: what ``calibration_error`` sums up.

    The diagram of Niculescu-Mizil and Caruana (2005), as Guo et al. (2017) use it.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    groups = [bins == number for number in np.unique(bins)]
    return [[float(confidence[g].mean()), float(right[g].mean()), int(g.sum())] for g in groups]


def accuracy_by_coverage(confidence: Floats, right: npt.NDArray[np.bool_], rows: int) -> list[dict[str, Any]]:
    """Accuracy of the most confident rows, for rising thresholds; ``coverage`` is their share of ``rows``."""
    order = np.argsort(-confidence, kind="stable")
    falling, hits = confidence[order], np.cumsum(right[order])
    rng = np.random.default_rng(0)
    curve: dict[float, dict[str, Any]] = {}
    for coverage in COVERAGES:
        threshold = float(falling[max(1, round(coverage * len(falling))) - 1])
        covered = int(np.searchsorted(-falling, -threshold, side="right"))
        accuracy = float(hits[covered - 1] / covered)
        drawn = rng.binomial(covered, accuracy, RESAMPLES) / covered
        curve[threshold] = {
            "threshold": threshold,
            "coverage": covered / rows,
            "accuracy": accuracy,
            "interval": _pair(*np.percentile(drawn, [2.5, 97.5])),
        }
    return list(curve.values())


def resample(counts: Ints) -> Ints:
    """[RESAMPLES, kinds]: how often each kind of row would be in a new sample."""
    rows = int(counts.sum())
    return np.random.default_rng(0).multinomial(rows, counts / rows, RESAMPLES)


def _interval(drawn: Rates) -> tuple[Rates, Rates]:
    ends = [
        np.nanpercentile(values, [2.5, 97.5], axis=0) if np.isfinite(values).any() else [math.nan] * 2
        for values in drawn
    ]
    low, high = zip(*ends, strict=True)
    return Rates(*low), Rates(*high)


def _pair(low: Any, high: Any) -> list[float | None]:
    return [float(end) if math.isfinite(end) else None for end in (low, high)]
