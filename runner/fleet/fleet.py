"""A fleet: many seats behind what the loop takes for one engine."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from runner.checkpoint.deaths import Flight
from runner.checkpoint.seats import Seats
from runner.fleet.conf import FleetConf
from runner.fleet.dispatch import Dispatch
from runner.fleet.member import Member
from runner.fleet.membership import WAIT_S, Membership
from runner.fleet.protocol import GoneError, Handshake, Spec, Transport, Turn
from runner.night.guard import Quarantine
from runner.sequences import Costs, Gauge, Generation, Sequence, Work

log = logging.getLogger("rowmill")

COMMIT_S, COMMIT_ANSWERS = 0.05, 64  # answers are handed on after so long, or when there are so many
STEP_S = 0.25  # after which a step ends even without an answer
NOTE_S = 1.0  # between two notes of what seats do
HEARTBEAT_S = 5.0  # between two calls of a seat that has nothing to do
DRAIN_S = 5.0  # for the turns in flight when the run is to end
# For how long a seat gathers answers: the longer, the fewer turns. With enough waiting there, it need not hurry.
LINGER_S, LINGER_SEAT_S, LINGER_MOST_S, STOCKED_S = 0.02, 0.002, 0.5, 0.25

Wait = Callable[[Callable[[], None], Callable[[], None]], bool]


class Fleet:
    """An Engine whose sequences are computed by seats; see the protocol.

    Nothing is in flight in this process: ``flight`` gets beats but no rows. ``ours``: what seats must not differ from.
    ``wait``: see ``GuardedEngine``. ``stopped``: an end is asked for, and nothing new shall begin. ``tell`` gets what
    goes on while no seat is at work, None once one is again. ``quarantines``: a row that killed seats again and again
    is given up. Raises UserError, exit code 3, when no seat is left, and KeyboardInterrupt if the end comes before the
    first one is there.
    """

    def __init__(
        self,
        transport: Transport,
        spec: Spec,
        ours: Handshake,
        conf: FleetConf,
        seats: Seats,
        flight: Flight,
        wait: Wait = lambda beat, release: True,
        stopped: Callable[[], bool] = lambda: False,
        tell: Callable[[str | None], None] = lambda doing: None,
        quarantines: bool = True,
    ) -> None:
        self.membership = Membership(transport, spec, ours, conf, seats, self._joined, self._gone)
        self.dispatch = Dispatch()
        self._seats, self._flight, self._wait, self._stopped = seats, flight, wait, stopped
        self._quarantines = quarantines
        self._quarantine = Quarantine()
        self._see_deaths()
        self._apart: deque[Sequence] = deque()  # to be computed one at a time
        self._hermit: str | None = None  # where that is done
        self._ended: list[Generation] = []  # not handed on yet
        self._handed = 0  # answers that the last step handed on: on disk when the next one begins
        self._noted = time.monotonic()
        self._tell = tell
        self._doing: str | None = ""  # while no seat is at work
        flight.work(True)
        try:
            self._await_first()
        except BaseException:
            self.close()
            raise

    @property
    def work(self) -> Work:
        """See Engine."""
        return self.membership.work

    @property
    def costs(self) -> Costs:
        """See Engine."""
        return self.membership.costs

    @property
    def batch_size(self) -> int:
        """See Engine."""
        return sum(member.slots for member in self.membership.at_work())

    def gauge(self) -> Gauge:
        """See Engine."""
        return self.membership.gauge()

    def room(self) -> int:
        """See Engine."""
        return max(0, self.dispatch.room() - len(self._apart))

    def add(self, sequences: list[Sequence]) -> None:
        """See Engine."""
        self._add(sequences)

    def step(self) -> list[Generation]:
        """See Engine: what has ended meanwhile, on whichever seats."""
        if not self._wait(self._flight.beat, self.release):
            return []
        self._flight.beat(self._handed)
        self._muster()
        for member in self.membership.at_work():
            if not member.is_called:
                self._feed(member)
        self._hear(0)  # also of those that come while there is nothing to do
        began = time.monotonic()
        while self._goes_on(passed := time.monotonic() - began):
            self._hear((COMMIT_S if self._ended else STEP_S) - passed)
        if self._stopped():
            self._drain()
        self._note()
        ended, self._ended = self._ended, []
        self._handed = len(ended)
        return ended

    def release(self) -> None:
        """Give the memory of all models back; what is in flight is computed again when work goes on."""
        self.membership.let_go_of_loading()
        self._drain()
        for member in self.membership.at_work():
            if not member.is_called:
                self._apart.extendleft(self.dispatch.recall(member.place))
                member.call(time.monotonic(), "release")
        self._drain()

    def close(self) -> None:
        """See Engine; the seats' processes end."""
        try:
            self._note("ended")
        finally:
            self.membership.close()
            self._flight.work(False)

    def _await_first(self) -> None:
        """Wait for a seat; the others may come later."""
        while not self.membership.at_work():
            if not self._wait(self._flight.beat, self.release):
                raise KeyboardInterrupt
            self._flight.beat()
            self._muster()
            self._hear(STEP_S)
        self._doing = None

    def _muster(self) -> None:
        self.membership.look()
        self.membership.search()
        self.membership.check_any_left()
        if (doing := self.membership.doing()) != self._doing:
            if self._doing is None:
                log.warning("no seat is at work: %s", doing)
            self._doing = doing
            self._tell(doing)

    def _goes_on(self, passed: float) -> bool:
        """Whether to wait for more before what has ended is handed on."""
        if self._stopped() or not (len(self.dispatch) or self._apart):
            return False
        return len(self._ended) < COMMIT_ANSWERS and passed < (COMMIT_S if self._ended else STEP_S)

    def _hear(self, timeout: float) -> None:
        for member, turn in self.membership.hear(max(0.0, timeout)):
            self._take(member, turn)
            self._feed(member)

    def _take(self, member: Member, turn: Turn) -> None:
        """What came of a turn."""
        now = time.monotonic()
        load = self.dispatch.loads[member.place]
        seconds = now - member.since if load.flying else 0.0
        if turn.steps != member.steps or not load.flying:
            member.still_s = 0.0
        computed = turn.work.decoded + turn.work.prefilled - member.work.decoded - member.work.prefilled
        new = self.dispatch.end(member.place, turn.ended, seconds, computed, turn.gauge.slots)
        self.dispatch.give_back(member.place, turn.back)
        load.slots = member.slots = turn.slots
        member.steps, member.gauge, member.work, member.since = turn.steps, turn.gauge, turn.work, now
        member.saw(len(new), seconds)
        for one in new:
            one.seat = member.seat
        self._ended += new

    def _feed(self, member: Member) -> None:
        """Begin a seat's next turn, if there is something to do or to hear."""
        if self._stopped() or member.link is None:
            return
        now = time.monotonic()
        load = self.dispatch.loads[member.place]
        if not load.flying:
            member.since, member.still_s = now, 0.0
        new = self._next(member.place)
        if new or load.flying or now - member.called_at > HEARTBEAT_S:
            member.turn += 1
            linger_s = min(LINGER_MOST_S, LINGER_S + LINGER_SEAT_S * len(self.membership.members))
            if not load.want:
                linger_s = max(linger_s, STOCKED_S)
            enough = max(1, load.slots // 2)
            surplus = 0 if new else self.dispatch.surplus(member.place)
            member.call(now, "turn", member.turn, member.sender.asks_of(new), WAIT_S, linger_s, enough, surplus)

    def _next(self, place: str) -> list[Sequence]:
        """What a seat begins with: one of the rows that are computed alone if it is the one for that."""
        if self._apart and self._hermit is None:
            self._hermit = place
            self.dispatch.withhold(place)
        if self._hermit != place:
            return self.dispatch.take(place)
        if self.dispatch.loads[place].flying:
            return []
        if self._apart:
            sequence = self._apart.popleft()
            self.dispatch.alone(place, sequence)
            return [sequence]
        self._hermit = None
        return self.dispatch.take(place)

    def _joined(self, member: Member) -> None:
        self.dispatch.join(member.place, member.slots)
        self._feed(member)

    def _gone(self, member: Member, error: GoneError) -> int:
        """A seat's rows go to others, and are blamed unless it was not for them; how many it had in progress."""
        flying = self.dispatch.loads[member.place].flying
        rows = {row for row, number in flying if (row, number) in self.dispatch.asked}
        lost = self.dispatch.leave(member.place)
        if self._hermit == member.place:
            self._hermit = None
        if rows and not error.is_blameless:
            self._seats.note_death(rows, f"{error.why} on seat {member.place}")
            self._see_deaths()
        self._add(lost, again=True)
        return len(rows)

    def _see_deaths(self) -> None:
        deaths = self._seats.deaths
        self._quarantine.alone = deaths.alone()
        self._quarantine.rows = deaths.quarantined() if self._quarantines else {}

    def _add(self, sequences: list[Sequence], *, again: bool = False) -> None:
        together = []
        for sequence in sequences:
            if (error := self._quarantine.error(sequence)) is not None:
                self._ended.append(Generation(sequence.key, finish_reason="error", error=error))
            elif sequence.key[0] in self._quarantine.alone:
                self._apart.append(sequence)
            else:
                together.append(sequence)
        self.dispatch.add(together, again=again)

    def _drain(self) -> None:
        """Hear what comes of the calls in flight; nothing new begins."""
        stopped, self._stopped = self._stopped, lambda: True
        until = time.monotonic() + DRAIN_S
        try:
            while (
                any(member.is_called for member in self.membership.at_work()) and (left := until - time.monotonic()) > 0
            ):
                self._hear(min(left, COMMIT_S))
        finally:
            self._stopped = stopped

    def _note(self, state: str | None = None) -> None:
        """Put on record what the seats are doing, now and then."""
        now = time.monotonic()
        if state is None and now - self._noted < NOTE_S:
            return
        self._noted, facts, backlogs_s = now, [], self.dispatch.backlogs_s()
        for member in self.membership.at_work():
            load = self.dispatch.loads[member.place]
            backlog = len(load.flying) + len(load.waiting)
            facts.append((member.seat, member.facts(state or "at work", backlog, backlogs_s[member.place])))
        self._seats.note(facts)
