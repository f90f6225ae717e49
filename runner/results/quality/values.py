"""How near extracted numbers and sets are to the gold ones, with bootstrap intervals over rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from runner.data.gold import members_of
from runner.results.quality.bootstrap import RESAMPLES, interval
from runner.results.quality.shapes import ClassFigures, Interval, NumberFigures, SetFigures
from runner.types import UserError

MOST_MEMBERS = 1000  # different ones that have figures of their own
DRAWN_TOGETHER = 5_000_000  # counts of kinds of rows
Floats = npt.NDArray[np.float64]
Members = frozenset[str]
ByName = tuple[Any, Any, Any]  # whether a pair of sets has a member in both, in the gold one, in the answer


def number_figures(column: str, gold: Sequence[Any], said: Sequence[Any]) -> NumberFigures:
    """Of rows with gold: how many were ``answered``, and of these the share ``exact`` (of all rows), the mean absolute
    error, its root mean square, the mean error (``bias``: above 0, answers are too high) and Pearson's correlation
    (None where one side does not vary).
    """
    there = [at for at, value in enumerate(said) if number_of(value) is not None]
    golds = np.array([_gold_number(gold[at], column) for at in there], np.float64)
    answers = np.array([number_of(said[at]) for at in there], np.float64)
    found = NumberFigures(kind="numbers", column=column, rows=len(gold), answered=len(there))
    for value in gold:
        _gold_number(value, column)
    if not there:
        return found
    unit = _unit(golds, answers)
    golds, answers = golds / unit, answers / unit
    error = answers - golds
    found |= NumberFigures(
        exact=float((error == 0).sum() / len(gold)),
        mae=unit * float(np.abs(error).mean()),
        rmse=unit * float(np.sqrt((error**2).mean())),
        bias=unit * float(error.mean()),
        correlation=_correlation(golds, answers),
        intervals={
            "mae": _interval(len(error), lambda at: unit * np.abs(error[at]).mean()),
            "rmse": _interval(len(error), lambda at: unit * math.sqrt((error[at] ** 2).mean())),
            "correlation": _interval(len(error), lambda at: _correlation(golds[at], answers[at])),
        },
    )
    return found


def number_of(value: Any) -> float | None:
    """A cell as a number; None for one that is none, and for NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _gold_number(value: Any, column: str) -> float:
    number = number_of(value)
    if number is None:
        raise UserError("--gold", f"{value!r} is no number, as those of column {column} are: --as labels?")
    return number


def _unit(*numbers: Floats) -> float:
    """A power of two, so that no square of these numbers in it is too large: models answer 1e200, too."""
    largest = max(float(np.abs(part).max()) for part in numbers)
    return math.ldexp(1.0, max(math.frexp(largest)[1] - 500, 0))


def _correlation(a: Floats, b: Floats) -> float | None:
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def set_figures(
    column: str, gold: Sequence[Any], said: Sequence[Any], names: Sequence[str] | None = None
) -> SetFigures:
    """Of rows with gold: how many were ``answered``; over all of them the share ``exact``, the mean Jaccard index (1
    for two empty sets), precision, recall and F1 over all members (micro), and the mean F1 of the members (macro) with
    figures for each. A row without an answer has no members and is not right, whatever the gold set is.

    ``names``: the members that there may be; None for those that occur.
    """
    pairs = Counter(
        (members_of(g, names or ()), members_of(s, names or ()) if s is not None else None)
        for g, s in zip(gold, said, strict=True)
    )
    counts = np.array(list(pairs.values()), np.int64)
    known = list(names) if names is not None else sorted(frozenset().union(*(g | (s or g) for g, s in pairs)))
    few = known[:MOST_MEMBERS]
    rates = rates_of(list(pairs), few)
    found, drawn = rates.of(counts[None, :]), rates.drawn(counts)
    f1, precision, recall = (found.pop(name)[0] for name in ("label_f1", "label_precision", "label_recall"))
    known_rates = {name: float(values[0]) for name, values in found.items()}
    return cast(SetFigures, known_rates) | SetFigures(
        kind="sets",
        column=column,
        rows=len(gold),
        answered=sum(value is not None for value in said),
        intervals={name: interval(drawn[name]) for name in ("exact", "jaccard", "micro_f1", "macro_f1")},
        classes={
            name: ClassFigures(
                precision=float(precision[at]),
                recall=float(recall[at]),
                f1=float(f1[at]),
                rows=int(counts @ rates.by_name[1][:, at]),
                answers=int(counts @ rates.by_name[2][:, at]),
                intervals={"f1": interval(drawn["label_f1"][:, at])},
            )
            for at, name in enumerate(few)
        },
    )


