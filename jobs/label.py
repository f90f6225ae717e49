"""The job ``label``: one of a fixed set of labels for each row, with its probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from runner.types import Columns, Request, Row, RowError, Steps, UserError

METHODS = ("choice", "generate")


@dataclass(frozen=True)
class Choice:
    """A label: its ``name`` in the output, the ``surface`` text that the model reads, what it means."""

    name: str
    surface: str
    description: str | None = None


@dataclass
class Label:
    """Label rows.

    ``labels``: names, or mappings of name, surface (what the model sees, default the name) and description; YAML may
    also map names to descriptions. ``method`` choice scores every label as the continuation of the prompt and
    normalises over the labels; generate lets the model write and looks for a label in its answer. ``label_end`` is put
    after every surface text: with it (a line break, say) a label does not profit from being another's beginning.

    The prompt template sees ``labels``, a list of {name, surface, description}.
    """

    labels: Any = field(default_factory=list)
    method: str = "choice"
    label_end: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"job.method={self.method}: it can be {' or '.join(METHODS)}")
        self.choices = read_labels(self.labels)

    @property
    def names(self) -> list[str]:
        return [choice.name for choice in self.choices]

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return {"labels": [vars(choice) for choice in self.choices]}

    def schema(self) -> pa.Schema:
        """``label``, and by choice its ``confidence`` (0 to 1) and every label's probability."""
        fields = [pa.field("label", pa.string())]
        if self.method == "choice":
            distribution = pa.struct([(name, pa.float64()) for name in self.names])
            fields += [pa.field("confidence", pa.float64()), pa.field("probabilities", distribution)]
        else:
            fields += [pa.field("text", pa.string())]
        return pa.schema(fields)

    def steps(self, row: Row) -> Steps:
        """One request: all labels scored, or one short answer."""
        if self.method == "generate":
            answer = yield Request(variables=self.variables())
            return {"label": self.match(answer.text), "text": answer.text}
        surfaces = tuple(choice.surface + self.label_end for choice in self.choices)
        answer = yield Request(variables=self.variables(), choices=surfaces)
        return self.scored(answer.logprobs)

    def scored(self, logprobs: tuple[float, ...]) -> Columns:
        """The output columns for the labels' log-probabilities; of equal ones the first in ``labels`` wins."""
        probabilities = normalise(logprobs)
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return {
            "label": self.names[best],
            "confidence": probabilities[best],
            "probabilities": dict(zip(self.names, probabilities, strict=True)),
        }

    def match(self, text: str) -> str:
        """The label that an answer begins with, else the only one that occurs in it; RowError if there is none."""
        words = f" {_words(text)} "
        surfaces = {choice.name: f" {_words(choice.surface)} " for choice in self.choices}
        starts = [name for name, surface in surfaces.items() if words.startswith(surface)]
        found = [name for name, surface in surfaces.items() if surface in words]
        if starts:
            return max(starts, key=lambda name: len(surfaces[name]))
        if len(found) == 1:
            return found[0]
        what = "more than one label" if found else "no label"
        raise RowError(f"unmatched label: {what} in the answer {text[:80]!r}")


def normalise(logprobs: tuple[float, ...]) -> list[float]:
    """Probabilities that sum to 1, from log-probabilities up to a constant."""
    top = max(logprobs)
    weights = [math.exp(logprob - top) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


def read_labels(labels: Any) -> list[Choice]:
    """The labels as configured; UserError for none, fewer than two, duplicates or unknown keys."""
    if isinstance(labels, Mapping):
        labels = [{"name": name, **_details(details)} for name, details in labels.items()]
    if not isinstance(labels or [], list | tuple):
        raise UserError(f"job.labels={labels}: it must be a list of labels: 'job.labels=[ham,spam]'")
    choices = [_read_label(label) for label in labels or []]
    if len(choices) < 2:
        raise UserError(f"job.labels has {len(choices)} labels, at least two are needed: 'job.labels=[ham,spam]'")
    for what in ("name", "surface"):
        values = [getattr(choice, what) for choice in choices]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UserError(f"job.labels: {what} {twice[0]!r} stands there twice")
    return choices


def _details(details: Any) -> Mapping[str, Any]:
    return details if isinstance(details, Mapping) else {"description": details}


def _read_label(label: Any) -> Choice:
    fields = dict(label) if isinstance(label, Mapping) else {"name": label}
    unknown = sorted(set(fields) - {"name", "surface", "description"})
    if unknown or fields.get("name") is None:
        problem = f"unknown key {unknown[0]!r}" if unknown else "no name"
        raise UserError(f"job.labels: {problem} in {fields}; a label has name, surface, description")
    name = _text(fields["name"])
    surface = _text(fields.get("surface") or name)
    if not surface.strip():
        raise UserError("job.labels: a label is empty")
    return Choice(name, surface, fields.get("description"))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(text: str) -> str:
    return " ".join("".join(char if char.isalnum() else " " for char in text.lower()).split())
