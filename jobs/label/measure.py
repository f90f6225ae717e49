"""What questions need to know before the first row: priors of scored ones, thresholds chosen on gold."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jobs.label.choice import ScoredLabel
from jobs.label.multi import Several
from jobs.label.prior import ask, batch_prior, content_free_prior, is_scored, nothing_scored, without_content
from jobs.label.scale import Level
from runner.data.gold import gold_members
from runner.data.survey import Survey
from runner.types import Completion, Request, Row

log = logging.getLogger("rowmill")
Scored: TypeAlias = ScoredLabel | Several | Level
Answered: TypeAlias = Generator[list[Request], Any, dict[str, Any]]


def find_priors(asked: Sequence[Scored], survey: Survey, kind: str, most: int) -> Answered:
    """By column: the log-probabilities of each question's choices whatever the text says, of several labels by label.

    ``kind``: ``batch`` over ``most`` rows, or ``content_free``. RowError if a question has no usable answer.
    """
    rows = list(survey.sample(most if kind == "batch" else 1, "prior").values())
    shown = rows if kind == "batch" else [blank for row in rows for blank in without_content(row)]
    answers = yield from ask([about(row, request) for row in shown for one in asked for request in one.requests])
    number = sum(len(one.requests) for one in asked)
    by_request = [answers[at::number] for at in range(number)]
    found, start = {}, 0
    for one in asked:
        own = by_request[start : start + len(one.requests)]
        found[one.question.column] = _prior(one, own, kind)
        start += len(one.requests)
    return found


def _prior(one: Scored, by_request: list[list[Completion]], kind: str) -> dict[str, Any]:
    measure = batch_prior if kind == "batch" else content_free_prior
    biases, rows = [], []
    for answers in by_request:
        scores = [one.scores(answer) for answer in answers if is_scored(answer)]
        usable = [each for each in scores if all(map(math.isfinite, each))]
        if not usable:
            raise nothing_scored(answers)
        biases.append(measure(np.array(usable)).tolist())
        rows.append(len(usable))
    measured = {"kind": kind, "rows": min(rows), "left_out": len(by_request[0]) - min(rows)}
    return {**measured, "logprobs": _named(one, biases)}


def _named(one: Scored, biases: list[list[float]]) -> dict[str, Any]:
    names = one.question.names
    if isinstance(one, Several):
        return {name: dict(zip(("yes", "no"), bias, strict=True)) for name, bias in zip(names, biases, strict=True)}
    return dict(zip(names, biases[0], strict=True))


def take_prior(one: Scored, found: dict[str, Any]) -> None:
    """Take what ``find_priors`` found for a question."""
    logprobs = [found["logprobs"][name] for name in one.question.names]
    one.biases = [[each["yes"], each["no"]] for each in logprobs] if isinstance(one, Several) else [logprobs]


def find_thresholds(asked: Sequence[Several], survey: Survey, goal: str, at: float) -> Answered:
    """``rows``, those that thresholds were chosen on, and by column and label the threshold with what it does there.

    None means that the label is never given.
    """
    rows = survey.sample(survey.calibration_rows, "calibrate")
    found: dict[str, Any] = {"rows": sorted(rows), "goal": goal, "at": None if goal == "f1" else at, "columns": {}}
    for one in asked:
        if gold := one.question.gold_in(survey.source.conf.gold):
            found["columns"][one.question.column] = yield from _thresholds(one, gold, survey, rows, goal, at)
    return found


def _thresholds(one: Several, column: str, survey: Survey, rows: dict[int, Row], goal: str, at: float) -> Answered:
    names = one.question.names
    golds = {number: gold_members(row.get(column), names, survey.source.conf.classes) for number, row in rows.items()}
    known = [number for number, gold in golds.items() if gold is not None]
    answers = yield from ask([about(rows[number], request) for number in known for request in one.requests])
    each = [answers[start : start + len(names)] for start in range(0, len(answers), len(names))]
    usable = [place for place, some in enumerate(each) if all(map(is_scored, some))]
    if not usable:
        raise nothing_scored(answers)
    likely = np.array([one.probabilities(each[place]) for place in usable])
    right = np.array([[name in (golds[known[place]] or ()) for name in names] for place in usable], np.bool_)
    found = {}
    for number, name in enumerate(names):
        if not right[:, number].any():
            kept = one.thresholds[name]
            log.warning("%s: none of %d rows with gold has %r; its threshold stays %g", column, len(usable), name, kept)
            found[name] = {"threshold": kept, "rows": 0}
            continue
        found[name] = choose(likely[:, number], right[:, number], goal, at)
        if found[name]["threshold"] is None:
            log.warning("%r is never given: no threshold gives it a precision of %g", name, at)
    return found


def choose(likely: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], goal: str, at: float) -> dict[str, Any]:
    """The threshold for a goal, and on these rows its precision, coverage (recall) and F1; ``right`` has some."""
    order = np.argsort(-likely, kind="stable")
    falling, hits = likely[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # rows above a threshold end where it falls
    given, hits = ends + 1, hits[ends]
    precision, coverage = hits / given, hits / right.sum()
    f1 = 2 * hits / (given + right.sum())
    if goal == "f1":
        place = int(f1.argmax())
    elif goal == "coverage":
        place = int(np.argmax(coverage >= at))
    else:
        enough = np.flatnonzero(precision >= at)
        if not len(enough):
            return {"threshold": None, "rows": int(right.sum())}
        place = int(enough[-1])
    below = falling[ends[place] + 1] if ends[place] + 1 < len(falling) else 0.0
    return {
        "threshold": float((falling[ends[place]] + below) / 2),
        "rows": int(right.sum()),
        "precision": float(precision[place]),
        "coverage": float(coverage[place]),
        "f1": float(f1[place]),
    }


def take_thresholds(one: Several, found: dict[str, Any]) -> None:
    """Take what ``find_thresholds`` found for a question."""
    one.thresholds = one.question.thresholds(found["columns"].get(one.question.column, {}))


def about(row: Row, request: Request) -> Request:
    """The request as in ``steps``, about a row of the prelude's own choice."""
    return replace(request, variables={**row, **request.variables})
