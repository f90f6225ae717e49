"""Two runs on the same rows with gold: which is right more often, and whether that may be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.results.quality.bootstrap import finite, interval, resample
from runner.results.quality.columns import Golds
from runner.results.quality.scale import nearest, spearmans, weighted_kappas
from runner.results.quality.shapes import PairedFigure, PairedFigures
from runner.results.quality.values import Members, rates_of
from runner.text.questions.question import MULTI, SCALE, Question

Bools = npt.NDArray[np.bool_]
SHOWN = 10  # rows of each kind


def paired_figures(
    column: str, gold: str, positions: npt.NDArray[np.int64], a: Bools, b: Bools
) -> PairedFigures | None:
    """Of rows with gold, whether each run is right: ``difference`` of the accuracies (b less a) with its 95% bootstrap
    interval over pairs; rows ``righted`` and ``broken`` by b, and the ``positions`` of the first of them; ``p`` of
    McNemar's test (1947), exact. None without rows.
    """
    from scipy.stats import binomtest

    rows = len(a)
    if not rows:
        return None
    better, worse = b & ~a, a & ~b
    righted, broken = int(better.sum()), int(worse.sum())
    counts = np.array([righted, broken, rows - righted - broken])
    drawn = resample(counts)
    differing = righted + broken
    return PairedFigures(
        column=column,
        gold=gold,
        rows=rows,
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=(righted - broken) / rows,
        interval=interval((drawn[:, 0] - drawn[:, 1]) / rows),
        righted=righted,
        broken=broken,
        righted_rows=positions[better][:SHOWN].tolist(),
        broken_rows=positions[worse][:SHOWN].tolist(),
        p=float(binomtest(righted, differing).pvalue) if differing else 1.0,
    )


def paired_answers(
    question: Question, golds: Golds, answers: Sequence[tuple[Any, Any, Any]]
) -> dict[str, PairedFigure] | None:
    """Of several labels or levels, given (gold, a, b) of rows: each figure of both runs and the difference (b less a).

    Its 95% interval is of a paired bootstrap. None for other questions.
    """
    if question.kind == MULTI:
        return _paired_sets(question, [(golds.members(gold), _set(a), _set(b)) for gold, a, b in answers])
    if question.kind == SCALE:
        values = [(question.value(golds.name(gold)), question.value(a), question.value(b)) for gold, a, b in answers]
        return _paired_levels(question, [known for known in values if None not in known])
    return None


def _set(answer: Any) -> frozenset[str] | None:
    return None if answer is None else frozenset(answer)


def _paired_sets(
    question: Question, rows: list[tuple[Members, Members | None, Members | None]]
) -> dict[str, PairedFigure]:
    kinds = Counter(rows)
    counts = np.array(list(kinds.values()), np.int64)
    sides = [rates_of([(one[0], one[side]) for one in kinds], question.names) for side in (1, 2)]
    drawn = [rates.drawn(counts) for rates in sides]  # the same samples of both
    found = [rates.of(counts[None, :]) for rates in sides]
    return {name: _paired(*(one[name] for one in (*found, *drawn))) for name in ("micro_f1", "macro_f1", "jaccard")}


def _paired_levels(question: Question, rows: list[Any]) -> dict[str, PairedFigure] | None:
    if not rows:
        return None
    kinds, counts = np.unique(np.array(rows, np.float64), axis=0, return_counts=True)
    gold, *said = kinds.T
    levels = np.array(question.values)
    places = [nearest(levels, values) for values in kinds.T]
    samples, found = (counts[None, :], resample(counts)), {}
    for name in ("mae", "kappa", "spearman"):
        figures = [
            np.abs(values - gold) @ sample.T / counts.sum()
            if name == "mae"
            else weighted_kappas(sample, places[0], place, len(levels))
            if name == "kappa"
            else spearmans(sample, gold, values)
            for sample in samples
            for values, place in zip(said, places[1:], strict=True)
        ]
        found[name] = _paired(*figures)
    return found


def _paired(a: Any, b: Any, drawn_a: Any, drawn_b: Any) -> PairedFigure:
    spread = interval(np.append(drawn_b - drawn_a, b - a))
    return PairedFigure(a=finite(a[0]), b=finite(b[0]), difference=finite((b - a)[0]), interval=spread)
