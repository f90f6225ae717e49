"""Two runs side by side: how their configurations and their rows differ."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np

from runner.checkpoint.identity import difference
from runner.console import line, say
from runner.data.cells import records
from runner.results.quality.columns import (
    Golds,
    column_of,
    column_with_gold,
    gold_column,
    is_right,
    question_of,
    questions_of,
    top,
)
from runner.results.quality.paired import paired_answers, paired_figures
from runner.results.quality.shapes import PairedFigures
from runner.results.quality.spans import are_spans, paired_spans
from runner.results.run import Run
from runner.results.scores import kappa
from runner.types import UserError
from runner.words import count_of, escaped

FLIPS = 10  # rows shown that differ
_FIGURES = {"micro_f1": "micro F1", "macro_f1": "macro F1", "jaccard": "Jaccard"}
_FIGURES |= {"mae": "error", "kappa": "kappa", "spearman": "Spearman"}
SURE = 0.05  # of p, below which a difference is taken for one
_UNSAID = ("confidence", "probabilities", "logprobs", "expected", "spread")  # beside an answer: may differ by rounding
_BESIDES = ("rows", "shard_rows", "columns")  # in an identity: they follow from the rest, or do not matter
_CHARS = 160


class Flip(NamedTuple):
    """A row whose ``column`` differs, and a text of its input."""

    row: int
    column: str
    a: Any
    b: Any
    text: str


@dataclass
class Columns:
    """How often two runs agree. ``pairs`` counts the values of ``label`` in both."""

    rows: int = 0
    same: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[Any, Any]] = field(default_factory=Counter)
    flips: list[Flip] = field(default_factory=list)
    flipped: int = 0


class Errors(TypedDict):
    """Rows in error: in one run only, and in both."""

    in_a: int
    in_b: int
    in_both: int


class Comparison(TypedDict, total=False):
    """The figures of ``rowmill diff``; see ``compare``. Without comparable rows: the first three only."""

    configuration: list[str]
    versions: list[str]
    rows: int | None
    columns: dict[str, float]
    kappa: float | None
    errors: Errors
    flipped: int
    flips: list[dict[str, Any]]
    gold: PairedFigures | None


def compare(a: Run, b: Run, by: str | None = None, gold: str | None = None, column: str | None = None) -> Comparison:
    """The figures of ``rowmill diff``. Rows are matched by position or, with ``by``, by a column of both outputs.

    Keys: ``configuration`` (lines ``key: old -> new``), ``versions`` (the same), ``rows`` compared (None: the data sets
    differ and there is no ``by``), ``columns`` (name: share of rows with equal values), ``kappa`` (Cohen's, of
    ``label``; None without one), ``errors`` (rows in error ``in_a``, ``in_b``, ``in_both``), ``flipped`` (rows that
    differ) and ``flips`` (a sample of them), and ``gold`` (which run is right where;
    see ``runner.results.quality.paired``). ``gold`` and ``column`` name the columns that are compared for that, as
    ``runner.results.evaluate.evaluate_run`` takes them; without a gold column there is none. Raises UserError for
    columns that a run lacks.
    """
    old, new = ({name: v for name, v in run.identity.items() if name not in _BESIDES} for run in (a, b))
    figures = Comparison(
        configuration=difference(old, new),
        versions=difference(_versions(a), _versions(b)),
        rows=None,
    )
    if by is None and old["dataset"]["fingerprint"] != new["dataset"]["fingerprint"]:
        return figures
    columns = _compare_rows(a, b, by)
    return figures | Comparison(
        rows=columns.rows,
        columns={name: count / columns.rows for name, count in columns.same.items() if columns.rows},
        kappa=_kappa(columns.pairs),
        errors=Errors(in_a=columns.errors["in_a"], in_b=columns.errors["in_b"], in_both=columns.errors["in_both"]),
        flipped=columns.flipped,
        flips=[flip._asdict() for flip in sorted(columns.flips)],
        gold=_judged(a, b, by, gold, column),
    )


def _judged(a: Run, b: Run, by: str | None, gold: str | None, column: str | None) -> PairedFigures | None:
    """Which run is right where the gold column says so; None without one, unless it was asked for."""
    try:
        name = gold_column(a, gold, column)
        judged = column_with_gold(a, column, name)
        golds = Golds.open(a, name, judged)
        (whole,) = top(a, judged)
        if whole not in b.columns.job:
            raise UserError("--column", f"{b.path} has no such column of its job", value=judged)
        for block in (next(iter(run.blocks([whole])), None) for run in (a, b)):
            _ = block and column_of(block.table, judged)
    except UserError:
        if gold or column:
            raise
        return None
    rows, right, answers = [], [], []
    values = _golds(a, golds)
    chosen_on = {row for run in (a, b) for row in (run.prelude.get("thresholds") or {}).get("rows", ())}
    for row, first, second in _pairs(a, b, [whole], [], by):
        value = next(value for at, value in values if at == row)
        if golds.has(value) and row not in chosen_on:
            rows.append(row)
            said = [_part(columns, judged) for columns in (first, second)]
            right.append([is_right(one, value, golds) for one in said])
            answers.append((value, *said))
    both = np.array(right, np.bool_).reshape(-1, 2)
    found = paired_figures(judged, name, np.array(rows, np.int64), both[:, 0], both[:, 1])
    if found is not None and any(are_spans(one) for _, *said in answers for one in said):
        found["spans"] = paired_spans(*zip(*answers, strict=True))
    if found is not None and (question := question_of(a, judged)):
        found["figures"] = paired_answers(question, golds, answers) or {}
    return found


def _part(columns: dict[str, Any], name: str) -> Any:
    """A column's cell, or the part of one that a dotted name means; None where it is null."""
    found: Any = columns
    for part in [name] if name in columns else name.split("."):
        found = None if found is None else found[part]
    return found


