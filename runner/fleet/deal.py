"""Which seat computes what: by what seats do in a second, and by the prefixes that they hold. Pure.

A sequence goes to the seat that would be done with it first: the work waiting there, its own and that of prefixes which
the seat does not hold, divided by the seat's speed. Sequences come in the order of the plan, so what a seat gets is
sorted, too. A seat that runs dry takes the end of what waits for another one. When nothing waits here any more, a seat
that would be done after the others gives back what it has not begun with, and one that has nothing left computes again
what the slowest has not answered: the first answer counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from runner.fleet.post import THERE, Dealt, Hand, missing_of
from runner.fleet.wire import Key
from runner.sequences import Generation, Sequence

GRAIN = 8  # a seat's slots are filled in so many parts, each dealt as one
HERE = 1  # batches of a seat that wait here
SPARE = 1.5  # more than the others do until the slowest has done what it has
MOST_S = 60.0  # of work for a seat
_FIRST_ANSWER = 32.0  # tokens of an answer, until some are known


class Deal:
    """The sequences that are to be answered, and who has them. Seats have names; the order of joining breaks ties."""

    def __init__(self) -> None:
        self.hands: dict[str, Hand] = {}
        self.asked: dict[Key, set[str]] = {}  # not answered yet: the seats that they wait for or are at
        self.homeless: deque[Dealt] = deque()  # while there is no seat
        self.lonely: set[Key] = set()  # to be at no seat but one
        self.thefts = 0
        self._answer = _FIRST_ANSWER
        self._boundaries: tuple[int, ...] = ()  # of the sequence before, with the hashes of its prefixes
        self._path: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.asked)

    def room(self) -> int:
        """How many more sequences would keep all seats busy until the slowest has done what it has there."""
        hands = self.hands.values()
        slowest_s = max((THERE * hand.slots / hand.rows_per_s for hand in hands if hand.rows_per_s), default=0.0)
        ahead_s = min(MOST_S, SPARE * slowest_s)
        wanted = sum(max((THERE + HERE) * hand.slots, int(ahead_s * hand.rows_per_s)) for hand in hands)
        return max(0, wanted - len(self.asked))

    def speeds(self) -> dict[str, float | None]:
        """Each seat's tokens in a second of work; of a new one the mean of the others, None as long as nobody knows."""
        known = {name: hand.done / hand.busy_s for name, hand in self.hands.items() if hand.done > 0}
        mean = sum(known.values()) / len(known) if known else None
        return {name: known.get(name, mean) for name in self.hands}

    def backlogs_s(self) -> dict[str, float | None]:
        """How many seconds of work each seat has."""
        return {name: None if speed is None else self.hands[name].left / speed for name, speed in self.speeds().items()}

    def join(self, name: str, slots: int) -> None:
        """There is another seat."""
        self.hands[name] = Hand(slots)
        homeless, self.homeless = self.homeless, deque()
        self._deal(homeless)

    def leave(self, name: str) -> list[Sequence]:
        """A seat is gone; what it had in flight and nobody else has. What only waited for it goes to others."""
        hand = self.hands.pop(name)
        lost = []
        for key, dealt in hand.flying.items():
            self.lonely.discard(key)
            if (holders := self.asked.get(key)) is not None:
                holders.discard(name)
                if not holders:
                    del self.asked[key]
                    lost.append(dealt.sequence)
        self._deal(hand.waiting)
        return lost

    def add(self, sequences: Iterable[Sequence], *, again: bool = False) -> None:
        """Deal sequences, in the order of the plan; ``again``: they come before what waits."""
        dealt = [Dealt(one, self._path_of(one), self._work_of(one)) for one in sequences]
        self._deal(dealt, front=again)

    def take(self, name: str, most: int | None = None) -> list[Sequence]:
        """What a seat shall begin with now; from then on it is in flight there."""
        hand = self.hands[name]
        count = hand.want if most is None else min(most, hand.want)
        if len(hand.waiting) < count:
            self._steal(name, count - len(hand.waiting))
        taken = [hand.waiting.popleft() for _ in range(min(count, len(hand.waiting)))]
        if not taken and not hand.flying:
            taken = self._again(name)
        hand.flying.update((one.sequence.key, one) for one in taken)
        return [one.sequence for one in taken]

    def alone(self, name: str, sequence: Sequence) -> None:
        """A sequence goes to this seat past all others."""
        dealt = Dealt(sequence, self._path_of(sequence), self._work_of(sequence))
        hand = self.hands[name]
        hand.carry(dealt)
        hand.flying[sequence.key] = dealt
        self.asked[sequence.key] = {name}
        self.lonely.add(sequence.key)

    def recall(self, name: str) -> list[Sequence]:
        """What a seat has in flight waits again: it was made to forget it. What was alone there is the caller's."""
        hand = self.hands[name]
        flying, hand.flying, hand.computed = hand.flying, {}, 0.0
        mine = [(key, dealt) for key, dealt in flying.items() if self.asked.get(key) == {name}]
        hand.waiting.extendleft(dealt for key, dealt in reversed(mine) if key not in self.lonely)
        alone = [dealt.sequence for key, dealt in mine if key in self.lonely]
        for sequence in alone:
            del self.asked[sequence.key]
        return alone

    def withhold(self, name: str) -> None:
        """Give what waits for this seat to others, if there are any."""
        hand = self.hands[name]
        if len(self.hands) > 1:
            waiting, hand.waiting = hand.waiting, deque()
            hand.drop(sum(one.work for one in waiting))
            self._deal(waiting, without=name)

    def surplus(self, name: str) -> int:
        """How many of the last ones that it has not begun with a seat should give back: others would answer sooner."""
        hand = self.hands[name]
        if not hand.queued or len(self.hands) == 1 or any(one.waiting for one in self.hands.values()):
            return 0
        speeds = {one: speed or self.hands[one].slots for one, speed in self.speeds().items()}
        even_s = sum(one.left for one in self.hands.values()) / sum(speeds.values())
        most = hand.left - even_s * speeds[name]
        first = min((one for one in speeds if one != name), key=lambda one: self.hands[one].left / speeds[one])
        count, work = 0, 0.0
        for one in reversed(hand.flying.values()):
            is_mine = self.asked.get(one.sequence.key) == {name}  # not answered, nor computed again elsewhere
            if count == hand.queued or work + is_mine * one.own > most or one.sequence.key in self.lonely:
                break
            count, work = count + 1, work + is_mine * one.own
        grain = hand.slots // GRAIN if self.hands[first].queued else 1
        missing = missing_of(next(reversed(hand.flying.values())), self.hands[first])
        return count if count >= grain and (work > 2 * missing or not work) else 0

    def give_back(self, name: str, keys: Iterable[Key]) -> None:
        """A seat forgot these, which it had not begun with: others compute them."""
        hand, left = self.hands[name], []
        for key in keys:
            if (dealt := hand.flying.pop(key, None)) is None:
                continue
            hand.drop(dealt.work)
            if (holders := self.asked.get(key)) is not None:
                holders.discard(name)
                left += [] if holders else [dealt]
        if left:
            self._deal(reversed(left), without=name if len(self.hands) > 1 else None)

    def end(
        self, name: str, ended: Iterable[Generation], seconds: float, computed: int = 0, busy: int | None = None
    ) -> list[Generation]:
        """A seat answered these, after so many seconds at work, in which it computed so many tokens; those that nobody
        answered before. ``busy``: sequences that it is at.
        """
        hand = self.hands[name]
        work, rows, new = 0.0, 0, []
        for generation in ended:
            if (dealt := hand.flying.pop(generation.key, None)) is None:
                continue
            rows += 1
            self.lonely.discard(generation.key)
            work += dealt.work
            if dealt.sequence.ahead:
                hand.hold(dealt.path)
            if dealt.sequence.choices is None:
                self._answer += 0.02 * (len(generation.tokens) - self._answer)
            if self.asked.pop(generation.key, None) is not None:
                new.append(generation)
        hand.busy = busy
        hand.drop(work)
        hand.compute(computed, work)
        if hand.is_warm or not computed:
            hand.saw(rows, computed or work, seconds)
        hand.is_warm |= computed > 0
        return new

    def _work_of(self, sequence: Sequence) -> float:
        shared = sequence.boundaries[-1] if sequence.boundaries else 0
        answer = 0.0 if sequence.choices else min(self._answer, sequence.max_tokens)
        return len(sequence.tokens) - shared + answer

    def _path_of(self, sequence: Sequence) -> tuple[int, ...]:
        if sequence.boundaries is not self._boundaries:  # neighbours in a group have the very same tuple
            self._boundaries = sequence.boundaries
            self._path = tuple(hash(tuple(sequence.tokens[:end])) for end in sequence.boundaries)
        return self._path

    def _deal(self, dealt: Iterable[Dealt], *, front: bool = False, without: str | None = None) -> None:
        """Some of one group at a time go to one seat."""
        chosen, left, path = "", 0, None
        fronts: dict[str, list[Dealt]] = {}
        speeds = {name: speed or self.hands[name].slots for name, speed in self.speeds().items() if name != without}
        for one in dealt:
            if not left or one.path != path:
                path = one.path
                chosen = self._choose(one, speeds)
                left = max(1, self.hands[chosen].slots // GRAIN) if chosen else 1
            left -= 1
            self.asked[one.sequence.key] = {chosen} if chosen else set()
            if not chosen:
                self.homeless.append(one)
                continue
            hand = self.hands[chosen]
            hand.carry(one)
            (fronts.setdefault(chosen, []) if front else hand.waiting).append(one)
        for name, some in fronts.items():
            self.hands[name].waiting.extendleft(reversed(some))

    def _choose(self, one: Dealt, speeds: dict[str, float]) -> str:
        """The seat that would be done with it first."""
        hands = self.hands
        if not one.path:  # nobody holds any of it
            return min(speeds, key=lambda name: hands[name].work / speeds[name], default="")
        return min(
            speeds, key=lambda name: (hands[name].work + missing_of(one, hands[name])) / speeds[name], default=""
        )

    def _steal(self, thief: str, most: int) -> None:
        """Take the end of what waits for the seat with the most to do, in proportion to the speeds of both."""
        others = [name for name in self.hands if name != thief and self.hands[name].waiting]
        if not others:
            return
        speeds = {name: speed or 1.0 for name, speed in self.speeds().items()}
        victim = max(others, key=lambda name: self.hands[name].left / speeds[name])
        hand, other = self.hands[thief], self.hands[victim]
        mine, theirs = speeds[thief], speeds[victim]
        even = (other.left * mine - hand.left * theirs) / (mine + theirs)  # then both are done at once
        mean = sum(one.work for one in other.waiting) / len(other.waiting)
        count = min(most, len(other.waiting), max(not hand.flying, round(even / mean) if mean else 1))
        if not count:
            return
        at = _edge(other.waiting, len(other.waiting) - count)
        taken = [other.waiting.pop() for _ in range(len(other.waiting) - at)]
        for one in reversed(taken):
            other.drop(one.work)
            hand.carry(one)
            hand.waiting.append(one)
            self.asked[one.sequence.key] = {thief}
        self.thefts += 1

    def _again(self, name: str) -> list[Dealt]:
        """What this seat, which has nothing, may compute a second time: what another will not have done before it."""
        if len(self.hands) == 1 or any(hand.waiting for hand in self.hands.values()):
            return []
        hand, speed = self.hands[name], self.speeds()[name]
        if speed is None:
            return []
        late = [(left_s or 0.0, other) for other, left_s in self.backlogs_s().items() if other != name]
        left_s, slowest = max(late)
        taken: list[Dealt] = []
        for dealt in reversed(self.hands[slowest].flying.values()):  # the last ones sent are the last ones done
            holders = self.asked.get(dealt.sequence.key)
            if holders is None or len(holders) > 1 or dealt.sequence.key in self.lonely:
                continue
            if len(taken) >= hand.slots or (hand.work + dealt.work) / speed > left_s / 2:
                break
            holders.add(name)
            again = Dealt(dealt.sequence, dealt.path, dealt.own)
            hand.carry(again)
            taken.append(again)
        return taken


def _edge(waiting: deque[Dealt], at: int) -> int:
    """The place nearest to ``at``, of those with at least half as much behind them, where a group begins."""
    reach = (len(waiting) - at) // 2
    for away in range(reach + 1):
        for place in (at - away, at + away):
            if 0 < place < len(waiting) and waiting[place].path != waiting[place - 1].path:
                return place
    return max(0, at)
