"""The perplexities of several variants side by side, as text, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from runner.results.perplexity import Estimate
from runner.words import aligned


@dataclass(frozen=True)
class Variant:
    """One model on one text. ``text`` names the tokens: variants of the same ``text`` are compared window by window.
    ``method``: how it was measured, in words.

    ``nlls``, ``scored``: sums and numbers of tokens by window. ``weight_bytes``: as stored. ``tokens_per_s``: over all
    sessions. ``peak_bytes``: of the device's memory in this session, None if nothing was left to compute.
    """

    name: str
    path: str
    text: str
    method: str
    nlls: list[float]
    scored: list[int]
    estimate: Estimate
    weight_bytes: int | None
    tokens_per_s: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Delta:
    """Against the first variant: ``ratio`` of perplexities less one, and its standard error where windows pair up."""

    perplexity: float
    ratio: float
    standard_error: float | None


def delta(first: Variant, other: Variant) -> Delta:
    """The pairs' differences vary less than the windows do, as both meet the same hard windows."""
    difference = other.estimate.nll - first.estimate.nll
    error = None
    if first.text == other.text and len(first.nlls) == len(other.nlls) > 1:
        count, n = sum(first.scored), len(first.nlls)
        pairs = zip(first.nlls, other.nlls, first.scored, strict=True)
        spread = math.fsum((b - a - difference * tokens) ** 2 for a, b, tokens in pairs)
        error = math.sqrt(n / (n - 1) * spread) / count * math.exp(difference)
    return Delta(other.estimate.perplexity - first.estimate.perplexity, math.expm1(difference), error)


HEAD = ("variant", "GB", "perplexity", "+-", "delta", "delta %", "+- %", "tokens", "windows", "tokens/s", "peak GB")


def rows(variants: Sequence[Variant]) -> list[tuple[str, ...]]:
    """The table's cells, without the head."""
    return [_cells(variants[0], one) for one in variants]


def _cells(first: Variant, one: Variant) -> tuple[str, ...]:
    found = one.estimate
    against = None if one is first else delta(first, one)
    return (
        one.name,
        _number(one.weight_bytes and one.weight_bytes / 1e9, ".2f"),
        f"{found.perplexity:.4f}",
        _number(found.standard_error, ".4f"),
        _number(against.perplexity if against else None, "+.4f"),
        _number(100 * against.ratio if against else None, "+.2f"),
        _number(100 * against.standard_error if against and against.standard_error is not None else None, ".2f"),
        f"{found.tokens:,}",
        f"{found.windows:,}",
        _number(one.tokens_per_s, ",.0f"),
        _number(one.peak_bytes and one.peak_bytes / 1e9, ".2f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def as_text(variants: Sequence[Variant]) -> str:
    """Columns for a terminal; names to the left, numbers to the right. Columns that say nothing are left out."""
    return "\n".join([*aligned(_shown(variants), left=(0,)), "", *_methods(variants)])


def as_markdown(variants: Sequence[Variant]) -> str:
    """A table for a model card."""
    head, *lines = _shown(variants)
    rule = ("---", *("---:",) * (len(head) - 1))
    table = [f"| {' | '.join(row)} |" for row in (head, rule, *lines)]
    return "\n".join([*table, "", *_methods(variants)])


def _methods(variants: Sequence[Variant]) -> list[str]:
    """How all of them were measured, or each if they differ."""
    if len({one.method for one in variants}) == 1:
        return [f"Method: {variants[0].method}."]
    return [f"Method of {one.name}: {one.method}." for one in variants]


def _shown(variants: Sequence[Variant]) -> list[tuple[str, ...]]:
    columns = zip(HEAD, *rows(variants), strict=True)
    return list(zip(*(column for column in columns if any(column[1:])), strict=True))


def as_json(variants: Sequence[Variant]) -> str:
    """A list with an object for each variant, without what each window gave."""
    found = []
    for one in variants:
        figures = {name: value for name, value in vars(one).items() if name not in ("nlls", "scored", "estimate")}
        against = None if one is variants[0] else asdict(delta(variants[0], one))
        found.append({**figures, **one.estimate._asdict(), "delta": against})
    return json.dumps(found, indent=1)
