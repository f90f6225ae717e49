"""What goes to a seat and comes back, plain data only, and the way that it goes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from runner.engine.conf import EngineConf
from runner.models.recipes import ModelConf
from runner.sequences import Costs, Gauge, Generation, Sequence, Work

PROTOCOL = 6  # the version of all this

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


class Handshake(NamedTuple):
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
# significant byte first; what is its own; its other fields, with numbers in place of those in COMMON: the very same
# object as long as they stay the same, which is packed once; what these numbers mean from here on, if the seat does not
# know it. Plain tuples are packed faster than those with names, and than objects.
Ask = tuple[int, bytes, tuple[Any, ...], tuple[Any, ...], dict[int, Any]]
OWN = ("key", "draw_seed")
OTHERS = tuple(one.name for one in fields(Sequence) if one.name not in ("tokens", *OWN))
COMMON = ("choices", "grammar")  # may be large, and are often those of other sequences, too
ID_BYTES = 4
KNOWN = 16  # such values that a seat keeps: the latest it has not seen before
_own, _others = attrgetter(*OWN), attrgetter(*OTHERS)


class Sender:
    """Puts sequences into this form for one process of a seat, in the order in which it gets them."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._values: list[Any] = [None] * KNOWN  # by number
        self._next = 0

    def asks_of(self, sequences: Iterable[Sequence]) -> list[Ask]:
        """The sequences; a prefix that neighbours share goes once, and what all of them have in common once a seat."""
        asks = []
        boundaries: tuple[int, ...] = ()
        before: tuple[Any, ...] = ()
        sent: tuple[Any, ...] = ()
        for sequence in sequences:
            new = dict[int, Any]()
            if (others := _others(sequence)) != before:
                before, sent = others, self._numbered(others, new)
            is_shared = sequence.boundaries and sequence.boundaries is boundaries  # the very same tuple: of one group
            boundaries = sequence.boundaries
            held = boundaries[-1] if is_shared else 0
            asks.append((held, sequence.ids[held * ID_BYTES :], _own(sequence), sent, new))
        return asks

    def _numbered(self, others: tuple[Any, ...], new: dict[int, Any]) -> tuple[Any, ...]:
        return tuple(
            self._number(value, new) if name in COMMON and value is not None else value
            for name, value in zip(OTHERS, others, strict=True)
        )

    def _number(self, value: Any, new: dict[int, Any]) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._next
            self._numbers.pop(self._values[number], None)
            self._numbers[value], self._values[number] = number, value
            self._next = (number + 1) % KNOWN
            new[number] = value
        return number


class Receiver:
    """The inverse of a ``Sender``: gets all that it makes, in the same order."""

    def __init__(self) -> None:
        self._values: dict[int, Any] = {}

    def sequences_of(self, asks: Iterable[Ask]) -> list[Sequence]:
        """The sequences."""
        sequences = []
        tokens: list[int] = []
        shared: list[int] = []
        before: tuple[Any, ...] | None = None
        named: dict[str, Any] = {}
        for held, ids, own, others, new in asks:
            self._values.update(new)
            if others is not before:
                before, named = others, self._named(others)
            if held != len(shared):
                shared = tokens[:held]
            tokens = shared.copy()
            tokens.extend(memoryview(ids).cast("I"))
            sequences.append(Sequence(tokens=tokens, **dict(zip(OWN, own, strict=True)), **named))
        return sequences

    def _named(self, others: tuple[Any, ...]) -> dict[str, Any]:
        named = dict(zip(OTHERS, others, strict=True))
        return named | {name: self._values[named[name]] for name in COMMON if named[name] is not None}


def packed(message: Any) -> bytes:
    """What goes through a pipe or a network, once and for all: whoever hands it on need not look into it."""
    return pickle.dumps(message, 5)


class Turn(NamedTuple):
    """What came of a seat since the turn before. ``back``: what it forgot, as it was asked to. ``slots``: sequences at
    once. ``steps`` and ``work``: so far.
    """

    number: int
    ended: list[Generation]
    back: list[Key]
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

    def is_taken(self, place: str) -> bool | None:
        """Whether another program has this place, so that a seat waits there, or would; None: nobody can say."""
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
