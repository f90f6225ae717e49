"""Figures of numbers, several labels, levels and spans as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.words import count_of

Lines = list[tuple[str, str]]  # names, some of them empty, and texts
_CLASSES = 30  # shown; the JSON has them all
_NAME = 60  # characters of a label in a table
_GOALS = {"f1": "the best F1", "precision": "a precision of {at:g}", "coverage": "a coverage of {at:g}"}


def number_lines(found: Mapping[str, Any]) -> Lines:
    """Of numbers: how far they are from the gold ones."""
    lines = [("numbers", _answered(found))]
    if not found["answered"]:
        return lines
    return [
        *lines,
        ("error", f"mean absolute {_near(found, 'mae')}, root mean square {_near(found, 'rmse')}"),
        ("", ", ".join(part for part in (f"{found['exact']:.1%} of the rows are exact", _lean(found)) if part)),
        ("", f"correlation {with_range(found, 'correlation')}"),
    ]


def set_lines(found: Mapping[str, Any]) -> Lines:
    """Of sets, such as several labels a row: how many members they share with the gold ones, and a table of these."""
    return [*set_facts(found), *(("", line) for line in class_lines(found["classes"]))]


def set_facts(found: Mapping[str, Any]) -> Lines:
    """The same without the table."""
    both = f"precision {found['precision']:.3f}, recall {found['recall']:.3f}"
    return [
        ("sets", _answered(found)),
        ("F1", f"micro {with_range(found, 'micro_f1')}, macro {with_range(found, 'macro_f1')}"),
        ("", f"{both} over all members"),
        ("Jaccard", f"{with_range(found, 'jaccard')}, the mean over rows"),
        ("exact", f"{with_range(found, 'exact')} of the rows have just the right ones"),
        *_threshold_lines(found.get("thresholds")),
    ]


def _threshold_lines(found: Mapping[str, Any] | None) -> Lines:
    if not found:
        return []
    shown = {name: one["threshold"] for name, one in list(found["by_label"].items())[:_CLASSES]}
    texts = [f"{name} {'never' if one is None else f'{one:.3g}'}" for name, one in shown.items()]
    goal = _GOALS[found["goal"]].format(at=found["at"])
    on = f"chosen for {goal} on {count_of(found['chosen_on'], 'other row')}"
    return [("given", f"from {', '.join(texts)} on: {on}")]


def scale_lines(found: Mapping[str, Any]) -> Lines:
    """Of levels on a scale: how near they are to the gold ones."""
    lines = [("levels", _answered(found))]
    if not found["answered"]:
        return lines
    expected = f", of the expected value {_near(found, 'mae_expected')}" if "mae_expected" in found else ""
    exact = f"{with_range(found, 'accuracy')} of the rows are exact"
    return [
        *lines,
        ("error", f"mean absolute {_near(found, 'mae')}{expected}"),
        ("", f"always answering the median would make {found['mae_constant']:.4g}"),
        ("", ", ".join(part for part in (exact, _lean(found)) if part)),
        ("", f"quadratic kappa {with_range(found, 'kappa')}, Spearman {with_range(found, 'spearman')}"),
    ]


def span_lines(found: Mapping[str, Any]) -> Lines:
    """Of spans: how many are the gold ones, exactly or in part, and of which kinds."""
    rows = f"{found['found']:,} in {count_of(found['rows'], 'row')} with {found['gold']:,} gold ones"
    lines = [
        ("spans", f"{rows}; {found['exact']:.1%} of the rows are without a mistake"),
        ("F1", f"{with_range(found, 'f1')} exact (precision {found['precision']:.3f}, recall {found['recall']:.3f})"),
        ("", f"{with_range(found, 'partial_f1')} partial: half for one of the kind that overlaps"),
    ]
    for name, one in found["kinds"].items() if len(found["kinds"]) > 1 else ():
        share = f"F1 {with_range(one, 'f1')} exact, {one['partial_f1']:.3f} partial"
        lines.append(("", f"{name}: {share}, {one['found']:,} found, {one['gold']:,} gold"))
    return lines


LINES: dict[str, Callable[[Mapping[str, Any]], Lines]] = {
    "numbers": number_lines,
    "sets": set_lines,
    "scale": scale_lines,
    "spans": span_lines,
}


def class_lines(classes: Mapping[str, Any]) -> list[str]:
    """A table of figures by label."""
    first = [(_end(name), one) for name, one in list(classes.items())[:_CLASSES]]
    width = max(len("label"), *(len(name) for name, _ in first), 0)
    lines = [f"{'label':>{width}} precision  recall      F1    rows"]
    for name, one in first:
        values = " ".join(f"{one[key]:>7.3f}" for key in ("recall", "f1"))
        lines.append(f"{name:>{width}} {one['precision']:>9.3f} {values} {one['rows']:>7,}")
    return [*lines, *([f"and {len(classes) - _CLASSES} more: --json"] if len(classes) > _CLASSES else [])]


def _end(name: str) -> str:
    """The end of a long name, which is where those of a taxonomy differ."""
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def with_range(found: Mapping[str, Any], name: str) -> str:
    """A figure with its interval."""
    return "unknown" if found[name] is None else f"{found[name]:.3f} {range_text(found['intervals'][name])}"


def range_text(interval: list[float | None]) -> str:
    """An interval in brackets; nothing where it is not known."""
    low, high = interval
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f})"


def _answered(found: Mapping[str, Any]) -> str:
    return f"{found['answered']:,} of {count_of(found['rows'], 'row')} with gold have one in {found['column']}"


def _lean(found: Mapping[str, Any]) -> str:
    bias = found["bias"]
    return f"on average {abs(bias):.4g} too {'high' if bias > 0 else 'low'}" if bias else ""


def _near(found: Mapping[str, Any], name: str) -> str:
    low, high = found["intervals"][name]
    return f"{found[name]:.4g} ({low:.4g} to {high:.4g})"
