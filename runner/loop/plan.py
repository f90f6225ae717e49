"""The order in which waiting sequences are computed, and the prefixes they share. Pure: no MLX.

Sorted token ids are the prefix trie in depth-first order: neighbours share the most. The pool is swept in that order
like a lift that starts again at the bottom; sequences that arrive join it, at the latest when half of those that wait
are new. Within one prefix, the older ones come first, and of these the longest: neighbours are of similar length, and
no long one is left for the end. A request that its row announced comes next, while the engine holds what it shares.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from runner.sequences import Costs, Sequence

TOKEN_BYTES = 4
MOST_SEEN = 100_000  # prefixes that are remembered to have been taken: some 10 MB
MOST_HELD = 10_000  # rows whose later requests are awaited: far more than an engine holds prefixes of
OTHER = b"\xff" * TOKEN_BYTES  # no token's key
EXPECTED = -1  # the age of a request that may come
_KEY, _AGE, _WORK = map(itemgetter, range(3))


class Interval(NamedTuple):
    """Sorted sequences [start, stop) that share their first ``depth`` tokens, a node of the prefix trie."""

    start: int
    depth: int
    stop: int


class Waiting(NamedTuple):
    """A sequence, its sort key, the number of the plan that first saw it (older ones go first), and its work: the
    tokens to compute, those of the answer included.
    """

    key: bytes
    age: int
    work: int
    sequence: Sequence


@dataclass(slots=True)
class Group:
    """Waiting sequences with the same planned prefix, in the order of their turns. ``key`` is the prefix's sort key."""

    key: bytes
    boundaries: tuple[int, ...]
    members: deque[Waiting] = field(default_factory=deque)


class Plan:
    """The pool of waiting sequences. ``costs`` decide which prefixes are worth a snapshot.

    ``shareable`` counts the prompt tokens, of those ``taken`` so far, that a cache of MOST_SEEN prefixes would have
    served: all but the first occurrence of every planned prefix, and prompts ``served`` with a known answer.
    """

    def __init__(self, costs: Costs | None = None) -> None:
        self.costs = costs or Costs()
        self.shareable = 0
        self.taken = 0
        self.served = 0
        self.tokens = 0  # waiting
        self._count = 0
        self._new: list[Waiting] = []
        self._next: deque[Waiting] = deque()  # before all others
        self._held: dict[int, list[tuple[int, tuple[int, ...]]]] = {}  # by row: prefixes, as hash and boundaries
        self._groups: deque[Group] = deque()
        self._last = Group(b"", ())
        self._age = 0
        self._seen: dict[int, None] = {}  # the latest prefixes, the oldest first
        self._boundaries: tuple[int, ...] = ()  # of the sequence taken last
        self._prefixes: list[int] = []  # and their hashes

    def __len__(self) -> int:
        return self._count

    def add(self, sequences: list[Sequence]) -> None:
        """Let sequences wait. Later requests of a row join at once if their prefix is held or the one being taken."""
        for sequence in sequences:
            tokens = len(sequence.tokens)
            work = tokens + (0 if sequence.choices else sequence.max_tokens)
            waiting = Waiting(sort_key(sequence.ids), self._age, work, sequence)
            self.tokens += tokens
            if sequence.key[1] and (boundaries := self._awaited(waiting)):
                sequence.boundaries = boundaries
                self._next.append(waiting)
            elif sequence.key[1] and self._last.key and waiting.key.startswith(self._last.key):
                self._current().members.append(waiting)
            else:
                self._new.append(waiting)
        self._count += len(sequences)

    def take(self, count: int) -> list[Sequence]:
        """The next ``count`` sequences, or all that wait; sets their ``boundaries``."""
        taken: list[Sequence] = []
        while len(taken) < count and self._count:
            some = [self._next.popleft()] if self._next else self._planned(count - len(taken))
            for one in some:
                if one.sequence.ahead:
                    self._await(one)
                if one.sequence.boundaries:
                    self._account(one.key, one.sequence.boundaries)
            taken += [one.sequence for one in some]
            tokens = sum([len(one.sequence.tokens) for one in some])
            self._count -= len(some)
            self.tokens -= tokens
            self.taken += tokens
        return taken

    def serve(self, tokens: int) -> None:
        """Count a prompt that needs no computing, as its answer is known."""
        self.taken += tokens
        self.shareable += tokens
        self.served += tokens

    def _planned(self, most: int) -> list[Waiting]:
        """The next ones in the order of the plan, of one group."""
        if 2 * len(self._new) >= self._count:
            self._plan()
        self._last = group = self._groups[0]
        count = min(most, len(group.members), self._count - 2 * len(self._new))  # then it is time for another plan
        some = [group.members.popleft() for _ in range(count)]
        for one in some:
            one.sequence.boundaries = _inside(group.boundaries, len(one.sequence.tokens))
        if not group.members:
            self._groups.popleft()
        return some

    def _await(self, one: Waiting) -> None:
        """Remember what the engine holds for the row's later requests, the longest prefix first."""
        row, boundaries = one.sequence.key[0], one.sequence.boundaries
        self._held.pop(row, None)
        ends = [end for end, boundary in enumerate(boundaries, 1) if boundary <= one.sequence.ahead]
        if held := [(_hash(one.key, boundaries[end - 1]), boundaries[:end]) for end in reversed(ends)]:
            self._held[row] = held
            if len(self._held) > MOST_HELD:
                del self._held[next(iter(self._held))]

    def _awaited(self, one: Waiting) -> tuple[int, ...]:
        """The boundaries of what is held for it, as far as it begins with that."""
        for prefix, boundaries in self._held.get(one.sequence.key[0], ()):
            if boundaries[-1] < len(one.sequence.tokens) and _hash(one.key, boundaries[-1]) == prefix:
                return boundaries
        return ()

    def _current(self) -> Group:
        """The group that was taken from last, reopened if it was empty."""
        if not self._groups or self._groups[0].key != self._last.key:
            self._groups.appendleft(Group(self._last.key, self._last.boundaries))
        return self._groups[0]

    def _plan(self) -> None:
        """Sort all that wait into groups, the lift going on from where it is."""
        waiting = [*self._new, *(one for group in self._groups for one in group.members)]
        if self.costs.holds:
            waiting += _expected(waiting)
        waiting.sort(key=_KEY)
        groups: dict[bytes, Group] = {}
        planned = plan_boundaries([one.key for one in waiting], [one.work for one in waiting], self.costs)
        group: Group | None = None
        for one, boundaries in zip(waiting, planned, strict=True):
            if group is None or boundaries is not group.boundaries:  # neighbours in a group have the very same tuple
                prefix = one.key[: boundaries[-1] * TOKEN_BYTES] if boundaries else b""
                group = groups.setdefault(prefix, Group(prefix, boundaries))
            if one.age != EXPECTED:
                group.members.append(one)
        for group in groups.values():
            group.members = deque(sorted(sorted(group.members, key=_WORK, reverse=True), key=_AGE))
        ahead = sorted(groups)
        place = bisect_left(ahead, self._last.key)
        self._groups = deque(groups[key] for key in ahead[place:] + ahead[:place] if groups[key].members)
        self._new.clear()
        self._age += 1

    def _account(self, key: bytes, boundaries: tuple[int, ...]) -> None:
        if boundaries is not self._boundaries:  # neighbours in a group have the very same tuple
            self._boundaries = boundaries
            self._prefixes = [_hash(key, boundary) for boundary in boundaries]
        start = 0
        for boundary, prefix in zip(boundaries, self._prefixes, strict=True):
            if prefix in self._seen:
                self.shareable += boundary - start
            elif len(self._seen) == MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[prefix] = None
            start = boundary


