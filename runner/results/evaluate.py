"""How right a run's column is against a gold column, read once, block by block, whatever the number of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from runner.data.source import DataSource
from runner.results.quality.columns import (
    LABEL,
    Golds,
    Name,
    Values,
    column_of,
    column_with_gold,
    gold_column,
    input_column,
    prefix_of,
    question_of,
    questions_of,
    text_of,
    top,
)
from runner.results.quality.pairs import level_figures, pairs, several_figures
from runner.results.quality.rescore.arrays import likeliest, softmax
from runner.results.quality.rescore.decision import AS_RUN, Decision
from runner.results.quality.rescore.labels import LabelRescoring, Scores
from runner.results.quality.shapes import (
    AnyFigures,
    CalibrationEffect,
    LabelFigures,
    PriorEffect,
    QuestionFigures,
)
from runner.results.quality.spans import span_figures
from runner.results.quality.values import number_figures, set_figures
from runner.results.run import Run
from runner.results.scores import accuracy_by_coverage, calibration_error, label_figures, reliability
from runner.text.questions.question import LABELS, MULTI, SCALE, SCHEMA, Question
from runner.types import UserError
from runner.words import alike, listed

log = logging.getLogger("rowmill")
KINDS = ("labels", "numbers", "sets", "scale", "spans")
_FIGURES: dict[str, Callable[..., Any]] = {"numbers": number_figures, "sets": set_figures, "spans": span_figures}
MOST_CLASSES = 1000  # where neither the job nor the data set names them


def label_evaluation(run: Run, source: DataSource, labels: list[str] | None = None) -> dict[str, Any]:
    """For a job's ``figures``: ``evaluation`` of its column ``label`` where the data set has gold, else nothing."""
    return {"evaluation": evaluate_labels(run, source, labels)} if source.conf.gold else {}


def evaluate_labels(run: Run, source: DataSource, labels: list[str] | None = None) -> LabelFigures:
    """The figures of a run's labels against the gold column of its data set; see ``Evaluation.figures``.

    Without ``labels`` they are those that occur in the output or the gold column.
    """
    name = partial(_named, source, labels or [])
    return Evaluation(run, labels, input_column(source, source.conf.gold or ""), name).figures()


def evaluate_run(
    run: Run,
    gold: str | None = None,
    column: str | None = None,
    decision: Decision = AS_RUN,
    kind: str | None = None,
) -> AnyFigures:
    """The figures of a column of the job's, by default its labels, against any column that the output or the data has.

    ``gold``: by default the run's own. ``kind``, one of KINDS, follows from the column's type unless it is given.
    UserError for what does not exist.
    """
    asked = [one for one in questions_of(run) if one.gold] if gold is None and column is None else []
    if asked and kind is None and decision == AS_RUN:
        by_name = {one.name: evaluate_question(run, one, Golds.open(run, str(one.gold), one.column)) for one in asked}
        rows = max(found["rows"] for found in by_name.values())
        return QuestionFigures(kind="questions", rows=rows, questions=by_name)
    if asked and decision != AS_RUN:
        names = ", ".join(one.column for one in asked)
        raise UserError("--column", f"is not set: which question is to be decided anew? ({names})")
    gold = gold_column(run, gold, column)
    column = column_with_gold(run, column, gold)
    golds = Golds.open(run, gold, column)
    question = question_of(run, column)
    own = {"multi": "sets", "scale": "scale", "labels": "labels"}.get(question.kind) if question else None
    kind = kind or own or _kind(run, column)
    if decision != AS_RUN and (kind != own if question else column != LABEL):
        raise UserError("--no-prior, --temperature and --threshold decide labels and levels, not other columns")
    if question is not None and kind == own and column != LABEL:
        return evaluate_question(run, question, golds, decision)
    if kind == "scale":
        raise UserError("--as", f"the column {column} is not of a question with a scale", value=kind)
    if kind != "labels":
        said, right, _ = pairs(run, column, golds)
        if not right:
            return {"kind": cast(Any, kind), "column": column, "rows": 0}
        return cast(AnyFigures, _FIGURES[kind](column, right, said))
    return Evaluation(run, golds.labels, golds.values, golds.name, column, golds.also, decision).figures()


def question_evaluations(run: Run, source: DataSource, questions: list[Question]) -> dict[str, Any]:
    """For a job's ``figures``: ``evaluation`` of its only question, or ``evaluations`` of several by their names.

    Nothing for those without gold.
    """
    found: dict[str, AnyFigures] = {}
    for one in questions:
        gold = one.gold_in(source.conf.gold)
        if gold in source.column_names and one.kind != SCHEMA:
            named = source.with_gold(gold, one.names)
            golds = Golds(input_column(source, gold), partial(_named, named, one.names), one.names)
            found[one.name] = evaluate_question(run, one, golds)
    if "" in found:
        return {"evaluation": found[""]}
    return {"evaluations": found} if found else {}


