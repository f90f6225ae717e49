"""Figures as text for people: what ``run`` and ``status`` print on the standard output."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from runner.checkpoint.records import Failure, error_kind
from runner.console import line
from runner.results.quality.verdict import advice, verdict
from runner.types import UserError
from runner.words import clock, count_of, duration, escaped, speed

_CLASSES = 30  # shown; the JSON has them all
_MATRIX = 12
_EXAMPLES, _SEARCHED = 3, 1000  # rows of a kind of error, and how many of all are looked through for them
Lines = list[tuple[str, str]]  # names, some of them empty, and texts
NOW_SECONDS = 60.0  # what "now" means of a speed


def show_run(figures: dict[str, Any]) -> None:
    """The end of a run: its accuracy where that is known, then the figures and the output's path."""
    for find in (_evaluation, _diversity, _rouge):
        for name, text in _found(find, figures):
            line(name, escaped(text))
    _show_figures(figures)
    line("output", figures["path"])
    if figures.get("report"):
        line("report", figures["report"])


def _found(find: Callable[[dict[str, Any]], Lines], figures: dict[str, Any]) -> Lines:
    try:
        return find(figures)
    except (LookupError, TypeError, ValueError, AttributeError):  # a job of one's own means other figures by this name
        return []


def _evaluation(figures: dict[str, Any]) -> Lines:
    found = figures.get("evaluation")
    if not found or not found["rows"]:
        return []
    return span_lines(found) if found.get("kind") == "spans" else verdict_lines(found)


def _diversity(figures: dict[str, Any]) -> Lines:
    if "diversity" not in figures:
        return []
    from runner.results.diversity import diversity_lines

    return list(zip(["diverse", ""], diversity_lines(figures["diversity"]), strict=False))


def _rouge(figures: dict[str, Any]) -> Lines:
    if not figures.get("rouge", {}).get("rows"):
        return []
    from runner.results.rouge import rouge_lines

    return list(zip(["score", "", "", ""], rouge_lines(figures["rouge"]), strict=True))


def show_evaluation(found: Mapping[str, Any]) -> None:
    """How right a run's answers are; see ``runner.results.evaluate``."""
    kinds = {"numbers": number_lines, "sets": set_lines, "spans": span_lines}
    lines = kinds.get(found["kind"], verdict_lines)
    for name, text in lines(found):
        line(name, escaped(text))


def show_status(figures: Mapping[str, Any], failures: Iterable[Failure] = ()) -> None:
    """A run seen from outside: how far it has come, what failed and, if it is known, how long the rest will take."""
    pid = f" (process {figures['pid']})" if figures.get("pid") else ""
    line("state", f"{figures['state']}{pid}{f', {escaped(doing)}' if (doing := figures.get('doing')) else ''}")
    _show_figures(figures, _examples(failures))
    left = figures["rows"] - figures["finished"]
    if left:
        line("left", f"{count_of(left, 'row')}{_pace(left, figures)}")


def _pace(left: int, figures: Mapping[str, Any]) -> str:
    if not figures["rows_per_s"]:
        return ""
    seconds = left / figures["rows_per_s"]
    ending = f", until {clock(time.time() + seconds)}" if figures["state"] == "running" else ""
    return f", about {duration(seconds)} at this speed{ending}"


def _examples(failures: Iterable[Failure]) -> dict[str, list[str]]:
    """Some rows for each kind of error."""
    found: dict[str, list[str]] = defaultdict(list)
    with contextlib.suppress(UserError):  # a shard is damaged or being made anew: the figures stand without it
        for one in islice(failures, _SEARCHED):
            found[error_kind(one.error)].append(one.shown)
    return found


