r"""Several questions a row: asked in one pass, behind the row's text, which is computed once.

``job.questions`` lists them. Each has a ``name``, which is its column, and what it asks for: ``labels`` (with
``multi``, ``most`` and ``threshold``, if several of them may fit), a ``scale``, or a ``schema`` for written answers in
JSON:

    rowmill run job=label dataset=csv dataset.path=mail.csv run_name=asked \
        'prompt.user="Mail: {{ text }}\n\nIs it {{ question }}?"' \
        'job.questions=[{name: tone, labels: [warm, cold]}, {name: haste, scale: [1, 5], where: {tone: cold}}]'

More than a few are better kept in a file, ``my_conf/job/inbox.yaml``:

    defaults: [label]
    questions:
      - name: tone
        ask: What is the tone of the mail?
        labels: [friendly, neutral, angry]
      - name: topics
        ask: Is it about {label}? Answer yes or no.
        labels: [money, time]
        multi: true
      - name: urgency
        ask: How urgent is it, from 1 to 5?
        scale: [1, 5]
        where: {tone: [neutral, angry]}

Then:

    rowmill run --config-dir my_conf job=inbox dataset=csv dataset.path=mail.csv run_name=triaged \
        'prompt.user="Mail: {{ text }}\n\n{{ question }}"'

The template is filled in once for each question: ``question`` is its ``ask`` (its name, if it has none), and ``labels``
are its labels or levels. If several labels may fit, each one is asked about: it stands where ``ask`` says ``{label}``,
and ``label`` is the label itself. What stands before the question is shared by all questions of a row: put the text
first, and the question behind it. ``rowmill preview`` says how much is shared.

``where`` asks a question only where earlier ones have certain answers: ``{tone: angry}``, ``{tone: [angry, neutral]}``,
or a filter as ``rowmill help dataset`` describes it, over the columns of the questions before: ``tone == angry and
tone_confidence >= 0.8``, ``urgency <= 2``, and ``order.total >= 100`` for a part of an answer with a schema. Of several
labels, one has to be the one named. Elsewhere the question's columns are null, and nothing is computed for it. What
depends on answers is asked when these are known; until then, what is computed of a row's text is held in memory, if
there is enough of it.

A question's columns are its name and, behind it, what is known of the answer:

    ``NAME``: the label, the list of labels, the level, or what the schema holds.
    ``NAME_confidence``: the probability of the label or level; of several labels, how sure the doubtful one is.
    ``NAME_probabilities``: of each label or level.
    ``NAME_expected``: of a scale: the mean of the levels' values; ``NAME_spread``: the standard deviation around it.

``gold: COLUMN`` names the column with the right answers to a question; the run then ends with the figures of each, as
``rowmill help label``, ``rowmill help multi`` and ``rowmill help scale`` describe them. ``rowmill evaluate --column
NAME --no-prior`` judges the answers as they would be without ``job.prior``. Few-shot examples answer all questions with
``gold`` (``rowmill help examples``). An answer with a schema that is cut off at the question's ``max_tokens``
(``engine.max_tokens`` by default), or not valid, is asked for once more; a row with an answer that is still not valid
is an error row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, Protocol

import pyarrow as pa

from jobs.label.condition import Condition
from runner.text.questions.question import Question
from runner.types import Columns, Completion, Request, Steps


class Asked(Protocol):
    """A question with its requests, and what becomes of the answers to them."""

    question: Question
    requests: list[Request]

    def columns(self) -> dict[str, pa.DataType]:
        """The output columns."""
        ...

    def again(self, answers: list[Completion]) -> dict[int, Request]:
        """The requests to ask once more, by place; none unless a kind of question says so."""
        return {}

    def scores(self, answer: Completion) -> Sequence[float]:
        """What a prior is taken off: by default the choices' log-probabilities."""
        return answer.logprobs or ()

    def read(self, answers: list[Completion]) -> Columns:
        """The output columns for the answers; RowError if they are none."""
        ...


class Questions:
    """The questions about a row in the order in which they can be asked. UserError for a condition that cannot hold."""

    def __init__(self, asked: list[Asked]) -> None:
        self.all = asked
        self.columns: dict[str, pa.DataType] = {}
        self._conditions: dict[str, Condition] = {}
        self.rounds: list[list[Asked]] = []  # what each asks depends on earlier ones only
        self._made: dict[tuple[int, tuple[bool, ...]], tuple[list[Asked], list[Request]]] = {}
        at: dict[str, int] = {}  # the round in which a column is known
        for number, one in enumerate(asked):
            last = 0
            if one.question.where is not None:
                before = [other.question for other in asked[:number]]
                condition = Condition(one.question, before, self.columns)
                self._conditions[one.question.name] = condition
                last = 1 + max(at[name] for name in condition.columns)
            self.rounds += [[] for _ in range(last + 1 - len(self.rounds))]
            self.rounds[last].append(one)
            at |= dict.fromkeys(one.columns(), last)
            self.columns |= one.columns()

    def steps(self) -> Steps:
        """All questions that can be asked together, then those that depend on their answers."""
        found: Columns = dict.fromkeys(self.columns)
        for at in range(len(self.rounds)):
            now, requests = self._round(at, found)
            answers = []
            if len(requests) == 1:
                answers = [(yield requests[0])]
            elif requests:
                answers = yield requests
            parts = _parts(now, list(answers))
            again = [
                (part, place, request)
                for one, part in zip(now, parts, strict=True)
                for place, request in one.again(part).items()
            ]
            if again:
                for (part, place, _), answer in zip(again, (yield [request for *_, request in again]), strict=True):
                    part[place] = answer
            for one, part in zip(now, parts, strict=True):
                found |= one.read(part)
        return found

    def _round(self, at: int, found: Mapping[str, Any]) -> tuple[list[Asked], list[Request]]:
        """The questions of a round that apply to a row, and what they ask; made once for all rows that are alike."""
        asked = self.rounds[at]
        applies = tuple(self._applies(one.question, found) for one in asked) if self._conditions else ()
        if (at, applies) not in self._made:
            now = list(compress(asked, applies)) if self._conditions else asked
            requests = [request for one in now for request in one.requests]
            if later := [request for some in self.rounds[at + 1 :] for one in some for request in one.requests]:
                requests = [replace(request, later=(later[0], later[-1])) for request in requests]
            self._made[at, applies] = now, requests
        return self._made[at, applies]

    def _applies(self, question: Question, found: Mapping[str, Any]) -> bool:
        condition = self._conditions.get(question.name)
        return condition is None or condition.holds(dict(found))


def _parts(asked: list[Asked], answers: list[Completion]) -> list[list[Completion]]:
    """The answers by question."""
    if len(asked) == 1:
        return [answers]
    parts, start = [], 0
    for one in asked:
        parts.append(answers[start : start + len(one.requests)])
        start += len(one.requests)
    return parts
