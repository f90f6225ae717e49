"""A question's answers beside the gold ones, and the figures of several labels and of levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.data.cells import shown
from runner.results.quality.columns import Golds, column_of, top
from runner.results.quality.rescore.decision import AS_RUN, Decision
from runner.results.quality.rescore.multi import MultiRescoring
from runner.results.quality.rescore.scale import ScaleRescoring
from runner.results.quality.scale import scale_figures
from runner.results.quality.shapes import ScaleFigures, SetFigures
from runner.results.quality.values import set_figures
from runner.results.run import Run
from runner.text.questions.question import Question
from runner.types import UserError


def several_figures(run: Run, question: Question, golds: Golds, decision: Decision = AS_RUN) -> SetFigures:
    """The figures of several labels a row, without the rows that thresholds were chosen on; these, if they were."""
    chosen = run.prelude.get("thresholds") or {}
    rescoring = None if decision == AS_RUN else MultiRescoring(run, question, decision)
    said, right, _ = pairs(
        run, question.column, golds, leave_out=frozenset(chosen.get("rows", ())), rescoring=rescoring
    )
    if not right:
        return SetFigures(kind="sets", column=question.column, rows=0)
    members = [_known(golds.members(value), question) for value in right]
    found = set_figures(question.column, members, said, question.names)
    if decision != AS_RUN:
        found["decision"] = vars(decision)
    elif by_label := chosen.get("columns", {}).get(question.column):
        how = {"goal": chosen["goal"], "at": chosen["at"], "chosen_on": len(chosen["rows"])}
        found["thresholds"] = {**how, "by_label": by_label}
    return found


def level_figures(run: Run, question: Question, golds: Golds, decision: Decision = AS_RUN) -> ScaleFigures:
    """The figures of a level a row."""
    rescoring = None if decision == AS_RUN else ScaleRescoring(run, question, decision)
    said, right, expected = pairs(run, question.column, golds, beside=question.beside("expected"), rescoring=rescoring)
    if not right:
        return ScaleFigures(kind="scale", column=question.column, rows=0)
    levels = np.array([_on_scale(golds.name(value), question) for value in right])
    answers = np.array([np.nan if one is None else question.value(one) for one in said], np.float64)
    means = np.array([np.nan if one is None else one for one in expected], np.float64)
    found = scale_figures(question, levels, answers, means)
    return found if decision == AS_RUN else found | ScaleFigures(decision=vars(decision))


def pairs(
    run: Run,
    column: str,
    golds: Golds,
    leave_out: frozenset[int] = frozenset(),
    beside: str | None = None,
    rescoring: MultiRescoring | ScaleRescoring | None = None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """The column's and the gold values of the rows that have a gold one, and those of the column ``beside`` it.

    ``rescoring``: what the column's values are decided by, in place of the run.
    """
    said: list[Any] = []
    right: list[Any] = []
    others: list[Any] = []
    names = [*top(run, column), *([beside] if beside else []), *golds.also, *(rescoring.columns if rescoring else [])]
    for start, block in run.blocks(list(dict.fromkeys(names))):
        table = rescoring.table(block) if rescoring else block
        more = table[beside].to_pylist() if beside else [None] * len(table)
        cells = zip(shown(column_of(table, column)), golds.values(start, table), more, strict=True)
        for row, (answer, gold, other) in enumerate(cells, start):
            if golds.has(gold) and row not in leave_out:
                said.append(answer)
                right.append(gold)
                others.append(other)
    return said, right, others


def _known(members: frozenset[str], question: Question) -> frozenset[str]:
    if wrong := members - {*question.names}:
        raise UserError(f"the gold value {min(wrong)!r} is not among the labels ({', '.join(question.names)})")
    return members


def _on_scale(name: str | None, question: Question) -> float:
    value = question.value(name)
    if value is None:
        levels = f"{question.names[0]} to {question.names[-1]}"
        raise UserError(f"the gold value {name!r} is not on the scale from {levels}")
    return value