def _show_figures(figures: Mapping[str, Any], examples: Mapping[str, list[str]] | None = None) -> None:
    seconds = figures["active_s"] or 0.0
    prompt, completion = figures["prompt_tokens"], figures["completion_tokens"]
    errors = f", {figures['errors']:,} with an error" if figures["errors"] else ", no errors"
    line("rows", f"{figures['finished']:,} of {figures['rows']:,}{errors}")
    for kind, count in list(figures["error_kinds"].items())[:5]:
        rows = (examples or {}).get(kind, [])
        some = ", ".join(rows[:_EXAMPLES]) + (", ..." if count > len(rows[:_EXAMPLES]) else "")
        line("", escaped(f"{count:,} x {kind}" + (f": {some}" if rows else "")))
    if rejected := figures.get("rejected"):
        taken = sum(rejected.values())
        line("rejected", f"{taken:,} of {count_of(taken + figures['finished'], 'attempt')}, by reason:")
        for kind, count in rejected.items():
            line("", f"{count:,} x {escaped(kind)}")
    forced = f" ({figures['forced_tokens']:,} of them forced by the grammar)" if figures["forced_tokens"] else ""
    if prompt:
        best = figures["best_cached_share"]
        most = "" if best is None else f", {best:.1%} at best"
        cache = f"({figures['cached_share']:.1%} from cache{most})"
        line("tokens", f"{prompt:,} in prompts {cache}, {completion:,} generated{forced}")
    if ended := figures.get("thoughts_ended"):
        line("thoughts", f"{ended:,} ended at engine.think_tokens")
    if seconds and figures["finished"]:
        share = figures.get("model_share")
        model = "" if share is None else f", {share:.0%} of the time in the model"
        line("speed", f"{speed(figures['rows_per_s'])}, {figures['tokens_per_s']:,.0f} tokens/s{model}")
        line("time", duration(seconds))
    if figures.get("slot_occupancy") is not None:
        padding = figures["padding_share"] or 0.0
        line("batch", f"{figures['slot_occupancy']:.0%} of the slots in use, {padding:.1%} padding")


def number_lines(found: Mapping[str, Any]) -> Lines:
    """Of numbers: how far they are from the gold ones."""
    lines = [
        (
            "numbers",
            f"{found['answered']:,} of {count_of(found['rows'], 'row')} with gold have one in {found['column']}",
        )
    ]
    if not found["answered"]:
        return lines
    lean = f"on average {abs(found['bias']):.4g} too {'high' if found['bias'] > 0 else 'low'}" if found["bias"] else ""
    return [
        *lines,
        ("error", f"mean absolute {_near(found, 'mae')}, root mean square {_near(found, 'rmse')}"),
        ("", ", ".join(part for part in (f"{found['exact']:.1%} of the rows are exact", lean) if part)),
        ("", f"correlation {_with(found, 'correlation')}"),
    ]


def set_lines(found: Mapping[str, Any]) -> Lines:
    """Of sets: how many members they share with the gold ones."""
    return [
        ("sets", f"{found['answered']:,} of {count_of(found['rows'], 'row')} with gold have one in {found['column']}"),
        ("exact", _with(found, "exact")),
        ("Jaccard", f"{_with(found, 'jaccard')}, the mean over rows"),
        (
            "F1",
            f"{_with(found, 'f1')} over all members (precision {found['precision']:.3f}, recall {found['recall']:.3f})",
        ),
    ]


def span_lines(found: Mapping[str, Any]) -> Lines:
    """Of spans: how many are the gold ones, exactly or in part, and of which kinds."""
    rows = f"{found['found']:,} in {count_of(found['rows'], 'row')} with {found['gold']:,} gold ones"
    lines = [
        ("spans", f"{rows}; {found['exact']:.1%} of the rows are without a mistake"),
        ("F1", f"{_with(found, 'f1')} exact (precision {found['precision']:.3f}, recall {found['recall']:.3f})"),
        ("", f"{_with(found, 'partial_f1')} partial: half for one of the kind that overlaps"),
    ]
    for name, one in found["kinds"].items() if len(found["kinds"]) > 1 else ():
        share = f"F1 {_with(one, 'f1')} exact, {one['partial_f1']:.3f} partial"
        lines.append(("", f"{name}: {share}, {one['found']:,} found, {one['gold']:,} gold"))
    return lines


def _near(found: Mapping[str, Any], name: str) -> str:
    low, high = found["intervals"][name]
    return f"{found[name]:.4g} ({low:.4g} to {high:.4g})"


