"""What goes to a seat and comes back, plain data only, and the way that it goes."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from runner.engine.conf import EngineConf
from runner.models.recipes import ModelConf
from runner.sequences import Costs, Gauge, Generation, Sequence, Work

WIRE = 2  # the version of all this

Key = tuple[int, int]


class Spec(NamedTuple):
    """What a seat is opened with.

    ``share``: of the usual batch size and KV memory. ``sharing``: seats on its device, which have its memory in equal
    parts. ``window``: of so many tokens, where windows of a text are scored and nothing is answered.
    """

    model: ModelConf
    engine: EngineConf
    chat: bool = True
    stop: tuple[str, ...] = ()
    offline: bool = False
    keep_awake: bool = True
    share: float = 1.0
    sharing: int = 1
    window: int | None = None


class Hello(NamedTuple):
    """A seat's first words: what it is. None: it does not know."""

    wire: int
    rowmill: str | None
    mlx: str | None
    mlx_lm: str | None
    weights: str | None
    tokenizer: str | None
    host: str
    pid: int
    device: str
    memory_bytes: int | None
    slots: int
    costs: Costs


# A sequence on its way: how many of its tokens are those of the one before; the others as 32-bit numbers, the least
# significant byte first; its other fields. A plain tuple is packed faster than one with names.
Ask = tuple[int, bytes, dict[str, Any]]


def asks_of(sequences: Iterable[Sequence]) -> list[Ask]:
    """Sequences in this form; a prefix that neighbours share goes once."""
    asks = []
    boundaries: tuple[int, ...] = ()
    for sequence in sequences:
        others = dict(vars(sequence))
        tokens = others.pop("tokens")
        is_shared = sequence.boundaries and sequence.boundaries is boundaries  # the very same tuple: of one group
        boundaries = sequence.boundaries
        held = boundaries[-1] if is_shared else 0
        asks.append((held, array("I", tokens[held:]).tobytes(), others))
    return asks


def sequences_of(asks: Iterable[Ask]) -> list[Sequence]:
    """The inverse of ``asks_of``."""
    sequences = []
    tokens: list[int] = []
    shared: list[int] = []
    for held, ids, others in asks:
        if held != len(shared):
            shared = tokens[:held]
        tokens = shared.copy()
        tokens.extend(memoryview(ids).cast("I"))
        sequences.append(Sequence(tokens=tokens, **others))
    return sequences


def packed(message: Any) -> bytes:
    """What goes through a pipe or a network, once and for all: whoever hands it on need not look into it."""
    return pickle.dumps(message, 5)


class Turn(NamedTuple):
    """What came of a seat since the turn before. ``slots``: sequences at once. ``steps`` and ``work``: so far."""

    number: int
    ended: list[Generation]
    slots: int
    steps: int
    gauge: Gauge
    work: Work


class Failed(NamedTuple):
    """A seat cannot go on. ``memory``: it ran out of it. ``is_final``: another try would end the same."""

    why: str
    memory: bool = False
    is_final: bool = False


class GoneError(Exception):
    """A seat gives no answer any more. ``is_blameless``: what it was computing has nothing to do with it."""

    def __init__(self, why: str, *, memory: bool = False, is_blameless: bool = False) -> None:
        super().__init__(why)
        self.why, self.memory, self.is_blameless = why, memory, is_blameless


class Link(Protocol):
    """The way to one seat."""

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the seat, whose answer to the call before has been taken."""
        ...

    def take(self) -> Any:
        """The answer that is there. GoneError if there will be none."""
        ...

    def kill(self) -> None:
        """End the seat's process; may be repeated."""
        ...


class Transport(Protocol):
    """Where seats can be, and the ways to them."""

    def places(self) -> list[str]:
        """The names of the seats that there could be now."""
        ...

    def open(self, place: str, spec: Spec) -> Link:
        """Start a seat. GoneError if that fails at once."""
        ...

    def wait(self, links: Iterable[Any], timeout: float) -> list[Any]:
        """Those whose answers are there, as soon as there are any; none after ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """Let go of everything but the seats, which are killed one by one."""
        ...
