"""One row's generator: its requests, and its replay from recorded completions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

from runner.checkpoint.records import PRELUDE, Output, Record, Usage
from runner.types import Completion, Job, RejectedError, Request, Row, RowError, Steps, UnreadableRow

ERROR_CHARS = 2000  # of a row's error; exceptions may print all they hold
EMPTY_YIELDS = 1000  # in a row, after which a job is assumed to ask for nothing forever
# What nearly always comes stands first: abstract classes take long to ask.
_GENERATORS = (GeneratorType, Generator)
_COLUMNS = (dict, Mapping)


@dataclass(eq=False)
class Task:
    """A row being worked on. Requests are numbered in the order in which the job yields them, from 0.

    ``answers`` are the row's completions so far, ``recorded`` those of an earlier session that were not asked for
    again yet. The job goes on when all requests of a ``yield`` are answered: it receives the answers, or RowError if
    one of them failed. ``output`` is set when the row is finished; whatever the job raises or yields finishes its row
    and no other, KeyboardInterrupt excepted. ``problem`` is then what the job did not mean to raise. ``retries`` counts
    the requests marked so, ``seed`` is the ``Sequence.draw_seed`` of the first that draws, set by who makes sequences.
    """

    index: int
    row: Row
    job: Job
    recorded: dict[int, Record] = field(default_factory=dict)
    answers: dict[int, Completion] = field(default_factory=dict)
    output: Output | None = None
    problem: BaseException | None = None
    retries: int = 0
    seed: int | None = None
    _steps: Steps | None = None
    _single: bool = False
    _numbers: range = range(0)
    _missing: int = 0

    @property
    def is_row(self) -> bool:
        """Whether its output is one of the run's rows."""
        return self.index != PRELUDE

    def start(self) -> list[tuple[int, Request]]:
        """Run the job up to its first requests: (number, request) pairs, none if the row is done."""
        return self._advance(self._begin)

    def answer(self, number: int, completion: Completion) -> list[tuple[int, Request]]:
        """Take one completion, which is on disk; the requests that follow from it."""
        self.answers[number] = completion
        self._missing -= 1
        return [] if self._missing else self._advance(self._go_on)

    def _begin(self) -> Any:
        if isinstance(self.row, UnreadableRow):
            raise RowError("unreadable", self.row.why)
        self._steps = self.job.steps(self.row)
        if not isinstance(self._steps, _GENERATORS):
            raise TypeError(f"steps(row) must be a generator (it yields requests), not {type(self._steps).__name__}")
        return next(self._steps)

    def _go_on(self) -> Any:
        assert self._steps is not None
        answers = [self.answers[number] for number in self._numbers]
        for answer in answers:
            if answer.error is not None:
                return self._steps.throw(RowError.read(answer.error, answers))
        return self._steps.send(answers[0] if self._single else answers)

    def _advance(self, resume: Callable[[], Any]) -> list[tuple[int, Request]]:
        """Let the job run until it asks for something new or ends."""
        try:
            for _ in range(EMPTY_YIELDS):
                if new := self._number(resume()):
                    return new
                resume = self._go_on
            raise RuntimeError(f"the job yielded an empty list {EMPTY_YIELDS:,} times in a row")
        except StopIteration as returned:
            self.output = self._finished(returned.value)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # sys.exit() in a job, too, ends its row only
            self.output = self._failed(problem)
        return []

    def _number(self, asked: Any) -> list[tuple[int, Request]]:
        """Give the requests of a ``yield`` their numbers."""
        self._single = isinstance(asked, Request)
        requests = [asked] if self._single else asked
        if not (self._single or _are_requests(requests)):
            raise TypeError(f"the job yielded {asked!r:.80}, which is neither a Request nor a list of them")
        first = self._numbers.stop
        self._numbers = range(first, first + len(requests))
        self._missing = len(requests)
        for request in requests:
            self.retries += request.retry
        return list(enumerate(requests, first))

    def _finished(self, columns: Any) -> Output:
        if columns is None:
            columns = {}
        if not isinstance(columns, _COLUMNS):
            return self._failed(TypeError(f"the job returned {columns!r:.80}, not a dict of its columns"))
        return Output(self.index, dict(columns), None, self._usage())

    def _failed(self, problem: BaseException) -> Output:
        error = str(problem)
        if not isinstance(problem, RowError):
            error = f"{type(problem).__name__}: {problem}"
            self.problem = problem
        columns = problem.columns if isinstance(problem, RejectedError) else {}
        return Output(self.index, columns, error[:ERROR_CHARS] or "RowError", self._usage())

    def _usage(self) -> Usage:
        seed = self.seed if self.seed is None or self.seed < 1 << 63 else self.seed - (1 << 64)
        answers = [self.answers[number] for number in range(self._numbers.stop) if number in self.answers]
        return Usage.of(answers, self.retries, seed)


def _are_requests(asked: Any) -> bool:
    return isinstance(asked, list | tuple) and all(isinstance(one, Request) for one in asked)
