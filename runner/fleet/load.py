"""What a seat has to compute, and how fast it is, as the dispatcher sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from runner.fleet.protocol import Key
from runner.sequences import Sequence

_FADING_S = 20.0  # time at work after which a speed counts half
THERE = 2  # batches of a seat that it has: one at work and one that waits
NEARLY = 0.9  # done of its rows at work is no more: answers may be longer than expected


def remaining(seconds: float) -> float:
    """The part that what was done so long ago, of time at work, has in a speed."""
    return float(0.5 ** (seconds / _FADING_S))


@dataclass(slots=True)
class Assigned:
    """A sequence, the hashes of its prefixes, and its work in tokens: ``missing`` are those of prefixes."""

    sequence: Sequence
    path: tuple[int, ...]
    own: float
    missing: float = 0.0

    @property
    def work(self) -> float:
        return self.own + self.missing


@dataclass
class Load:
    """A seat as the dispatcher sees it: what waits for it, what it has, how fast it is."""

    slots: int
    waiting: deque[Assigned] = field(default_factory=deque)
    flying: dict[Key, Assigned] = field(default_factory=dict)
    work: float = 0.0  # of both
    busy: int | None = None  # sequences at work there, the others in flight wait; None: not known
    computed: float = 0.0  # of the work of those at work
    path: tuple[int, ...] = ()  # the prefixes of what it was assigned last
    held: dict[int, None] = field(default_factory=dict)  # prefixes that it keeps for later requests of a row
    done: float = 0.0  # recently, of ``rows`` sequences in ``busy_s`` seconds
    rows: float = 0.0
    busy_s: float = 0.0
    since_s: float = 0.0  # at work since then
    is_warm: bool = False  # it has computed something: the first time, kernels may be compiled

    @property
    def want(self) -> int:
        """How many more sequences it can take."""
        return max(0, THERE * self.slots - len(self.flying))

    @property
    def queued(self) -> int:
        """How many it has that it has not begun with, as far as is known."""
        return len(self.flying) - min(self.slots if self.busy is None else self.busy, len(self.flying))

    @property
    def left(self) -> float:
        """The work that is to be done."""
        return max(0.0, self.work - self.computed)

    @property
    def rows_per_s(self) -> float:
        """What it answers in a second of work, 0 as long as that is not known."""
        return self.rows / self.busy_s if self.busy_s else 0.0

    def carry(self, one: Assigned) -> None:
        """It shall compute this one, after what it has."""
        one.missing = missing_of(one, self)
        self.work += one.work
        self.path = one.path

    def drop(self, work: float) -> None:
        """So much of its work is done or taken away."""
        self.work = max(0.0, self.work - work) if self.flying or self.waiting else 0.0

    def compute(self, more: float, ended: float) -> None:
        """It computed ``more`` tokens; those that ended were so many. What is at work is not done."""
        count = len(self.flying) + len(self.waiting)
        at_work = self.work * (len(self.flying) - self.queued) / count if count else 0.0
        self.computed = min(max(0.0, self.computed + more - ended), NEARLY * at_work)

    def hold(self, path: tuple[int, ...]) -> None:
        """It answered a request whose row may ask more, behind these prefixes; those of long ago are gone."""
        self.held = {**{one: None for one in self.held if one not in path}, **dict.fromkeys(path)}
        for one in list(self.held)[: -2 * THERE * self.slots]:
            del self.held[one]

    def saw(self, rows: int, work: float, seconds: float) -> None:
        """It did so much in a time in which it was at work; what comes in waves counts when it comes."""
        self.since_s += seconds
        if not rows and not work:
            return
        seconds, self.since_s = self.since_s, 0.0
        part = remaining(seconds)
        self.rows = part * self.rows + rows
        self.done, self.busy_s = part * self.done + work, part * self.busy_s + seconds


def missing_of(one: Assigned, load: Load) -> float:
    """The tokens of its prefixes that the seat does not hold."""
    boundaries = one.sequence.boundaries
    if not one.path or one.path == load.path or one.path[-1] in load.held:
        return 0.0
    if not load.path or load.path[0] != one.path[0]:  # most seats, and each is asked for each group
        return boundaries[-1]
    held = 0
    for mine, theirs, end in zip(one.path, load.path, boundaries, strict=False):
        if mine != theirs:
            break
        held = end
    return boundaries[-1] - held
