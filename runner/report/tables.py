"""The tables of a report: rows with their answers first, figures by label, and which labels are taken for which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from runner.checkpoint.records import clean
from runner.report.figures import Figures
from runner.report.shown import Shown
from runner.results.quality.shapes import NONE
from runner.words import escaped, short_names

SHOWN = 8  # columns of rows; the others can be chosen
MOST_COLUMNS = 40
_FIRST, _HIDDEN = ("label", "confidence", "gold"), {"usage", "probabilities", "logprobs"}
LABELS = 100  # in the table of their figures
MATRIX = 24  # labels up to which the confusion matrix is shown whole
COUNTS = 12  # up to which its cells have shares beside the counts
MISTAKES = 15
NAME, LONGEST = 32, 1000  # characters of a label's name that the matrix shows, and is told apart by


class Cell(NamedTuple):
    """A cell: its ``kind`` (number, text, none), its text, and whether its column is among those shown at first."""

    kind: str
    text: str
    shown: bool


class Row(NamedTuple):
    """A row: why it is here, whether it is right (None: unknown) or failed, its doubt (1 less confidence), cells."""

    row: int
    why: list[str]
    right: bool | None
    failed: bool
    doubt: float | None
    cells: list[tuple[str, Cell]]


def rows_table(figures: Figures, cell: int) -> dict[str, Any]:
    """``columns`` (name, kind, shown) and ``rows``: the gold and the answers first, then the error, then the input."""
    columns = _columns(figures)
    rows = [_row(one, columns, cell) for one in figures.rows]
    numbers = {name for row in rows for name, found in row.cells if found.kind == "number"}
    heads = [(name, "number" if name in numbers else "text", at < SHOWN) for at, name in enumerate(columns)]
    return {"columns": heads, "rows": rows}


def _columns(figures: Figures) -> list[str]:
    job = list(figures.columns.job)
    names = [name for name in _FIRST if name == "gold" or name in job]
    names += [*job, "error", *(name for one in figures.rows for name in one.columns)]
    hidden = {*_HIDDEN, *(name for name in job if name.endswith("_probabilities"))}
    occurring = {name for one in figures.rows for name, value in one.columns.items() if value is not None}
    return [name for name in dict.fromkeys(names) if name in occurring and name not in hidden][:MOST_COLUMNS]


def _row(one: Shown, columns: list[str], cell: int) -> Row:
    sure = [v for name, v in one.columns.items() if name == "confidence" or name.endswith("_confidence")]
    doubt = 1 - min(known) if (known := [value for value in sure if isinstance(value, float)]) else None
    cells = [(name, _cell(one.columns.get(name), cell, at < SHOWN)) for at, name in enumerate(columns)]
    return Row(one.row, one.why, one.right, one.columns.get("error") is not None, doubt, cells)


def _cell(value: Any, most: int, shown: bool) -> Cell:
    if value is None:
        return Cell("none", "null", shown)
    if isinstance(value, bool):
        return Cell("text", json.dumps(value), shown)
    if isinstance(value, int | float):
        return Cell("number", f"{value:.3f}" if isinstance(value, float) else f"{value}", shown)
    nested = isinstance(value, dict | list)
    text = json.dumps(_filled(value), ensure_ascii=False, default=str) if nested else str(value)
    return Cell("text", text_of(text, most), shown)


def _filled(value: Any) -> Any:
    """Without the members that are null, which a column of structs has for all that any row has."""
    if isinstance(value, dict):
        return {name: _filled(part) for name, part in value.items() if part is not None}
    return [_filled(part) for part in value] if isinstance(value, list) else value


def labels_table(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A label's figures with its rows of gold (support) and of answers, in the job's order; of more than LABELS those
    with the most rows.
    """
    answers: Counter[str] = Counter()
    for counts in (evaluation.get("confusion") or {}).values():
        answers.update(counts)
    found = [
        (name, figure)
        for name, figure in (evaluation.get("classes") or {}).items()
        if {"precision", "recall", "f1", "rows"} <= figure.keys()
    ]
    least = sorted((figure["rows"] for _, figure in found), reverse=True)[:LABELS][-1:]
    most = [(name, figure) for name, figure in found if figure["rows"] >= least[0]] if least else []
    return [{**figure, "label": text_of(name, 60), "answers": answers[name]} for name, figure in most[:LABELS]]


def confusion_matrix(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """``rows`` of (gold, [(count, share of the gold label's rows, right, title)]) over ``columns``.

    Of more than MATRIX labels those with the most mistakes, as gold or as answer; ``left_out``: the number of others.
    ``mistakes``: the most frequent ones, as (gold, answer, rows, share).
    """
    confusion = evaluation.get("confusion")
    if not confusion:
        return None
    names = list(confusion)
    chosen = names if len(names) <= MATRIX else _most_mistaken(confusion)
    none = [NONE] if any(counts.get(NONE) for counts in confusion.values()) else []
    columns = [*chosen, *none]
    short = short_names([text_of(name, LONGEST) for name in columns], NAME)
    rows = []
    for gold, shown in zip(chosen, short, strict=False):
        counts, whole = confusion[gold], sum(confusion[gold].values()) or 1
        cells = [
            (counts.get(name, 0), counts.get(name, 0) / whole, name == gold, f"{gold} taken for {name}")
            for name in columns
        ]
        rows.append((shown, [(n, share, right, text_of(title, 120)) for n, share, right, title in cells]))
    return {
        "columns": short,
        "rows": rows,
        "shares": len(chosen) <= COUNTS,
        "left_out": len(names) - len(chosen),
        "mistakes": _mistakes(confusion),
    }


def _mistakes(confusion: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, int, float]]:
    found = [
        (gold, name, count, count / (sum(counts.values()) or 1))
        for gold, counts in confusion.items()
        for name, count in counts.items()
        if count and name != gold
    ]
    found.sort(key=lambda one: -one[2])
    return [(text_of(gold, 60), text_of(name, 60), count, share) for gold, name, count, share in found[:MISTAKES]]


def _most_mistaken(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    """MATRIX labels in their order."""
    wrong = dict.fromkeys(confusion, 0)
    for gold, counts in confusion.items():
        for name, count in counts.items():
            if name != gold:
                wrong[gold] += count
                wrong[name] = wrong.get(name, 0) + count
    most = set(sorted(confusion, key=lambda name: -wrong[name])[:MATRIX])
    return [name for name in confusion if name in most]


def text_of(text: str, most: int) -> str:
    """At most ``most`` characters of a text, valid Unicode, its control characters written out."""
    rest = len(text) - most
    return escaped(clean(text[:most])) + (f"… and {rest:,} characters" if rest > 0 else "")
