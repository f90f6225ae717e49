"""The evaluation of a run as text for people: named lines."""

from __future__ import annotations

from typing import Any

from runner.evaluate import NONE

_CLASSES = 30  # shown; the JSON has them all
_MATRIX = 12


def verdict_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) pairs; a name may be empty. ``found`` has rows."""
    lines = [("accuracy", f"{_with(found, 'accuracy')} on {found['rows']:,} rows with a gold label")]
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
        lines.append(("prior", f"{prior['kind']}: accuracy {prior['accuracy_without']:.3f} without it"))
    if one := found.get("calibration"):
        effect = f"{one['ece_before']:.3f} {_range(one['interval_before'])} before, "
        effect += f"{one['ece']:.3f} {_range(one['interval'])} after"
        fitted = f"temperature {one['temperature']:.2f}, fitted on {one['fitted_on']:,} rows"
        lines.append(("calibr.", f"{fitted}; calibration error on the other {one['rows']:,}: {effect}"))
    return lines


def _trust(found: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if "ece" in found:
        lines.append(("trust", f"expected calibration error {found['ece']:.3f} {_range(found['intervals_ece'])}"))
    for at in found["coverage"][1::2]:
        sure = f"confidence {at['threshold']:.3f} or more: {at['coverage']:.0%} of the rows"
        lines.append(("" if lines else "trust", f"{sure}, accuracy {at['accuracy']:.3f} {_range(at['interval'])}"))
    return lines


def _classes(classes: dict[str, Any]) -> list[str]:
    shown = list(classes.items())[:_CLASSES]
    width = max(len("label"), *(len(name) for name, _ in shown))
    lines = [f"{'label':>{width}} precision  recall      F1    rows"]
    for name, one in shown:
        values = " ".join(f"{one[key]:>7.3f}" for key in ("recall", "f1"))
        lines.append(f"{name:>{width}} {one['precision']:>9.3f} {values} {one['rows']:>7,}")
    return [*lines, *([f"and {len(classes) - _CLASSES} more: --json"] if len(classes) > _CLASSES else [])]


def confusion_table(confusion: dict[str, dict[str, int]]) -> str:
    """The confusion matrix as text: a line for each gold label."""
    labels = list(confusion)
    columns = [*labels, *([NONE] if any(row[NONE] for row in confusion.values()) else [])]
    width = max(map(len, [*columns, "gold / label"]))
    lines = [" ".join([f"{'gold / label':>{width}}", *(f"{name:>{max(len(name), 6)}}" for name in columns)])]
    for gold in labels:
        counts = (f"{confusion[gold][name]:>{max(len(name), 6)}}" for name in columns)
        lines.append(" ".join([f"{gold:>{width}}", *counts]))
    return "\n".join(lines)


def _with(found: dict[str, Any], name: str) -> str:
    return "unknown" if found[name] is None else f"{found[name]:.3f} {_range(found['intervals'][name])}"


def _range(interval: list[float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f})"
