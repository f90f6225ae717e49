"""How accurate labels and confidences are, with bootstrap intervals: arrays in, figures out.

The bootstrap draws how often each kind of row (gold label and label, or confidence and whether right) would occur in a
new sample of as many rows: the same as drawing rows, at a cost that does not grow with them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runner.results.quality.bootstrap import ENDS, RESAMPLES, interval, pair, resample
from runner.results.quality.shapes import NONE, ClassFigures, LabelFigures, Share

TOGETHER = 100  # of them
FULL = 100  # labels up to which a confusion has a number for each two of them
WIDE = 1000  # labels; of more, those that occur nowhere do not count, and each one's figures have no intervals
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
    Of more than FULL labels the confusion has what occurs only; of more than WIDE labels those that occur nowhere are
    left out.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if len(names) > WIDE:
        names, gold, label = _occurring(names, gold, label)
    L = len(names)
    kinds, counts = np.unique(gold * (L + 1) + label, return_counts=True)
    golds, labels = kinds // (L + 1), kinds % (L + 1)
    weighted = {"sample_weight": counts}
    known = list(range(L))
    by_class = precision_recall_fscore_support(golds, labels, labels=known, zero_division=0, **weighted)
    low, high = _interval(_drawn(counts, golds, labels, L))
    actual, said = (np.bincount(one, counts, L + 1).astype(np.int64) for one in (golds, labels))
    by_label = {one: (getattr(low, one), getattr(high, one)) for one in ("precision", "recall", "f1")}
    return LabelFigures(
        accuracy=float((gold == label).mean()),
        kappa=kappa(golds, labels, counts),
        macro_f1=float(by_class[2].mean()),
        intervals={name: pair(getattr(low, name), getattr(high, name)) for name in ("accuracy", "kappa", "macro_f1")},
        classes={
            name: ClassFigures(
                precision=float(by_class[0][at]),
                recall=float(by_class[1][at]),
                f1=float(by_class[2][at]),
                rows=int(actual[at]),
                intervals={k: pair(*(ends[at] for ends in both)) for k, both in by_label.items()},
            )
            for at, name in enumerate(names)
        },
        confusion=_confusion(golds, labels, counts, names),
        baseline=_most(actual, names),
        favourite=_most(said[:L], names),
    )


def _occurring(names: list[str], gold: Ints, label: Ints) -> tuple[list[str], Ints, Ints]:
    """The labels that are a row's gold or answer, and their numbers among these."""
    kept, numbers = np.unique(np.concatenate([gold, label[label < len(names)]]), return_inverse=True)
    label = np.searchsorted(kept, label)
    return [names[at] for at in kept.tolist()], numbers[: len(gold)], label


def _confusion(golds: Ints, labels: Ints, counts: Ints, names: list[str]) -> dict[str, dict[str, int]]:
    """By gold label and answer; of more than FULL labels only what occurs."""
    answers = [*names, NONE]
    found: dict[str, dict[str, int]] = {name: dict.fromkeys(answers, 0) if len(names) <= FULL else {} for name in names}
    for gold, label, count in zip(golds.tolist(), labels.tolist(), counts.tolist(), strict=True):
        found[names[gold]][answers[label]] = count
    return found


def _most(counts: Ints, names: list[str]) -> Share | None:
    """The most frequent label, the first of several, and its share of all; None without any."""
    at = int(counts.argmax())
    return Share(label=names[at], share=float(counts[at] / counts.sum())) if counts[at] else None


def kappa(first: Ints, second: Ints, counts: Ints) -> float | None:
    """Cohen's kappa (1960) of two labellers, each pair of labels as often as ``counts`` says.

    None without rows, and where both give one label only: chance alone would agree as well.
    """
    if len({*first.tolist(), *second.tolist()}) < 2:
        return None
    L = int(max(first.max(), second.max())) + 1  # scikit-learn's takes L * L numbers
    rows, (a, b) = counts.sum(), (np.bincount(one, counts, L) for one in (first, second))
    chance = float(a @ b) / float(rows) ** 2
    return (float(counts[first == second].sum() / rows) - chance) / (1 - chance)


def rates(counts: Ints, gold: Ints, label: Ints, L: int) -> Rates:
    """Figures of samples in which kind k of rows (``gold[k]``, ``label[k]``) occurs ``counts[:, k]`` times."""
    actual, said = (_by_label(counts, kind, L) for kind in (gold, label))
    right = _by_label(counts * (gold == label), gold, L)
    rows = counts.sum(axis=1)
    accuracy = right.sum(axis=1) / rows
    chance = (actual * said).sum(axis=1) / rows.astype(np.float64) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = (accuracy - chance) / (1 - chance)
        f1 = np.nan_to_num(2 * right / (actual + said))
        return Rates(accuracy, kappa, f1.mean(axis=1), np.nan_to_num(right / said), np.nan_to_num(right / actual), f1)


def _by_label(counts: Ints, kind: Ints, L: int) -> Floats:
    """Counts [S, kinds] added up by label: [S, L]."""
    from scipy.sparse import csr_array

    place = csr_array((np.ones(len(kind)), (np.arange(len(kind)), kind)), shape=(len(kind), L + 1))
    return np.asarray((place.T @ counts.T).T[:, :L])


def _drawn(counts: Ints, gold: Ints, label: Ints, L: int) -> Rates:
    """The rates of all samples, a few at a time; of more than WIDE labels those by class are left out."""
    rng, rows = np.random.default_rng(0), int(counts.sum())
    found = []
    for _ in range(0, RESAMPLES, TOGETHER):
        some = rates(rng.multinomial(rows, counts / rows, TOGETHER), gold, label, L)
        none: Any = np.full((TOGETHER, L), np.nan, np.float16)
        found.append(some if L <= WIDE else some._replace(precision=none, recall=none, f1=none))
    return Rates(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[float, list[float | None]]:
    """Expected calibration error: the mean distance of confidence from accuracy over BINS, and its interval."""
    fine = np.clip(np.ceil(confidence * BINS * FINE).astype(np.int64) - 1, 0, BINS * FINE - 1)
    kinds, which, counts = np.unique(fine * 2 + right, return_inverse=True, return_counts=True)
    gap = np.bincount(which, right - confidence) / counts  # by which accuracy exceeds confidence, in each kind
    in_bin = np.eye(BINS)[kinds // 2 // FINE]
    errors = np.abs((np.vstack([counts, resample(counts)]) * gap) @ in_bin).sum(axis=1) / len(confidence)
    return float(errors[0]), interval(errors[1:])


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
            "interval": interval(drawn),
        }
    return list(curve.values())


def _interval(drawn: Rates) -> tuple[Rates, Rates]:
    ends = [
        np.nanpercentile(values, ENDS, axis=0)
        if np.isfinite(values).any()
        else np.full((2, *values.shape[1:]), math.nan)
        for values in drawn
    ]
    low, high = zip(*ends, strict=True)
    return Rates(*low), Rates(*high)
