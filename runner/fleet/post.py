"""A seat as the driver knows it: what it is, what it has to do, how far it is, how often it died."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from runner.fleet.wire import Hello, Key, Link, Sender
from runner.sequences import Gauge, Sequence, Work

SHRINK, LEAST_SHARE = 0.7, 0.05  # of the budget, for each death caused by lack of memory
_LONGEST_PAUSE_S = 60.0  # before it is started again
FADING_S = 20.0  # time at work after which a speed counts half
THERE = 2  # batches of a seat that it has: one at work and one that waits
NEARLY = 0.9  # done of its rows at work is no more: answers may be longer than expected


@dataclass
class Post:
    """A place for a seat. ``link`` is None while no process is there, ``hello`` while its model loads."""

    place: str
    memory_deaths: int = 0
    link: Link | None = None
    sender: Sender = field(default_factory=Sender)  # to the process at the other end of the link
    hello: Hello | None = None
    seat: int = 0  # its number in the checkpoint
    is_called: bool = False
    has_answered: bool = False  # anything at all
    called_at: float = 0.0
    since: float = 0.0  # when it was last seen at work
    silent_s: float = 0.0  # without an answer
    still_s: float = 0.0  # without a step
    turn: int = 0
    steps: int = -1
    gauge: Gauge = field(default_factory=Gauge)
    work: Work = field(default_factory=Work)
    slots: int = 0
    answers: int = 0  # in this session
    deaths: int = 0
    fruitless: int = 0  # deaths in a row without an answer in between
    again_at: float = 0.0
    left_out: str | None = None  # why nobody waits for it any more
    _recent: float = 0.0
    _recent_s: float = 0.0

    @property
    def share(self) -> float:
        """Of the usual batch size and KV memory."""
        return max(LEAST_SHARE, float(SHRINK**self.memory_deaths))

    @property
    def rows_per_s(self) -> float:
        """Answers in a second of its recent work."""
        return self._recent / self._recent_s if self._recent_s else 0.0

    def saw(self, answers: int, seconds: float) -> None:
        """It gave so many answers in so much time at work."""
        fading = 0.5 ** (seconds / FADING_S)
        self._recent = fading * self._recent + answers
        self._recent_s = fading * self._recent_s + seconds
        self.answers += answers
        if answers:
            self.fruitless = 0

    def open(self, link: Link, now: float) -> None:
        """Its process was started."""
        self.link, self.hello, self.has_answered = link, None, False
        self.sender = Sender()
        self.silent_s = self.still_s = 0.0
        self.turn, self.steps = 0, -1
        self.called_at = now

    def call(self, now: float, method: str, *arguments: Any) -> None:
        """Call a method of the seat."""
        assert self.link is not None
        self.is_called, self.called_at, self.silent_s = True, now, 0.0
        self.link.call(method, *arguments)

    def die(self, now: float) -> None:
        """Its process is gone, or not to be waited for any more."""
        if self.link is not None:
            self.link.kill()
        self.link = self.hello = None
        self.is_called = False
        self.gauge, self.work, self.slots = Gauge(), Work(), 0
        self.deaths += 1
        self.fruitless += 1
        self.again_at = now + (min(_LONGEST_PAUSE_S, 2.0 ** (self.fruitless - 2)) if self.fruitless > 1 else 0.0)

    def facts(self, state: str, backlog: int, backlog_s: float | None) -> dict[str, Any]:
        """What the checkpoint knows of its work."""
        return {
            "state": state,
            "answers": self.answers,
            "rows_per_s": round(self.rows_per_s, 3),
            "backlog": backlog,
            "backlog_s": None if backlog_s is None else round(backlog_s, 2),
            "slots": self.slots,
            "deaths": self.deaths,
            "memory_deaths": self.memory_deaths,
            "share": self.share,
        }


@dataclass(slots=True)
class Dealt:
    """A sequence, the hashes of its prefixes, and its work in tokens: ``missing`` are those of prefixes."""

    sequence: Sequence
    path: tuple[int, ...]
    own: float
    missing: float = 0.0

    @property
    def work(self) -> float:
        return self.own + self.missing


@dataclass
class Hand:
    """A seat as the dealer sees it: what waits for it, what it has, how fast it is."""

    slots: int
    waiting: deque[Dealt] = field(default_factory=deque)
    flying: dict[Key, Dealt] = field(default_factory=dict)
    work: float = 0.0  # of both
    busy: int | None = None  # sequences at work there, the others in flight wait; None: not known
    computed: float = 0.0  # of the work of those at work
    path: tuple[int, ...] = ()  # the prefixes of what it was dealt last
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

    def carry(self, one: Dealt) -> None:
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
        fading = 0.5 ** (seconds / FADING_S)
        self.rows = fading * self.rows + rows
        self.done, self.busy_s = fading * self.done + work, fading * self.busy_s + seconds


def missing_of(one: Dealt, hand: Hand) -> float:
    """The tokens of its prefixes that the seat does not hold."""
    boundaries = one.sequence.boundaries
    if not one.path or one.path == hand.path or one.path[-1] in hand.held:
        return 0.0
    if not hand.path or hand.path[0] != one.path[0]:  # most seats, and each is asked for each group
        return boundaries[-1]
    held = 0
    for mine, theirs, end in zip(one.path, hand.path, boundaries, strict=False):
        if mine != theirs:
            break
        held = end
    return boundaries[-1] - held