def verdict_lines(found: Mapping[str, Any]) -> Lines:
    """(name, text) pairs; a name may be empty. ``found`` has rows."""
    where = "" if found.get("column", "label") == "label" else f", in {found['column']}"
    lines = [("accuracy", f"{_with(found, 'accuracy')} on {count_of(found['rows'], 'row')} with a gold label{where}")]
    if said := verdict(found):
        lines += [("verdict", said), *(("try", tip) for tip in advice(found))]
    if found["labelled"] < found["rows"]:
        lost = [
            f"{found[kind]:,} {text}"
            for kind, text in (("abstained", "abstained"), ("errors", "in error"))
            if found[kind]
        ]
        right = "" if found["accuracy_labelled"] is None else f"{found['accuracy_labelled']:.3f} of the "
        lines.append(("", f"{right}{found['labelled']:,} with a label; the others count as wrong ({', '.join(lost)})"))
    lines.append(("", f"Cohen's kappa {_with(found, 'kappa')}, macro F1 {_with(found, 'macro_f1')}"))
    lines += [("", line) for line in _classes(found["classes"])]
    if len(found["confusion"]) <= _MATRIX:
        lines += [("", line) for line in confusion_table(found["confusion"]).splitlines()]
    if "coverage" in found:
        lines += _trust(found)
    if prior := found.get("prior"):
        left_out = f"; {count_of(prior['left_out'], 'row')} left out of it" if prior.get("left_out") else ""
        lines.append(("prior", f"{prior['kind']}: accuracy {prior['accuracy_without']:.3f} without it{left_out}"))
    if one := found.get("calibration"):
        lines.append(("calibr.", _calibration(one)))
    return lines


def _calibration(one: Mapping[str, Any]) -> str:
    on = count_of(one["fitted_on"], "row") + (f" ({one['left_out']:,} left out)" if one.get("left_out") else "")
    if one["temperature"] != one.get("fitted", one["temperature"]):
        why = f"temperature {one['fitted']:.2f}, fitted on {on}, was no better on rows that it was not fitted on"
        return f"kept the plain probabilities: {why}{_held_out(one.get('held_out'))}"
    effect = f"{one['ece_before']:.3f} {_range(one['interval_before'])} before, "
    effect += f"{one['ece']:.3f} {_range(one['interval'])} after"
    fitted = f"temperature {one['temperature']:.2f}, fitted on {on}"
    return f"{fitted}; calibration error on the other {one['rows']:,}: {effect}"


def _held_out(figures: dict[str, list[float]] | None) -> str:
    """What the temperature made worse, the calibration error or else the loss."""
    if figures is None:
        return ""
    name = "ece" if figures["ece"][1] > figures["ece"][0] else "loss"
    without, with_it = figures[name]
    what = {"ece": "calibration error", "loss": "log loss"}[name]
    return f" ({what} {without:.3f} without it, {with_it:.3f} with it)"


def _trust(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if "ece" in found:
        lines.append(("trust", f"expected calibration error {found['ece']:.3f} {_range(found['intervals_ece'])}"))
    for at in found["coverage"][1::2]:
        sure = f"confidence {at['threshold']:.3f} or more: {at['coverage']:.0%} of the rows"
        lines.append(("" if lines else "trust", f"{sure}, accuracy {at['accuracy']:.3f} {_range(at['interval'])}"))
    return lines


def _classes(classes: dict[str, Any]) -> list[str]:
    first = list(classes.items())[:_CLASSES]
    width = max(len("label"), *(len(name) for name, _ in first))
    lines = [f"{'label':>{width}} precision  recall      F1    rows"]
    for name, one in first:
        values = " ".join(f"{one[key]:>7.3f}" for key in ("recall", "f1"))
        lines.append(f"{name:>{width}} {one['precision']:>9.3f} {values} {one['rows']:>7,}")
    return [*lines, *([f"and {len(classes) - _CLASSES} more: --json"] if len(classes) > _CLASSES else [])]


def confusion_table(confusion: dict[str, dict[str, int]]) -> str:
    """The confusion matrix as text: a line for each gold label."""
    from runner.results.evaluate import NONE  # late: it loads scikit-learn

    labels = list(confusion)
    columns = [*labels, *([NONE] if any(row[NONE] for row in confusion.values()) else [])]
    width = max(map(len, [*columns, "gold / label"]))
    lines = [" ".join([f"{'gold / label':>{width}}", *(f"{name:>{max(len(name), 6)}}" for name in columns)])]
    for gold in labels:
        counts = (f"{confusion[gold][name]:>{max(len(name), 6)}}" for name in columns)
        lines.append(" ".join([f"{gold:>{width}}", *counts]))
    return "\n".join(lines)


def _with(found: Mapping[str, Any], name: str) -> str:
    return "unknown" if found[name] is None else f"{found[name]:.3f} {_range(found['intervals'][name])}"


def _range(interval: list[float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f})"
