"""The job ``label``: one of a fixed set of labels for each row, with its probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.match import Matcher
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
    r"""Label rows.

    ``labels``: names, or mappings of name, surface (what the model sees, default the name) and description; YAML may
    also map names to descriptions. ``method`` choice scores every label as the continuation of the prompt and
    normalises over the labels; generate lets the model write and looks for a label in its answer. ``label_end`` is put
    after every surface text: with it ("\n", say) a label does not profit from being another's beginning.

    The prompt template sees ``labels``, a list of {name, surface, description}.
    """

    labels: Any = field(default_factory=list)
    method: str = "choice"
    label_end: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"job.method={self.method}: it can be {' or '.join(METHODS)}")
        self.choices = read_labels(self.labels)
        self.names = [choice.name for choice in self.choices]
        surfaces = tuple(choice.surface + self.label_end for choice in self.choices)
        self._request = Request(self.variables(), choices=surfaces if self.method == "choice" else None)
        self._matcher = Matcher({choice.name: choice.surface for choice in self.choices})

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return {"labels": [vars(choice) for choice in self.choices]}

    def schema(self) -> pa.Schema:
        """``label``, and by choice its ``confidence`` (0 to 1) and every label's probability, else the ``text``."""
        fields = [pa.field("label", pa.string())]
        if self.method == "choice":
            distribution = pa.struct([(name, pa.float64()) for name in self.names])
            fields += [pa.field("confidence", pa.float64()), pa.field("probabilities", distribution)]
        else:
            fields += [pa.field("text", pa.string())]
        return pa.schema(fields)

    def steps(self, row: Row) -> Steps:
        """One request: all labels scored, or one short answer."""
        answer = yield self._request
        if self.method == "choice":
            return self.scored(answer.logprobs)
        return {"label": self._matcher.match(answer.text), "text": answer.text}

    def scored(self, logprobs: tuple[float, ...]) -> Columns:
        """The output columns for the labels' log-probabilities; of equal ones the first in ``labels`` wins."""
        probabilities = normalise(logprobs)
        best = max(probabilities)
        return {
            "label": self.names[probabilities.index(best)],
            "confidence": best,
            "probabilities": dict(zip(self.names, probabilities, strict=True)),
        }


def normalise(logprobs: tuple[float, ...]) -> list[float]:
    """Probabilities that sum to 1, from log-probabilities up to a constant; RowError if there are none to be had."""
    top = max(logprobs)
    if not math.isfinite(top) or any(map(math.isnan, logprobs)):
        raise RowError(f"no probabilities: the labels' log-probabilities are {logprobs}")
    weights = [math.exp(logprob - top) for logprob in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]


def read_labels(labels: Any) -> list[Choice]:
    """The labels as configured; UserError for none, fewer than two, duplicates, unknown keys, what YAML took for no
    text.
    """
    if isinstance(labels, Mapping):
        labels = [{"name": name, **_details(details)} for name, details in labels.items()]
    elif not isinstance(labels, list | tuple | None):
        raise UserError(f"job.labels={labels}: it must be a list, such as 'job.labels=[ham,spam]'")
    choices = [_read_label(label) for label in labels or []]
    if len(choices) < 2:
        count = f"{len(choices)} label{'s' * (not choices)}"
        raise UserError(f"job.labels has {count}, at least two are needed: 'job.labels=[ham,spam]'")
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
    unknown = sorted(map(str, fields.keys() - {"name", "surface", "description"}))
    if unknown:
        raise UserError(f"job.labels: unknown key {unknown[0]!r} in {fields}; a label has name, surface, description")
    name = _text("name", fields.get("name"))
    surface, description = fields.get("surface"), fields.get("description")
    return Choice(
        name,
        name if surface is None else _text("surface", surface),
        None if description is None else _text("description", description),
    )


def _text(what: str, value: Any) -> str:
    """The text that the user typed. YAML turns yes, on, 1.50 and the like into other values: these are refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = "there is none" if value is None else f"YAML reads it as the {type(value).__name__} {value}"
        raise UserError(
            f"job.labels: a label's {what} must be a text, and {problem}; put it in quotes: [\"yes\",'1.0']"
        )
    if not value.strip():
        raise UserError(f"job.labels: a label's {what} is empty")
    return value
