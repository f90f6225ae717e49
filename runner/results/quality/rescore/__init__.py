"""A run's answers decided again from the probabilities on disk, under another prior, temperature or threshold.

Modules:
arrays    Probabilities of a table as arrays, and back.
decision  What is to differ from a run where its answers are decided again.
labels    Labels decided again from the log-probabilities on disk: without a prior, at another temperature or threshold.
multi     Several labels a row decided again: without a prior, or from another threshold on.
scale     Levels on a scale decided again: without a prior.
"""

from __future__ import annotations

from runner.results.quality.columns import questions_of
from runner.results.quality.rescore.decision import Decision
from runner.results.quality.rescore.labels import LabelRescoring
from runner.results.quality.rescore.multi import MultiRescoring
from runner.results.quality.rescore.scale import ScaleRescoring
from runner.results.run import Run
from runner.text.questions.question import LABELS, MULTI, SCALE, SCHEMA, Question


def rescorings_of(run: Run, decision: Decision) -> list[MultiRescoring | ScaleRescoring | LabelRescoring]:
    """What decides the answers to all questions of a run that a decision is about: to levels, only one on the prior."""
    asked = [one for one in questions_of(run) if one.kind != SCHEMA]
    about = [one for one in asked if one.kind != SCALE or not decision.prior] or asked
    return [_rescoring(run, one, decision) for one in about] or [LabelRescoring(run, decision)]


def _rescoring(run: Run, question: Question, decision: Decision) -> MultiRescoring | ScaleRescoring | LabelRescoring:
    if question.kind == LABELS:
        return LabelRescoring(run, decision, question.column)
    return (MultiRescoring if question.kind == MULTI else ScaleRescoring)(run, question, decision)