def rates_of(answers: list[tuple[Members, Members | None]], names: list[str]) -> Rates:
    """What pairs of sets, gold and answer, contribute to the figures over them all. No answer (None) is never right."""
    answered = np.array([said is not None for _, said in answers], np.bool_)
    pairs = [(gold, said or frozenset()) for gold, said in answers]
    both, ours, theirs = (np.array([len(part(g, s)) for g, s in pairs], np.float64) for part in _PARTS)
    union = ours + theirs - both
    jaccard = np.where(union > 0, both / np.maximum(union, 1), answered)
    return Rates(both, ours, theirs, answered & (union == both), jaccard, _by_name(pairs, names))


def _by_name(pairs: list[tuple[Members, Members]], names: list[str]) -> ByName:
    """For each pair and member whether it is in both sets, in the gold one, in the answer: [pairs, members]."""
    place = {name: at for at, name in enumerate(names)}
    golds, answers = (np.zeros((len(pairs), len(names))) for _ in range(2))
    for number, (gold, said) in enumerate(pairs):
        golds[number, [place[name] for name in gold if name in place]] = 1
        answers[number, [place[name] for name in said if name in place]] = 1
    return golds * answers, golds, answers


class Rates(NamedTuple):
    """What kinds of rows [K] contribute: members in common, answered, right ones; whether the same; Jaccard index."""

    both: Floats
    ours: Floats
    theirs: Floats
    exact: Any
    jaccard: Floats
    by_name: ByName

    def of(self, counts: Any) -> dict[str, Any]:
        """The figures of samples in which the kinds occur so often [S, K]."""
        rows = counts.sum(axis=1)
        right, actual, said = (counts @ part for part in self.by_name)
        both, ours, theirs = counts @ self.both, counts @ self.ours, counts @ self.theirs
        f1 = _shares(2 * right, actual + said)
        return {
            "exact": counts @ self.exact / rows,
            "jaccard": counts @ self.jaccard / rows,
            "precision": _shares(both, ours),
            "recall": _shares(both, theirs),
            "micro_f1": _shares(2 * both, ours + theirs),
            "macro_f1": f1.mean(axis=1) if f1.shape[1] else np.zeros(len(rows)),
            **{"label_f1": f1, "label_precision": _shares(right, said), "label_recall": _shares(right, actual)},
        }

    def drawn(self, counts: Any) -> dict[str, Any]:
        """The figures of RESAMPLES new samples, some at a time."""
        rng, rows, kinds = np.random.default_rng(0), int(counts.sum()), max(1, len(counts))
        some = max(1, min(RESAMPLES, DRAWN_TOGETHER // kinds))
        parts = [
            self.of(rng.multinomial(rows, counts / rows, min(some, RESAMPLES - start)))
            for start in range(0, RESAMPLES, some)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shares(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.zeros(np.shape(part), np.float64), where=whole > 0)


_PARTS: tuple[Callable[[Members, Members], Members], ...] = (
    lambda gold, said: gold & said,
    lambda gold, said: said,
    lambda gold, said: gold,
)


def _interval(rows: int, figure: Callable[[Any], float | None]) -> Interval:
    """The 95% percentile bootstrap of a figure of some rows, with a fixed seed."""
    rng = np.random.default_rng(0)
    drawn = (figure(rng.integers(0, rows, rows)) for _ in range(RESAMPLES))
    return interval([value for value in drawn if value is not None])
