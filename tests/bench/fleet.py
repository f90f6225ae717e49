"""What a fleet costs its driver, what a second seat is worth, and where one driver is at its limit.

``python -m tests.bench.fleet cost|held|pair|waves|scale [--seats 8,64,256] [--rows N]``.
``cost``: the driver's processor time for a row, beside that of a run by one process, with the fake engine. ``held``: an
engine whose steps keep the interpreter to themselves for some 7 ms, by itself and in a seat: for how long its thread
waits for the one that answers, and what that one takes for a row of 2,112 tokens. ``pair``: rows/s of two seats of one
core each over those of one in ``--turns``, with a tiny random llama or ``--model``, answers of ``--tokens``, also over
one whose driver has no core beside, and the same of two runs of half the rows at once, which is what the cores can do;
with more than four cores the driver has others than the seats. ``waves``: that
of two seats with processes whose steps sleep for as long as a model's take (40 ms, and 2 for each of 64 sequences) and
whose answers are all equally long; what a busy machine does to that is little. ``scale``: seats that only wait, 30
rows/s each, as threads of one process with nothing to compute: rows/s, and the driver's share of a core.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median
from unittest.mock import patch

import runner
from runner.engine.conf import EngineConf
from runner.engine.fake import FakeEngine
from runner.fleet import local, seat, start
from runner.fleet.conf import FleetConf
from runner.fleet.fleet import Fleet
from runner.fleet.handshake import handshake_of
from runner.fleet.local import LocalTransport
from runner.fleet.protocol import Receiver, Spec, Turn
from runner.loop.loop import Loop
from runner.loop.plan import Plan
from runner.models.recipes import ModelConf
from runner.sequences import Costs, Gauge, Generation, Sequence, Waiting, Work

SEAT_ROWS_S, SLOTS = 30.0, 32


class Timed:
    """A seat in this thread that answers at the pace of a real one: a link that computes when it is asked."""

    def __init__(self, clock):
        self.engine, self.flying, self.clock = FakeEngine(SLOTS), [], clock
        self.receiver = Receiver()
        self.ready_at, self.answer, self.done_at = 0.0, None, time.monotonic()

    def call(self, method, *arguments):
        now = time.monotonic()
        if method == "handshake":
            self.ready_at, self.answer = now, handshake_of(None)._replace(slots=SLOTS)
            return
        number, new, _, linger_s, enough, _ = arguments
        if not self.flying:
            self.done_at = now
        self.flying += self.receiver.sequences_of(new)
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
        return Turn(self.number, [self.engine.answer(one) for one in ended], [], SLOTS, self.number, gauge, Work())

    def kill(self):
        pass


class TimedTransport:
    def __init__(self, seats):
        self.seats = seats

    def places(self):
        return [f"seat:{number}" for number in range(self.seats)]

    def is_taken(self, place):
        return False

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
    """Figures of a run, and this process's processor time for a row in microseconds, loading and report left out."""
    spent, work = [], Loop.work

    def timed_work(*arguments):
        before = time.process_time()
        work(*arguments)
        spent.append(time.process_time() - before)

    with patch.object(Loop, "work", timed_work):
        figures = runner.run(given)
    return figures, sum(spent) / figures["rows"] * 1e6


def cost(given):
    write_rows(given.rows)
    for name, more in (("alone", []), ("fleet", ["fleet=local", "fleet.seats=1"])):
        figures, row_us = timed(words(name, *more))
        print(f"{name}: {row_us:.0f} us of processor time for a row, {figures['rows_per_s']:,.0f} rows/s", flush=True)


