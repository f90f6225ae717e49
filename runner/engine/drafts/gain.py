"""Whether drafts pay, and how long they should be: by what was accepted and what steps took.

Steps with drafts do not overlap with the work between them, as the tokens before them must be known. So they are tried
for some steps beside steps of the usual kind, for each order of magnitude of the number of sequences, and go on where
tokens come faster. A token is drafted if what is expected of it comes faster than tokens come anyway.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from runner.engine.drafts.lookup import LONGEST

MOST, FIRST = 16, 2  # tokens in a draft, and as long as nothing is known
FEW = 2  # sequences, which may have drafts while others wait
PLAIN, TRIAL = 4, 12  # steps of each kind that are compared
PAUSE, LONGEST_PAUSE = 64, 4096  # plain steps after a trial that did not pay, and at most
STALE = 512  # steps with drafts, after which plain ones are measured again
KEEP = 0.95  # of what earlier steps count, at each step
PRIOR = 4.0  # guesses that count before any is seen
FORGET = 0.005  # of those that were seen, at each step
LEAST = 0.02  # chance at which nothing is drafted, whatever it costs


@dataclass
class Line:
    """A straight line through the latest points, the older ones counting less."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        new = (1.0, x, y, x * x, x * y)
        self.weight, self.x, self.y, self.xx, self.xy = (
            KEEP * old + one for old, one in zip((self.weight, self.x, self.y, self.xx, self.xy), new, strict=True)
        )

    @property
    def slope(self) -> float | None:
        """None where all points have the same x."""
        spread = self.weight * self.xx - self.x**2
        return (self.weight * self.xy - self.x * self.y) / spread if spread > 0.1 * self.weight**2 else None


@dataclass
class Pace:
    """How fast about so many sequences come on: ``plain``, the seconds of steps without drafts, and those of steps with
    drafts by the number of tokens drafted.
    """

    plain: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    drafting: Line = field(default_factory=Line)
    tokens: float = 0.0  # for each sequence, of the latest steps with drafts,
    seconds: float = 0.0  # and what these took
    steps: int = 0
    waits: int = PLAIN  # plain steps before drafts are tried
    pause: int = PAUSE

    def saw_plain(self, seconds: float) -> None:
        self.plain.append(seconds)
        self.waits -= 1

    def saw_drafts(self, drafted: int, tokens: float, seconds: float) -> None:
        self.drafting.add(drafted, seconds)
        self.tokens, self.seconds = KEEP * self.tokens + tokens, KEEP * self.seconds + seconds
        self.steps += 1
        if self.steps % TRIAL == 0 and self.seconds > self.tokens * median(self.plain):
            self.waits, self.pause = self.pause, min(2 * self.pause, LONGEST_PAUSE)
            self.drafting, self.tokens, self.seconds, self.steps = Line(), 0.0, 0.0, 0
        elif self.steps >= STALE:
            self.waits, self.pause, self.steps = PLAIN, PAUSE, 0

    @property
    def token_s(self) -> float | None:
        """Seconds that one more drafted token takes."""
        if (slope := self.drafting.slope) is not None:
            return max(0.0, slope)
        beyond = self.drafting.y - self.drafting.weight * median(self.plain)
        return max(0.0, beyond / self.drafting.x) if self.drafting.x > 1 else None

    @property
    def rate(self) -> float:
        """Tokens a second of each sequence."""
        return self.tokens / self.seconds if self.seconds else 1 / median(self.plain)


class Gain:
    """What drafts of an engine's sequences have brought. With ``most`` all have that many tokens, whatever they cost;
    None: it is found out.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.token_s: float | None = None  # seconds of a prompt's token, which a draft's takes at most
        self._paces: dict[int, Pace] = {}
        lengths = np.arange(LONGEST + 1)
        self._expected = PRIOR * np.array([lengths / (1 + lengths), np.ones(LONGEST + 1)])
        self._guesses = self._expected.copy()  # by the length of their match: how many were right, and all

    def wanted(self, sequences: int, slots: int, waiting: bool) -> bool:
        """Whether to draft for so many sequences in so many slots; ``waiting``: there are more of them."""
        if self.most is not None:
            return self.most > 0
        return sequences <= max(FEW, 0 if waiting else slots // 2) and self._pace(sequences).waits <= 0

    def length(self, match: int, sequences: int) -> int:
        """How many tokens to draft where so many of the latest ones stood before."""
        if self.most is not None:
            return self.most
        pace = self._pace(sequences)
        if pace.waits > 0:  # some have just ended
            return 0
        right, tried = self._guesses[:, match].tolist()
        chance = right / tried
        cost = pace.token_s if pace.token_s is not None else self.token_s
        if cost is None:
            return FIRST
        worth = max(LEAST, cost * pace.rate * sequences)
        return 0 if worth >= chance else min(MOST, int(math.log(worth) / math.log(min(chance, 0.99))))

    def saw_prompts(self, tokens: int, seconds: float) -> None:
        """A step that computed so many tokens, most of them of prompts."""
        found = seconds / tokens
        self.token_s = found if self.token_s is None else KEEP * self.token_s + (1 - KEEP) * found

    def saw_plain(self, sequences: int, seconds: float) -> None:
        """A step that decoded a token of each sequence."""
        self._pace(sequences).saw_plain(seconds)

    def saw_drafts(self, sequences: int, drafted: int, accepted: int, seconds: float) -> None:
        """A step that knew the tokens before it: one of each sequence, and those drafted."""
        pace = self._pace(sequences)
        if pace.waits <= 0:
            pace.saw_drafts(drafted, 1 + accepted / sequences, seconds)
        self._guesses += FORGET * (self._expected - self._guesses)

    def saw_guess(self, match: int, right: bool) -> None:
        """Whether a drafted token is what was drawn; those behind a wrong one are no guesses."""
        self._guesses[:, match] = KEEP * self._guesses[:, match] + (right, 1)

    def _pace(self, sequences: int) -> Pace:
        return self._paces.setdefault(sequences.bit_length(), Pace())
