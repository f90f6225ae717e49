"""The job ``label``: one of a fixed set of labels for each row, with its probability.

Modules:
checks     Which keys of the job, the run and the data go together.
choice     One of some labels: all of them scored, or a written answer in which one is looked for.
condition  Whether a question is asked about a row: a filter over the answers to the questions before it.
files      Labels from a file: one a line, a column of a table, or as YAML and JSON have them.
filled     A question that is answered with JSON by a schema, or any other text that follows rules.
match      Which label a freely written answer means.
measure    What questions need to know before the first row: priors of scored ones, thresholds chosen on gold.
multi      Several labels a row: each one asked about with yes or no, behind the row's text, which is computed once.
prior      What a job measures before its first row: a preference for some labels, and how far to trust its confidence.
questions  Several questions a row: asked in one pass, behind the row's text, which is computed once.
scale      A level on a scale, with the expected value and the spread of the model's answer.
sources    What questions need of the data and the prompt: gold that fits, a template that puts them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.label.checks import check_run, check_source, check_together, is_plain
from jobs.label.choice import ScoredLabel, WrittenLabel, normalise
from jobs.label.files import read_label_file
from jobs.label.filled import Filled
from jobs.label.measure import Scored, about, find_priors, find_thresholds, take_prior, take_thresholds
from jobs.label.multi import Several
from jobs.label.prior import calibrated, score
from jobs.label.questions import Asked, Questions
from jobs.label.scale import Level
from jobs.label.sources import example_of, examples_of
from runner.keys import check_keys, key
from runner.text.questions.question import MULTI, SCALE, SCHEMA, Question
from runner.text.questions.read import read_questions
from runner.types import Columns, Example, Request, Row, Setting, Steps, UserError

if TYPE_CHECKING:
    from runner.config.conf import RunConf
    from runner.data.source import DataSource
    from runner.data.survey import Survey
    from runner.results.run import Run
    from runner.text.prompter import Prompter

__all__ = ["Label", "normalise"]

METHODS = ("choice", "generate")
PRIORS = ("none", "content_free", "batch")
GOALS = ("f1", "precision", "coverage")
MANY = 20  # labels; of more, only the beginnings are scored
FEW = 1000  # labels; of more, only the likeliest are kept with their probabilities,
TOP = 10  # so many


@dataclass
class Label:
    r"""Assign one of a fixed set of labels to each row.

        rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv dataset.gold=kind \
            'prompt.user=Is this mail ham or spam? Mail: {{ text }}' run_name=labelled

    With ``job.method=choice`` the model scores every label as a continuation of the prompt, and the likeliest one wins.
    With ``job.method=generate`` it writes freely, and the one label in its answer counts: a whole word (behind Hebrew
    and Arabic articles and prepositions, too), not denied ("not spam", "spam: no"). None or several: an error row.

    Labels are names or, where the model should see something else, ``{name: ..., surface: ..., description: ...}``; in
    YAML, names may also map to descriptions. The template finds them in ``labels``. More than 20 labels are scored only
    as far as needed to tell them apart, which can decide doubtful rows differently; ``job.whole=true`` scores them in
    full. ``job.label_end="\n"`` is needed if one label is the beginning of another, which could never win otherwise.

    Thousands of labels come from a file: ``job.labels_file=codes.txt`` has one a line, codes stay as they are written
    (00501). A .csv or .tsv file has them in a column ``name`` or ``label``, or in the one that ``job.labels_column``
    names, and may have ``surface`` and ``description`` beside it; .yaml and .json files hold what could stand in
    ``job.labels``. Leave so many out of the prompt: without ``{{ labels }}`` a row stays short. A label whose beginning
    makes it less than a thirtieth as likely as the likeliest one may be left out (probability 0), and so may all but
    the ten likeliest (``job.top`` of them) where very many are about as likely, so that 10,000 labels take a few times
    as long as 20. The label is the same as if all were scored, and a confidence is too high by what those left out
    would have had together. ``job.whole=true``, a prior, ``job.logprobs=true`` and ``calibrate.rows`` score all of
    them, which takes many times as long.

    Of more than 1,000 labels only the 10 likeliest are kept with their probabilities, in the column ``top``;
    ``job.top`` keeps another number of them, and ``job.probabilities=true`` the probability of every label, too (80 kB
    a row with 10,000), which only the effects of a prior or of ``calibrate.rows`` are computed from.

    Small models prefer some labels whatever the text says. ``job.prior=batch`` measures that preference on a sample of
    the rows and removes it, assuming that all labels are about equally frequent; ``job.prior=content_free`` measures it
    on empty texts. ``calibrate.rows=0.2`` fits the confidences to a fifth of the rows with gold labels, keeps the fit
    if it is better on rows that it was not made on (cross-validation), and reports the effect on the rest.
    ``job.method=generate job.votes=5 engine.temperature=0.7`` takes the majority of five answers, with its share as the
    confidence. ``job.abstain_below=0.7`` leaves doubtful rows without a label.

    Rows may get several labels (``job.multi=true``: ``rowmill help multi``) or a level on a scale (``job.scale=[1,5]``:
    ``rowmill help scale``), and be asked several questions at once (``job.questions``: ``rowmill help questions``).

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
    multi: bool = key(False, later=True)
    most: int | None = key(None, least=1, later=True)
    threshold: Any = key(0.5, later=True)
    threshold_for: str | None = key(None, among=GOALS, later=True)
    threshold_at: float = key(0.9, least=0, most=1, later=True)
    answers: list[str] = key(["yes", "no"], later=True)
    scale: Any = key(None, later=True)
    questions: Any = key(None, later=True)
    labels_file: str | None = key(None, later=True)
    labels_column: str | None = key(None, later=True)
    top: int | None = key(None, least=1, later=True)
    probabilities: bool | None = key(None, later=True)

    def __post_init__(self) -> None:
        check_keys(self, "job.")
        for name in ("whole", "probabilities"):
            if (value := getattr(self, name)) not in (None, True, False):
                raise UserError(f"job.{name}", "it must be true, false or null", value=value)
        found = read_questions(vars(self) | self._labels_of_file())
        check_together(self, found)
        self.choices = list(found[0].choices)
        self.names = found[0].names
        self._questions = Questions([self._asked(one) for one in found])
        self._scored = [one for one in self._questions.all if isinstance(one, Scored)]
        self._several = [one for one in self._scored if isinstance(one, Several)]

    def _labels_of_file(self) -> dict[str, Any]:
        if self.labels_file is not None:
            return {"labels": read_label_file(self.labels_file, self.labels_column, 1 if self.multi else 2)}
        if self.labels_column is not None:
            raise UserError("job.labels_column", "it needs job.labels_file", value=self.labels_column)
        return {}

    def fingerprint(self) -> dict[str, Any] | None:
        """The labels, if they are in a file: whoever reads the run needs them, and the file may be gone by then."""
        return {"labels": [vars(choice) for choice in self.choices]} if self.labels_file is not None else None

    def _asked(self, question: Question) -> Asked:
        """A question with its requests."""
        variables = question.variables()
        ends = tuple(choice.surface + self.label_end for choice in question.choices)
        if question.kind == SCHEMA:
            return Filled(question, [Request(variables, max_tokens=question.max_tokens)])
        if question.kind == MULTI:
            texts = tuple(text + self.label_end for text in self.answers)
            shown = [question.variables(choice) for choice in question.choices]
            return Several(question, [Request(one, choices=texts) for one in shown])
        if question.kind == SCALE:
            return Level(question, [Request(variables, choices=ends)])
        if self.method == "generate":
            return WrittenLabel(
                question, [Request(variables, mean_logprob=self.votes > 1)] * self.votes, self.abstain_below
            )
        return self._scored_label(question, ends, variables)

    def _scored_label(self, question: Question, ends: tuple[str, ...], variables: dict[str, Any]) -> ScoredLabel:
        whole = len(ends) <= MANY if self.whole is None else self.whole
        every = len(ends) <= FEW if self.probabilities is None else self.probabilities
        top = TOP if self.top is None and not every else self.top
        exact = self.logprobs or self.prior != "none"  # what needs the scores of all labels
        told = None if exact or every else top
        request = Request(variables, choices=ends, whole=whole, cut=not (whole or exact), top_choices=told)
        return ScoredLabel(question, [request], self.abstain_below, self.logprobs, top, every)

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return dict(self._questions.all[0].requests[0].variables)

    def choice_names(self) -> list[str]:
        """The labels in the order of a request's choices."""
        first = self._questions.all[0]
        return list(self.answers) if isinstance(first, Several) else first.question.names

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            label: The label; null if the confidence is below ``job.abstain_below``.
            confidence: With ``job.method=choice``, the label's probability; with votes, its share of them.
            abstained: With ``job.abstain_below``: whether the confidence was too low for a label.
            top: Of more than 1,000 labels, or with ``job.top``: the likeliest ones with their probabilities.
            probabilities: With ``job.method=choice``: the probability of every label; of more than 1,000 only with
                ``job.probabilities=true``.
            logprobs: With ``job.logprobs=true``: the labels' log-probabilities as the model gave them.
            votes: With ``job.votes`` above 1: the label in each answer; null for an answer without one.
            text: With ``job.method=generate``: what the model wrote; with votes, a list of all its answers.
            labels: With ``job.multi=true``: the labels that fit, in the place of ``label``.
            level: With ``job.scale``: the level, in the place of ``label``.
            expected: With ``job.scale``: the mean of the levels' values, weighted by their probabilities.
            spread: With ``job.scale``: the standard deviation around it.
        """
        return pa.schema(list(self._questions.columns.items()))

    def steps(self, row: Row) -> Steps:
        """What can be asked at once, then what depends on the answers."""
        return self._questions.steps()

    def open(self, setting: Setting) -> None:
        """Learn how long an answer may be."""
        for one in self._questions.all:
            if isinstance(one, Filled):
                one.max_tokens = setting.max_tokens

    def example(self, row: Row, gold: Any) -> Example:
        """A row with its right label, labels or level, as the model reads it; of several questions, with all."""
        if self.questions is not None:
            return examples_of(self._questions.all, gold, self.answers)
        return example_of(self._questions.all[0].question, gold, self.answers)

    def answer_columns(self) -> dict[str, list[str]] | None:
        """The columns with the right answers to several questions, and what the answers are called."""
        asked = [one.question for one in self._questions.all]
        return {one.gold: one.names for one in asked if one.gold} if self.questions is not None else None

    def prelude(self, survey: Survey) -> Steps:
        """Score rows for the priors and, given a share of rows with gold, for a temperature or thresholds."""
        found: Columns = {}
        if self.prior != "none":
            survey.tell("measuring the prior")
            priors = yield from find_priors(self._scored, survey, self.prior, self.prior_rows)
            plain = is_plain([one.question for one in self._questions.all])
            found |= {"prior": priors["label"]} if plain else {"priors": priors}
            self.begin(found)
        if self.threshold_for is not None:
            survey.tell("choosing thresholds")
            goal, at = self.threshold_for, self.threshold_at
            found["thresholds"] = yield from find_thresholds(self._several, survey, goal, at)
        elif known := survey.calibration(self.names):
            survey.tell("calibrating")
            found["calibration"] = yield from self._find_temperature(known)
            found["calibration"]["left_out"] = survey.calibration_rows - len(found["calibration"]["rows"])
        return found

    def begin(self, found: Columns) -> None:
        """Take the priors, the temperature and the thresholds that the prelude found."""
        priors = found.get("priors") or ({"label": found["prior"]} if "prior" in found else {})
        for one in self._scored:
            if one.question.column in priors:
                take_prior(one, priors[one.question.column])
            if isinstance(one, ScoredLabel) and "calibration" in found:
                one.temperature = found["calibration"]["temperature"]
        for several in self._several if "thresholds" in found else ():
            take_thresholds(several, found["thresholds"])

    def figures(self, run: Run, source: DataSource) -> dict[str, Any]:
        """How right the answers are, where there is gold."""
        from runner.results.evaluate import question_evaluations

        return question_evaluations(run, source, [one.question for one in self._questions.all])

    def _find_temperature(self, known: dict[int, tuple[Row, str]]) -> Steps:
        one = self._scored[0]
        rows, golds = list(known), [self.names.index(gold) for _, gold in known.values()]
        usable, scores = yield from score([about(row, one.requests[0]) for row, _ in known.values()])
        fit = calibrated(scores - np.array(one.biases[0]), np.array([golds[at] for at in usable]))
        return {**fit, "rows": [rows[at] for at in usable]}

    def check_run(self, conf: RunConf) -> None:
        """Refuse settings of the run that do not go with these of the job."""
        check_run(self, [one.question for one in self._questions.all], conf)
        for one in self._scored if conf.calibrate.rows else ():  # fitted on the scores of all labels
            if isinstance(one, ScoredLabel):
                one.requests = [replace(one.requests[0], cut=False, top_choices=None)]

    def check_source(self, source: DataSource, prompter: Prompter) -> None:
        """Refuse what the template, the tokenizer or the gold column cannot have."""
        check_source(self._questions.all, self.threshold_for, source, prompter)
