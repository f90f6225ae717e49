"""Seats of a fleet in threads of this process, which die, freeze and come when a test says so."""

import sqlite3
import threading
import time
from contextlib import closing

from runner.checkpoint.seats import read_seats
from runner.fleet import fleet, start
from runner.fleet.protocol import GoneError
from runner.fleet.seat import Seat
from tests.support import runs

ROWS = 300


class TestSeat(Seat):
    """A seat whose fake engine takes so many seconds for a step, and to load."""

    __test__ = False

    def __init__(self, spec, delay_s, slow_s):
        self.delay_s, self.slow_s = delay_s, slow_s
        super().__init__(spec)

    def _open(self):  # private, and the one place where a seat has just got its engine
        time.sleep(self.slow_s)
        super()._open()
        self._engine.delay_s = self.delay_s


class ThreadLink:
    """``dies``: turns after which it is gone, and why; ``handshake``: what it says otherwise of itself."""

    def __init__(self, spec, delay_s=0.0, dies=None, freezes=None, handshake=None, error=None, slow_s=0.0):
        self.seat = TestSeat(spec, delay_s, slow_s)
        self.turns, self.dies, self.freezes, self.handshake = 0, dies, freezes, handshake or {}
        self.error = error or GoneError("of SIGKILL")
        self.answer, self.is_killed, self.calls = None, False, []
        self.there = threading.Event()

    def call(self, method, *arguments):
        self.there.clear()
        self.calls.append((method, arguments))
        if self.is_killed:
            self.there.set()
        threading.Thread(target=self._answer, args=(method, arguments), daemon=True).start()

    def _answer(self, method, arguments):
        self.turns += method == "turn"
        if self.freezes is not None and self.turns > self.freezes:
            return
        if self.dies is not None and self.turns > self.dies:
            self.answer = self.error
        else:
            self.answer = getattr(self.seat, method)(*arguments)
        if method == "handshake" and self.answer is not None and hasattr(self.answer, "_replace"):
            self.answer = self.answer._replace(**self.handshake)
        self.there.set()

    def take(self):
        if isinstance(self.answer, GoneError):
            raise self.answer
        return self.answer

    def kill(self):
        self.is_killed = True
        self.seat.release()


class Threads:
    """A transport. ``plans``: for each place what its seats are like, one after the other, the last one for ever.

    ``taken``: whether another program has a place.
    """

    def __init__(self, plans, present=lambda: True, taken=lambda place: False):
        self.plans = {place: list(plan) for place, plan in plans.items()}
        self.links = {place: [] for place in plans}
        self.present, self.is_taken = present, taken
        self.is_closed = False

    def places(self):
        there = self.present()
        return [place for place in self.plans if there is True or place in there]

    def open(self, place, spec):
        plan = self.plans[place]
        link = ThreadLink(spec, **(plan.pop(0) if len(plan) > 1 else plan[0]))
        self.links[place].append(link)
        return link

    def wait(self, links, timeout):
        links, until = list(links), time.monotonic() + timeout
        while not (ready := [link for link in links if link.there.is_set()]) and time.monotonic() < until:
            time.sleep(0.001)
        return ready

    def close(self):
        self.is_closed = True


def words(*more):
    """A run of ``ROWS`` rows by two seats of this machine."""
    return runs.overrides("output.shard_rows=64", "fleet=local", "fleet.seats=2", *more)


def install(monkeypatch, plans, **more):
    """Fleets have these seats."""
    transport = Threads(plans, **more)
    monkeypatch.setattr(start, "transport_of", lambda conf: transport)
    return transport


def wait_for_seats(monkeypatch, count):
    """Fleets begin when they have so many seats."""

    def init(self, *given, original=fleet.Fleet.__init__):
        original(self, *given)
        while len(self.membership.at_work()) < count:
            self.step()
            time.sleep(0.01)

    monkeypatch.setattr(fleet.Fleet, "__init__", init)


def seats(name="fleet"):
    with closing(sqlite3.connect(f"outputs/{name}/run.db")) as connection:
        return read_seats(connection)


def select(query, name="fleet"):
    with closing(sqlite3.connect(f"outputs/{name}/run.db")) as connection:
        return connection.execute(query).fetchall()
