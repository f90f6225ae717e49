"""The loop: rows become tasks, tasks ask, the engine answers, the store keeps."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runner.plan import Plan
from runner.prompt import Prompter
from runner.shards import Output
from runner.store import Record, Store
from runner.task import Task
from runner.types import Completion, Engine, Generation, Job, Request, Row, RowError, Sampling, Sequence, Source

WINDOW_TOKENS = 4_000_000  # waiting prompt tokens after which no more rows are read: some 150 MB
READ_ROWS = 256  # rows read, rendered and looked up together

Key = tuple[int, int]  # row, number of the request in it
Answer = tuple[Key, Completion]


@dataclass
class Defaults:
    """What a request gets that does not say otherwise."""

    max_tokens: int
    sampling: Sampling
    seed: int


@dataclass
class Loop:
    """A run at work. ``window`` bounds the rows read ahead; ``stopped`` asks for an early end."""

    job: Job
    source: Source
    prompter: Prompter
    engine: Engine
    store: Store
    defaults: Defaults
    window: int
    stopped: Callable[[], bool] = lambda: False
    plan: Plan = field(default_factory=Plan)
    tasks: dict[int, Task] = field(default_factory=dict)  # unfinished rows that were read, in order
    asked: dict[Key, Sequence] = field(default_factory=dict)  # sequences in the plan or the engine
    digests: dict[Key, bytes] = field(default_factory=dict)
    twins: dict[bytes, list[Key]] = field(default_factory=dict)  # requests that wait for an identical one's answer
    answers: list[Answer] = field(default_factory=list)  # had without the engine, to be committed
    outputs: list[Output] = field(default_factory=list)  # rows finished, to be committed

    def work(self, tick: Callable[[], None]) -> None:
        """Work until every row is finished or ``stopped``; ``tick`` is called after every commit."""
        rows = self._unfinished_rows()
        self._read(rows)
        while self.tasks or self.outputs:
            self.engine.add(self.plan.take(self.engine.room()))
            for generation in self.engine.step():
                self._receive(generation)
            answers = self._commit()
            self._resume(answers)
            tick()
            if self.stopped():
                break
            self._read(rows)
        self._commit()

    def _commit(self) -> list[Answer]:
        """Put the answers and outputs that are to hand on disk; nobody acts on them before."""
        answers, self.answers = self.answers, []
        outputs, self.outputs = self.outputs, []
        if answers or outputs:
            self.store.record((Record(*key, self.digests.pop(key, None), one) for key, one in answers), outputs)
        return answers

    def _unfinished_rows(self) -> Iterator[tuple[int, Row]]:
        for span in self.store.unfinished():
            yield from zip(span, self.source.rows(span.start), strict=False)

    def _read(self, rows: Iterator[tuple[int, Row]]) -> None:
        """Open rows until the window is full. Rows far behind the oldest unfinished one wait: its shard comes first."""
        while len(self.tasks) + len(self.outputs) < self.window and self.plan.tokens < WINDOW_TOKENS:
            if self.tasks and next(reversed(self.tasks)) - next(iter(self.tasks)) > 4 * self.window:
                return
            opened = [Task(index, row, self.job) for (index, row), _ in zip(rows, range(READ_ROWS), strict=False)]
            if not opened:
                return
            recorded = self.store.recorded(range(opened[0].index, opened[-1].index + 1))
            for task in opened:
                self.tasks[task.index] = task
                task.answers.update(recorded.get(task.index, {}))
            self._ask([(task, number, request) for task in opened for number, request in task.start()])
            self._collect(opened)

    def _resume(self, answers: list[Answer]) -> None:
        """Give committed answers to their jobs."""
        touched = [self.tasks[row] for (row, _), _ in answers]
        asked = []
        for ((_, number), completion), task in zip(answers, touched, strict=True):
            asked += [(task, n, request) for n, request in task.answer(number, completion)]
        self._ask(asked)
        self._collect(touched)

    def _collect(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.output is not None and self.tasks.pop(task.index, None) is not None:
                self.outputs.append(task.output)

    def _ask(self, requests: list[tuple[Task, int, Request]]) -> None:
        """Render requests and let them wait for the engine, or for the answer to an identical one."""
        prompts = self.prompter.render_many([(request, task.row) for task, _, request in requests])
        new: dict[bytes, Sequence] = {}
        waiting: list[Sequence] = []
        for (task, number, request), tokens in zip(requests, prompts, strict=True):
            if isinstance(tokens, RowError):
                task.fail(tokens)
                continue
            sequence = self._sequence((task.index, number), request, tokens)
            digest = self._digest(sequence, request)
            if digest is None:
                waiting.append(sequence)
                continue
            self.digests[sequence.key] = digest
            if digest in self.twins:
                self.twins[digest].append(sequence.key)
            else:
                self.twins[digest] = []
                new[digest] = sequence
        known = self.store.lookup(new) if new else {}
        for digest, sequence in new.items():
            if digest in known:
                self._answer(
                    sequence.key, dataclasses.replace(known[digest], cached_tokens=known[digest].prompt_tokens)
                )
            else:
                waiting.append(sequence)
        self.asked.update((sequence.key, sequence) for sequence in waiting)
        self.plan.add(waiting)

    def _sequence(self, key: Key, request: Request, tokens: list[int]) -> Sequence:
        sampling = request.sampling or self.defaults.sampling
        seeds = (self.defaults.seed, *key) if request.seed is None else (request.seed,)
        draws = hashlib.blake2b(struct.pack(f"{len(seeds)}q", *seeds), digest_size=8).digest()
        seed = int.from_bytes(draws, "little")
        if request.choices is None:
            return Sequence(key, tokens, request.max_tokens or self.defaults.max_tokens, sampling, seed)
        return Sequence(key, tokens, 0, choices=self.prompter.continuations(tokens, request.choices))

    def _digest(self, sequence: Sequence, request: Request) -> bytes | None:
        """What identical requests share; None for one whose draws are its own."""
        if sequence.choices is None and sequence.sampling.temperature > 0 and request.seed is None:
            return None
        asked = (sequence.max_tokens, sequence.choices, sequence.sampling, request.seed)
        content = struct.pack(f"{len(sequence.tokens)}I", *sequence.tokens) + repr(asked).encode()
        return hashlib.blake2b(content, digest_size=16).digest()

    def _receive(self, generation: Generation) -> None:
        sequence = self.asked.pop(generation.key)
        if generation.error:
            self._answer(generation.key, Completion(finish_reason="error", error=generation.error))
            return
        completion = Completion(
            text=self.prompter.decode(generation.tokens),
            finish_reason=generation.finish_reason,
            prompt_tokens=len(sequence.tokens),
            cached_tokens=generation.cached_tokens,
            completion_tokens=len(generation.tokens),
            logprobs=generation.logprobs,
        )
        self._answer(generation.key, completion)

    def _answer(self, key: Key, completion: Completion) -> None:
        """Hand out a completion to its request and to those that asked the same meanwhile."""
        self.answers.append((key, completion))
        again = dataclasses.replace(completion, cached_tokens=completion.prompt_tokens)
        for twin in self.twins.pop(self.digests.get(key, b""), []):
            self.answers.append((twin, again))
