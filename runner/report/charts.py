"""The charts of a report: figures in, inline SVG or HTML out; "" where there is nothing to draw."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeVar

import numpy as np

from runner.report.figures import Figures
from runner.report.svg import GRID, INK, MUTED, SECOND, SERIES, SURFACE, chart
from runner.words import count_of, escaped, short_names

T = TypeVar("T")
_POINTS = 240  # of a curve
_LABELS = 24
_NAME = 24  # characters of a name beside its bar
_COLUMNS = 16  # of each kind
_BINS = 30


def charts(figures: Figures) -> dict[str, str]:
    """All charts by name."""
    marks = figures.marks
    drawn = {
        "speed": speed(marks),
        "memory": memory(marks),
        "slots": slots(marks),
        "seats": seats(marks, {str(one["seat"]): one["name"] for one in figures.status.get("seats", [])}),
        "prompts": histogram("prompts", figures.prompt_tokens, "prompt tokens per row"),
        "answers": histogram("answers", figures.completion_tokens, "tokens generated per row"),
        "labels": bars(figures.labels),
        "confidence": histogram("confidence", figures.confidence, "confidence", (0.0, 1.0)),
        "reliability": reliability((figures.evaluation or {}).get("reliability") or []),
    }
    drawn["rejected:rejected attempts"] = bars(figures.status.get("rejected") or {})
    drawn["coverage"] = coverage((figures.evaluation or {}).get("coverage") or [])
    for name, counts in list(figures.balance.items())[:_COLUMNS]:
        drawn[f"balance:{name}"] = bars(counts)
    for name, values in list(figures.numbers.items())[:_COLUMNS]:
        drawn[f"number:{name}"] = histogram(f"number-{len(drawn)}", values, name)
    return drawn


def speed(marks: Sequence[dict[str, Any]]) -> str:
    """Rows in a second, or in a minute where they never are one a second, over the time at work, restarts marked."""
    hours, rates = _rates(marks)
    if len(hours) < 2:
        return ""
    unit, scale = _unit(hours[-1])
    each, rates = ("second", rates) if max(rates) >= 1 else ("minute", 60 * rates)
    with chart("speed", f"Rows per {each} over the run: between {min(rates):,.1f} and {max(rates):,.1f}") as drawn:
        drawn.axes.plot(hours / scale, rates, color=SERIES)
        _over_time(drawn.axes, marks, unit, scale, "rows/s" if each == "second" else "rows/min")
    return drawn.svg


def memory(marks: Sequence[dict[str, Any]]) -> str:
    """Memory over the time at work."""
    known = _thinned([mark for mark in marks if mark["memory_bytes"]])
    if len(known) < 2:
        return ""
    sizes = np.array([mark["memory_bytes"] for mark in known]) / 1e9
    unit, scale = _unit(marks[-1]["active_s"])
    with chart("memory", f"Memory over the run: up to {sizes.max():.2f} GB") as drawn:
        drawn.axes.plot(np.array([mark["active_s"] for mark in known]) / scale, sizes, color=SERIES)
        _over_time(drawn.axes, marks, unit, scale, "GB")
    return drawn.svg


def slots(marks: Sequence[dict[str, Any]]) -> str:
    """Sequences at work in the batch over the time at work, beside what it can hold."""
    known = _thinned([mark for mark in marks if mark["slots"] is not None])
    if len(known) < 2:
        return ""
    used, total = (np.array([mark[name] or 0 for mark in known]) for name in ("slots", "slots_total"))
    unit, scale = _unit(marks[-1]["active_s"])
    at = np.array([mark["active_s"] for mark in known]) / scale
    with chart("slots", f"Slots in use over the run: {used.mean():.1f} of {total.max()} on average") as drawn:
        drawn.axes.plot(at, total, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        drawn.axes.fill_between(at, used, color=SERIES, alpha=0.25, linewidth=0)
        drawn.axes.plot(at, used, color=SERIES)
        _over_time(drawn.axes, marks, unit, scale, "sequences")
    return drawn.svg


def seats(marks: Sequence[dict[str, Any]], names: Mapping[str, str]) -> str:
    """What each seat of a fleet answered in a second over the time at work, one on top of the other."""
    known = _thinned(_answers(marks, names))
    shown = list(dict.fromkeys(names.values()))[:_LABELS]
    if len(known) < 3 or not shown:
        return ""
    answers = np.array([[given[name] for _, given in known] for name in shown], dtype=float)
    at = np.array([when for when, _ in known])
    rates = np.diff(answers) / np.maximum(np.diff(at), 1e-3)
    unit, scale = _unit(marks[-1]["active_s"])
    with chart("seats", f"Answers per second of {count_of(len(shown), 'seat')}: {', '.join(shown)}") as drawn:
        floor = np.zeros(len(at) - 1)
        labels = short_names([escaped(name) for name in shown], _NAME)
        for place, (name, rate) in enumerate(zip(labels, rates, strict=True)):
            colour = SERIES if place % 2 == 0 else SECOND
            drawn.axes.fill_between(at[1:] / scale, floor, floor + rate, color=colour, alpha=0.3, linewidth=0)
            drawn.axes.plot(at[1:] / scale, floor + rate, color=colour, linewidth=1)
            if rate.any():
                widest = int(rate.argmax())
                middle = floor[widest] + rate[widest] / 2
                drawn.axes.annotate(name, (at[1:][widest] / scale, middle), ha="center", va="center", fontsize=8)
            floor += rate
        _over_time(drawn.axes, marks, unit, scale, "answers/s")
    return drawn.svg


def _answers(marks: Sequence[dict[str, Any]], names: Mapping[str, str]) -> list[tuple[float, Counter[str]]]:
    """By name what seats had answered up to each mark; each session counts for itself, under numbers of its own."""
    latest: dict[str, int] = {}
    found = []
    for mark in marks:
        if mark["seats"]:
            latest.update(mark["seats"])
            given: Counter[str] = Counter()
            for seat, count in latest.items():
                given[names.get(seat, seat)] += count
            found.append((mark["active_s"], given))
    return found


def histogram(name: str, values: np.ndarray, label: str, span: tuple[float, float] | None = None) -> str:
    """How many rows have which value; the median marked."""
    values = values[np.isfinite(values)]
    if not len(values) or (span is None and values.min() == values.max()):
        return ""
    whole = np.issubdtype(values.dtype, np.integer)
    low, high = span or (float(values.min()), float(values.max()))
    most = float(np.quantile(values, 0.995))
    if span is None and high - low > 1.5 * (most - low) > 0:  # a few far rows would squeeze all others together
        label = f"{label} ({count_of(int((values > most).sum()), 'row')} beyond, up to {_number(high)})"
        high = most
    bins = int(min(_BINS, high - low + 1)) if whole else _BINS
    around = 0.5 if whole else 0
    edges = np.linspace(low - around, high + around, bins + 1)
    counts, _ = np.histogram(values, edges)
    median = float(np.median(values))
    with chart(name, f"Histogram, {label}: {_number(low)} to {_number(high)}, median {_number(median)}") as drawn:
        drawn.axes.bar(edges[:-1], counts, np.diff(edges) * 0.92, align="edge", color=SERIES)
        drawn.axes.axvline(median, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        at_right = median < (low + high) / 2
        drawn.axes.annotate(
            f"median {_number(median)}",
            (median, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4 if at_right else -4, 2),
            textcoords="offset points",
            ha="left" if at_right else "right",
            va="bottom",
            fontsize=9,
        )
        drawn.axes.set_ylabel("rows")
        drawn.axes.set_xlabel(label)
        drawn.axes.locator_params(axis="x", integer=bool(whole))
        _thousands(drawn.axes)
    return drawn.svg


def bars(counts: dict[str, int]) -> str:
    """Counts by name, the most frequent on top; the rest in one bar. HTML: only a browser knows how wide names are."""
    shown = dict(list(counts.items())[:_LABELS])
    if len(counts) > _LABELS:
        shown[f"{len(counts) - _LABELS:,} others"] = sum(list(counts.values())[_LABELS:])
    names = short_names([escaped(name) for name in shown], _NAME)
    whole, most = sum(counts.values()), max(shown.values(), default=0)
    rows = (
        f"<dt><bdi>{escape(name)}</bdi></dt>"
        f'<dd><i style="width: {count / most:.1%}"></i></dd><dd>{count:,} ({count / whole:.0%})</dd>'
        for name, count in zip(names, shown.values(), strict=True)
    )
    return f'<dl class="bars">{"".join(rows)}</dl>' if shown else ""


def reliability(bins: Sequence[Sequence[float]]) -> str:
    """How often rows of a given confidence are right, against the diagonal of a calibrated model."""
    if not bins:
        return ""
    confidence, right, rows = map(np.array, zip(*bins, strict=True))
    said = ", ".join(f"confidence {c:.2f} right {r:.0%}" for c, r, _ in bins)
    with chart("reliability", f"Reliability: {said}", height=2.9) as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        drawn.axes.plot(confidence, right, color=SERIES)
        sizes = 20 + 130 * np.sqrt(rows / rows.max())
        drawn.axes.scatter(confidence, right, s=sizes, color=SERIES, edgecolors=SURFACE, linewidths=1, zorder=3)
        drawn.axes.set(xlim=(0, 1.03), ylim=(0, 1.06), xlabel="mean confidence of the rows", ylabel="share correct")
        drawn.axes.grid(True, axis="both", color=GRID)
    return drawn.svg


def coverage(points: Sequence[dict[str, Any]]) -> str:
    """Accuracy of the most confident rows, as more of them count; ``points``: {coverage, accuracy}, both shares."""
    known = [(p["coverage"], p["accuracy"]) for p in points if None not in (p.get("coverage"), p.get("accuracy"))]
    if len(known) < 2:
        return ""
    shares, accuracy = map(np.array, zip(*sorted(known), strict=True))
    with chart(
        "coverage", f"Accuracy {accuracy[0]:.0%} at {shares[0]:.0%} of the rows, {accuracy[-1]:.0%} at most"
    ) as drawn:
        drawn.axes.plot(shares, accuracy, color=SERIES)
        drawn.axes.set(xlim=(0, 1.02), xlabel="share of rows kept, most confident first", ylabel="accuracy")
        drawn.axes.set_ylim(max(0.0, accuracy.min() - 0.1), min(1.02, accuracy.max() + 0.1))  # noise stays small
    return drawn.svg


def _rates(marks: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds at work, and rows in a second up to then; neighbours are put together to some 240 points."""
    points = [(0.0, 0), *((mark["active_s"], mark["finished"]) for mark in marks)]
    end = points[-1][0]
    least = max(end / _POINTS, min(1.0, end / 10), 1e-3)  # the mark at a session's end may follow closely on another
    kept = points[:1]
    for point in points[1:]:
        if point[0] - kept[-1][0] >= least:
            kept.append(point)
    if len(kept) > 1:
        kept[-1] = points[-1]
    seconds, rows = (np.array(values, dtype=float) for values in zip(*kept, strict=True))
    return seconds[1:], np.diff(rows) / np.diff(seconds)


def _thinned(points: list[T]) -> list[T]:
    """At most _POINTS of them, evenly."""
    return points[:: -(-len(points) // _POINTS) or 1]


def _over_time(axes: Any, marks: Sequence[dict[str, Any]], unit: str, scale: float, label: str) -> None:
    """The axes of a curve over time, with a line at each restart."""
    pairs = itertools.pairwise(marks)
    starts = [b["active_s"] - b["elapsed_s"] for a, b in pairs if a["session"] != b["session"]]
    for start in starts[:200]:
        axes.axvline(start / scale, color=SECOND, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_ylim(0, 1.15 * max(axes.dataLim.y1, 1e-9))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} at work")
    axes.set_ylabel(label)
    _thousands(axes)


def _thousands(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))


def _unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds < 180 else ("minutes", 60.0) if seconds < 10_800 else ("hours", 3600.0)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
