"""A fleet: many seats behind what the loop takes for one engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from runner.checkpoint.deaths import Flight
from runner.checkpoint.seats import Seats
from runner.fleet.conf import FleetConf
from runner.fleet.crew import WAIT_S, Crew
from runner.fleet.deal import Deal
from runner.fleet.post import Post
from runner.fleet.wire import GoneError, Hello, Spec, Transport, Turn
from runner.night.guard import Quarantine
from runner.sequences import Costs, Gauge, Generation, Sequence, Work

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
    ``wait``: see ``GuardedEngine``. ``stopped``: an end is asked for, and nothing new shall begin. ``quarantines``: a
    row that killed seats again and again is given up. Raises UserError, exit code 3, when no seat is left.
    """

    def __init__(
        self,
        transport: Transport,
        spec: Spec,
        ours: Hello,
        conf: FleetConf,
        seats: Seats,
        flight: Flight,
        wait: Wait = lambda beat, release: True,
        stopped: Callable[[], bool] = lambda: False,
        quarantines: bool = True,
    ) -> None:
        self.crew = Crew(transport, spec, ours, conf, seats, self._joined, self._gone)
        self.deal = Deal()
        self._seats, self._flight, self._wait, self._stopped = seats, flight, wait, stopped
        self._quarantines = quarantines
        self._quarantine = Quarantine()
        self._see_deaths()
        self._apart: deque[Sequence] = deque()  # to be computed one at a time
        self._hermit: str | None = None  # where that is done
        self._ended: list[Generation] = []  # not handed on yet
        self._handed = 0  # answers that the last step handed on: on disk when the next one begins
        self._noted = time.monotonic()
        flight.work(True)
        try:
            while not self.crew.at_work():  # the others may come later
                flight.beat()
                self._muster()
                self._hear(STEP_S)
        except BaseException:
            self.close()
            raise

    @property
    def work(self) -> Work:
        """See Engine."""
        return self.crew.work

    @property
    def costs(self) -> Costs:
        """See Engine."""
        return self.crew.costs

    @property
    def batch_size(self) -> int:
        """See Engine."""
        return sum(post.slots for post in self.crew.at_work())

    def gauge(self) -> Gauge:
        """See Engine."""
        return self.crew.gauge()

    def room(self) -> int:
        """See Engine."""
        return max(0, self.deal.room() - len(self._apart))

    def add(self, sequences: list[Sequence]) -> None:
        """See Engine."""
        self._add(sequences)

    def step(self) -> list[Generation]:
        """See Engine: what has ended meanwhile, on whichever seats."""
        if not self._wait(self._flight.beat, self.release):
            return []
        self._flight.beat(self._handed)
        self._muster()
        for post in self.crew.at_work():
            if not post.is_called:
                self._feed(post)
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
        self._drain()
        for post in self.crew.at_work():
            if not post.is_called:
                self._apart.extendleft(self.deal.recall(post.place))
                post.call(time.monotonic(), "release")
        self._drain()

    def close(self) -> None:
        """See Engine; the seats' processes end."""
        try:
            self._note("ended")
        finally:
            self.crew.close()
            self._flight.work(False)

    def _muster(self) -> None:
        self.crew.look()
        self.crew.search()
        self.crew.check_any_left()

    def _goes_on(self, passed: float) -> bool:
        """Whether to wait for more before what has ended is handed on."""
        if self._stopped() or not (len(self.deal) or self._apart):
            return False
        return len(self._ended) < COMMIT_ANSWERS and passed < (COMMIT_S if self._ended else STEP_S)

    def _hear(self, timeout: float) -> None:
        for post, turn in self.crew.hear(max(0.0, timeout)):
            self._take(post, turn)
            self._feed(post)

    def _take(self, post: Post, turn: Turn) -> None:
        """What came of a turn."""
        now = time.monotonic()
        hand = self.deal.hands[post.place]
        seconds = now - post.since if hand.flying else 0.0
        if turn.steps != post.steps or not hand.flying:
            post.still_s = 0.0
        computed = turn.work.decoded + turn.work.prefilled - post.work.decoded - post.work.prefilled
        new = self.deal.end(post.place, turn.ended, seconds, computed, turn.gauge.slots)
        self.deal.give_back(post.place, turn.back)
        hand.slots = post.slots = turn.slots
        post.steps, post.gauge, post.work, post.since = turn.steps, turn.gauge, turn.work, now
        post.saw(len(new), seconds)
        for one in new:
            one.seat = post.seat
        self._ended += new

    def _feed(self, post: Post) -> None:
        """Begin a seat's next turn, if there is something to do or to hear."""
        if self._stopped() or post.link is None:
            return
        now = time.monotonic()
        hand = self.deal.hands[post.place]
        if not hand.flying:
            post.since, post.still_s = now, 0.0
        new = self._next(post.place)
        if new or hand.flying or now - post.called_at > HEARTBEAT_S:
            post.turn += 1
            linger_s = min(LINGER_MOST_S, LINGER_S + LINGER_SEAT_S * len(self.crew.posts))
            if not hand.want:
                linger_s = max(linger_s, STOCKED_S)
            enough = max(1, hand.slots // 2)
            surplus = 0 if new else self.deal.surplus(post.place)
            post.call(now, "turn", post.turn, post.sender.asks_of(new), WAIT_S, linger_s, enough, surplus)

    def _next(self, place: str) -> list[Sequence]:
        """What a seat begins with: one of the rows that are computed alone if it is the one for that."""
        if self._apart and self._hermit is None:
            self._hermit = place
            self.deal.withhold(place)
        if self._hermit != place:
            return self.deal.take(place)
        if self.deal.hands[place].flying:
            return []
        if self._apart:
            sequence = self._apart.popleft()
            self.deal.alone(place, sequence)
            return [sequence]
        self._hermit = None
        return self.deal.take(place)

    def _joined(self, post: Post) -> None:
        self.deal.join(post.place, post.slots)
        self._feed(post)

    def _gone(self, post: Post, error: GoneError) -> int:
        """A seat's rows go to others, and are blamed unless it was not for them; how many it had in progress."""
        flying = self.deal.hands[post.place].flying
        rows = {row for row, number in flying if (row, number) in self.deal.asked}
        lost = self.deal.leave(post.place)
        if self._hermit == post.place:
            self._hermit = None
        if rows and not error.is_blameless:
            self._seats.note_death(rows, f"{error.why} on seat {post.place}")
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
        self.deal.add(together, again=again)

    def _drain(self) -> None:
        """Hear what comes of the calls in flight; nothing new begins."""
        stopped, self._stopped = self._stopped, lambda: True
        until = time.monotonic() + DRAIN_S
        try:
            while any(post.is_called for post in self.crew.at_work()) and (left := until - time.monotonic()) > 0:
                self._hear(min(left, COMMIT_S))
        finally:
            self._stopped = stopped

    def _note(self, state: str | None = None) -> None:
        """Put on record what the seats are doing, now and then."""
        now = time.monotonic()
        if state is None and now - self._noted < NOTE_S:
            return
        self._noted, facts, backlogs_s = now, [], self.deal.backlogs_s()
        for post in self.crew.at_work():
            hand = self.deal.hands[post.place]
            backlog = len(hand.flying) + len(hand.waiting)
            facts.append((post.seat, post.facts(state or "at work", backlog, backlogs_s[post.place])))
        self._seats.note(facts)
