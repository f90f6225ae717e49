"""The engine's side of a run: sequences in, generations out, and the engine between them."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol, Self

from runner.types import GREEDY, Sampling

MANY_SCORES = 1000  # choices, of more than which each score has 32 bits


@dataclass
class Sequence:
    """One request as the engine sees it: token ids, never text; plain data, which another process may compute.

    ``key`` names it (unique among the sequences in flight). ``draw_seed`` fixes its random draws: the same tokens,
    sampling and draw_seed give the same completion. ``choices`` are token ids to score instead of generating; with
    ``cut`` those that are unlikely from their beginning on need not be (``runner.text.choices.Walk``), and only the
    ``top`` likeliest are returned one by one (None: all).
    ``boundaries`` are ascending token counts, each < len(tokens), at which a KV snapshot is worth keeping; the planner
    fills them in. ``ahead``: so many of the first tokens begin what the row may ask later, too; a snapshot of them is
    held for that. ``grammar`` (Lark, in llguidance's dialect) is what the generated tokens must follow. ``stop``: texts
    of its own that end the answer, for whoever tells an engine when to stop.
    """

    key: tuple[int, int]
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = GREEDY
    draw_seed: int = 0
    choices: tuple[tuple[int, ...], ...] | None = None
    cut: bool = False
    top: int | None = None
    mean_logprob: bool = False
    top_logprobs: int | None = None
    boundaries: tuple[int, ...] = ()
    ahead: int = 0
    grammar: str | None = None
    stop: tuple[str, ...] = ()

    @property
    def shared_tokens(self) -> int:
        """How many of the tokens are a prefix that it shares with others."""
        return self.boundaries[-1] if self.boundaries else 0

    @cached_property
    def ids(self) -> bytes:
        """The tokens as 32-bit numbers of this machine, for all who hash, sort and send them."""
        return array("I", self.tokens).tobytes()


class Scored(NamedTuple):
    """A generated token's log-probability before the temperature, and the likeliest tokens there with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Generation:
    """The engine's answer to one sequence; see Completion for the fields. ``tokens`` excludes the end token.

    ``scored`` has an entry for each of ``tokens`` if the sequence has ``top_logprobs``. ``seat``: which one of a fleet
    computed it. ``logprobs`` are None where ``likeliest`` and ``others`` take their place.
    """

    key: tuple[int, int]
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "stop"
    cached_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    likeliest: tuple[tuple[int, float], ...] | None = None
    others: float | None = None
    mean_logprob: float | None = None
    error: str | None = None
    scored: tuple[Scored, ...] | None = None
    seat: int | None = None

    def __reduce__(self) -> tuple[type[Generation], tuple[object, ...]]:
        """For pickle, which takes twice as long with the fields' names."""
        return Generation, tuple(vars(self).values())


class Costs(NamedTuple):
    """What sharing a prefix costs, in prompt tokens that the same model could compute by itself in that time.

    ``snapshot`` once, a short forward pass of its own; ``level`` for every token computed behind it, one more part of
    attention to merge. Engines measure it. ``holds``: whether snapshots are held for later requests of a row.
    """

    snapshot: float = 64.0
    level: float = 0.02
    holds: bool = False


class Gauge(NamedTuple):
    """What an engine uses: sequences in its latest step, how many it can hold, bytes of memory; None: not known.

    ``seats``: of a fleet, how many answers each has given.
    """

    slots: int | None = None
    slots_total: int | None = None
    memory_bytes: int | None = None
    seats: dict[str, int] | None = None


@dataclass
class Work:
    """What an engine has done: tokens of answers and of prompts computed, prompt tokens that a shared prefix spared
    (``cached``) or that attention computed in vain (``padded``), how many of its ``slots`` held sequences (``lanes``),
    both summed over its steps, the seconds spent on the model, the tokens of answers that a grammar ``forced``, those
    that were ``drafted`` (guessed) for answers and of them those that were ``accepted``.
    """

    decoded: int = 0
    prefilled: int = 0
    cached: int = 0
    padded: int = 0
    lanes: int = 0
    slots: int = 0
    model_s: float = 0.0
    forced: int = 0
    drafted: int = 0
    accepted: int = 0

    def __iadd__(self, other: Work) -> Self:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class Engine(Protocol):
    """A batch of sequences being answered by one resident model."""

    @property
    def work(self) -> Work:
        """What has been done so far."""
        ...

    @property
    def costs(self) -> Costs:
        """What sharing a prefix costs here; the planner decides by it."""
        ...

    @property
    def batch_size(self) -> int:
        """How many sequences are computed at once, at present."""
        ...

    def gauge(self) -> Gauge:
        """What the engine uses now, as far as it knows."""
        ...

    def room(self) -> int:
        """How many more sequences could be added now (0: call ``step``)."""
        ...

    def add(self, sequences: list[Sequence]) -> None:
        """Let these sequences join the batch. A sequence that can never fit comes back from ``step`` with an error."""
        ...

    def step(self) -> list[Generation]:
        """Advance the batch by at least one forward pass; return the sequences that ended, in any order."""
        ...

    def close(self) -> None:
        """Free the device; sequences in flight are dropped."""
        ...


class Queue(Engine, Protocol):
    """An engine that lets go again of what has not begun."""

    def withdraw(self, count: int) -> list[Sequence]:
        """Forget up to so many sequences that have not begun, those added last first; they are given back."""
        ...


class Waiting:
    """What a Queue does with the sequences that have not begun: they are ``waiting``, and begin in this order."""

    waiting: MutableSequence[Sequence]

    def add(self, sequences: list[Sequence]) -> None:
        """See Engine."""
        self.waiting.extend(sequences)

    def withdraw(self, count: int) -> list[Sequence]:
        """See Queue."""
        return [self.waiting.pop() for _ in range(min(count, len(self.waiting)))]
