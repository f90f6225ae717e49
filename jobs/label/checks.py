"""Which keys of the job, the run and the data go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jobs.label.choice import ScoredLabel
from jobs.label.multi import Several
from jobs.label.questions import Asked
from jobs.label.scale import Level
from jobs.label.sources import check_gold, check_prompt, check_tokens
from runner.data.survey import NO_GOLD
from runner.text.questions.question import LABELS, MULTI, SCHEMA, Question
from runner.types import UserError

if TYPE_CHECKING:
    from runner.config.conf import RunConf
    from runner.data.source import DataSource
    from runner.text.prompter import Prompter


class Keys(Protocol):
    """Those of the job that depend on each other."""

    labels: Any
    method: str
    votes: int
    abstain_below: float | None
    prior: str
    logprobs: bool
    threshold_for: str | None
    threshold_at: float
    answers: list[str]
    scale: Any
    questions: Any


def is_plain(questions: Sequence[Question]) -> bool:
    """Whether there is one question, and it asks for one label."""
    return {one.kind for one in questions} == {LABELS} and not questions[0].name


def check_together(keys: Keys, questions: Sequence[Question]) -> None:
    """Refuse keys that do not go together."""
    kinds = {one.kind for one in questions}
    plain = is_plain(questions)
    if len(keys.answers) != 2 or len({*keys.answers}) != 2 or not all(text.strip() for text in keys.answers):
        raise UserError("job.answers", "it must be the two texts for yes and no", value=keys.answers)
    if keys.threshold_for is not None and MULTI not in kinds:
        problem = "only several labels a row have thresholds: add job.multi=true"
        raise UserError("job.threshold_for", problem, value=keys.threshold_for)
    if keys.threshold_at != type(keys).threshold_at and keys.threshold_for in (None, "f1"):
        problem = "it applies to job.threshold_for=precision and coverage only"
        raise UserError("job.threshold_at", problem, value=keys.threshold_at)
    for name, value, allowed in (
        ("method", keys.method != "choice", plain),
        ("logprobs", keys.logprobs, plain),
        ("abstain_below", keys.abstain_below is not None, LABELS in kinds),
        ("prior", keys.prior != "none", kinds != {SCHEMA}),
    ):
        if value and not allowed:
            what = "one label a row" if name != "prior" else "labels and scales"
            raise UserError(f"job.{name}", f"it goes with {what} only", value=getattr(keys, name))
    if keys.method == "choice" and keys.votes > 1:
        raise UserError("job.votes", "only written answers can vote: add job.method=generate", value=keys.votes)
    if keys.method == "generate" and (keys.prior != "none" or keys.logprobs):
        set_key = f"job.prior={keys.prior}" if keys.prior != "none" else "job.logprobs=true"
        raise UserError(set_key, "labels have log-probabilities only with job.method=choice")
    if keys.method == "generate" and keys.votes == 1 and keys.abstain_below is not None:
        raise UserError("job.abstain_below", "one answer has no confidence: add job.votes=5, or use job.method=choice")


def check_run(keys: Keys, questions: Sequence[Question], conf: RunConf) -> None:
    """Refuse settings of the run that do not go with these of the job."""
    if keys.votes > 1 and conf.engine.temperature <= 0:
        raise UserError(
            "job.votes",
            "at engine.temperature=0 all answers are the same: set it to 0.7, for instance",
            value=keys.votes,
        )
    if keys.threshold_for is not None:
        if not conf.calibrate.rows:
            raise UserError("job.threshold_for", "thresholds are chosen on calibrate.rows=0.2, a share of the rows")
    elif conf.calibrate.rows and not (is_plain(questions) and keys.method == "choice"):
        problem = "only job.method=choice has confidences to calibrate"
        if not is_plain(questions):
            problem = "it fits the confidences of one label a row, or chooses job.threshold_for=f1"
        raise UserError("calibrate.rows", problem, value=conf.calibrate.rows)
    elif conf.calibrate.rows and conf.dataset.gold is None:
        raise UserError("calibrate.rows", NO_GOLD, value=conf.calibrate.rows)
    one_of = keys.scale is not None or keys.questions is not None
    if one_of and keys.labels and list(keys.labels) != list(conf.dataset.classes):
        instead = "scale" if keys.scale is not None else "questions"
        raise UserError("job.labels", f"job.{instead} is set, too; keep one of them", value=keys.labels)


def check_source(asked: Sequence[Asked], threshold_for: str | None, source: DataSource, prompter: Prompter) -> None:
    """Refuse what the template, the tokenizer or the gold column cannot have."""
    for one in asked:
        for request in one.requests[:1]:
            tokens = prompter.continuations([], list(request.choices or ()))
            if isinstance(one, Level):
                one.take_tokens(tokens)
            elif isinstance(one, ScoredLabel):
                check_tokens(one.question, tokens)
        check_gold(source, one.question, prompter.conf.examples_from.path is not None)
    check_prompt(source, prompter, asked)
    several = [one for one in asked if isinstance(one, Several)]
    if threshold_for is not None and not any(one.question.gold_in(source.conf.gold) for one in several):
        first = several[0].question
        problem = f"{first.key}.gold must name the column with the right labels" if first.name else NO_GOLD
        raise UserError("job.threshold_for", problem, value=threshold_for)
