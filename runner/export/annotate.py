"""Labels, spans and texts as pre-annotations, for people to check: tasks for Label Studio, records for Argilla.

Label Studio's format is that of its guide "Import pre-annotated data": ``data``, and ``predictions`` whose results name
the tags of the labelling configuration, which is written beside the tasks. Argilla's is what ``records.from_json``
reads: ``fields`` and ``suggestions`` by question. Both are one JSON list. Spans are counted in characters by both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from runner.data.cells import records
from runner.data.columns import free_name
from runner.data.kept import INPUT
from runner.export.files import STDOUT, opened
from runner.export.select import ROW, Selection, position_column
from runner.plain import to_json
from runner.results.run import Run
from runner.text.templates import Template
from runner.types import UserError
from runner.words import did_you_mean

SPANS = "spans"
_ANSWERS = (
    "label",
    SPANS,
    "text",
    "summary",
    "response",
)  # output columns that people would check, the likeliest first


@dataclass
class Annotation:
    """A task for people to check: the columns ``shown`` with the model's ``answer``, one of ``labels`` if any.

    Spans are of the first column shown, and ``labels`` are then their kinds.
    """

    run: Run
    shown: list[str]
    answer: str
    labels: list[str]

    @classmethod
    def of(cls, selection: Selection, text: str | None) -> Annotation:
        """What to show of a run: the column ``text``, or those that its prompt is made of."""
        run = selection.run
        answer = next((name for name in _ANSWERS if name in run.columns.job), None)
        if answer is None:
            raise UserError(f"{run.path} has nothing to annotate: none of the columns {', '.join(_ANSWERS)}")
        columns = run.source.column_names
        if text is not None and text not in columns:
            raise UserError("--text", f"the input has no column {text!r}{did_you_mean(text, columns)}")
        shown = [text] if text is not None else _in_prompt(run, columns)
        if answer == SPANS:
            shown = _with_spans(run, text, columns)
        if not shown:
            raise UserError(f"--text COLUMN is needed: the prompt of {run.path} uses no column of the input")
        named = {"label": _labels, SPANS: _kinds}.get(answer)
        return cls(run, shown, answer, named(run) if named else [])

    @property
    def model(self) -> str:
        """The name of the model that answered."""
        return model_name(self.run)

    @property
    def has_confidence(self) -> bool:
        """Whether the column ``confidence`` is the job's, not one of the input."""
        return "confidence" in self.run.columns.job

    def place(self, row: dict[str, Any]) -> int:
        """The row's position in the input, which identifies it."""
        return int(row[position_column(self.run)])

    def tag(self, column: str) -> str:
        """The column's name as both tools take it."""
        return re.sub(r"\W", "_", column)

    @cached_property
    def _kept_as(self) -> dict[str, str]:
        return {name: output for output, name in self.run.columns.kept.items()}

    def value(self, row: dict[str, Any], column: str) -> str:
        """An input cell as text."""
        cell = row.get(self._kept_as.get(column, INPUT + column), row.get(column))
        return "" if cell is None else cell if isinstance(cell, str) else to_json(cell)

    def spans(self, row: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The mentions that the model found; None for a row in error, and where it looks for none."""
        return row.get(self.answer) if self.answer == SPANS and row.get("error") is None else None

    def answers(self, row: dict[str, Any]) -> list[str]:
        """The model's answers, none for a row in error."""
        said = None if self.answer == SPANS else row.get(self.answer)
        texts = said if isinstance(said, list) else [said]
        return [] if row.get("error") is not None else [str(text) for text in texts if text is not None]


def write_label_studio(target: str, selection: Selection, text: str | None, *, overwrite: bool) -> int:
    """A task for each row, and beside the file its labelling configuration (NAME.xml)."""
    annotation = Annotation.of(selection, text)
    count = _write_list(target, (_task(annotation, row) for row in _rows(selection)), overwrite=overwrite)
    if target != STDOUT:
        with opened(str(Path(target).with_suffix(".xml")), overwrite=True) as file:
            file.write(labelling_config(annotation).encode())
    return count


def write_argilla(target: str, selection: Selection, text: str | None, *, overwrite: bool) -> int:
    """A record for each row."""
    annotation = Annotation.of(selection, text)
    return _write_list(target, (_record(annotation, row) for row in _rows(selection)), overwrite=overwrite)


def labelling_config(annotation: Annotation) -> str:
    """The XML that a Label Studio project needs for these tasks."""
    name, shown = annotation.tag(annotation.answer), [annotation.tag(column) for column in annotation.shown]
    texts = "".join(f"  <Text name={quoteattr(tag)} value={quoteattr(f'${tag}')}/>\n" for tag in shown)
    target = f"name={quoteattr(_control(name, shown))} toName={quoteattr(shown[0])}"
    if not annotation.labels:
        return f'<View>\n{texts}  <TextArea {target} rows="4" editable="true"/>\n</View>\n'
    if annotation.answer == SPANS:
        kinds = "".join(f"    <Label value={quoteattr(kind)}/>\n" for kind in annotation.labels)
        return f"<View>\n  <Labels {target}>\n{kinds}  </Labels>\n{texts}</View>\n"
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in annotation.labels)
    return f'<View>\n{texts}  <Choices {target} choice="single">\n{choices}  </Choices>\n</View>\n'


