"""How near extracted numbers and sets are to the gold ones, with bootstrap intervals over rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.results.quality.shapes import Interval, NumberFigures, SetFigures
from runner.types import UserError

RESAMPLES = 1000
Floats = npt.NDArray[np.float64]
Members = frozenset[str]


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
    error = answers - golds
    found |= NumberFigures(
        exact=float((error == 0).sum() / len(gold)),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        bias=float(error.mean()),
        correlation=_correlation(golds, answers),
        intervals={
            "mae": _interval(len(error), lambda at: np.abs(error[at]).mean()),
            "rmse": _interval(len(error), lambda at: math.sqrt((error[at] ** 2).mean())),
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


def _correlation(a: Floats, b: Floats) -> float | None:
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def set_figures(column: str, gold: Sequence[Any], said: Sequence[Any]) -> SetFigures:
    """Of rows with gold: how many were ``answered``; over all of them, one without an answer being an empty set, the
    share ``exact``, the mean Jaccard index (1 for two empty sets), and precision, recall and F1 over all members.
    """
    pairs = [(members_of(g), members_of(s) if s is not None else frozenset()) for g, s in zip(gold, said, strict=True)]
    both, ours, theirs = (np.array([len(part(g, s)) for g, s in pairs], np.float64) for part in _PARTS)
    union = ours + theirs - both
    jaccard = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    exact = union == both

    def f1(at: Any) -> float:
        return float(_ratio(2 * both[at].sum(), ours[at].sum() + theirs[at].sum()))

    everything = np.arange(len(pairs))
    return SetFigures(
        kind="sets",
        column=column,
        rows=len(pairs),
        answered=sum(value is not None for value in said),
        exact=float(exact.mean()),
        jaccard=float(jaccard.mean()),
        precision=_ratio(both.sum(), ours.sum()),
        recall=_ratio(both.sum(), theirs.sum()),
        f1=f1(everything),
        intervals={
            "exact": _interval(len(pairs), lambda at: exact[at].mean()),
            "jaccard": _interval(len(pairs), lambda at: jaccard[at].mean()),
            "f1": _interval(len(pairs), f1),
        },
    )


_PARTS: tuple[Callable[[Members, Members], Members], ...] = (
    lambda gold, said: gold & said,
    lambda gold, said: said,
    lambda gold, said: gold,
)


def members_of(value: Any) -> Members:
    """The members of a list, or of a text that is a JSON list or is parted by ``;``, ``|`` or commas."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else re.split(_separator(text), text)
        except ValueError:
            value = re.split(_separator(text), text)
    elif not isinstance(value, list | tuple | set | frozenset):
        value = [value]
    return frozenset(name for one in value if one is not None and (name := str(one).strip()))


def _separator(text: str) -> str:
    return next((re.escape(sign) for sign in ";|" if sign in text), ",")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _interval(rows: int, figure: Callable[[Any], float | None]) -> Interval:
    """The 95% percentile bootstrap of a figure of some rows, with a fixed seed."""
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    known = [value for value in drawn if value is not None]
    if not known:
        return [None, None]
    low, high = np.percentile(known, [2.5, 97.5])
    return [float(low), float(high)]
