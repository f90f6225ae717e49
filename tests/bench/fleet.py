"""What a fleet costs its driver, what a second seat is worth, and where one driver is at its limit.

``python -m tests.bench.fleet cost|pair|scale [--seats 8,64,256] [--rows N]``.
``cost``: the driver's processor time for a row, beside that of a run by one process, with the fake engine. ``pair``:
rows/s of two seats of one core each over those of one, with a tiny random llama. ``scale``: seats that only wait, 30
rows/s each, as threads of one process with nothing to compute: rows/s, and the driver's share of a core.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import runner
from runner.engine.fake import FakeEngine
from runner.fleet import start
from runner.fleet.hello import hello_of
from runner.fleet.local import LocalTransport
from runner.fleet.wire import Turn
from runner.sequences import Gauge, Work

SEAT_ROWS_S, SLOTS = 30.0, 32


class Timed:
    """A seat in this thread that answers at the pace of a real one: a link that computes when it is asked."""

    def __init__(self, clock):
        self.engine, self.flying, self.clock = FakeEngine(SLOTS), [], clock
        self.ready_at, self.answer, self.done_at = 0.0, None, time.monotonic()

    def call(self, method, *arguments):
        now = time.monotonic()
        if method == "hello":
            self.ready_at, self.answer = now, hello_of(None)._replace(slots=SLOTS)
            return
        number, new, _, linger_s, enough = arguments
        if not self.flying:
            self.done_at = now
        self.flying += [ask.sequence() for ask in new]
        count = min(len(self.flying), max(1, enough))
        self.ready_at = max(now + linger_s, self.done_at + count / SEAT_ROWS_S) if count else now
        self.number = number

    def take(self):
        if self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        count = min(len(self.flying), int((time.monotonic() - self.done_at) * SEAT_ROWS_S))
        ended, self.flying = self.flying[:count], self.flying[count:]
        self.done_at += count / SEAT_ROWS_S
        gauge = Gauge(len(self.flying), SLOTS, None)
        return Turn(self.number, [self.engine.answer(one) for one in ended], SLOTS, self.number, gauge, Work())

    def kill(self):
        pass


class TimedTransport:
    def __init__(self, seats):
        self.seats = seats

    def places(self):
        return [f"seat:{number}" for number in range(self.seats)]

    def open(self, place, spec):
        return Timed(time.monotonic)

    def wait(self, links, timeout):
        links, until = list(links), time.monotonic() + timeout
        soonest = min(link.ready_at for link in links)
        time.sleep(max(0.0, min(soonest, until) - time.monotonic()))
        now = time.monotonic()
        return [link for link in links if link.ready_at <= now]

    def close(self):
        pass


def words(name, *more):
    given = ["engine.backend=fake", "job=label", "job.labels=[good,bad]", "dataset=csv", "dataset.path=rows.csv"]
    return [*given, "prompt.user='Good or bad? {{ text }}'", "output.keep=[id]", f"run_name={name}", *more]


def write_rows(count):
    Path("rows.csv").write_text("id,text\n" + "".join(f"{i},text number {i}\n" for i in range(count)))


def timed(given):
    """Figures of a run, and this thread's processor time for a row in microseconds."""
    before, began = time.thread_time(), time.perf_counter()
    figures = runner.run(given)
    return figures, (time.thread_time() - before) / figures["rows"] * 1e6, time.perf_counter() - began


def cost(given):
    write_rows(given.rows)
    for name, more in (("alone", []), ("fleet", ["fleet=local", "fleet.seats=1"])):
        figures, row_us, _ = timed(words(name, *more))
        print(f"{name}: {row_us:.0f} us of processor time for a row, {figures['rows_per_s']:,.0f} rows/s", flush=True)


def pair(given):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(Path("tiny"))
    write_rows(given.rows)
    model = ["model.path=tiny", "engine.backend=cpu", "prompt.chat=false", "job=generate", "engine.max_tokens=24"]
    cores = sorted(os.sched_getaffinity(0))
    speeds = {}
    for seats in (1, 2):
        start.transport_of = lambda conf, seats=seats: Pinned(seats, cores)
        replaced = [word for word in words(f"pair{seats}") if not word.startswith(("engine", "job"))]
        figures, row_us, _ = timed([*replaced, *model, "fleet=local"])
        speeds[seats] = figures["rows_per_s"]
        print(f"{seats} of one core: {speeds[seats]:,.1f} rows/s, driver {row_us:.0f} us for a row", flush=True)
    print(f"two over one: {speeds[2] / speeds[1]:.2f}")


class Pinned(LocalTransport):
    """Seats with a core each."""

    def __init__(self, seats, cores):
        super().__init__(seats, [{"OMP_NUM_THREADS": "1"}] * seats)
        self.cores = cores

    def open(self, place, spec):
        link = super().open(place, spec)
        core = self.cores[(int(place.rpartition(":")[2]) - 1) % len(self.cores)]
        os.sched_setaffinity(link.process.pid, {core})
        return link


def scale(given):
    for seats in map(int, given.seats.split(",")):
        write_rows(int(seats * SEAT_ROWS_S * 8))
        start.transport_of = lambda conf, seats=seats: TimedTransport(seats)
        figures, row_us, _ = timed(words(f"scale{seats}", "fleet=local", "checkpoint.durability=process"))
        speed = figures["rows_per_s"]
        ideal = seats * SEAT_ROWS_S
        print(
            f"{seats} seats of {SEAT_ROWS_S:g} rows/s: {speed:,.0f} rows/s, {speed / ideal:.2f} of all; "
            f"this thread {row_us:.0f} us for a row, what seats would compute included",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cost", "pair", "scale"])
    parser.add_argument("--seats", default="8,64,256")
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        {"cost": cost, "pair": pair, "scale": scale}[given.what](given)
        os.chdir("/")


if __name__ == "__main__":
    main()
