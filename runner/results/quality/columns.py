"""Which columns are compared: the job's, the gold one, and when a value of one is right by the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from runner.data.cells import UnreadableCell, values
from runner.data.gold import gold_name, members_of
from runner.data.source import DataSource
from runner.results.quality.spans import are_spans, same_spans
from runner.results.quality.values import number_of
from runner.results.run import Run
from runner.text.labels import read_labels
from runner.text.questions.question import Question
from runner.text.questions.read import read_questions
from runner.types import UserError
from runner.words import did_you_mean

LABEL = "label"
Values = Callable[[int, pa.Table], list[Any]]  # of a block: its first row and its columns
Name = Callable[[Any], str | None]
# What means a yes or a no where the job's column holds booleans.
_FLAGS = dict.fromkeys(("true", "1", "yes"), "true") | dict.fromkeys(("false", "0", "no"), "false")


@dataclass
class Golds:
    """A column with the right answers. ``labels``: those that the job knows; ``also``: output columns it is read from.

    ``name``: a value's name among the labels.
    """

    values: Values
    name: Name
    labels: list[str] | None
    also: list[str] = field(default_factory=list)

    def has(self, value: Any) -> bool:
        """Whether a cell of the gold column holds a right answer."""
        return not isinstance(value, UnreadableCell) and self.name(value) is not None

    def members(self, value: Any) -> frozenset[str]:
        """The labels that a cell of several means."""
        names = (self.name(one) for one in members_of(value, self.labels or ()))
        return frozenset(name for name in names if name is not None)

    @classmethod
    def open(cls, run: Run, gold: str, column: str) -> Golds:
        """From the data set if it has the column, else from the output. UserError if neither does."""
        question = question_of(run, column)
        labels = question.names if question else list(labels_of(run)) or None if column == LABEL else None
        try:
            source, lost = run.source if run.is_row_by_row else None, None
        except (UserError, OSError) as problem:  # moved or changed: the kept columns may suffice
            source, lost = None, str(problem)
        is_flag = run.columns.job.get(column) == "bool"
        if source is not None and gold in source.column_names:
            named = source.with_gold(gold, labels or [])
            return cls(input_column(named, gold), lambda value: _name(value, named.gold_name, labels, is_flag), labels)
        gold = next((output for output, name in run.columns.kept.items() if name == gold), gold)
        kept = [name for name in run.columns.names if name != column]
        if gold not in kept:
            known = dict.fromkeys([*kept, *(source.column_names if source else [])])
            why = f" ({lost})" if lost else ""
            raise UserError("--gold", f"there is no such column{why}; valid: {', '.join(known)}", value=gold)
        classes = [str(name) for name in run.config["dataset"].get("classes") or labels or ()]

        def by_class(value: Any, labels: Collection[str]) -> str | None:
            return gold_name(value, classes, labels)

        name: Name = lambda value: _name(value, by_class, labels, is_flag)  # noqa: E731
        return cls(lambda start, table: values(gold, table.column(gold)), name, labels, [gold])


def questions_of(run: Run) -> list[Question]:
    """The questions that a run's job asks, if its columns are those of some."""
    try:
        found = read_questions(run.identity.get("job") or {})
    except UserError:
        return []
    return found if all(one.column in run.columns.job for one in found) else []


def question_of(run: Run, column: str) -> Question | None:
    """The question whose answers a column holds."""
    return next((one for one in questions_of(run) if one.column == column), None)


def prefix_of(run: Run, column: str) -> str:
    """What the columns about the answers in a column begin with, such as that of their confidence."""
    question = question_of(run, column)
    return question.beside("") if question else "" if column == LABEL else f"{column}_"


def gold_column(run: Run, gold: str | None, column: str | None = None) -> str:
    """The column asked for, else that of the question with this ``column``, else the run's own. UserError without."""
    question = question_of(run, column) if column else None
    found = gold or (question and question.gold) or (run.config.get("dataset") or {}).get("gold")
    if not found:
        raise UserError("--gold", f"{run.path} has no dataset.gold: name the column with the right answers")
    return str(found)


def column_with_gold(run: Run, column: str | None, gold: str) -> str:
    """The column asked for, else ``label``, the job's column of the gold one's name, or its only one."""
    job = run.columns.job
    if column is None:
        only = next(iter(job)) if len(job) == 1 else None
        asked = [one.column for one in questions_of(run) if one.gold == gold or not one.name]
        column = LABEL if LABEL in job else asked[0] if asked else gold if gold in job else only
    if column is None:
        raise UserError(f"{run.path} has no column label of its job: --column names one of {', '.join(job)}")
    if column.partition(".")[0] not in job and column not in job:
        raise UserError("--column", f"the job has no such column{did_you_mean(column, list(job))}", value=column)
    return column


def top(run: Run, column: str) -> list[str]:
    """The output column that a column is, or is a part of."""
    return [column if column in run.columns.job else column.partition(".")[0]]


def column_of(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column, or the part of one that a dotted name means. UserError if there is none."""
    if column in table.column_names:
        return table[column]
    name, *parts = column.split(".")
    found = table[name]
    for part in parts:
        names = [one.name for one in found.type] if pa.types.is_struct(found.type) else []
        if part not in names:
            raise UserError("--column", f"{name} has no part {part!r}{did_you_mean(part, names)}", value=column)
        found, name = pa.table({"": found}).flatten().column(names.index(part)), f"{name}.{part}"
    return found


def input_column(source: DataSource, name: str) -> Values:
    """The cells of a column of the data for the rows of a block, given its first row and its table."""
    return lambda start, table: values(name, source.table(start, start + len(table), [name]).column(0))


def _name(
    value: Any, named: Callable[[Any, Collection[str]], str | None], labels: list[str] | None, is_flag: bool
) -> str | None:
    name = named(value, labels or ())
    return _FLAGS.get(name.strip().lower(), name) if is_flag and name is not None else name


def text_of(value: Any) -> str | None:
    """A value as a label's name; booleans are ``true`` and ``false``."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def is_right(answer: Any, gold: Any, golds: Golds) -> bool:
    """Whether an answer is the gold one: as the same spans, the same members of a list, number or label."""
    if are_spans(answer):
        return same_spans(answer, gold)
    if isinstance(answer, list):
        return members_of(answer) == golds.members(gold)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return number_of(answer) == number_of(gold)
    return answer is not None and text_of(answer) == golds.name(gold)


def labels_of(run: Run) -> dict[str, str]:
    """The job's labels in its order, with what the model reads; empty for a job of one's own, which may give any."""
    try:
        return {choice.name: choice.surface for choice in read_labels((run.identity.get("job") or {}).get("labels"))}
    except UserError:
        return {}
