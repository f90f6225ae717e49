"""A job whose cut-off answers are asked for again, once, with twice the room."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from runner.types import Columns, Completion, Job, Request, Row, RowError, Steps


@dataclass
class Retrying:
    """``inner`` as it is, but an answer that ``max_tokens`` cut off is asked for again with twice the room.

    That goes for answers with a grammar (``structured``) and for those cut off while still reasoning. If the second is
    cut off, too, the job is given RowError. All of it happens in ``steps``, so that a resumed run replays it.
    ``reasoning``: add a column of that name.
    """

    inner: Job
    max_tokens: int
    structured: bool
    reasoning: bool

    def schema(self) -> pa.Schema:
        """The job's columns, and ``reasoning`` if it is kept."""
        schema = self.inner.schema()
        return schema.append(pa.field("reasoning", pa.string())) if self.reasoning else schema

    def steps(self, row: Row) -> Steps:
        """The job's requests, each list of them followed by a list of those to be asked for again."""
        steps = self.inner.steps(row)
        thoughts: list[str] = []
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                asked = resume()
            except StopIteration as returned:
                return self._columns(returned.value, thoughts)
            requests = [asked] if isinstance(asked, Request) else asked
            try:
                answers = yield from self._ask(requests)
            except RowError as problem:
                resume = partial(steps.throw, problem)
                continue
            thoughts += [answer.reasoning for answer in answers if answer.reasoning]
            resume = partial(steps.send, answers[0] if isinstance(asked, Request) else answers)

    def _ask(self, requests: list[Request]) -> Generator[list[Request], Any, list[Completion]]:
        answers: list[Completion] = list((yield requests))
        again = {at: self._longer(requests[at]) for at, answer in enumerate(answers) if self._is_cut(answer)}
        if not again:
            return answers
        for (at, request), answer in zip(again.items(), (yield list(again.values())), strict=True):
            answers[at] = self._failed(answer, request) if self._is_cut(answer) else answer
        if failed := [answer.error for answer in answers if answer.error]:
            raise RowError.read(failed[0], answers)
        return answers

    def _longer(self, request: Request) -> Request:
        return replace(request, max_tokens=2 * (request.max_tokens or self.max_tokens), retry=True)

    def _failed(self, answer: Completion, request: Request) -> Completion:
        error = f"cut off: no complete answer in {request.max_tokens} tokens (engine.max_tokens)"
        return replace(answer, text="", finish_reason="error", error=error)

    def _is_cut(self, answer: Completion) -> bool:
        return answer.finish_reason == "length" and (
            self.structured or (not answer.text and answer.reasoning is not None)
        )

    def _columns(self, columns: Any, thoughts: list[str]) -> Columns:
        thought = {"reasoning": "\n\n".join(thoughts) or None} if self.reasoning else {}
        return {**columns, **thought} if isinstance(columns, dict) else columns or thought
