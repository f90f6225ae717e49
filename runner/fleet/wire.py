"""What goes to a seat and comes back: plain data only."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from runner.engine.conf import EngineConf
from runner.models.recipes import ModelConf
from runner.sequences import Costs, Gauge, Generation, Sequence, Work

WIRE = 1  # the version of all this

Key = tuple[int, int]


class Spec(NamedTuple):
    """What a seat is opened with. ``share``: of the usual batch size and KV memory."""

    model: ModelConf
    engine: EngineConf
    chat: bool = True
    stop: tuple[str, ...] = ()
    offline: bool = False
    keep_awake: bool = True
    share: float = 1.0


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


class Ask(NamedTuple):
    """A sequence on its way; ``ids``: its tokens as 32-bit numbers, the least significant byte first."""

    ids: bytes
    others: dict[str, Any]  # its other fields

    @classmethod
    def of(cls, sequence: Sequence) -> Ask:
        """The sequence in this form."""
        others = dict(vars(sequence))
        return cls(array("I", others.pop("tokens")).tobytes(), others)

    def sequence(self) -> Sequence:
        """The inverse of ``of``."""
        return Sequence(tokens=list(memoryview(self.ids).cast("I")), **self.others)


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