class Lanes(Waiting):
    """``slots`` sequences at once, ``steps`` each; ``compute`` takes the time of a step."""

    def __init__(self, slots, steps):
        self.batch_size, self.steps, self.costs, self.work = slots, steps, Costs(), Work()
        self.waiting, self.lanes = deque(), []

    def gauge(self):
        return Gauge(len(self.lanes), self.batch_size, None)

    def room(self):
        return max(0, 2 * self.batch_size - len(self.lanes) - len(self.waiting))

    def step(self):
        while self.waiting and len(self.lanes) < self.batch_size:
            self.lanes.append([self.waiting.popleft(), 0])
        self.compute()
        for lane in self.lanes:
            lane[1] += 1
        ended = [Generation(one.key, list(range(steps))) for one, steps in self.lanes if steps == self.steps]
        self.lanes = [lane for lane in self.lanes if lane[1] < self.steps]
        return ended

    def close(self):
        pass


class Held(Lanes):
    """``prefilled``: nanoseconds in which it waited for the interpreter.

    That is the time in which its thread neither computed nor stood in line for a processor.
    """

    def compute(self):
        before, began = scheduled_ns(), time.perf_counter_ns()
        sum(x * x for x in range(60_000))
        after, ended_at = scheduled_ns(), time.perf_counter_ns()
        self.work += Work(prefilled=max(0, ended_at - began - (after - before)), lanes=1)
        time.sleep(0.005)  # the device computes


class Asleep(Lanes):
    def compute(self):
        time.sleep(0.04 + 0.002 * len(self.lanes))
        self.work += Work(len(self.lanes), lanes=len(self.lanes), slots=self.batch_size)


def serve_asleep(descriptor):
    """A seat's process with such an engine."""
    seat.open_engine = lambda spec, beat: (Asleep(spec.engine.batch_size, 24), handshake_of(None))
    local.serve(descriptor)


def start_with(serve):
    """Seats' processes begin with this function."""
    local._START = local._START.replace("runner.fleet.local.serve", f"tests.bench.fleet.{serve.__name__}").replace(
        "import runner.fleet.local;", "import tests.bench.fleet;"
    )


def scheduled_ns():
    """Of this thread: computing, or in line for a processor. Linux."""
    return time.thread_time_ns() + int(Path("/proc/thread-self/schedstat").read_text().split()[1])


def serve_held(descriptor):
    """A seat's process with such an engine."""
    seat.open_engine = lambda spec, beat: (Held(256, 32), handshake_of(None))
    local.serve(descriptor)


def compute(engine, rows):
    plan, left, began = Plan(engine.costs), rows, time.perf_counter()
    tokens = list(range(1000, 3048))
    plan.add([Sequence((row, 0), [*tokens, 5 + row, *range(63)], 32) for row in range(rows)])
    while left:
        engine.add(plan.take(engine.room()))
        left -= len(engine.step())
    return rows / (time.perf_counter() - began)


def thread_times(pid):
    """Seconds of processor time of each thread of a process."""
    times = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        words = (folder / "stat").read_text().rpartition(")")[2].split()
        times[folder.name] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return times


def held(given):
    from tests.support.stores import open_store

    def show(name, speed, work):
        waited_us = work.prefilled / work.lanes / 1000
        print(f"{name}: {speed:,.0f} rows/s, {waited_us:.0f} us a step waiting for the interpreter", flush=True)

    engine = Held(256, 32)
    show("alone", compute(engine, given.rows), engine.work)
    start_with(serve_held)
    spec, conf = Spec(ModelConf(), EngineConf(backend="fake"), keep_awake=False), FleetConf(kind="local", seats=1)
    with open_store(Path("run")) as store:
        fleet = Fleet(LocalTransport(1), spec, handshake_of(None), conf, store.seats, store.flight)
        (member,) = fleet.membership.at_work()
        before = thread_times(member.handshake.pid)
        show("seat", compute(fleet, given.rows), fleet.work)
        after = thread_times(member.handshake.pid)
        answering = after[str(member.handshake.pid)] - before[str(member.handshake.pid)]
        print(f"{answering / given.rows * 1e6:.0f} us a row for answering, in {member.turn} turns", flush=True)
        fleet.close()


