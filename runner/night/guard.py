"""The engine as a run uses it: its rows are noted on disk, and rows seen at deaths are isolated."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import math
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping

from runner.checkpoint.deaths import Flight
from runner.machine.facts import peak_memory
from runner.sequences import Costs, Engine, Gauge, Generation, Sequence, Work

Key = tuple[int, int]


class Quarantine:
    """Rows seen at deaths. ``alone``: to be computed one at a time. ``rows``: not to be computed, with their errors."""

    def __init__(self, alone: Collection[int] = (), rows: Mapping[int, str] | None = None) -> None:
        self.alone, self.rows = alone, rows or {}
        self._poison: dict[tuple[int, ...], str] = {}  # prompts of quarantined rows, for those that ask the same

    def error(self, sequence: Sequence) -> str | None:
        """What to answer instead of computing this; None if it may be computed."""
        if not self.rows:
            return None
        prompt = tuple(sequence.tokens)
        error = self.rows.get(sequence.key[0])
        if error is not None:
            self._poison[prompt] = error
        return error or self._poison.get(prompt)


class GuardedEngine:
    """An Engine around the one that ``opened`` makes; see the protocol.

    ``alone``: rows to be computed one at a time, after all others available. ``quarantined``: rows to be answered with
    this error. ``wait(beat, release)`` is called before every step and may take hours; meanwhile it calls ``beat``,
    may call ``release`` to free the model's memory, and returns whether to continue. ``watermark`` (bytes): while the
    engine uses more memory, nothing is added to it.
    """

    def __init__(
        self,
        opened: Callable[[], Engine],
        flight: Flight,
        alone: Collection[int] = (),
        quarantined: Mapping[int, str] | None = None,
        wait: Callable[[Callable[[], None], Callable[[], None]], bool] = lambda beat, release: True,
        watermark: float = math.inf,
    ) -> None:
        self._wait, self._watermark = wait, watermark
        self._opened, self._flight = opened, flight
        flight.work(True)  # loading may hang, too
        self._quarantine = Quarantine(alone, quarantined)
        self._inner: Engine | None = opened()
        self._flying: dict[Key, Sequence] = {}
        # Of those flying, not yet in the engine: on disk first, for adding may kill.
        self._entering: list[Sequence] = []
        self._apart: deque[Sequence] = deque()  # waiting for the engine to be empty
        self._refused: list[Generation] = []
        self._lonely = self._changed = False
        self._answers = 0  # handed out by the last step: on disk when the next one begins
        self._work = Work()

    @property
    def inner(self) -> Engine:
        """The engine itself, opened again if it was released."""
        if self._inner is None:
            self._inner = self._opened()
            self._inner.add(list(self._flying.values()))
            self._entering = []
        return self._inner

    @property
    def work(self) -> Work:
        """What was done by all the engines that were opened."""
        total = dataclasses.replace(self._work)
        if self._inner is not None:
            total += self._inner.work
        return total

    @property
    def costs(self) -> Costs:
        """See Engine."""
        return self.inner.costs

    @property
    def batch_size(self) -> int:
        """Sequences at once, 0 of a released engine."""
        return 0 if self._inner is None else self._inner.batch_size

    def gauge(self) -> Gauge:
        """See Engine; of one that is released, only the memory of the process is known."""
        return Gauge(memory_bytes=peak_memory()) if self._inner is None else self._inner.gauge()

    def room(self) -> int:
        """See Engine; none while a row is computed alone, or memory runs short."""
        if self._lonely or (self._flying and self._is_full()):
            return 0
        return max(0, self.inner.room() - len(self._entering))

    def _is_full(self) -> bool:
        return math.isfinite(self._watermark) and (self.gauge().memory_bytes or 0) > self._watermark

    def add(self, sequences: list[Sequence]) -> None:
        """See Engine."""
        together = []
        for sequence in sequences:
            if (error := self._quarantine.error(sequence)) is not None:
                self._refused.append(Generation(sequence.key, finish_reason="error", error=error))
            elif sequence.key[0] in self._quarantine.alone:
                self._apart.append(sequence)
            else:
                together.append(sequence)
        self._enter(together)

    def step(self) -> list[Generation]:
        """See Engine."""
        if not self._wait(self._flight.beat, self.release):
            return []
        if not self._flying and self._apart:
            self._lonely = True
            self._enter([self._apart.popleft()])
        self._flight.beat(self._answers, self._rows() if self._changed else None)
        self._changed = False
        ended, self._refused = self._refused, []
        if self._flying:
            inner = self.inner
            if self._entering:
                inner.add(self._entering)
                self._entering = []
            answered = inner.step()
            self._leave(answered)
            ended = [*ended, *answered]
        self._answers = len(ended)
        return ended

    def release(self) -> None:
        """Free the device; the sequences in the engine are computed again when it is reopened."""
        if weights := sys.modules.get("runner.engine.weights"):
            weights.forget()
        self._let_go()

    def close(self) -> None:
        """See Engine."""
        self._let_go()
        self._flight.work(False)

    def _let_go(self) -> None:
        if self._inner is not None:
            self._work = self.work
            self._inner.close()
            self._inner = None
            _give_back()

    def _rows(self) -> set[int]:
        return {row for row, _ in self._flying}

    def _enter(self, sequences: list[Sequence]) -> None:
        if sequences:
            self._entering += sequences
            self._flying.update((sequence.key, sequence) for sequence in sequences)
            self._changed = True

    def _leave(self, answered: list[Generation]) -> None:
        for generation in answered:
            del self._flying[generation.key]
        if answered:
            self._lonely = False
            self._changed = True


def _give_back() -> None:
    """Let the system have what an engine took, now that nobody refers to it."""
    gc.collect()  # a model's parts refer to each other
    if mlx := sys.modules.get("mlx.core"):
        mlx.clear_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc's: on a CPU the weights lay in its heap
        ctypes.CDLL(None).malloc_trim(0)