def evaluations_by_column(run: Run, source: DataSource | None) -> dict[str, AnyFigures]:
    """For a report: the figures of several labels, of levels and of named questions, each where it has gold."""
    asked = [one for one in questions_of(run) if one.name or one.kind != LABELS]
    try:
        found = question_evaluations(run, source, asked) if source is not None else {}
    except (UserError, ValueError, KeyError, OSError, pa.ArrowException) as problem:
        log.warning("the report has no evaluation: %s", problem)
        return {}
    return found.get("evaluations") or ({asked[0].column: found["evaluation"]} if found else {})


def _named(source: DataSource, labels: list[str], value: Any) -> str | None:
    return source.gold_name(value, labels)


def evaluate_question(run: Run, question: Question, golds: Golds, decision: Decision = AS_RUN) -> AnyFigures:
    """The figures of a question's answers, by its kind."""
    if question.kind == MULTI:
        return several_figures(run, question, golds, decision)
    if question.kind == SCALE:
        return level_figures(run, question, golds, decision)
    return Evaluation(run, question.names, golds.values, golds.name, question.column, golds.also, decision).figures()


def _kind(run: Run, column: str) -> str:
    for _, table in run.blocks(top(run, column)):
        kind, t = column_of(table, column).type, pa.types
        if t.is_struct(kind):
            parts = ", ".join(f"{column}.{part.name}" for part in list(kind)[:12])
            raise UserError("--column", f"it has parts: {parts}", value=column)
        if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
            return "numbers"
        if t.is_list(kind) or t.is_large_list(kind):
            inner = kind.value_type
            return "spans" if t.is_struct(inner) and {"start", "end"} <= {part.name for part in inner} else "sets"
        return "labels"
    return "labels"


