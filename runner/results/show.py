"""Figures as text for people: what ``run`` and ``status`` print on the standard output."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_DOWN, Decimal
from itertools import islice
from typing import Any

from runner.checkpoint.records import Failure, error_kind
from runner.console import line
from runner.results.quality.lines import LINES, Lines, class_lines, range_text, with_range
from runner.results.quality.shapes import NONE
from runner.results.quality.verdict import advice, verdict
from runner.types import UserError
from runner.words import clock, count_of, duration, escaped, speed

_MATRIX = 12
_EXAMPLES, _SEARCHED = 3, 1000  # rows of a kind of error, and how many of all are looked through for them
NOW_SECONDS = 60.0  # what "now" means of a speed


def show_run(figures: dict[str, Any], more: Iterable[tuple[str, str]] = ()) -> None:
    """The end of a run: its accuracy where that is known, then the figures, ``more`` of them, and the output's path."""
    for find in (_evaluation, _diversity, _rouge):
        _show_lines(_found(find, figures))
    _show_figures(figures)
    _show_lines(more)
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
    if not found:
        found = {"kind": "questions", "rows": 1, "questions": figures.get("evaluations") or {}}
    return evaluation_lines(found) if found["rows"] else [("gold", "no finished row has a value in its column of gold")]


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
    _show_lines(evaluation_lines(found))


def evaluation_lines(found: Mapping[str, Any]) -> Lines:
    """(name, text) pairs for figures of any kind; a name may be empty."""
    if found.get("kind") != "questions":
        return LINES.get(found.get("kind", ""), verdict_lines)(found)
    lines: Lines = []
    for name, one in found["questions"].items():
        lines.append(("question", f"{name}: {count_of(one['rows'], 'row')} with gold"))
        lines += evaluation_lines(one) if one["rows"] else []
    return lines


def _show_lines(lines: Iterable[tuple[str, str]]) -> None:
    for name, text in lines:
        line(name, escaped(text))


def show_status(
    figures: Mapping[str, Any], failures: Iterable[Failure] = (), more: Iterable[tuple[str, str]] = ()
) -> None:
    """A run seen from outside: how far it has come, what failed and, if it is known, how long the rest will take."""
    pid = f" (process {figures['pid']})" if figures.get("pid") else ""
    line("state", f"{figures['state']}{pid}{f', {escaped(doing)}' if (doing := figures.get('doing')) else ''}")
    _show_figures(figures, _examples(failures))
    _show_lines(more)
    if seats := figures.get("seats"):
        line("seats", f"{_states(seats)}; rowmill fleet shows each")
    left = figures["rows"] - figures["finished"]
    if left:
        line("left", f"{count_of(left, 'row')}{_pace(left, figures)}")


def _states(seats: Iterable[Mapping[str, Any]]) -> str:
    """What seats of the latest session do, each name once, and how many others there were before."""
    states: dict[str, str] = {}
    for one in sorted(seats, key=lambda one: (one["is_latest"], one["seat"])):
        states[one["name"]] = str(one.get("state", "starting")) if one["is_latest"] else ""
    counts = Counter(states.values())
    before = counts.pop("", 0)
    now = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items())) or "none in the latest session"
    return f"{now}, {before:,} only in earlier ones" if before else now


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
    if drafted := figures.get("drafted_tokens"):
        line("drafts", f"{figures['accepted_tokens']:,} of {drafted:,} drafted tokens were right")
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


def verdict_lines(found: Mapping[str, Any]) -> Lines:
    """(name, text) pairs; a name may be empty. ``found`` has rows."""
    where = "" if found.get("column", "label") == "label" else f", in {found['column']}"
    lines = [
        ("accuracy", f"{with_range(found, 'accuracy')} on {count_of(found['rows'], 'row')} with a gold label{where}")
    ]
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
    lines.append(("", f"Cohen's kappa {with_range(found, 'kappa')}, macro F1 {with_range(found, 'macro_f1')}"))
    lines += [("", line) for line in class_lines(found["classes"])]
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
    effect = f"{one['ece_before']:.3f} {range_text(one['interval_before'])} before, "
    effect += f"{one['ece']:.3f} {range_text(one['interval'])} after"
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
        lines.append(("trust", f"expected calibration error {found['ece']:.3f} {range_text(found['intervals_ece'])}"))
    for at in found["coverage"][1::2]:
        sure = f"confidence {least(at['threshold'])} or more: {at['coverage']:.0%} of the rows"
        lines.append(("" if lines else "trust", f"{sure}, accuracy {at['accuracy']:.3f} {range_text(at['interval'])}"))
    return lines


def least(share: float) -> str:
    """A threshold with the digits that tell it from 1, cut off instead of rounded: its rows reach what is shown."""
    digits = 3 if share >= 1 else max(3, -math.floor(math.log10(1 - share)))
    return f"{Decimal(repr(share)).quantize(Decimal(1).scaleb(-digits), ROUND_DOWN):f}"


def confusion_table(confusion: dict[str, dict[str, int]]) -> str:
    """The confusion matrix as text: a line for each gold label."""
    labels = list(confusion)
    columns = [*labels, *([NONE] if any(row.get(NONE) for row in confusion.values()) else [])]
    width = max(map(len, [*columns, "gold / label"]))
    lines = [" ".join([f"{'gold / label':>{width}}", *(f"{name:>{max(len(name), 6)}}" for name in columns)])]
    for gold in labels:
        counts = (f"{confusion[gold].get(name, 0):>{max(len(name), 6)}}" for name in columns)
        lines.append(" ".join([f"{gold:>{width}}", *counts]))
    return "\n".join(lines)
