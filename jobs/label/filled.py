"""A question that is answered with JSON by a schema, or any other text that follows rules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from jobs.label.questions import Asked
from runner.loop.retrying import redrawn
from runner.text.questions.question import Question
from runner.text.structure import structure_of
from runner.types import GREEDY, Columns, Completion, Request, RowError


@dataclass
class Filled(Asked):
    """One request whose answer follows the question's schema; asked again, once, where it was cut off or is invalid."""

    question: Question
    requests: list[Request]
    max_tokens: int = 0  # of the run, in ``requests`` where the question has its own

    def __post_init__(self) -> None:
        self._structure = structure_of(f"{self.question.key}.schema", self.question.schema)
        self.requests = [replace(one, grammar=self._structure.body) for one in self.requests]

    def columns(self) -> dict[str, pa.DataType]:
        """The output column: a struct for an object, else what the schema says."""
        column = self._structure.column
        return {self.question.column: column.type if column else pa.string()}

    def again(self, answers: list[Completion]) -> dict[int, Request]:
        """The requests to ask once more, by place."""
        request, answer = self.requests[0], answers[0]
        if answer.finish_reason == "length":
            most = request.max_tokens or self.max_tokens
            return {0: replace(request, max_tokens=2 * most, retry=True)} if most else {}
        return {0: redrawn(request, GREEDY)} if self._structure.problem(answer.text) else {}

    def read(self, answers: list[Completion]) -> Columns:
        """The answer as the schema's columns; RowError if it is not valid."""
        if answers[0].finish_reason == "length":
            most = self.requests[0].max_tokens or self.max_tokens
            raise RowError("cut off", f"no complete answer to {self.question.name} in {most} tokens (max_tokens)")
        found = self._structure.values(answers[0].text)
        column = self._structure.column
        return {self.question.column: found if column and column.kind == "object" else next(iter(found.values()))}
