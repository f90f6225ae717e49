"""The job ``label``: one of a fixed set of labels for each row, with its probability.

Modules:
match  Which label a freely written answer means.
prior  What a job measures before its first row: a preference for some labels, and how far to trust its confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.label.match import Matcher
from jobs.label.prior import batch_prior, calibrated, content_free_prior, score, without_content
from runner.data.gold import gold_values
from runner.keys import check_keys, key
from runner.text.labels import read_labels
from runner.types import Columns, Completion, Request, Row, RowError, Steps, UserError

if TYPE_CHECKING:
    from runner.config.conf import RunConf
    from runner.data.source import DataSource
    from runner.data.survey import Survey
    from runner.results.run import Run
    from runner.text.prompter import Prompter

__all__ = ["Label"]

METHODS = ("choice", "generate")
PRIORS = ("none", "content_free", "batch")
MANY = 20  # labels; of more, only the beginnings are scored


@dataclass
class Label:
    r"""Assign one of a fixed set of labels to each row.

        rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv dataset.gold=kind \
            'prompt.user=Is this mail ham or spam? Mail: {{ text }}' run_name=labelled

    With ``job.method=choice`` the model scores every label as a continuation of the prompt, and the likeliest one wins.
    With ``job.method=generate`` it writes freely, and its answer is searched for a label.

    Labels are names or, where the model should see something else, ``{name: ..., surface: ..., description: ...}``; in
    YAML, names may also map to descriptions. The template finds them in ``labels``. More than 20 labels are scored only
    as far as needed to tell them apart, which can decide doubtful rows differently; ``job.whole=true`` scores them in
    full. ``job.label_end="\n"`` helps if one label is the beginning of another.

    Small models prefer some labels whatever the text says. ``job.prior=batch`` measures that preference on a sample of
    the rows and removes it, assuming that all labels are about equally frequent; ``job.prior=content_free`` measures it
    on empty texts. ``calibrate.rows=0.2`` fits the confidences to a fifth of the rows with gold labels, keeps the fit
    if it is better on rows that it was not made on (cross-validation), and reports the effect on the rest.
    ``job.method=generate job.votes=5 engine.temperature=0.7`` takes the majority of five answers, with its share as the
    confidence. ``job.abstain_below=0.7`` leaves doubtful rows without a label.

    If a column holds the right labels, name it in ``dataset.gold``: the run then ends with accuracy, precision, recall
    and F1 for each label, Cohen's kappa, the confusion matrix, the calibration of the confidences, and accuracy against
    coverage, all with 95% bootstrap intervals. ``rowmill evaluate`` computes the same later, against any column of the
    output or the data, and like ``rowmill export`` also as the labels would be without the prior (``--no-prior``), at
    another temperature (``--temperature 1``: uncalibrated) or threshold (``--threshold 0.7``): nothing is asked again.
    """

    labels: Any = field(default_factory=list)
    method: str = key("choice", among=METHODS)
    label_end: str = ""
    whole: bool | None = None
    votes: int = key(1, least=1)
    abstain_below: float | None = key(None, least=0, most=1)
    prior: str = key("none", among=PRIORS)
    prior_rows: int = key(100, least=1)
    logprobs: bool = False

    def __post_init__(self) -> None:
        self._check()
        self.choices = read_labels(self.labels)
        self.names = [choice.name for choice in self.choices]
        surfaces = tuple(choice.surface + self.label_end for choice in self.choices)
        by_choice = self.method == "choice"
        whole = len(surfaces) <= MANY if self.whole is None else self.whole
        choices = surfaces if by_choice else None
        self._request = Request(self.variables(), choices=choices, whole=whole, mean_logprob=self.votes > 1)
        self._matcher = Matcher({choice.name: choice.surface for choice in self.choices})
        self._bias = [0.0] * len(self.names)
        self._temperature = 1.0

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return {"labels": [vars(choice) for choice in self.choices]}

    def choice_names(self) -> list[str]:
        """The labels in the order of a request's choices."""
        return self.names

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            label: The label; null if the confidence is below ``job.abstain_below``.
            confidence: With ``job.method=choice``, the label's probability; with votes, its share of them.
            abstained: With ``job.abstain_below``: whether the confidence was too low for a label.
            probabilities: With ``job.method=choice``: the probability of every label.
            logprobs: With ``job.logprobs=true``: the labels' log-probabilities as the model gave them.
            votes: With ``job.votes`` above 1: the label in each answer; null for an answer without one.
            text: With ``job.method=generate``: what the model wrote; with votes, a list of all its answers.
        """
        by_label = pa.struct([(name, pa.float64()) for name in self.names])
        columns: dict[str, Any] = {"label": pa.string()}
        if self.method == "choice" or self.votes > 1:
            columns["confidence"] = pa.float64()
        if self.abstain_below is not None:
            columns["abstained"] = pa.bool_()
        if self.method == "choice":
            columns |= {"probabilities": by_label} | ({"logprobs": by_label} if self.logprobs else {})
        elif self.votes > 1:
            columns |= {"votes": pa.list_(pa.string()), "text": pa.list_(pa.string())}
        else:
            columns["text"] = pa.string()
        return pa.schema(list(columns.items()))

    def steps(self, row: Row) -> Steps:
        """All labels scored, or one short answer, or ``votes`` of them."""
        if self.method == "choice":
            answer = yield self._request
            return self.scored(answer.logprobs)
        if self.votes > 1:
            answers = yield [self._request] * self.votes
            return self._decide(*self._count(answers))
        answer = yield self._request
        return {"label": self._matcher.match(answer.text), "text": answer.text}

    def prelude(self, survey: Survey) -> Steps:
        """Score rows for the prior and, given a share of rows with gold, for the temperature of the confidences."""
        found: Columns = {}
        if self.prior != "none":
            survey.tell("measuring the prior")
            found["prior"] = yield from self._find_prior(survey)
        if known := survey.calibration(self.names):
            survey.tell("calibrating")
            bias = list(found["prior"]["logprobs"].values()) if found else self._bias
            found["calibration"] = yield from self._find_temperature(known, bias)
            found["calibration"]["left_out"] = survey.calibration_rows - len(found["calibration"]["rows"])
        return found

    def begin(self, found: Columns) -> None:
        """Take the prior and the temperature that the prelude found."""
        if "prior" in found:
            self._bias = [found["prior"]["logprobs"][name] for name in self.names]
        if "calibration" in found:
            self._temperature = found["calibration"]["temperature"]

    def figures(self, run: Run, source: DataSource) -> dict[str, Any]:
        """How right the labels are, where there is gold."""
        from runner.results.evaluate import label_evaluation

        return label_evaluation(run, source, self.names)

    def scored(self, logprobs: tuple[float, ...]) -> Columns:
        """The output columns for the labels' log-probabilities; of equal ones the first in ``labels`` wins."""
        scores = [(one - bias) / self._temperature for one, bias in zip(logprobs, self._bias, strict=True)]
        probabilities = dict(zip(self.names, normalise(tuple(scores)), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        raw = {"logprobs": dict(zip(self.names, logprobs, strict=True))} if self.logprobs else {}
        return self._decide(best, probabilities[best], {"probabilities": probabilities, **raw})

    def _decide(self, label: str, confidence: float, details: Columns) -> Columns:
        """The output columns, the label left out if the confidence is too low."""
        if self.abstain_below is None:
            return {"label": label, "confidence": confidence, **details}
        abstained = confidence < self.abstain_below
        return {"label": None if abstained else label, "confidence": confidence, "abstained": abstained, **details}

    def _count(self, answers: list[Completion]) -> tuple[str, float, Columns]:
        """The majority among the answers, its share of them all, and what they were.

        Of labels with as many votes the one with the higher mean log-probability wins, then the first in ``labels``.
        """
        votes = [self._vote(answer.text) for answer in answers]
        cast = sorted({vote for vote in votes if vote is not None}, key=self.names.index)
        if not cast:
            self._matcher.match(answers[0].text)  # raises: it is not a label
        means = {
            name: mean(a.mean_logprob or 0.0 for a, v in zip(answers, votes, strict=True) if v == name) for name in cast
        }
        best = max(cast, key=lambda name: (votes.count(name), means[name]))
        return best, votes.count(best) / len(votes), {"votes": votes, "text": [answer.text for answer in answers]}

    def _vote(self, text: str) -> str | None:
        try:
            return self._matcher.match(text)
        except RowError:
            return None

    def _find_prior(self, survey: Survey) -> Steps:
        rows = survey.sample(self.prior_rows if self.prior == "batch" else 1, "prior").values()
        asked = [blank for row in rows for blank in without_content(row)] if self.prior == "content_free" else rows
        usable, scores = yield from score([self._about(row) for row in asked])
        logprobs = (content_free_prior if self.prior == "content_free" else batch_prior)(scores).tolist()
        measured = {"kind": self.prior, "rows": len(usable), "left_out": len(asked) - len(usable)}
        return {**measured, "logprobs": dict(zip(self.names, logprobs, strict=True))}

    def _find_temperature(self, known: dict[int, tuple[Row, str]], bias: list[float]) -> Steps:
        rows, golds = list(known), [self.names.index(gold) for _, gold in known.values()]
        usable, scores = yield from score([self._about(row) for row, _ in known.values()])
        fit = calibrated(scores - np.array(bias), np.array([golds[at] for at in usable]))
        return {**fit, "rows": [rows[at] for at in usable]}

    def _about(self, row: Row) -> Request:
        """The same request as in ``steps``, about a row of the prelude's own choice."""
        return replace(self._request, variables={**row, **self._request.variables})

    def _check(self) -> None:
        check_keys(self, "job.")
        if self.whole not in (None, True, False):
            raise UserError("job.whole", "it must be true, false or null", value=self.whole)
        if self.method == "choice" and self.votes > 1:
            raise UserError("job.votes", "only written answers can vote: add job.method=generate", value=self.votes)
        if self.method == "generate" and (self.prior != "none" or self.logprobs):
            key = f"job.prior={self.prior}" if self.prior != "none" else "job.logprobs=true"
            raise UserError(key, "labels have log-probabilities only with job.method=choice")
        if self.method == "generate" and self.votes == 1 and self.abstain_below is not None:
            raise UserError(
                "job.abstain_below", "one answer has no confidence: add job.votes=5, or use job.method=choice"
            )

    def check_run(self, conf: RunConf) -> None:
        """Refuse settings of the run that do not go with these of the job."""
        if self.votes > 1 and conf.engine.temperature <= 0:
            raise UserError(
                "job.votes",
                "at engine.temperature=0 all answers are the same: set it to 0.7, for instance",
                value=self.votes,
            )
        if conf.calibrate.rows and self.method != "choice":
            raise UserError(
                "calibrate.rows", "only job.method=choice has confidences to calibrate", value=conf.calibrate.rows
            )

    def check_source(self, source: DataSource, prompter: Prompter) -> None:
        """Refuse labels that the tokenizer or the gold column cannot have."""
        if self.method == "choice":
            prompter.continuations([], [choice.surface for choice in self.choices])
        if source.conf.gold:
            _check_gold(source, source.conf.gold, self.names)


def _check_gold(source: DataSource, gold: str, names: list[str]) -> None:
    for value in gold_values(source.table(0, len(source), [gold]), gold):
        name = source.gold_name(value, names)
        if name is not None and name not in names:
            raise UserError(
                "dataset.gold",
                f"the value {name!r} is not among job.labels "
                f"({', '.join(names)}); dataset.classes=[...] names the values 0, 1, ...",
                value=gold,
            )


def normalise(logprobs: tuple[float, ...]) -> list[float]:
    """Probabilities that sum to 1, from log-probabilities up to a constant; RowError if none are available."""
    top = max(logprobs)
    if not math.isfinite(top) or any(map(math.isnan, logprobs)):
        raise RowError("no probabilities", f"the labels' log-probabilities are {logprobs}")
    weights = [math.exp(logprob - top) for logprob in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]