@dataclass
class Evaluation:
    """A run's labels in ``column`` compared with ``golds``, whose values ``name`` names.

    ``labels``: all names, None for those that occur; ``also``: output columns that ``golds`` reads.
    """

    run: Run
    labels: list[str] | None
    golds: Values
    name: Name
    column: str = LABEL
    also: list[str] = field(default_factory=list)
    decision: Decision = AS_RUN

    def __post_init__(self) -> None:
        self._rescoring = None if self.decision == AS_RUN else LabelRescoring(self.run, self.decision, self.column)
        self._prefix = prefix_of(self.run, self.column)
        self._scores = Scores(self.run, self.column, self._prefix)
        self._index = {name: at for at, name in enumerate(self.labels or [])}

    def figures(self) -> LabelFigures:
        """JSON values, with 95% bootstrap intervals. Rows in error, and abstained ones, have no label and are wrong.

        ``rows`` with gold, of which ``labelled``, ``abstained`` and ``errors``; ``accuracy`` over them all and
        ``accuracy_labelled``; ``kappa``, ``macro_f1``, ``classes``, ``confusion[gold][label]``; ``baseline`` and
        ``favourite``: the most frequent gold label and answer. Where there are confidences: ``ece`` and
        ``reliability`` (over labelled rows, without those that the temperature was fitted on), ``coverage``; and the
        effects of ``prior`` and ``calibration``, if the job has them and the run the probabilities of all labels.
        ``decision``: how labels were decided anew.
        """
        parts = list(self._parts())
        found = LabelFigures(kind="labels", column=self.column, rows=0, accuracy=None, confusion={})
        if not any(len(part[0]) for part in parts):
            return found
        joined = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        gold, label, confidence, before, plain, position, abstained, errors = joined
        names, (gold, label, plain) = self._in_order(gold, label, plain)
        same = next((some for name in names if len(some := alike(name, names)) > 1), ()) if self.labels is None else ()
        if same:
            differ = "differ in case or spaces only and count as different labels"
            log.warning("%s: %s %s", self.column, " and ".join(map(repr, same)), differ)
        rows = len(gold)
        labelled, right = label < len(names), gold == label
        found |= LabelFigures(
            rows=rows,
            labelled=int(labelled.sum()),
            abstained=int(abstained.sum()),
            errors=int(errors.sum()),
            accuracy_labelled=float(right[labelled].mean()) if labelled.any() else None,
        )
        found |= label_figures(gold, label, names)
        sure = labelled & np.isfinite(confidence)
        if sure.any():
            found |= self._trust(sure, confidence, before, right, position, rows)
        if self._scores.prior and self.decision.prior and (plain < len(names)).any():
            found["prior"] = self._effect_of_prior(gold, plain, right)
        if self.decision != AS_RUN:
            found["decision"] = vars(self.decision)
        return found

    def _in_order(self, *kinds: Any) -> tuple[list[str], list[Any]]:
        """The labels in the job's order, else sorted, and arrays of their numbers, the last of which means none."""
        found = list(self._index)
        names = found if self.labels is not None else sorted(found)
        place = {name: at for at, name in enumerate(names)}
        places = np.array([*(place[name] for name in found), len(names)], np.int64)
        return names, [places[np.where(kind < 0, len(found), kind)] for kind in kinds]

    def _trust(self, sure: Any, confidence: Any, before: Any, right: Any, position: Any, rows: int) -> LabelFigures:
        found = LabelFigures(coverage=cast(Any, accuracy_by_coverage(confidence[sure], right[sure], rows)))
        calibration = self.run.prelude.get("calibration")
        rest = sure & ~np.isin(position, calibration["rows"]) if calibration else sure
        if not rest.any():
            return found
        found["ece"], found["intervals_ece"] = calibration_error(confidence[rest], right[rest])
        found["reliability"] = reliability(confidence[rest], right[rest])
        if calibration and self.decision == AS_RUN and np.isfinite(before[rest]).all():
            ece, interval = calibration_error(before[rest], right[rest])
            found["calibration"] = CalibrationEffect(
                temperature=calibration["temperature"],
                fitted_on=len(calibration["rows"]),
                rows=int(rest.sum()),
                ece_before=ece,
                interval_before=interval,
                ece=found["ece"],
                interval=found["intervals_ece"],
            )
            kept = {name: calibration[name] for name in ("fitted", "held_out", "left_out") if name in calibration}
            found["calibration"] |= cast(CalibrationEffect, kept)
        return found

    def _effect_of_prior(self, gold: Any, plain: Any, right: Any) -> PriorEffect:
        """The accuracy of the labels without the prior: abstained rows count, error rows have no label."""
        accuracies = {"accuracy_without": float((plain == gold).mean()), "accuracy": float(right.mean())}
        return cast(PriorEffect, {**self._scores.prior, **accuracies})

    def _parts(self) -> Iterator[tuple[Any, ...]]:
        """Arrays over the rows with gold of each block, in the order in which ``figures`` takes them; -1: no label."""
        details = {self._prefix + name for name in ("confidence", "abstained", "probabilities", "logprobs")}
        ours = [*top(self.run, self.column), *(name for name in self.run.columns.job if name in details), "error"]
        for start, block in self.run.blocks(list(dict.fromkeys([*ours, *self.also]))):
            names = [self.name(value) for value in self.golds(start, block)]
            table = self._rescoring.table(block) if self._rescoring else block
            known = np.array([name is not None for name in names], np.bool_)
            gold = np.array([0 if name is None else self._number(name, "gold value") for name in names], np.int64)
            answers = map(text_of, column_of(table, self.column).to_pylist())
            given = [-1 if one is None else self._number(one, "label", strict=False) for one in answers]
            said = table.select([name for name in table.column_names if name in (*ours, f"{self._prefix}abstained")])
            before, plain = self._without_prelude(said)
            arrays = (
                *(gold, np.array(given, np.int64), _floats(said, f"{self._prefix}confidence"), before, plain),
                *(
                    start + np.arange(len(table)),
                    _flags(said, f"{self._prefix}abstained"),
                    table["error"].is_valid().to_numpy(),
                ),
            )
            yield tuple(array[known] for array in arrays)

    def _number(self, name: str, what: str, *, strict: bool = True) -> int:
        """A label's number. UserError for one that is not among the job's, if it is ``strict``, and for too many."""
        if name not in self._index:
            if self.labels is not None:
                if strict:
                    raise UserError(f"the {what} {name!r} is not among the labels ({listed(self.labels)})")
                return -1
            if len(self._index) == MOST_CLASSES:
                few = f"the {self.column} and gold columns have more than {MOST_CLASSES:,} different values"
                raise UserError(f"{few}: only columns of few values are compared as labels")
            self._index[name] = len(self._index)
        return self._index[name]

    def _without_prelude(self, table: pa.Table) -> tuple[Any, Any]:
        """Each row's confidence without temperature (NaN: none), and its label without prior (-1: none)."""
        rows = len(table)
        confidence, label = np.full(rows, np.nan), np.full(rows, -1)
        if not self.run.prelude or not self.labels or f"{self._prefix}probabilities" not in table.column_names:
            return confidence, label
        there, scores = self._scores.read(table, self.labels)
        confidence[there] = softmax(scores - self._scores.bias(self.labels)).max(axis=1)
        label[there] = likeliest(softmax(scores))
        return confidence, label


def _floats(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _flags(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.zeros(len(table), np.bool_)
    return table[name].fill_null(False).to_numpy(zero_copy_only=False)
