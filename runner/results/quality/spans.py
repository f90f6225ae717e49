"""How right spans are: exact and partial matches with the gold ones, by kind, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runner.data.gold import GoldSpan, gold_spans
from runner.results.quality.bootstrap import interval, resample
from runner.results.quality.shapes import KindFigures, PairedSpans, SpanFigures
from runner.types import UserError

Counts = npt.NDArray[np.int64]
_EXACT, _PARTIAL, _SAID, _GOLD = range(4)


def span_figures(column: str, gold: Sequence[Any], said: Sequence[Any]) -> SpanFigures:
    """Over all rows with gold: ``precision``, ``recall`` and ``f1`` of spans with the same start, end and kind, and
    ``partial_f1``, where one of the same kind that overlaps with a gold one counts half (each is matched with one other
    at most, exact matches first): what nervaluate calls strict, and partial of a kind. ``exact``: the share of rows
    without a mistake. ``answered`` rows have an answer; one without has no spans. ``kinds``: the same of each kind;
    ``gold`` and ``found`` are numbers of spans.
    """
    counts, kinds = _counts(gold, said)
    drawn = _drawn(counts)
    sums = counts.sum(axis=0)
    return SpanFigures(
        kind="spans",
        column=column,
        rows=len(gold),
        answered=sum(value is not None for value in said),
        exact=float(_without_mistake(counts).mean()),
        **_figures(sums.sum(axis=0), drawn.sum(axis=1)),
        kinds={name: _figures(sums[at], drawn[:, at]) for at, name in enumerate(kinds)},
    )


def paired_spans(gold: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> PairedSpans:
    """``f1`` and ``partial_f1`` of two runs on the same rows, and the differences (b less a) with their intervals."""
    kinds = {one.kind for values in (gold, a, b) for value in values for one in _spans(value)}
    both = np.concatenate([_counts(gold, said, kinds)[0].sum(axis=1) for said in (a, b)], axis=1)  # [N, 8]
    sums, drawn = both.sum(axis=0).reshape(2, 4), _drawn(both).reshape(-1, 2, 4)
    found: dict[str, Any] = {}
    for name in ("f1", "partial_f1"):
        first, second = (_measured(sums[run])[name] for run in (0, 1))
        spread = _measured(drawn[:, 1])[name] - _measured(drawn[:, 0])[name]
        found |= {f"{name}_a": float(first), f"{name}_b": float(second)}
        found |= {f"{name}_difference": float(second - first), f"{name}_interval": interval(spread)}
    return cast(PairedSpans, found)


def same_spans(a: Any, b: Any) -> bool:
    """Whether two cells mean the same spans."""
    return _spans(a) == _spans(b)


def are_spans(value: Any) -> bool:
    """Whether an answer is a list of spans, an empty list aside."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {"start", "end"} <= value[0].keys()
    )


def _spans(value: Any) -> list[GoldSpan]:
    try:
        return gold_spans(value) or []
    except ValueError as problem:
        raise UserError("--gold", f"a value holds no spans: {problem}") from problem


def _counts(gold: Sequence[Any], said: Sequence[Any], among: Collection[str] | None = None) -> tuple[Counts, list[str]]:
    """Of each row and kind: exact matches, partial ones, spans said and gold ones, [N, kinds, 4]; and the kinds."""
    rows = [(_spans(right), _spans(answer)) for right, answer in zip(gold, said, strict=True)]
    kinds = sorted(among or {one.kind for both in rows for spans in both for one in spans})
    index = {name: at for at, name in enumerate(kinds)}
    counts = np.zeros((len(rows), max(1, len(kinds)), 4), np.int64)
    for row, (right, answer) in enumerate(rows):
        for kind in {one.kind for one in (*right, *answer)}:
            pair = ([one for one in spans if one.kind == kind] for spans in (right, answer))
            counts[row, index[kind]] = _matches(*pair)
    return counts, kinds


def _matches(gold: list[GoldSpan], said: list[GoldSpan]) -> tuple[int, int, int, int]:
    """Of one kind: exact matches first, then the pairs that overlap most."""
    exact = set(gold) & set(said)
    missed, wrong = ([one for one in spans if one not in exact] for spans in (gold, said))
    pairs = [(min(a.end, b.end) - max(a.start, b.start), a, b) for a in missed for b in wrong]
    taken: set[tuple[int, GoldSpan]] = set()
    partial = 0
    for _, a, b in sorted((pair for pair in pairs if pair[0] > 0), key=lambda pair: (-pair[0], *pair[1:])):
        if not taken & {(0, a), (1, b)}:
            taken |= {(0, a), (1, b)}
            partial += 1
    return len(exact), partial, len(said), len(gold)


def _drawn(counts: Counts) -> Counts:
    """The sums over rows of bootstrap samples, [RESAMPLES, ...]."""
    unlike, often = np.unique(counts.reshape(len(counts), -1), axis=0, return_counts=True)
    sums: Counts = resample(often) @ unlike
    return sums.reshape(-1, *counts.shape[1:])


def _without_mistake(counts: Counts) -> npt.NDArray[np.bool_]:
    exact = counts[..., _EXACT]
    return np.asarray(((exact == counts[..., _SAID]) & (exact == counts[..., _GOLD])).all(axis=1))


def _measured(sums: Any) -> dict[str, Any]:
    """The measures of sums [..., 4]; 0 where there is nothing to measure."""
    exact, partial, said, gold = (sums[..., at] for at in range(4))
    return {
        "precision": exact / np.maximum(said, 1),
        "recall": exact / np.maximum(gold, 1),
        "f1": 2 * exact / np.maximum(said + gold, 1),
        "partial_f1": (2 * exact + partial) / np.maximum(said + gold, 1),
    }


def _figures(sums: Counts, drawn: Counts) -> KindFigures:
    spread = {name: interval(values) for name, values in _measured(drawn).items()}
    found: dict[str, Any] = {name: float(value) for name, value in _measured(sums).items()}
    counts = {"found": int(sums[_SAID]), "gold": int(sums[_GOLD])}
    return cast(KindFigures, {**found, **counts, "intervals": spread})
