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
from runner.fleet.hello import adopted, difference, host
from runner.fleet.post import Post
from runner.fleet.wire import Failed, GoneError, Hello, Spec, Transport, Turn
from runner.sequences import Costs, Gauge, Work
from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import count_of

log = logging.getLogger("rowmill")

WAIT_S = 1.0  # the longest call
SEARCH_S = 1.0  # between two looks for places
TAKEN = 5  # looks, until a place is another program's, and not still that of a seat of ours that has just died
STARTING_S = 300.0  # for a process to start before its first answer
LOADING_S = 3600.0  # the most patience with a model that loads, which makes no steps
_IDLE_S = 0.05


class Crew:
    """The seats of a fleet. ``ours``: what they must not differ from.

    ``joined(post)`` is called for each that takes part, ``gone(post, error)`` before one that did is forgotten.
    """

    def __init__(
        self,
        transport: Transport,
        spec: Spec,
        ours: Hello,
        conf: FleetConf,
        seats: Seats,
        joined: Callable[[Post], None],
        gone: Callable[[Post, GoneError], int],
    ) -> None:
        self.transport, self.spec, self.ours, self.conf, self.seats = transport, spec, ours, conf, seats
        self.posts: dict[str, Post] = {}
        self._joined, self._gone = joined, gone
        self._ever = 0  # joined
        self._past = Work()  # of processes that are gone
        self._taken = Counter[str]()  # how often in a row a place seemed to be another program's
        self._looked = time.monotonic()
        self._searched = self._seen = -SEARCH_S

    def at_work(self) -> list[Post]:
        """Those that take part."""
        return [post for post in self.posts.values() if post.hello]

    def pids_here(self) -> list[int]:
        """The processes of those on this machine."""
        return [post.hello.pid for post in self.posts.values() if post.hello and post.hello.host == host()]

    @property
    def work(self) -> Work:
        """What all have done; the seconds on the model are those of a seat on average."""
        total = dataclasses.replace(self._past)
        for post in self.posts.values():
            total += post.work
        total.model_s /= max(1, self._ever)
        return total

    @property
    def costs(self) -> Costs:
        """The medians over the seats."""
        known = [post.hello.costs for post in self.posts.values() if post.hello]
        return Costs(*map(statistics.median, zip(*known, strict=True))) if known else Costs()

    def gauge(self) -> Gauge:
        """Sums over the seats."""
        gauges = [post.gauge for post in self.at_work()]
        used = sum(gauge.slots or 0 for gauge in gauges)
        total = sum(gauge.slots_total or 0 for gauge in gauges)
        memory = sum(gauge.memory_bytes or 0 for gauge in gauges)
        answers = {str(post.seat): post.answers for post in self.posts.values() if post.seat}
        return Gauge(used, total, memory or None, answers)

    def search(self) -> None:
        """Open a seat wherever there is a place for one."""
        now = time.monotonic()
        if now - self._searched < SEARCH_S:
            return
        self._searched = now
        places, opened, taken = self.transport.places(), list[str](), list[str]()
        for place in places:
            if place not in self.posts:
                self.posts[place] = Post(place, self.seats.memory_deaths(place))
        for place, post in list(self.posts.items()):
            if place not in places and post.link is None:
                del self.posts[place]
            elif post.link is None and post.left_out is None and now >= post.again_at and self._may_open():
                if (is_taken := self.transport.is_taken(place)) is not False:
                    taken += [place] * bool(is_taken)
                    continue
                self._open(post, now)
                opened += [place] * (not post.deaths)
        if opened:
            log.info("loading the model on %s: %s", count_of(len(opened), "seat"), ", ".join(opened))
        self._taken = Counter({place: self._taken[place] + 1 for place in taken})
        told = [place for place, times in self._taken.items() if times == TAKEN]
        if told and self._may_open():
            log.info("%s in use by other programs, until they end: %s", count_of(len(told), "seat"), ", ".join(told))

    def look(self) -> None:
        """Give up seats from which nothing comes. Time in which this process or this machine slept does not count."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * WAIT_S), now
        stall_minutes = self.spec.engine.stall_minutes
        for post in [post for post in self.posts.values() if post.link is not None]:
            post.silent_s += passed if post.is_called else 0.0
            post.still_s += passed
            stall_s = 60 * stall_minutes if post.hello else LOADING_S
            grace_s = self.conf.grace_s if post.has_answered else max(self.conf.grace_s, STARTING_S)
            if post.silent_s > WAIT_S + grace_s:
                why = f"because it gave no sign of life for {grace_s:g} s"
                self.lose(post, GoneError(why, is_blameless=True))
            elif post.still_s > stall_s:
                self.lose(post, GoneError(f"because it stalled: no step in {stall_s / 60:g} minutes"))

    def hear(self, timeout: float) -> list[tuple[Post, Turn]]:
        """The turns of seats that answer within the time; what else they say is dealt with."""
        called = {post.link: post for post in self.posts.values() if post.link is not None and post.is_called}
        if not called:
            time.sleep(min(timeout, _IDLE_S))
            return []
        heard = []
        for link in self.transport.wait(called, timeout):
            post = called[link]
            if (turn := self._take(post)) is not None:
                heard.append((post, turn))
        return heard

    def lose(self, post: Post, error: GoneError) -> None:
        """A seat is gone; it is started again unless that happens too often."""
        rows = self._gone(post, error) if post.hello else 0
        self._past += post.work
        post.memory_deaths += error.memory
        post.die(time.monotonic())
        if post.seat:
            self.seats.note([(post.seat, {**post.facts("lost", 0, None), "why": error.why})])
        if post.fruitless > self.spec.engine.max_restarts:
            self._leave_out(post, f"it died {count_of(post.fruitless, 'time')} in a row, the last time {error.why}")
        else:
            progress = f"with {count_of(rows, 'row')} in progress"
            log.warning("seat %s died %s, %s; starting it again", post.place, error.why, progress)

    def check_any_left(self) -> None:
        """Raises UserError, exit code 3, if there will be no seat, or none has come for too long."""
        now = time.monotonic()
        if self._seen < 0 or any(post.link is not None for post in self.posts.values()):
            self._seen = now
            return
        reasons = [f"{post.place}: {post.left_out}" for post in self.posts.values() if post.left_out]
        if self.posts and len(reasons) == len(self.posts):
            raise UserError("no seat is left: " + "; ".join(reasons), exit_code=EXIT_CANNOT_RUN)
        minutes = self.spec.engine.stall_minutes
        if not self.posts and now - self._seen > 60 * minutes:
            said = f"there has been no seat for {minutes:g} minutes (engine.stall_minutes)"
            raise UserError(said, exit_code=EXIT_CANNOT_RUN)

    def close(self) -> None:
        """End all of them."""
        for post in self.posts.values():
            if post.link is not None:
                post.link.kill()
                post.link = None
        self.transport.close()

    def _may_open(self) -> bool:
        return self.conf.seats is None or sum(post.link is not None for post in self.posts.values()) < self.conf.seats

    def _open(self, post: Post, now: float) -> None:
        try:
            post.open(self.transport.open(post.place, self.spec._replace(share=post.share)), now)
            post.call(now, "hello", WAIT_S)
        except GoneError as error:
            self.lose(post, error)

    def _take(self, post: Post) -> Turn | None:
        """One answer of a seat."""
        assert post.link is not None
        said: Any
        try:
            said = post.link.take()
        except GoneError as error:
            self.lose(post, error)
            return None
        post.is_called, post.has_answered, post.silent_s = False, True, 0.0
        if isinstance(said, Turn):
            return said
        if isinstance(said, Failed) and said.is_final:
            self._leave_out(post, said.why)
        elif isinstance(said, Failed):
            self.lose(post, GoneError(said.why, memory=said.memory))
        elif isinstance(said, Hello):
            self._greet(post, said)
        elif said is None:  # its model still loads
            post.call(time.monotonic(), "hello", WAIT_S)
        return None

    def _greet(self, post: Post, hello: Hello) -> None:
        """Let a seat take part, or say why not."""
        if not self._ever:
            self.ours = adopted(self.ours, hello)
        why = difference(hello._asdict(), self.ours._asdict())
        devices = {other.hello.device for other in self.at_work() if other.hello}
        if self.conf.same_device and why is None and not devices <= {hello.device}:
            why = f"its device is {hello.device}, that of others {devices.pop()} (fleet.same_device)"
        if why is not None:
            self._leave_out(post, why)
            return
        post.hello, post.slots, post.still_s = hello, hello.slots, 0.0
        known = {**hello._asdict(), "costs": hello.costs._asdict(), "state": "at work"}
        self._note(post, known)
        self._ever += 1
        memory = f", {hello.memory_bytes / 1e9:.1f} GB for the model" if hello.memory_bytes else ""
        log.info("seat %s joins: %s%s, %s", post.place, hello.device, memory, count_of(hello.slots, "slot"))
        self._joined(post)

    def _leave_out(self, post: Post, why: str) -> None:
        """For good: it would not be otherwise the next time."""
        if post.hello:
            self._gone(post, GoneError(why, is_blameless=True))
        log.warning("seat %s is left out: %s", post.place, why)
        post.left_out = why
        post.die(time.monotonic())
        self._note(post, {"state": "left out", "why": why})

    def _note(self, post: Post, facts: dict[str, Any]) -> None:
        post.seat = post.seat or self.seats.join(post.place, {"joined": time.time()})
        self.seats.note([(post.seat, facts)])
