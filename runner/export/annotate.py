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
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

from runner.data.cells import records
from runner.data.columns import free_name
from runner.data.kept import INPUT
from runner.export.files import STDOUT, Fresh
from runner.export.select import ROW, Selection, input_of, position_column
from runner.plain import to_json
from runner.results.quality.columns import questions_of
from runner.results.run import Run
from runner.text.questions.question import LABELS, MULTI, SCALE, SCHEMA, Question
from runner.text.templates import Template
from runner.types import UserError
from runner.words import did_you_mean

SPANS, TEXT = "spans", "text"
_ANSWERS = ("label", SPANS, "text", "summary", "response")  # columns that people would check, the likeliest first


@dataclass(frozen=True)
class Part:
    """Something to check: an answer's ``column``, what it holds (a question's kind, spans or text), its ``names``.

    ``title`` is what people are asked, where there are several parts.
    """

    column: str
    kind: str
    names: list[str]
    confidence: str = "confidence"
    probabilities: str = "probabilities"
    most: int = 0  # of a rating from 1 to so many
    title: str = ""

    @classmethod
    def of(cls, question: Question) -> Part:
        """The answers to a question."""
        kind = {SCHEMA: TEXT}.get(question.kind, question.kind)
        is_rating = question.is_numeric and question.values == tuple(range(1, len(question.values) + 1))
        beside = (question.beside("confidence"), question.beside("probabilities"))
        rating = len(question.values) if is_rating else 0
        return cls(question.column, kind, question.names, *beside, most=rating, title=question.ask)

    def answers(self, row: dict[str, Any]) -> list[Any]:
        """The model's answers: spans, the labels, or texts; none for a row in error and a question not asked."""
        said = row.get(self.column)
        found = said if isinstance(said, list) else [said]
        found = [] if row.get("error") is not None else [one for one in found if one is not None]
        if self.kind == SPANS or self.most:
            return found
        return [one if isinstance(one, str) else self._shown(one) for one in found]

    def _shown(self, one: Any) -> str:
        return f"{one:g}" if self.kind == SCALE else to_json(one)

    def score(self, row: dict[str, Any]) -> float | None:
        """How sure the model was."""
        found = row.get(self.confidence)
        return found if isinstance(found, float) else None


@dataclass
class Annotation:
    """A task for people to check: the columns ``shown`` with the model's answers in ``parts``.

    Spans are of the first column shown.
    """

    run: Run
    shown: list[str]
    parts: list[Part]

    @classmethod
    def of(cls, selection: Selection, text: str | None) -> Annotation:
        """What to show of a run: the column ``text``, or those that its prompt is made of."""
        run = selection.run
        parts = [Part.of(one) for one in questions_of(run)] or _parts(run)
        if not parts:
            raise UserError(f"{run.path} has nothing to annotate: none of the columns {', '.join(_ANSWERS)}")
        columns = input_of(run).column_names
        if text is not None and text not in columns:
            raise UserError("--text", f"the input has no column {text!r}{did_you_mean(text, columns)}")
        shown = [text] if text is not None else _in_prompt(run, columns)
        if parts[0].kind == SPANS:
            shown = _with_spans(run, text, columns)
        if not shown:
            raise UserError(f"--text COLUMN is needed: the prompt of {run.path} uses no column of the input")
        return cls(run, shown, parts)

    @property
    def model(self) -> str:
        """The name of the model that answered."""
        return model_name(self.run)

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

    def control(self, part: Part) -> str:
        """The name of the tag or question with an answer, which no shown column may have."""
        name, shown = self.tag(part.column), [self.tag(column) for column in self.shown]
        while name in shown:
            name = f"model_{name}"
        return name


def write_label_studio(target: str, selection: Selection, text: str | None, *, overwrite: bool) -> int:
    """A task for each row, and beside the file its labelling configuration (NAME.xml)."""
    annotation = Annotation.of(selection, text)
    with Fresh(overwrite=overwrite) as fresh:
        count = _write_list(fresh.opened(target), (_task(annotation, row) for row in _rows(selection)))
        if target != STDOUT:
            fresh.opened(str(Path(target).with_suffix(".xml"))).write(labelling_config(annotation).encode())
    return count


def write_argilla(target: str, selection: Selection, text: str | None, *, overwrite: bool) -> int:
    """A record for each row."""
    annotation = Annotation.of(selection, text)
    with Fresh(overwrite=overwrite) as fresh:
        return _write_list(fresh.opened(target), (_record(annotation, row) for row in _rows(selection)))


def labelling_config(annotation: Annotation) -> str:
    """The XML that a Label Studio project needs for these tasks."""
    shown = [annotation.tag(column) for column in annotation.shown]
    texts = "".join(f"  <Text name={quoteattr(tag)} value={quoteattr(f'${tag}')}/>\n" for tag in shown)
    above, below = "", ""
    for part in annotation.parts:
        title = f"  <Header value={quoteattr(part.title)}/>\n" if part.title else ""
        target = f"name={quoteattr(annotation.control(part))} toName={quoteattr(shown[0])}"
        if part.kind == SPANS:
            above += _tag("Labels", target, "Label", part.names)
        else:
            below += title + _below(part, target)
    return f"<View>\n{above}{texts}{below}</View>\n"