def _golds(run: Run, golds: Golds) -> Iterator[tuple[int, Any]]:
    for start, table in run.blocks(list(dict.fromkeys(["error", *golds.also]))):
        yield from enumerate(golds.values(start, table), start)


def _kappa(pairs: Counter[tuple[Any, Any]]) -> float | None:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(itertools.chain.from_iterable(pairs)))}
    first, second = (np.array([numbers[pair[side]] for pair in pairs], np.int64) for side in (0, 1))
    return kappa(first, second, np.array(list(pairs.values()), np.int64))


def _versions(run: Run) -> dict[str, Any]:
    sessions = run.sessions
    provenance = sessions[-1]["provenance"] if sessions else {}
    return {name: provenance.get(name) or {} for name in ("versions", "machine", "engine")}


def _compare_rows(a: Run, b: Run, by: str | None) -> Columns:
    ours, theirs = a.columns.job, b.columns.job
    unsaid = {question.beside(what) for question in questions_of(a) for what in _UNSAID}
    unsaid |= {name for name in ours if "stages" in a.identity and name.endswith(_UNSAID)}
    names = [name for name in ours if name in theirs and name not in unsaid]
    for run in (a, b):
        if by is not None and by not in run.columns.kept:
            kept = ", ".join(run.columns.kept) or "none"
            raise UserError("--by", f"the output of {run.path} has no such input column; it has {kept}", value=by)
    gold = (a.config.get("dataset") or {}).get("gold")
    texts = [name for name, column in a.columns.kept.items() if name != by and column != gold]
    columns, rng = Columns(same=Counter(dict.fromkeys(names, 0))), random.Random(0)
    for row, first, second in _pairs(a, b, [*names, "error"], texts, by):
        _count(columns, rng, names, row, first, second)
    return columns