def pair(given):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(Path("tiny"))
    write_rows(given.rows)
    if given.core is not None:
        print(seats_on(given, [given.core]))
        return
    seats, drivers = apart(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, seats[:1])
    together = seats_on(given, seats[:1], "its driver there, too")
    os.sched_setaffinity(0, drivers)
    turns = [[seats_on(given, some, f"turn {turn}") for some in (seats[:1], seats)] for turn in range(given.turns)]
    again = [sys.executable, "-m", "tests.bench.fleet", "pair", "--rows", str(given.rows // 2)]
    again += ["--tokens", str(given.tokens)]
    again += ["--model", given.model] if given.model else []
    root = Path(runner.__file__).parents[1]
    runs = [subprocess.Popen([*again, "--core", str(core)], cwd=root, stdout=subprocess.PIPE) for core in seats]
    apiece = sum(float(run.communicate()[0].split()[-1]) for run in runs)
    one, two = (median(speeds) for speeds in zip(*turns, strict=True))
    said = ", ".join(f"{second / first:.2f}" for first, second in turns)
    print(
        f"two over one: {said}, median {median(second / first for first, second in turns):.2f}; with its driver there, "
        f"too: {two / together:.2f}; two runs of half the rows: {apiece / one:.2f}"
    )


def apart(cores):
    """Two cores for seats, and the driver's: no two threads of one physical core, where there are enough."""
    return (cores[0:4:2], cores[4:]) if len(cores) > 4 else (cores[:2], cores[:2])


def seats_on(given, cores, note="its driver anywhere"):
    """Rows/s of a seat on each of these cores."""
    start.transport_of = lambda conf: Pinned(len(cores), cores)
    name = re.sub(r"\W+", "-", f"pair{len(cores)} {note}")
    replaced = [word for word in words(name) if not word.startswith(("engine", "job"))]
    chosen = [f"model.path={given.model or 'tiny'}" if Path(given.model or "tiny").exists() else f"model={given.model}"]
    chosen += ["engine.backend=cpu", "prompt.chat=false", "job=generate", f"engine.max_tokens={given.tokens}"]
    figures, row_us = timed([*replaced, *chosen, "fleet=local"])
    speed, full = figures["rows_per_s"], figures["slot_occupancy"]
    said = f"{len(cores)} of one core, {note}: {speed:,.1f} rows/s, slots {full:.0%} full"
    print(f"{said}, driver {row_us:.0f} us for a row", flush=True)
    return speed


def waves(given):
    start_with(serve_asleep)
    write_rows(given.rows)
    speeds = {}
    for seats in (1, 2):
        kept = [word for word in words(f"waves{seats}", "engine.batch_size=64") if not word.startswith("job")]
        figures, _ = timed([*kept, "job=generate", "fleet=local", f"fleet.seats={seats}"])
        speeds[seats] = figures["rows_per_s"]
        print(f"{seats}: {speeds[seats]:,.1f} rows/s, slots {figures['slot_occupancy']:.0%} full", flush=True)
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
        figures, row_us = timed(words(f"scale{seats}", "fleet=local", "checkpoint.durability=process"))
        speed = figures["rows_per_s"]
        ideal = seats * SEAT_ROWS_S
        print(
            f"{seats} seats of {SEAT_ROWS_S:g} rows/s: {speed:,.0f} rows/s, {speed / ideal:.2f} of all; "
            f"this process {row_us:.0f} us for a row, what seats would compute included",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cost", "held", "pair", "waves", "scale"])
    parser.add_argument("--seats", default="8,64,256")
    parser.add_argument("--model", help="of ``pair``: a recipe such as smollm2_135m, or a path")
    parser.add_argument("--core", type=int, help="of ``pair``: one seat there and nothing else")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer of ``pair``")
    parser.add_argument("--turns", type=int, default=1, help="of ``pair``: one and two seats so often")
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        {"cost": cost, "held": held, "pair": pair, "waves": waves, "scale": scale}[given.what](given)
        os.chdir("/")


if __name__ == "__main__":
    main()
