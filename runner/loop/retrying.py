"""A job whose answers are asked for again, once, where they were cut off or are not what they must be."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from runner.types import GREEDY, Columns, Completion, Job, Request, Row, RowError, Sampling, Steps


@dataclass
class Retrying:
    """``inner`` as it is, but an answer that ``max_tokens`` cut off is asked for again with twice the room.

    That goes for answers with a grammar (``structured``) and for those cut off while still reasoning. An answer with
    the run's grammar in which ``problem`` finds a fault is asked for again with other draws. If the second is no
    better, the job is given RowError. All of it happens in ``steps``, so that a resumed run replays it. Requests that
    say ``once`` are left alone. ``reasoning``: add a column of that name.
    """

    inner: Job
    max_tokens: int
    structured: bool
    reasoning: bool
    problem: Callable[[str], RowError | None] = lambda text: None
    sampling: Sampling = GREEDY  # of requests that do not say otherwise

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
        again = {
            at: self._anew(*pair) for at, pair in enumerate(zip(requests, answers, strict=True)) if self._fault(*pair)
        }
        if not again:
            return answers
        for (at, request), answer in zip(again.items(), (yield list(again.values())), strict=True):
            error = self._fault(request, answer)
            answers[at] = replace(answer, text="", finish_reason="error", error=str(error)) if error else answer
        if failed := [answer.error for answer in answers if answer.error]:
            raise RowError.read(failed[0], answers)
        return answers

    def _fault(self, request: Request, answer: Completion) -> RowError | None:
        """Why an answer will not do, if it will not."""
        if request.once:
            return None
        if self._is_cut(answer):
            most = request.max_tokens or self.max_tokens
            return RowError("cut off", f"no complete answer in {most} tokens (engine.max_tokens)")
        is_structured = request.grammar is None and answer.finish_reason == "stop"
        return self.problem(answer.text) if is_structured else None

    def _anew(self, request: Request, answer: Completion) -> Request:
        if self._is_cut(answer):
            return replace(request, max_tokens=2 * (request.max_tokens or self.max_tokens), retry=True)
        return redrawn(request, self.sampling)

    def _is_cut(self, answer: Completion) -> bool:
        return answer.finish_reason == "length" and (
            self.structured or (not answer.text and answer.reasoning is not None)
        )

    def _columns(self, columns: Any, thoughts: list[str]) -> Columns:
        thought = {"reasoning": "\n\n".join(thoughts) or None} if self.reasoning else {}
        return {**columns, **thought} if isinstance(columns, dict) else columns or thought


def redrawn(request: Request, sampling: Sampling) -> Request:
    """The same question with other draws; at temperature 0, where there would be none, at 1."""
    sampling = request.sampling or sampling
    seed = None if request.seed is None else request.seed + (1 << 72)
    return replace(request, sampling=replace(sampling, temperature=sampling.temperature or 1.0), seed=seed, retry=True)
