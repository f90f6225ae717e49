r"""Several labels a row: each one asked about with yes or no, behind the row's text, which is computed once.

``job.multi=true`` gives a row as many of ``job.labels`` as fit it, or none:

    rowmill run job=label job.multi=true 'job.labels=[price,quality,delivery]' dataset=csv dataset.path=mail.csv \
        'prompt.user="Mail: {{ text }}\n\nIs it about {{ label.surface }}? Answer yes or no."' run_name=topics

The template is filled in once for each label, which it finds in ``label`` (``label.name``, ``label.surface``,
``label.description``). What stands before ``label`` in the prompt is shared by all labels of a row: put the text first.
``job.answers=[Yes,No]`` are the two texts that are scored.

A label is given from a probability of ``job.threshold`` on: a number for all labels, or ``job.threshold={price: 0.3}``.
At most ``job.most`` labels are given, the likeliest ones. Small models tend to say yes, or no, to everything:
``job.prior=batch`` removes each label's own tendency, assuming that it fits about half of the rows, and thresholds can
be chosen on rows with gold, such as those of ``mail_topics.jsonl``:

    {"text": "The price has gone up again.", "topics": ["price"]}
    {"text": "It came late, and it is broken.", "topics": ["quality", "delivery"]}
    {"text": "Thank you!", "topics": []}
    {"text": "Too dear for what it is.", "topics": ["price", "quality"]}

Then:

    rowmill run job=label job.multi=true 'job.labels=[price,quality,delivery]' job.threshold_for=f1 \
        calibrate.rows=0.5 dataset=jsonl dataset.path=mail_topics.jsonl dataset.gold=topics run_name=chosen \
        'prompt.user="Mail: {{ text }}\n\nIs it about {{ label.surface }}? Answer yes or no."'

``job.threshold_for`` chooses each label's threshold on the share ``calibrate.rows`` of the rows, which are then left
out of the evaluation:

    ``f1``: the threshold with the best F1.
    ``precision``: the lowest one from which on ``job.threshold_at`` of the rows that get the label should have it; a
        label that never comes so far is not given.
    ``coverage``: the highest one at which ``job.threshold_at`` of the rows that should have the label get it.

The gold column holds lists, or texts such as ``price; quality`` or ``["price"]``; a row that should have none of the
labels has an empty list, and an empty cell means that nobody knows. The run ends with micro and macro F1, the mean
Jaccard index, the share of rows with just the right labels, and F1 by label, with 95% bootstrap intervals. Output
columns: ``labels`` (a list), ``probabilities`` (of yes, by label), and ``confidence``: how sure the doubtful one of the
decisions is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from jobs.label.choice import normalise
from jobs.label.questions import Asked
from runner.text.questions.question import Question
from runner.types import Columns, Completion, Request


@dataclass
class Several(Asked):
    """A request a label, scored yes or no. ``biases``: what a prior takes off the two scores of each."""

    question: Question
    requests: list[Request]
    biases: list[list[float]] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.thresholds = self.question.thresholds({})
        self.biases = [[0.0, 0.0] for _ in self.requests]

    def columns(self) -> dict[str, pa.DataType]:
        """The output columns."""
        by_label = pa.struct([(name, pa.float64()) for name in self.question.names])
        return self.question.columns(pa.list_(pa.string()), confidence=pa.float64(), probabilities=by_label)

    def probabilities(self, answers: list[Completion]) -> list[float]:
        """Of yes, label by label."""
        return [
            normalise(tuple(one - off for one, off in zip(self.scores(answer), bias, strict=True)))[0]
            for answer, bias in zip(answers, self.biases, strict=True)
        ]

    def read(self, answers: list[Completion]) -> Columns:
        """The labels from their thresholds on, the likeliest ``most`` of them, in the job's order."""
        found = dict(zip(self.question.names, self.probabilities(answers), strict=True))
        likely = [name for name in found if found[name] >= self.thresholds[name]]
        given = set(sorted(likely, key=lambda name: -found[name])[: self.question.most])
        sure = min(p if name in given else 1 - p for name, p in found.items())
        labels = [name for name in found if name in given]
        return self.question.columns(labels, confidence=sure, probabilities=found)
