"""A seat as the driver knows it: what it is, how far it is, how often it died."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.fleet.load import remaining
from runner.fleet.protocol import Handshake, Link, Sender
from runner.sequences import Gauge, Work

SHRINK, LEAST_SHARE = 0.7, 0.05  # of the budget, for each death caused by lack of memory
_LONGEST_PAUSE_S = 60.0  # before it is started again


@dataclass
class Member:
    """A place for a seat. ``link`` is None while no process is there, ``handshake`` while its model loads."""

    place: str
    memory_deaths: int = 0
    link: Link | None = None
    sender: Sender = field(default_factory=Sender)  # to the process at the other end of the link
    handshake: Handshake | None = None
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
    def is_starting(self) -> bool:
        """Whether its process has not answered anything yet."""
        return self.link is not None and not self.has_answered

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
        part = remaining(seconds)
        self._recent = part * self._recent + answers
        self._recent_s = part * self._recent_s + seconds
        self.answers += answers
        if answers:
            self.fruitless = 0

    def open(self, link: Link, now: float) -> None:
        """Its process was started."""
        self.link, self.handshake, self.has_answered = link, None, False
        self.sender = Sender()
        self.silent_s = self.still_s = 0.0
        self.turn, self.steps = 0, -1
        self.called_at = now

    def call(self, now: float, method: str, *arguments: Any) -> None:
        """Call a method of the seat."""
        assert self.link is not None
        self.is_called, self.called_at, self.silent_s = True, now, 0.0
        self.link.call(method, *arguments)

    def let_go(self) -> None:
        """Its process is not needed any more."""
        if self.link is not None:
            self.link.kill()
        self.link = self.handshake = None
        self.is_called = False

    def die(self, now: float) -> None:
        """Its process is gone, or not to be waited for any more."""
        self.let_go()
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
