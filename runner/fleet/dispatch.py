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

from runner.fleet.load import THERE, Assigned, Load, missing_of
from runner.fleet.protocol import Key
from runner.sequences import Generation, Sequence

GRAIN = 8  # a seat's slots are filled in so many parts, each assigned as one
HERE = 1  # batches of a seat that wait here
SPARE = 1.5  # more than the others do until the slowest has done what it has
MOST_S = 60.0  # of work for a seat
_FIRST_ANSWER = 32.0  # tokens of an answer, until some are known


class Dispatch:
    """The sequences that are to be answered, and who has them. Seats have names; the order of joining breaks ties."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self.asked: dict[Key, set[str]] = {}  # not answered yet: the seats that they wait for or are at
        self.homeless: deque[Assigned] = deque()  # while there is no seat
        self.lonely: set[Key] = set()  # to be at no seat but one
        self.thefts = 0
        self._answer = _FIRST_ANSWER
        self._boundaries: tuple[int, ...] = ()  # of the sequence before, with the hashes of its prefixes
        self._path: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.asked)

    def room(self) -> int:
        """How many more sequences would keep all seats busy until the slowest has done what it has there."""
        loads = self.loads.values()
        slowest_s = max((THERE * load.slots / load.rows_per_s for load in loads if load.rows_per_s), default=0.0)
        ahead_s = min(MOST_S, SPARE * slowest_s)
        wanted = sum(max((THERE + HERE) * load.slots, int(ahead_s * load.rows_per_s)) for load in loads)
        return max(0, wanted - len(self.asked))

    def speeds(self) -> dict[str, float | None]:
        """Each seat's tokens in a second of work; of a new one the mean of the others, None as long as nobody knows."""
        known = {name: load.done / load.busy_s for name, load in self.loads.items() if load.done > 0}
        mean = sum(known.values()) / len(known) if known else None
        return {name: known.get(name, mean) for name in self.loads}

    def backlogs_s(self) -> dict[str, float | None]:
        """How many seconds of work each seat has."""
        return {name: None if speed is None else self.loads[name].left / speed for name, speed in self.speeds().items()}

    def join(self, name: str, slots: int) -> None:
        """There is another seat."""
        self.loads[name] = Load(slots)
        homeless, self.homeless = self.homeless, deque()
        self._dispatch(homeless)

    def leave(self, name: str) -> list[Sequence]:
        """A seat is gone; what it had in flight and nobody else has. What only waited for it goes to others."""
        load = self.loads.pop(name)
        lost = []
        for key, assigned in load.flying.items():
            self.lonely.discard(key)
            if (holders := self.asked.get(key)) is not None:
                holders.discard(name)
                if not holders:
                    del self.asked[key]
                    lost.append(assigned.sequence)
        self._dispatch(load.waiting)
        return lost

    def add(self, sequences: Iterable[Sequence], *, again: bool = False) -> None:
        """Assign sequences, in the order of the plan; ``again``: they come before what waits."""
        assigned = [Assigned(one, self._path_of(one), self._work_of(one)) for one in sequences]
        self._dispatch(assigned, front=again)

    def take(self, name: str, most: int | None = None) -> list[Sequence]:
        """What a seat shall begin with now; from then on it is in flight there."""
        load = self.loads[name]
        count = load.want if most is None else min(most, load.want)
        if len(load.waiting) < count:
            self._steal(name, count - len(load.waiting))
        taken = [load.waiting.popleft() for _ in range(min(count, len(load.waiting)))]
        if not taken and not load.flying:
            taken = self._again(name)
        load.flying.update((one.sequence.key, one) for one in taken)
        return [one.sequence for one in taken]

    def alone(self, name: str, sequence: Sequence) -> None:
        """A sequence goes to this seat past all others."""
        assigned = Assigned(sequence, self._path_of(sequence), self._work_of(sequence))
        load = self.loads[name]
        load.carry(assigned)
        load.flying[sequence.key] = assigned
        self.asked[sequence.key] = {name}
        self.lonely.add(sequence.key)

    def recall(self, name: str) -> list[Sequence]:
        """What a seat has in flight waits again: it was made to forget it. What was alone there is the caller's."""
        load = self.loads[name]
        flying, load.flying, load.computed = load.flying, {}, 0.0
        mine = [(key, assigned) for key, assigned in flying.items() if self.asked.get(key) == {name}]
        load.waiting.extendleft(assigned for key, assigned in reversed(mine) if key not in self.lonely)
        alone = [assigned.sequence for key, assigned in mine if key in self.lonely]
        for sequence in alone:
            del self.asked[sequence.key]
        return alone

    def withhold(self, name: str) -> None:
        """Give what waits for this seat to others, if there are any."""
        load = self.loads[name]
        if len(self.loads) > 1:
            waiting, load.waiting = load.waiting, deque()
            load.drop(sum(one.work for one in waiting))
            self._dispatch(waiting, without=name)

    def surplus(self, name: str) -> int:
        """How many of the last ones that it has not begun with a seat should give back: others would answer sooner."""
        load = self.loads[name]
        if not load.queued or len(self.loads) == 1 or any(one.waiting for one in self.loads.values()):
            return 0
        speeds = {one: speed or self.loads[one].slots for one, speed in self.speeds().items()}
        even_s = sum(one.left for one in self.loads.values()) / sum(speeds.values())
        most = load.left - even_s * speeds[name]
        first = min((one for one in speeds if one != name), key=lambda one: self.loads[one].left / speeds[one])
        count, work = 0, 0.0
        for one in reversed(load.flying.values()):
            is_mine = self.asked.get(one.sequence.key) == {name}  # not answered, nor computed again elsewhere
            if count == load.queued or work + is_mine * one.own > most or one.sequence.key in self.lonely:
                break
            count, work = count + 1, work + is_mine * one.own
        grain = load.slots // GRAIN if self.loads[first].queued else 1
        missing = missing_of(next(reversed(load.flying.values())), self.loads[first])
        return count if count >= grain and (work > 2 * missing or not work) else 0

    def give_back(self, name: str, keys: Iterable[Key]) -> None:
        """A seat forgot these, which it had not begun with: others compute them."""
        load, left = self.loads[name], []
        for key in keys:
            if (assigned := load.flying.pop(key, None)) is None:
                continue
            load.drop(assigned.work)
            if (holders := self.asked.get(key)) is not None:
                holders.discard(name)
                left += [] if holders else [assigned]
        if left:
            self._dispatch(reversed(left), without=name if len(self.loads) > 1 else None)

    def end(
        self, name: str, ended: Iterable[Generation], seconds: float, computed: int = 0, busy: int | None = None
    ) -> list[Generation]:
        """A seat answered these, after so many seconds at work, in which it computed so many tokens; those that nobody
        answered before. ``busy``: sequences that it is at.
        """
        load = self.loads[name]
        work, rows, new = 0.0, 0, []
        for generation in ended:
            if (assigned := load.flying.pop(generation.key, None)) is None:
                continue
            rows += 1
            self.lonely.discard(generation.key)
            work += assigned.work
            if assigned.sequence.ahead:
                load.hold(assigned.path)
            if assigned.sequence.choices is None:
                self._answer += 0.02 * (len(generation.tokens) - self._answer)
            if self.asked.pop(generation.key, None) is not None:
                new.append(generation)
        load.busy = busy
        load.drop(work)
        load.compute(computed, work)
        if load.is_warm or not computed:
            load.saw(rows, computed or work, seconds)
        load.is_warm |= computed > 0
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

    def _dispatch(self, assigned: Iterable[Assigned], *, front: bool = False, without: str | None = None) -> None:
        """Some of one group at a time go to one seat."""
        chosen, left, path = "", 0, None
        fronts: dict[str, list[Assigned]] = {}
        speeds = {name: speed or self.loads[name].slots for name, speed in self.speeds().items() if name != without}
        for one in assigned:
            if not left or one.path != path:
                path = one.path
                chosen = self._choose(one, speeds)
                left = max(1, self.loads[chosen].slots // GRAIN) if chosen else 1
            left -= 1
            self.asked[one.sequence.key] = {chosen} if chosen else set()
            if not chosen:
                self.homeless.append(one)
                continue
            load = self.loads[chosen]
            load.carry(one)
            (fronts.setdefault(chosen, []) if front else load.waiting).append(one)
        for name, some in fronts.items():
            self.loads[name].waiting.extendleft(reversed(some))

    def _choose(self, one: Assigned, speeds: dict[str, float]) -> str:
        """The seat that would be done with it first."""
        loads = self.loads
        if not one.path:  # nobody holds any of it
            return min(speeds, key=lambda name: loads[name].work / speeds[name], default="")
        return min(
            speeds,
            key=lambda name: (loads[name].work + missing_of(one, loads[name])) / speeds[name],
            default="",
        )

    def _steal(self, thief: str, most: int) -> None:
        """Take the end of what waits for the seat with the most to do, in proportion to the speeds of both."""
        others = [name for name in self.loads if name != thief and self.loads[name].waiting]
        if not others:
            return
        speeds = {name: speed or 1.0 for name, speed in self.speeds().items()}
        victim = max(others, key=lambda name: self.loads[name].left / speeds[name])
        load, other = self.loads[thief], self.loads[victim]
        mine, theirs = speeds[thief], speeds[victim]
        even = (other.left * mine - load.left * theirs) / (mine + theirs)  # then both are done at once
        mean = sum(one.work for one in other.waiting) / len(other.waiting)
        count = min(most, len(other.waiting), max(not load.flying, round(even / mean) if mean else 1))
        if not count:
            return
        at = _edge(other.waiting, len(other.waiting) - count)
        taken = [other.waiting.pop() for _ in range(len(other.waiting) - at)]
        for one in reversed(taken):
            other.drop(one.work)
            load.carry(one)
            load.waiting.append(one)
            self.asked[one.sequence.key] = {thief}
        self.thefts += 1

    def _again(self, name: str) -> list[Assigned]:
        """What this seat, which has nothing, may compute a second time: what another will not have done before it."""
        if len(self.loads) == 1 or any(load.waiting for load in self.loads.values()):
            return []
        load, speed = self.loads[name], self.speeds()[name]
        if speed is None:
            return []
        late = [(left_s or 0.0, other) for other, left_s in self.backlogs_s().items() if other != name]
        left_s, slowest = max(late)
        taken: list[Assigned] = []
        for assigned in reversed(self.loads[slowest].flying.values()):  # the last ones sent are the last ones done
            holders = self.asked.get(assigned.sequence.key)
            if holders is None or len(holders) > 1 or assigned.sequence.key in self.lonely:
                continue
            if len(taken) >= load.slots or (load.work + assigned.work) / speed > left_s / 2:
                break
            holders.add(name)
            again = Assigned(assigned.sequence, assigned.path, assigned.own)
            load.carry(again)
            taken.append(again)
        return taken


def _edge(waiting: deque[Assigned], at: int) -> int:
    """The place nearest to ``at``, of those with at least half as much behind them, where a group begins."""
    reach = (len(waiting) - at) // 2
    for away in range(reach + 1):
        for place in (at - away, at + away):
            if 0 < place < len(waiting) and waiting[place].path != waiting[place - 1].path:
                return place
    return max(0, at)
