"""What supervision and the checkpoint take of a run's speed.

``python -m tests.bench.overhead [--model PATH] [--rounds N]``.
Four ways of running the same rows, in turn, each in a process of its own: supervised (as ``rowmill run`` does),
``--no-supervise``, with a checkpoint in memory only, and with nothing committed or noted at all. Rows/s are counted
from when the model is loaded. They vary with whatever else the machine does; shares of the processor time of one and
the same thread hardly do. What durability costs is what a checkpoint on disk takes beyond one in memory; the rest is
JSON, checksums and Arrow, without which there would be no output.
"""

import argparse
import contextlib
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner import run
from runner.checkpoint import database, deaths, store
from runner.night import supervisor
from runner.session import drive, session

WAYS = ("supervised", "alone", "memory", "nothing")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model's path; default: a tiny llama with random weights")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(Path(folder), given)
        rounds = []
        for number in range(given.rounds):
            order = WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]
            told = {way: measured(way, [*words, f"run_name={way}-{number}"]) for way in order}
            rounds.append(told)
            speeds = ", ".join(f"{way} {told[way]['rows_per_s']:.1f}" for way in WAYS)
            print(f"round {number + 1}: rows/s: {speeds}; {described(told)}", flush=True)
    for way in WAYS[:-1]:
        ratios = [told[way]["rows_per_s"] / told["nothing"]["rows_per_s"] for told in rounds]
        print(f"{way}: {statistics.median(ratios):.3f} of nothing's rows/s ({min(ratios):.3f} to {max(ratios):.3f})")
    print("medians:", described({way: medians([told[way] for told in rounds]) for way in WAYS}))


def medians(told):
    numbers = [name for name, value in told[0].items() if isinstance(value, float)]
    return {name: statistics.median(one[name] for one in told) for name in numbers}


def described(told):
    share, cpu, row = (told["alone"][name] for name in ("share", "cpu_share", "row_us"))
    disk = row - told["memory"]["row_us"]
    return (
        f"commits and notes {share:.2%} of the time, {cpu:.2%} of the loop's processor time, {row:.0f} us a row; of it "
        f"for being on disk {disk / row * cpu:.2%}, {disk:.0f} us; the supervisor "
        f"{told['supervised']['watching']:.2%} of a core"
    )


def prepared(folder, given):
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{i},text number {i}\n" for i in range(given.rows)))
    model = [f"model.path={Path(given.model).resolve()}"] if given.model else tiny(folder / "tiny")
    words = ["job=generate", "dataset=csv", f"dataset.path={folder / 'rows.csv'}", f"engine.backend={given.backend}"]
    words += ["prompt.user='Say something about {{ text }}'", f"engine.max_tokens={given.tokens}"]
    return [*words, *model, "output.report=false", f"output.dir={folder}"]


def tiny(folder):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(folder)
    return [f"model.path={folder}", "prompt.chat=false"]


def measured(way, words):
    """What ``one`` or ``watched`` print of a run."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.overhead", "--one", way, *words], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: value for line in lines for name, value in line.items()}


def watched(words):
    """A run under a supervisor, which is this process: prints the share of a core that ``watching`` takes."""
    began, before = time.perf_counter(), own_seconds()
    if code := supervisor.supervise(["run", "--json"], words):
        sys.exit(code)
    print(json.dumps({"watching": (own_seconds() - before) / (time.perf_counter() - began)}))


def own_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one(way, words):
    """A run without a supervisor, in this process; prints what ``measured`` reads."""
    walls, threads = [], []
    if way == "nothing":
        store.Store.record = count
        deaths.Flight.beat = lambda *_, **__: None
    else:
        if way == "memory":
            database.sqlite3 = InMemory()
        store.Store.record = timed(store.Store.record, walls, threads)
        deaths.Flight.beat = timed(deaths.Flight.beat, walls, threads)

    def work(ready, opened, *given, original=session.work):
        began = time.thread_time()
        original(ready, opened, *given)
        rows, active = opened.totals().finished, opened.active_s()
        told = {"rows_per_s": rows / active, "share": sum(walls) / active, "row_us": 1e6 * sum(threads) / rows}
        print(json.dumps(told | {"cpu_share": sum(threads) / (time.thread_time() - began)}))

    session.work, drive.finish = work, lambda run, link, **more: {}
    run(words)


class InMemory:
    """The module sqlite3, but that a checkpoint stays as it was when it was opened: what is written is in memory."""

    def __getattr__(self, name):
        return getattr(sqlite3, name)

    def connect(self, path, **options):
        if Path(path).name != "run.db":
            return sqlite3.connect(path, **options)
        memory = sqlite3.connect(":memory:", **options)
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.backup(memory)
        return memory


def count(self, completions=(), finished=(), rejected=()):
    """Instead of ``Store.record``: nothing is kept."""
    self._totals = self._totals.plus(finished)


def timed(function, walls, threads):
    def call(*given, **named):
        began, used = time.perf_counter(), time.thread_time()
        try:
            return function(*given, **named)
        finally:
            walls.append(time.perf_counter() - began)
            threads.append(time.thread_time() - used)

    return call


if __name__ == "__main__":
    if sys.argv[1:2] != ["--one"]:
        main()
    elif sys.argv[2] == "supervised":
        watched(sys.argv[3:])
    else:
        one(sys.argv[2], sys.argv[3:])