def _below(part: Part, target: str) -> str:
    if part.most:
        return f'  <Rating {target} maxRating="{part.most}"/>\n'
    if not part.names:
        return f'  <TextArea {target} rows="4" editable="true"/>\n'
    choice = "multiple" if part.kind == MULTI else "single"
    return _tag("Choices", f'{target} choice="{choice}"', "Choice", part.names)


def _tag(outer: str, target: str, inner: str, names: list[str]) -> str:
    inside = "".join(f"    <{inner} value={quoteattr(name)}/>\n" for name in names)
    return f"  <{outer} {target}>\n{inside}  </{outer}>\n"


def _task(annotation: Annotation, row: dict[str, Any]) -> dict[str, Any]:
    shown = [annotation.tag(column) for column in annotation.shown]
    data = {tag: annotation.value(row, column) for tag, column in zip(shown, annotation.shown, strict=True)}
    task: dict[str, Any] = {"data": data | {free_name(ROW, data): annotation.place(row)}, "predictions": []}
    said = [(part, part.answers(row)) for part in annotation.parts if _is_answered(part, row)]
    results = [
        {"from_name": annotation.control(part), "to_name": shown[0], **one}
        for part, answers in said
        for one in _results(part, answers)
    ]
    if said:
        prediction: dict[str, Any] = {"model_version": annotation.model, "result": results}
        scores = [score for part, _ in said if (score := part.score(row)) is not None]
        task["predictions"].append(prediction | ({"score": min(scores)} if scores else {}))
    return task


def _is_answered(part: Part, row: dict[str, Any]) -> bool:
    """Whether there is an answer, were it that nothing fits."""
    return row.get("error") is None and (
        (part.kind in (SPANS, MULTI) and row.get(part.column) == []) or bool(part.answers(row))
    )


def _results(part: Part, answers: list[Any]) -> list[dict[str, Any]]:
    if part.kind == SPANS:
        return [{"type": "labels", "value": _value(span, [span["kind"]])} for span in answers]
    if not answers:
        return []
    if part.most:
        return [{"type": "rating", "value": {"rating": answers[0]}}]
    kind = "choices" if part.names else "textarea"
    return [{"type": kind, "value": {"choices" if part.names else "text": answers}}]


def _value(span: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    return {name: span[name] for name in ("start", "end", "text")} | {"labels": labels}


def _record(annotation: Annotation, row: dict[str, Any]) -> dict[str, Any]:
    fields = {annotation.tag(column): annotation.value(row, column) for column in annotation.shown}
    suggestions = {}
    for part in annotation.parts:
        if _is_answered(part, row):
            suggestion = _suggestion(part, part.answers(row), row)
            suggestions[annotation.control(part)] = suggestion | {"agent": annotation.model}
    place = annotation.place(row)
    return {"id": str(place), "fields": fields, "suggestions": suggestions, "metadata": {"row": place}}


def _suggestion(part: Part, answers: list[Any], row: dict[str, Any]) -> dict[str, Any]:
    if part.kind == SPANS:
        return {"value": [{"start": span["start"], "end": span["end"], "label": span["kind"]} for span in answers]}
    if part.kind == MULTI:  # a score for each label
        likely = row.get(part.probabilities) or {}
        return {"value": answers, "score": [likely.get(name) for name in answers]}
    score = part.score(row)
    return {"value": answers[0]} | ({} if score is None else {"score": score})


def _rows(selection: Selection) -> Iterator[dict[str, Any]]:
    selection.join = True
    for table in selection.tables():
        yield from records(table)


def _write_list(file: BinaryIO, records: Iterable[Any]) -> int:
    count = 0
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


def _parts(run: Run) -> list[Part]:
    """The answer of a job that does not say what it asks."""
    answer = next((name for name in _ANSWERS if name in run.columns.job), None)
    if answer is None:
        return []
    confidence = "confidence" if "confidence" in run.columns.job else ""  # not one of the input
    kind = {"label": LABELS, SPANS: SPANS}.get(answer, TEXT)
    names = _kinds(run) if answer == SPANS else sorted(run.label_counts) if answer == "label" else []
    return [Part(answer, kind, names, confidence)]


def model_name(run: Run) -> str:
    """The model's name without the folders or hashes of its address."""
    if run.config["engine"]["backend"] == "fake":
        return "fake"
    return Path(str(run.config["model"]["path"]).partition("#")[0].rstrip("/")).name or "unknown"


ANNOTATORS: dict[str, Callable[..., int]] = {"label-studio": write_label_studio, "argilla": write_argilla}
