"""The labels, or the kinds of spans, that a job knows, as a user writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.types import UserError
from runner.words import count_of

_NEEDED = {1: "one is", 2: "two are"}


@dataclass(frozen=True)
class Choice:
    """A label: its ``name`` in the output, the ``surface`` text that the model reads, what it means."""

    name: str
    surface: str
    description: str | None = None


def read_labels(labels: Any, key: str = "job.labels", least: int = 2) -> list[Choice]:
    """The labels that ``key`` configures; UserError for fewer than ``least``, duplicates, unknown keys, no texts."""
    if isinstance(labels, Mapping):
        labels = [{"name": name, **_details(details)} for name, details in labels.items()]
    elif not isinstance(labels, list | tuple | None):
        file = f", or in a file: job.labels_file={labels}" if key == "job.labels" and "." in str(labels) else ""
        raise UserError(key, f"it must be a list, such as {_example(key)}{file}", value=labels)
    choices = [_read_label(label, key) for label in labels or []]
    if len(choices) < least:
        count = count_of(len(choices), key.rpartition(".")[2].removesuffix("s"))
        raise UserError(f"{key} has {count}, at least {_NEEDED[least]} needed: {_example(key)}")
    for what in ("name", "surface"):
        counts = Counter(getattr(choice, what) for choice in choices)
        twice = sorted(value for value, count in counts.items() if count > 1)
        if twice:
            raise UserError(key, f"{what} {twice[0]!r} is listed twice")
    return choices


def _example(key: str) -> str:
    return "'job.labels=[ham,spam]'" if key == "job.labels" else f"'{key}=[person,place]'"


def _details(details: Any) -> Mapping[str, Any]:
    return details if isinstance(details, Mapping) else {"description": details}


def _read_label(label: Any, key: str) -> Choice:
    fields = dict(label) if isinstance(label, Mapping) else {"name": label}
    unknown = sorted(map(str, fields.keys() - {"name", "surface", "description"}))
    if unknown:
        what = key.rpartition(".")[2].removesuffix("s")
        raise UserError(key, f"unknown key {unknown[0]!r} in {fields}; a {what} has name, surface, description")
    name = _text("name", fields.get("name"), key)
    surface, description = fields.get("surface"), fields.get("description")
    return Choice(
        name,
        name if surface is None else _text("surface", surface, key),
        None if description is None else _text("description", description, key),
    )


def _text(what: str, value: Any, key: str) -> str:
    """The text that the user typed; refuses what YAML makes of yes, on, 1.50 and the like."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = "it is missing" if value is None else f"YAML reads it as the {type(value).__name__} {value}"
        raise UserError(key, f"a label's {what} must be a text, and {problem}; put it in quotes: [\"yes\",'1.0']")
    if not value.strip():
        raise UserError(key, f"a label's {what} is empty")
    return value
