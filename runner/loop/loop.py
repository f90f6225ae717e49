"""The loop: rows become tasks, tasks ask, the engine answers, the store keeps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from runner.checkpoint.records import Output, Record
from runner.checkpoint.store import Store
from runner.loop.feed import Feed
from runner.loop.plan import Plan
from runner.loop.requests import Defaults, digest_of, sequence_of, shared_tokens
from runner.loop.task import Task
from runner.sequences import Engine, Generation, Sequence
from runner.text.prompter import Prompter
from runner.types import Completion, Job, Request, Row, RowError, UserError

WINDOW_TOKENS = 16_000_000  # waiting prompt tokens after which no more rows are read: some 130 MB,
ROW_TOKENS = 1000  # or so many for each row of a window that was asked to be larger
READ_ROWS = 256  # rows read, rendered and looked up together

log = logging.getLogger("rowmill")

Key = tuple[int, int]  # row, number of the request in it


class OtherAnswers(Protocol):
    """Answers of other runs by digest."""

    def find(self, digests: Iterable[bytes]) -> dict[bytes, Completion]: ...

    def keep(self, answers: Iterable[tuple[bytes, Completion]]) -> None: ...


Asked = tuple[Task, int, Request]


@dataclass
class Loop:
    """A run at work. ``window`` bounds the rows read ahead; ``stopped`` asks for an early end.

    Memory depends on the window, not on the number of rows. Nobody acts on an answer before it is on disk.
    """

    job: Job
    feed: Feed
    prompter: Prompter
    engine: Engine
    store: Store
    defaults: Defaults
    window: int
    stopped: Callable[[], bool] = lambda: False
    others: OtherAnswers | None = None
    plan: Plan = field(default_factory=Plan)
    tasks: dict[int, Task] = field(default_factory=dict)  # unfinished rows that were read, in order
    last: int = 0  # row read
    reported: bool = False  # of the first exception that a job did not mean to raise
    asked: dict[Key, tuple[Sequence, bytes]] = field(default_factory=dict)  # in the plan or the engine, with digests
    twins: dict[bytes, tuple[Key, ...]] = field(default_factory=dict)  # who waits for an identical one
    answers: list[Record] = field(default_factory=list)  # to be committed
    thoughts_ended: int = 0  # because of their length
    outputs: list[Output] = field(default_factory=list)  # rows finished, to be committed

    def work(self, tick: Callable[[], None] = lambda: None) -> None:
        """Work until every row is finished or ``stopped``; ``tick`` is called after every commit."""
        self._read()
        while (self.tasks or self.outputs) and not self.feed.full and self._advance(tick):
            self._read()
        self._commit()

    def finish(self, task: Task, tick: Callable[[], None] = lambda: None) -> Output | None:
        """Work on one task that is no row, with nothing else in the loop; None if ``stopped`` before its end."""
        self.tasks[task.index] = task
        task.recorded = self.store.recorded([task.index]).get(task.index, {})
        self._ask([(task, number, request) for number, request in task.start()])
        while task.output is None and self._advance(tick):
            pass
        self._commit()
        self.tasks.clear()
        if task.output is not None:
            self._tell(task)
        return task.output

    def _advance(self, tick: Callable[[], None]) -> bool:
        """One step of the engine and what follows from it; whether to go on."""
        self.engine.add(self.plan.take(self.engine.room()))
        for generation in self.engine.step():
            self._receive(generation)
        self._resume(self._commit())
        tick()
        return not self.stopped()

    def _commit(self) -> list[Record]:
        """Put the answers and outputs that are to hand on disk."""
        answers, self.answers = self.answers, []
        outputs, self.outputs = self.outputs, []
        self.feed.record(answers, outputs)
        if self.others is not None:
            self.others.keep((one.digest, one.completion) for one in answers if one.digest and _is_computed(one))
        return answers

    def _read(self) -> None:
        """Open rows until the window is full, some at a time."""
        some = min(READ_ROWS, -(-self.window // 8))
        while self._room() >= some and not self.stopped():
            opened = [Task(index, row, self.job) for index, row in self.feed.take(some)]
            if not opened:
                return
            self.last = opened[-1].index
            recorded = self.store.recorded(_indexes(opened))
            for task in opened:
                self.tasks[task.index] = task
                task.recorded = recorded.get(task.index, {})
            self._ask([(task, number, request) for task in opened for number, request in task.start()])
            self._collect(opened)

    def _room(self) -> int:
        """How many more rows to open. Those far behind the oldest unfinished one wait: its shard comes first."""
        if self.plan.tokens >= max(WINDOW_TOKENS, ROW_TOKENS * self.window):
            return 0
        if self.tasks and self.last - next(iter(self.tasks)) > 4 * self.window:
            return 0
        return self.window - len(self.tasks) - len(self.outputs)

    def _resume(self, answers: list[Record]) -> None:
        """Give committed answers to their jobs."""
        touched = [self.tasks[one.row] for one in answers]
        asked = []
        for one, task in zip(answers, touched, strict=True):
            asked += [(task, number, request) for number, request in task.answer(one.number, one.completion)]
        self._ask(asked)
        self._collect(touched)

    def _collect(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.is_row and task.output is not None and self.tasks.pop(task.index, None) is not None:
                self.outputs.append(task.output)
                self._tell(task)

    def _tell(self, task: Task) -> None:
        """Show where the job went wrong, once: a mistake in a job tends to fail every row."""
        if task.problem is not None and not self.reported:
            self.reported = True
            log.warning("row %d: the job failed, and this is shown once:", task.index, exc_info=task.problem)

    def _ask(self, requests: list[Asked]) -> None:
        """Render requests and let them wait for the engine, or for the answer to an identical one.

        Those that an earlier session recorded are answered at once, and so on with what the jobs then ask.
        """
        while requests:
            wanted, replayed, stale = self._recall(requests)
            if stale:
                self.store.forget(stale)
            self._look_ahead(requests, wanted)
            self._wait(wanted)
            asked = [(task, task.answer(number, completion)) for task, number, completion in replayed]
            requests = [(task, number, request) for task, new in asked for number, request in new]

    def _recall(
        self, requests: list[Asked]
    ) -> tuple[list[tuple[Sequence, bytes]], list[tuple[Task, int, Completion]], list[Key]]:
        """The sequences to compute with their digests; what is on disk; what is there but answers something else."""
        wanted: list[tuple[Sequence, bytes]] = []
        replayed: list[tuple[Task, int, Completion]] = []
        stale: list[Key] = []
        for task, number, sequence, digest in self._sequences(requests):
            if task.seed is None and sequence is not None and sequence.sampling.temperature > 0:
                task.seed = sequence.draw_seed
            record = task.recorded.pop(number, None) if task.recorded else None
            if record is not None:
                if record.digest == digest:
                    replayed.append((task, number, record.completion))
                    continue
                stale.append((task.index, number))
            if sequence is not None:
                wanted.append((sequence, digest))
        return wanted, replayed, stale

    def _look_ahead(self, requests: list[Asked], wanted: list[tuple[Sequence, bytes]]) -> None:
        """Find how much of each prompt is that of a later request of its row, too."""
        later = {(task.index, number): (task.row, one.later) for task, number, one in requests if one.later}
        if not later:
            return
        found = [(one, *later[one.key]) for one, _ in wanted if one.key in later]
        distinct = {(one.key[0], id(request)): (request, row) for one, row, some in found for request in some}
        prompts = dict(zip(distinct, self._render([*distinct.values()]), strict=True))
        for sequence, _, some in found:
            others = [prompts[sequence.key[0], id(request)] for request in some]
            sequence.ahead = min(
                0 if isinstance(one, RowError) else shared_tokens(sequence.tokens, one) for one in others
            )

    def _wait(self, wanted: list[tuple[Sequence, bytes]]) -> None:
        first: dict[bytes, Sequence] = {}
        waiting: list[Sequence] = []
        for sequence, digest in wanted:
            if digest in self.twins:
                self.twins[digest] += (sequence.key,)
            else:
                self.twins[digest] = ()
                first[digest] = sequence
        own = self.store.lookup(first) if first else {}
        known = {digest: record.completion for digest, record in own.items()}
        if self.others is not None:
            known |= self.others.find(first.keys() - known.keys())
        for digest, sequence in first.items():
            if digest not in known:
                waiting.append(sequence)
                self.asked[sequence.key] = sequence, digest
            elif digest in own and own[digest].is_free:
                self._answer(sequence.key, digest, known[digest])
            else:
                self._answer(sequence.key, digest, self._again(known[digest]))
        self.plan.add(waiting)

    def _sequences(self, requests: list[Asked]) -> Iterator[tuple[Task, int, Sequence | None, bytes]]:
        """The requests as sequences with their digests; those that cannot be rendered are answered with an error."""
        prompts = self._render([(request, task.row) for task, _, request in requests])
        for (task, number, request), tokens in zip(requests, prompts, strict=True):
            key = (task.index, number)
            try:
                origin = self.feed.origin(task.index) if task.is_row else task.index
                sequence = sequence_of(key, origin, request, tokens, self.defaults, self.prompter.continuations)
            except Exception as problem:  # a job's own choices: only its row is at fault
                failed = Completion(finish_reason="error", error=_why(problem))
                self.answers.append(Record(*key, None, failed))
                yield task, number, None, b""
                continue
            yield task, number, sequence, digest_of(sequence)

    def _render(self, requests: list[tuple[Request, Row]]) -> list[list[int] | RowError]:
        try:
            return self.prompter.render_many(requests)
        except Exception:  # a job's own variables or messages: only its row is at fault
            return [self._render_one(request, row) for request, row in requests]

    def _render_one(self, request: Request, row: Row) -> list[int] | RowError:
        try:
            return self.prompter.render_many([(request, row)])[0]
        except Exception as problem:
            return RowError.read(_why(problem))

    def _receive(self, generation: Generation) -> None:
        sequence, digest = self.asked.pop(generation.key)
        if generation.error is not None:
            failed = Completion(finish_reason="error", error=generation.error)
            self._answer(generation.key, digest, failed, generation.seat)
            return
        answer = self.prompter.read(generation.tokens, sequence)
        self.thoughts_ended += self.prompter.channels.was_ended(generation.tokens, sequence.tokens)
        completion = Completion(
            text=answer.text,
            finish_reason=generation.finish_reason if answer.complete else "length",
            prompt_tokens=len(sequence.tokens),
            cached_tokens=generation.cached_tokens,
            completion_tokens=len(generation.tokens),
            logprobs=generation.logprobs,
            mean_logprob=generation.mean_logprob,
            reasoning=answer.reasoning,
            tokens=self.prompter.spell(generation, sequence, answer.text),
            likeliest=generation.likeliest,
            others=generation.others,
        )
        self._answer(generation.key, digest, completion, generation.seat)

    def _answer(self, key: Key, digest: bytes, completion: Completion, seat: int | None = None) -> None:
        """Hand out a completion to its request and to those that asked the same meanwhile."""
        self.answers.append(Record(*key, digest, completion, seat))
        for twin in self.twins.pop(digest, ()):
            self.answers.append(Record(*twin, digest, self._again(completion)))

    def _again(self, completion: Completion) -> Completion:
        """The answer to a request that is identical to one computed: nothing of its prompt was."""
        self.plan.serve(completion.prompt_tokens)
        return dataclasses.replace(completion, cached_tokens=completion.prompt_tokens)


def _is_computed(record: Record) -> bool:
    """Whether the answer is this run's own; others count their whole prompt as cached."""
    return record.completion.error is None and record.completion.cached_tokens < record.completion.prompt_tokens


def _why(problem: Exception) -> str:
    if isinstance(problem, RowError | UserError):
        return str(problem)
    return f"wrong request: {type(problem).__name__}: {problem}"


def _indexes(tasks: list[Task]) -> Iterable[int]:
    """The rows' positions, as a range if they have no gaps."""
    span = range(tasks[0].index, tasks[-1].index + 1)
    return span if len(span) == len(tasks) else [task.index for task in tasks]
