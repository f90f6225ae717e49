"""One sentence on how right a run's labels are, and what to try where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.words import count_of

MOSTLY = 0.95  # of the answers being one label, from which that is worth a word
BEYOND = 0.1  # by how much it is then answered more often than it is right


def verdict(found: Mapping[str, Any]) -> str:
    """The sentence; "" for figures without rows, or of another kind."""
    if not found.get("rows") or "baseline" not in found:
        return ""
    accuracy, base = found["accuracy"], found["baseline"]
    always = f"always answering {base['label']!r} would be right in {base['share']:.1%}"
    are = "is" if found["rows"] == 1 else "are"
    said = f"{accuracy:.1%} of {count_of(found['rows'], 'row')} with gold {are} right"
    if len(found["confusion"]) < 2:
        return f"{said}, and all of them have the same gold label."
    low, _ = found["intervals"]["accuracy"]
    if accuracy < base["share"]:
        return f"{said}, fewer than without reading them: {always}."
    if low is not None and low <= base["share"]:
        return f"{said}, which is no better than chance can explain: {always}."
    return f"{said}; {always}."


def advice(found: Mapping[str, Any]) -> list[str]:
    """What to try, a sentence each; none where nothing looks wrong."""
    if not verdict(found):
        return []
    tips = []
    base, favourite, prior = found["baseline"], found.get("favourite"), found.get("prior")
    if prior and prior["accuracy_without"] > prior["accuracy"]:
        without = f"{prior['accuracy_without']:.1%} would be right without the prior"
        tips.append(f"{without}: `rowmill evaluate` and `rowmill export` take --no-prior.")
    one_sided = favourite is not None and favourite["share"] >= MOSTLY and _is_beyond(favourite, found)
    if one_sided and favourite is not None:
        often = f"{favourite['share']:.0%} of the answers are {favourite['label']!r}"
        known = "" if prior else "job.prior=batch removes a preference of the model's; else "
        tips.append(f"{often}: {known}describe the labels in the prompt, or show an example of each.")
    errors, wrong = found.get("errors", 0), found["rows"] * (1 - found["accuracy"])
    gold, answered = _values(found["confusion"])
    if min(len(gold), len(answered)) > 1 and not gold & answered:
        tips.append(f"No answer occurs in gold: answers are such as {min(answered)!r}, gold such as {min(gold)!r}.")
    elif errors > wrong / 2:
        tips.append(f"{count_of(errors, 'wrong row')} of {wrong:,.0f} ended with an error: the column error says why.")
    elif found["accuracy"] < base["share"] and not one_sided:
        tips.append(
            "Look at the wrong rows in the report: is the question clear, do the gold labels mean what the prompt "
            "says? Descriptions of the labels, examples in prompt.examples or a larger model may help."
        )
    return tips


def _values(confusion: Mapping[str, Mapping[str, int]]) -> tuple[set[str], set[str]]:
    """The values that occur in gold, and those that occur as answers."""
    counts = [(gold, label, count) for gold, row in confusion.items() for label, count in row.items() if count]
    return {gold for gold, _, _ in counts}, {label for _, label, _ in counts if label in confusion}


def _is_beyond(favourite: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    rows = found["confusion"].get(favourite["label"]) or {}
    return len(found["confusion"]) > 1 and favourite["share"] - sum(rows.values()) / found["rows"] >= BEYOND