def _expected(waiting: list[Waiting]) -> list[Waiting]:
    """For each row that may ask more one request that shares what it announced, and then differs from all others."""
    ahead = {one.sequence.key[0]: one for one in waiting if one.sequence.ahead}
    return [
        Waiting(one.key[: one.sequence.ahead * TOKEN_BYTES] + OTHER, EXPECTED, one.work, one.sequence)
        for one in ahead.values()
    ]


def _inside(boundaries: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """Those before the last of so many tokens."""
    return boundaries if not boundaries or boundaries[-1] < tokens else tuple(b for b in boundaries if b < tokens)


def _hash(key: bytes, tokens: int) -> int:
    """Of so many of its first tokens."""
    return hash(key[: tokens * TOKEN_BYTES])


def sort_key(tokens: bytes | list[int]) -> bytes:
    """Bytes that compare as the token ids do, which are given as ``Sequence.ids`` or one by one."""
    ids = array("I", tokens)
    ids.byteswap()
    return ids.tobytes()


def common_prefix(a: bytes, b: bytes, guess: int = 0) -> int:
    """How many leading tokens two sort keys share; found at once if it is the ``guess``."""
    at = guess * TOKEN_BYTES
    if a[:at] == b[:at] and a[at : at + TOKEN_BYTES] != b[at : at + TOKEN_BYTES]:
        return guess
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size // TOKEN_BYTES
    differ = np.frombuffer(a, np.uint32, size // TOKEN_BYTES) != np.frombuffer(b, np.uint32, size // TOKEN_BYTES)
    return int(differ.argmax())


def plan_boundaries(keys: list[bytes], work: list[int], costs: Costs) -> list[tuple[int, ...]]:
    """For each of some sorted keys: the token counts, ascending, at which its prefix is worth a snapshot.

    ``work``: the tokens to compute for each without a prefix. A boundary is worth a snapshot when the tokens it saves
    all sequences but the first exceed its cost.
    """
    shared: list[int] = []
    depth = 0
    for a, b in pairwise(keys):
        depth = common_prefix(a, b, depth)  # neighbours tend to share what the ones before them do
        shared.append(depth)
    total = [0, *accumulate(work)]
    boundaries: list[tuple[int, ...]] = [()] * len(keys)
    for start, depth, stop in sorted(_intervals(shared)):
        path = boundaries[start]
        depth = min(depth, len(keys[start]) // TOKEN_BYTES - 1)  # a sequence holds back its last token
        saved = (depth - (path[-1] if path else 0)) * (stop - start - 1)
        behind = total[stop] - total[start] - depth * (stop - start)
        if saved > costs.snapshot + costs.level * behind:
            boundaries[start:stop] = [(*path, depth)] * (stop - start)
    return boundaries


def _intervals(shared: list[int]) -> list[Interval]:
    """The inner nodes of the trie over sorted sequences, from the lengths that neighbours share (Abouelhoda 2004)."""
    found: list[Interval] = []
    stack: list[tuple[int, int]] = []  # depth, start
    for place, depth in enumerate([*shared, 0]):
        start = place
        while stack and stack[-1][0] > depth:
            deeper, start = stack.pop()
            found.append(Interval(start, deeper, place + 1))
        if depth > (stack[-1][0] if stack else 0):
            stack.append((depth, start))
    return found