def _pairs(
    a: Run, b: Run, names: list[str], texts: list[str], by: str | None
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """The rows that both have finished: position in ``a``, columns in ``a``, columns in ``b``."""
    key = [by] if by else []
    if by:
        seen = {found: columns for found, _, columns in _by_key(b, by, [*names, *key])}
        for found, row, columns in _by_key(a, by, [*names, *key, *texts]):
            if (match := seen.get(found)) is not None:
                yield row, columns, match
        return
    others = _rows(b, names)
    other = next(others, None)
    for row, columns in _rows(a, [*names, *texts]):
        while other is not None and other[0] < row:
            other = next(others, None)
        if other is not None and other[0] == row:
            yield row, columns, other[1]


def _by_key(run: Run, by: str, names: list[str]) -> Iterator[tuple[Any, int, dict[str, Any]]]:
    """The rows with their cells in the column ``by``; UserError for one that two rows have."""
    seen: dict[Any, int] = {}
    for row, columns in _rows(run, names):
        key = _hashable(columns[by])
        if seen.setdefault(key, row) != row:
            value, first = escaped(repr(columns[by]))[:_CHARS], seen[key]
            raise UserError("--by", f"rows {first:,} and {row:,} of {run.path} both have {value}", value=by)
        yield key, row, columns


def _rows(run: Run, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for start, table in run.blocks(list(dict.fromkeys(names))):
        yield from enumerate(records(table), start)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else repr(value)


def _count(
    columns: Columns, rng: random.Random, names: list[str], row: int, a: dict[str, Any], b: dict[str, Any]
) -> None:
    columns.rows += 1
    failed = (a["error"] is not None, b["error"] is not None)
    if any(failed):
        columns.errors["in_both" if all(failed) else "in_a" if failed[0] else "in_b"] += 1
    if "label" in names:
        columns.pairs[_hashable(a["label"]), _hashable(b["label"])] += 1
    differing = [name for name in names if a[name] != b[name]]
    columns.same.update(name for name in names if a[name] == b[name])
    if not differing:
        return
    columns.flipped += 1
    texts = [value for name, value in a.items() if isinstance(value, str) and name not in (*names, "error")]
    flip = Flip(row, differing[0], a[differing[0]], b[differing[0]], max(texts, key=len, default="")[:_CHARS])
    if len(columns.flips) < FLIPS:  # a uniform sample of a stream: Vitter's algorithm R (1985)
        columns.flips.append(flip)
    elif (place := rng.randrange(columns.flipped)) < FLIPS:
        columns.flips[place] = flip


def show_comparison(figures: Comparison) -> None:
    """The comparison as text."""
    for name, lines in (("config", figures["configuration"]), ("versions", figures["versions"])):
        for at, differing in enumerate(lines or ["the same"]):
            line(name if not at else "", escaped(differing))
    if figures["rows"] is None:
        line("rows", "not compared: the runs have different rows; --by COLUMN matches them by a column of both outputs")
        return
    line("rows", f"{figures['rows']:,} finished in both")
    for name, share in figures["columns"].items():
        extra = f", Cohen's kappa {figures['kappa']:.3f}" if name == "label" and figures["kappa"] is not None else ""
        line("agree" if name == next(iter(figures["columns"])) else "", f"{share:.2%} in {escaped(name)}{extra}")
    if found := figures["gold"]:
        _show_gold(found)
    errors = figures["errors"]
    if any(errors.values()):
        line(
            "errors",
            f"{errors['in_a']:,} only in the first, {errors['in_b']:,} only in the second, "
            f"{errors['in_both']:,} in both",
        )
    if figures["flips"]:
        line("differ", f"{count_of(figures['flipped'], 'row')}, {len(figures['flips'])} of them shown:")
    for flip in figures["flips"]:
        before, after = (_brief(flip[side]) for side in ("a", "b"))
        text = f"   {_brief(flip['text'])}" if flip["text"] else ""
        say(f"  {flip['row']:>7,} {escaped(flip['column'])}: {before} -> {after}{text}")


def _show_gold(found: PairedFigures) -> None:
    a, b, difference = found["accuracy_a"], found["accuracy_b"], found["difference"]
    low, high = found["interval"]
    against = f"{count_of(found['rows'], 'row')} with gold ({escaped(found['gold'])})"
    line("accuracy", f"{a:.3f} -> {b:.3f} in {escaped(found['column'])}, on {against}")
    chance = "" if found["p"] < SURE else ": it may be chance"
    line("", f"difference {difference:+.3f} ({low:+.3f} to {high:+.3f}), McNemar's p = {found['p']:.3g}{chance}")
    for name, one in (found.get("figures") or {}).items():
        values = [value for value in (one["a"], one["b"], one["difference"], *one["interval"]) if value is not None]
        if len(values) == 5:
            line(_FIGURES[name], "{:.3f} -> {:.3f}, difference {:+.3f} ({:+.3f} to {:+.3f})".format(*values))
    if spans := found.get("spans"):
        _show_spans({**spans})
    for name, count, rows in (
        ("righted", found["righted"], found["righted_rows"]),
        ("broken", found["broken"], found["broken_rows"]),
    ):
        shown = f": {', '.join(map(str, rows))}{', ...' if count > len(rows) else ''}" if rows else ""
        line(name, f"{count_of(count, 'row')}{shown}")


def _show_spans(found: dict[str, Any]) -> None:
    for name, title, what in (("f1", "F1", "exact spans"), ("partial_f1", "", "partial ones")):
        low, high = found[f"{name}_interval"]
        change = f"{found[f'{name}_difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        line(title, f"{found[f'{name}_a']:.3f} -> {found[f'{name}_b']:.3f} of {what}, difference {change}")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else "null" if value is None else str(value)
    return escaped(" ".join(text[: _CHARS // 2].split())) + ("…" if len(text) > _CHARS // 2 else "")
