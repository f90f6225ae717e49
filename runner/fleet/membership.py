"""Who takes part: seats opened where there are places, heard, left out, given up."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from runner.checkpoint.seats import Seats
from runner.fleet.conf import FleetConf
from runner.fleet.handshake import adopted, difference, host
from runner.fleet.member import Member
from runner.fleet.protocol import Failed, GoneError, Handshake, Spec, Transport, Turn
from runner.sequences import Costs, Gauge, Work
from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import count_of

log = logging.getLogger("rowmill")

WAIT_S = 1.0  # the longest call
SEARCH_S = 1.0  # between two looks for places
TAKEN = 5  # looks, until a place is another program's
DIED = 60  # the same where a seat of ours died: Ray may find out so late that a node is gone, and frees it then
STARTING_S = 300.0  # for a process to start before its first answer
LOADING_S = 3600.0  # the most patience with a model that loads, which makes no steps
_IDLE_S = 0.05


class Membership:
    """The seats of a fleet. ``ours``: what they must not differ from.

    ``joined(member)`` is called for each that takes part, ``gone(member, error)`` before one that did is forgotten.
    """

    def __init__(
        self,
        transport: Transport,
        spec: Spec,
        ours: Handshake,
        conf: FleetConf,
        seats: Seats,
        joined: Callable[[Member], None],
        gone: Callable[[Member, GoneError], int],
    ) -> None:
        self.transport, self.spec, self.ours, self.conf, self.seats = transport, spec, ours, conf, seats
        self.members: dict[str, Member] = {}
        self._joined, self._gone = joined, gone
        self._ever = 0  # joined
        self._past = Work()  # of processes that are gone
        self._taken = Counter[str]()  # how often in a row a place seemed to be another program's
        self._looked = time.monotonic()
        self._searched = self._seen = -SEARCH_S

    def at_work(self) -> list[Member]:
        """Those that take part."""
        return [member for member in self.members.values() if member.handshake]

    def doing(self) -> str | None:
        """What is going on while there is none at work; None if there is one."""
        if self.at_work():
            return None
        is_loading = any(member.link is not None and member.has_answered for member in self.members.values())
        return "loading the model" if is_loading else "waiting for a seat"

    def pids_here(self) -> list[int]:
        """The processes of those on this machine."""
        return [
            member.handshake.pid
            for member in self.members.values()
            if member.handshake and member.handshake.host == host()
        ]

    @property
    def work(self) -> Work:
        """What all have done; the seconds on the model are those of a seat on average."""
        total = dataclasses.replace(self._past)
        for member in self.members.values():
            total += member.work
        total.model_s /= max(1, self._ever)
        return total

    @property
    def costs(self) -> Costs:
        """The medians over the seats."""
        known = [member.handshake.costs for member in self.members.values() if member.handshake]
        return Costs(*map(statistics.median, zip(*known, strict=True))) if known else Costs()

    def gauge(self) -> Gauge:
        """Sums over the seats."""
        gauges = [member.gauge for member in self.at_work()]
        used = sum(gauge.slots or 0 for gauge in gauges)
        total = sum(gauge.slots_total or 0 for gauge in gauges)
        memory = sum(gauge.memory_bytes or 0 for gauge in gauges)
        answers = {str(member.seat): member.answers for member in self.members.values() if member.seat}
        return Gauge(used, total, memory or None, answers)

    def search(self) -> None:
        """Open a seat wherever there is a place for one; let go of one to whose place another program was quicker."""
        now = time.monotonic()
        if now - self._searched < SEARCH_S:
            return
        self._searched = now
        places, opened, taken = self.transport.places(), list[str](), list[str]()
        for place in places:
            if place not in self.members:
                self.members[place] = Member(place, self.seats.memory_deaths(place))
        for place, member in list(self.members.items()):
            if place not in places and member.link is None:
                del self.members[place]
            elif member.is_starting and self.transport.is_taken(place):
                member.let_go()
                taken.append(place)
            elif self._may_open(member, now):
                if (is_taken := self.transport.is_taken(place)) is not False:
                    taken += [place] * bool(is_taken)
                    continue
                self._open(member, now)
                opened += [place] * (not member.deaths)
        if opened:
            log.info("loading the model on %s: %s", count_of(len(opened), "seat"), ", ".join(opened))
        self._tell_taken(taken)

    def _tell_taken(self, places: list[str]) -> None:
        """Say which places are other programs', if that has been so for a while."""
        self._taken = Counter({place: self._taken[place] + 1 for place in places})
        told = [
            place for place, times in self._taken.items() if times == (DIED if self.members[place].deaths else TAKEN)
        ]
        if told and not self._is_full():
            log.info("%s in use by other programs, until they end: %s", count_of(len(told), "seat"), ", ".join(told))

    def look(self) -> None:
        """Give up seats from which nothing comes. Time in which this process or this machine slept does not count."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * WAIT_S), now
        stall_minutes = self.spec.engine.stall_minutes
        for member in [member for member in self.members.values() if member.link is not None]:
            member.silent_s += passed if member.is_called else 0.0
            member.still_s += passed
            stall_s = 60 * stall_minutes if member.handshake else LOADING_S
            grace_s = self.conf.grace_s if member.has_answered else max(self.conf.grace_s, STARTING_S)
            if member.silent_s > WAIT_S + grace_s:
                why = f"because it gave no sign of life for {grace_s:g} s"
                self.lose(member, GoneError(why, is_blameless=True))
            elif member.still_s > stall_s:
                self.lose(member, GoneError(f"because it stalled: no step in {stall_s / 60:g} minutes"))

    def hear(self, timeout: float) -> list[tuple[Member, Turn]]:
        """The turns of seats that answer within the time; what else they say is handled."""
        called = {
            member.link: member for member in self.members.values() if member.link is not None and member.is_called
        }
        if not called:
            time.sleep(min(timeout, _IDLE_S))
            return []
        heard = []
        for link in self.transport.wait(called, timeout):
            member = called[link]
            if (turn := self._take(member)) is not None:
                heard.append((member, turn))
        return heard

    def lose(self, member: Member, error: GoneError) -> None:
        """A seat is gone; it is started again unless that happens too often."""
        rows = self._gone(member, error) if member.handshake else 0
        self._past += member.work
        member.memory_deaths += error.memory
        member.die(time.monotonic())
        if member.seat:
            self.seats.note([(member.seat, {**member.facts("lost", 0, None), "why": error.why})])
        if member.fruitless > self.spec.engine.max_restarts:
            self._leave_out(member, f"it died {count_of(member.fruitless, 'time')} in a row, the last time {error.why}")
        else:
            progress = f"with {count_of(rows, 'row')} in progress"
            log.warning("seat %s died %s, %s; starting it again", member.place, error.why, progress)

    def check_any_left(self) -> None:
        """Raises UserError, exit code 3, if there will be no seat, or none has come for too long."""
        now = time.monotonic()
        if self._seen < 0 or any(member.link is not None for member in self.members.values()):
            self._seen = now
            return
        reasons = [f"{member.place}: {member.left_out}" for member in self.members.values() if member.left_out]
        if self.members and len(reasons) == len(self.members):
            raise UserError("no seat is left: " + "; ".join(reasons), exit_code=EXIT_CANNOT_RUN)
        minutes = self.spec.engine.stall_minutes
        if not self.members and now - self._seen > 60 * minutes:
            said = f"there has been no seat for {minutes:g} minutes (engine.stall_minutes)"
            raise UserError(said, exit_code=EXIT_CANNOT_RUN)

    def let_go_of_loading(self) -> None:
        """End those that have not begun to work, as long as nobody needs them."""
        for member in self.members.values():
            if member.handshake is None:
                member.let_go()

    def close(self) -> None:
        """End all of them."""
        for member in self.members.values():
            member.let_go()
        self.transport.close()

    def _may_open(self, member: Member, now: float) -> bool:
        is_wanted = member.link is None and member.left_out is None and now >= member.again_at
        return is_wanted and not self._is_full()

    def _is_full(self) -> bool:
        """Whether there are as many seats as the user wants."""
        opened = sum(member.link is not None for member in self.members.values())
        return self.conf.seats is not None and opened >= self.conf.seats

    def _open(self, member: Member, now: float) -> None:
        try:
            member.open(self.transport.open(member.place, self.spec._replace(share=member.share)), now)
            member.call(now, "handshake", WAIT_S)
        except GoneError as error:
            self.lose(member, error)

    def _take(self, member: Member) -> Turn | None:
        """One answer of a seat."""
        assert member.link is not None
        said: Any
        try:
            said = member.link.take()
        except GoneError as error:
            self.lose(member, error)
            return None
        member.is_called, member.has_answered, member.silent_s = False, True, 0.0
        if isinstance(said, Turn):
            return said
        if isinstance(said, Failed) and said.is_final:
            self._leave_out(member, said.why)
        elif isinstance(said, Failed):
            self.lose(member, GoneError(said.why, memory=said.memory))
        elif isinstance(said, Handshake):
            self._greet(member, said)
        elif said is None:  # its model still loads
            member.call(time.monotonic(), "handshake", WAIT_S)
        return None

    def _greet(self, member: Member, handshake: Handshake) -> None:
        """Let a seat take part, or say why not."""
        if not self._ever:
            self.ours = adopted(self.ours, handshake)
        why = difference(handshake._asdict(), self.ours._asdict())
        devices = {other.handshake.device for other in self.at_work() if other.handshake}
        if self.conf.same_device and why is None and not devices <= {handshake.device}:
            why = f"its device is {handshake.device}, that of others {devices.pop()} (fleet.same_device)"
        if why is not None:
            self._leave_out(member, why)
            return
        member.handshake, member.slots, member.still_s = handshake, handshake.slots, 0.0
        known = {**handshake._asdict(), "costs": handshake.costs._asdict(), "state": "at work"}
        self._note(member, known)
        self._ever += 1
        memory = f", {handshake.memory_bytes / 1e9:.1f} GB for the model" if handshake.memory_bytes else ""
        log.info("seat %s joins: %s%s, %s", member.place, handshake.device, memory, count_of(handshake.slots, "slot"))
        self._joined(member)

    def _leave_out(self, member: Member, why: str) -> None:
        """For good: it would not be otherwise the next time."""
        if member.handshake:
            self._gone(member, GoneError(why, is_blameless=True))
        log.warning("seat %s is left out: %s", member.place, why)
        member.left_out = why
        member.die(time.monotonic())
        self._note(member, {"state": "left out", "why": why})

    def _note(self, member: Member, facts: dict[str, Any]) -> None:
        member.seat = member.seat or self.seats.join(member.place, {"joined": time.time()})
        self.seats.note([(member.seat, facts)])
