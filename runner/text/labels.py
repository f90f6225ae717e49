"""The labels that the job ``label`` chooses among, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.types import UserError
from runner.words import count_of


@dataclass(frozen=True)
class Choice:
    """A label: its ``name`` in the output, the ``surface`` text that the model reads, what it means."""

    name: str
    surface: str
    description: str | None = None


def read_labels(labels: Any) -> list[Choice]:
    """The labels as configured; UserError for fewer than two, duplicates, unknown keys, and what is not a text."""
    if isinstance(labels, Mapping):
        labels = [{"name": name, **_details(details)} for name, details in labels.items()]
    elif not isinstance(labels, list | tuple | None):
        raise UserError("job.labels", "it must be a list, such as 'job.labels=[ham,spam]'", value=labels)
    choices = [_read_label(label) for label in labels or []]
    if len(choices) < 2:
        count = count_of(len(choices), "label")
        raise UserError(f"job.labels has {count}, at least two are needed: 'job.labels=[ham,spam]'")
    for what in ("name", "surface"):
        values = [getattr(choice, what) for choice in choices]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UserError("job.labels", f"{what} {twice[0]!r} is listed twice")
    return choices


def _details(details: Any) -> Mapping[str, Any]:
    return details if isinstance(details, Mapping) else {"description": details}


def _read_label(label: Any) -> Choice:
    fields = dict(label) if isinstance(label, Mapping) else {"name": label}
    unknown = sorted(map(str, fields.keys() - {"name", "surface", "description"}))
    if unknown:
        raise UserError("job.labels", f"unknown key {unknown[0]!r} in {fields}; a label has name, surface, description")
    name = _text("name", fields.get("name"))
    surface, description = fields.get("surface"), fields.get("description")
    return Choice(
        name,
        name if surface is None else _text("surface", surface),
        None if description is None else _text("description", description),
    )


def _text(what: str, value: Any) -> str:
    """The text that the user typed; refuses what YAML makes of yes, on, 1.50 and the like."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = "it is missing" if value is None else f"YAML reads it as the {type(value).__name__} {value}"
        raise UserError(
            "job.labels", f"a label's {what} must be a text, and {problem}; put it in quotes: [\"yes\",'1.0']"
        )
    if not value.strip():
        raise UserError("job.labels", f"a label's {what} is empty")
    return value
