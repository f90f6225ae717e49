"""One row's generator: its requests, and its replay from recorded completions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from runner.shards import Output, Usage
from runner.types import Completion, Job, Request, Row, RowError, Steps

log = logging.getLogger("rowmill")


@dataclass(eq=False)
class Task:
    """A row being worked on. Requests are numbered in the order in which the job yields them, from 0.

    ``answers`` are the row's completions so far; those recorded by an earlier session are given to the job again, in
    place of computing them. ``output`` is set when the row is finished.
    """

    index: int
    row: Row
    job: Job
    answers: dict[int, Completion] = field(default_factory=dict)
    output: Output | None = None
    asked: int = 0
    _steps: Steps | None = None
    _single: bool = False
    _numbers: range = range(0)

    def start(self) -> list[tuple[int, Request]]:
        """Run the job up to the first requests without an answer: (number, request) pairs, none if the row is done."""
        try:
            self._steps = self.job.steps(self.row)
        except Exception as problem:
            return self._fail(problem)
        return self._advance(None)

    def answer(self, number: int, completion: Completion) -> list[tuple[int, Request]]:
        """Take one completion, already recorded; the requests that follow from it."""
        self.answers[number] = completion
        if self.output is not None or any(n not in self.answers for n in self._numbers):
            return []
        return self._advance(self._received())

    def fail(self, problem: Exception) -> None:
        """Finish the row with an error."""
        self._fail(problem)

    def _received(self) -> Completion | list[Completion]:
        answers = [self.answers[number] for number in self._numbers]
        return answers[0] if self._single else answers

    def _advance(self, received: Any) -> list[tuple[int, Request]]:
        """Send completions to the job until it asks for something new or returns."""
        assert self._steps is not None
        try:
            while True:
                failed = received.error if isinstance(received, Completion) else None
                asked = self._steps.throw(RowError(failed)) if failed else self._steps.send(received)
                requests = [asked] if isinstance(asked, Request) else list(asked)
                self._single = isinstance(asked, Request)
                self._numbers = range(self.asked, self.asked + len(requests))
                self.asked += len(requests)
                new = [(n, r) for n, r in zip(self._numbers, requests, strict=True) if n not in self.answers]
                if new:
                    return new
                received = self._received()
        except StopIteration as returned:
            self.output = Output(self.index, dict(returned.value or {}), None, self._usage())
        except Exception as problem:
            self._fail(problem)
        return []

    def _fail(self, problem: Exception) -> list[tuple[int, Request]]:
        if isinstance(problem, RowError):
            error = str(problem)
        else:
            error = f"{type(problem).__name__}: {problem}"
            log.debug("row %d failed", self.index, exc_info=problem)
        self.output = Output(self.index, {}, error, self._usage())
        return []

    def _usage(self) -> Usage:
        return Usage.of(self.answers[number] for number in sorted(self.answers))