def _control(name: str, shown: list[str]) -> str:
    """The name of the tag with the answer, which no shown column may have."""
    while name in shown:
        name = f"model_{name}"
    return name


def _task(annotation: Annotation, row: dict[str, Any]) -> dict[str, Any]:
    shown = [annotation.tag(column) for column in annotation.shown]
    data = {tag: annotation.value(row, column) for tag, column in zip(shown, annotation.shown, strict=True)}
    answers = annotation.answers(row)
    task: dict[str, Any] = {"data": data | {free_name(ROW, data): annotation.place(row)}, "predictions": []}
    names = {"from_name": _control(annotation.tag(annotation.answer), shown), "to_name": shown[0]}
    if (spans := annotation.spans(row)) is not None:
        results = [{**names, "type": "labels", "value": _value(span, [span["kind"]])} for span in spans]
        task["predictions"].append({"model_version": annotation.model, "result": results})
    if answers:
        kind = "choices" if annotation.labels else "textarea"
        value = {"choices": answers} if annotation.labels else {"text": answers}
        prediction = {"model_version": annotation.model, "result": [{**names, "type": kind, "value": value}]}
        if annotation.has_confidence and isinstance(row.get("confidence"), float):
            prediction["score"] = row["confidence"]
        task["predictions"].append(prediction)
    return task


def _value(span: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    return {name: span[name] for name in ("start", "end", "text")} | {"labels": labels}


def _record(annotation: Annotation, row: dict[str, Any]) -> dict[str, Any]:
    fields = {annotation.tag(column): annotation.value(row, column) for column in annotation.shown}
    suggestions = {}
    if (spans := annotation.spans(row)) is not None:
        found = [{"start": span["start"], "end": span["end"], "label": span["kind"]} for span in spans]
        suggestions[_control(annotation.tag(SPANS), list(fields))] = {"value": found, "agent": annotation.model}
    if answers := annotation.answers(row):
        suggestion: dict[str, Any] = {"value": answers[0], "agent": annotation.model}
        if annotation.has_confidence and isinstance(row.get("confidence"), float):
            suggestion["score"] = row["confidence"]
        suggestions[_control(annotation.tag(annotation.answer), list(fields))] = suggestion
    place = annotation.place(row)
    return {"id": str(place), "fields": fields, "suggestions": suggestions, "metadata": {"row": place}}


def _rows(selection: Selection) -> Iterator[dict[str, Any]]:
    selection.join = True
    for table in selection.tables():
        yield from records(table)


def _write_list(target: str, records: Iterable[Any], *, overwrite: bool) -> int:
    count = 0
    with opened(target, overwrite=overwrite) as file:
        file.write(b"[")
        for record in records:
            file.write(b",\n" if count else b"\n")
            file.write(to_json(record).encode())
            count += 1
        file.write(b"\n]\n")
    return count


def _in_prompt(run: Run, columns: list[str]) -> list[str]:
    try:
        used = Template("prompt.user", run.config["prompt"]["user"]).names
    except UserError:
        return []
    return [name for name in columns if name in used]


def _with_spans(run: Run, text: str | None, columns: list[str]) -> list[str]:
    """The column that offsets count in, first, and what else the prompt is made of."""
    found = run.config["job"].get("column", text)
    if text is not None and text != found:
        raise UserError("--text", f"the spans of {run.path} lie in the column {found}", value=text)
    return [name for name in dict.fromkeys([found, *_in_prompt(run, columns)]) if name in columns]


def _kinds(run: Run) -> list[str]:
    """The job's kinds of spans, or those that occur."""
    from runner.text.labels import read_labels

    try:
        return [choice.name for choice in read_labels(run.config["job"].get("kinds"), "job.kinds", 1)]
    except UserError:  # a job of the user's own
        return sorted({span["kind"] for row in run.rows() for span in row[SPANS] or ()})


def _labels(run: Run) -> list[str]:
    from runner.text.labels import read_labels

    try:
        return [choice.name for choice in read_labels(run.config["job"].get("labels"))]
    except UserError:  # a job of the user's own, which may return any
        return sorted(run.label_counts)


def model_name(run: Run) -> str:
    """The model's name without the folders or hashes of its address."""
    if run.config["engine"]["backend"] == "fake":
        return "fake"
    return Path(str(run.config["model"]["path"]).partition("#")[0].rstrip("/")).name or "unknown"


ANNOTATORS: dict[str, Callable[..., int]] = {"label-studio": write_label_studio, "argilla": write_argilla}
