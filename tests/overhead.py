"""What supervision and the checkpoint take of a run's speed: ``python -m tests.overhead [--model PATH] [--rounds N]``.

Three ways of running the same rows, in turn, each in a process of its own: supervised (as ``rowmill run`` does),
``--no-supervise``, and with nothing committed or noted at all. Rows/s are counted from when the model is loaded.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner import flight, run, session, store
from runner.records import Staged

WAYS = ("supervised", "alone", "nothing")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model's path; default: a tiny llama with random weights")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(Path(folder), given)
        rounds = []
        for number in range(given.rounds):
            order = WAYS[number % 3 :] + WAYS[: number % 3]
            told = {way: measured(way, [*words, f"run_name={way}-{number}"]) for way in order}
            rounds.append(told)
            speeds = ", ".join(f"{way} {told[way]['rows_per_s']:.1f}" for way in WAYS)
            print(f"round {number + 1}: rows/s: {speeds}; commits {told['alone']['share']:.2%} of the time", flush=True)
    for way in WAYS[:2]:
        ratios = [told[way]["rows_per_s"] / told["nothing"]["rows_per_s"] for told in rounds]
        print(f"{way}: {statistics.median(ratios):.3f} of nothing's rows/s ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"commits and notes: {statistics.median(told['alone']['share'] for told in rounds):.2%} of the time at work")


def prepared(folder, given):
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{i},text number {i}\n" for i in range(given.rows)))
    model = [f"model.path={Path(given.model).resolve()}"] if given.model else tiny(folder / "tiny")
    words = ["job=generate", "dataset=csv", f"dataset.path={folder / 'rows.csv'}", f"engine.backend={given.backend}"]
    words += ["prompt.user='Say something about {{ text }}'", "engine.max_tokens=16", "output.report=false"]
    return [*words, *model, f"output.dir={folder}"]


def tiny(folder):
    from tests.tiny import save_tiny_llama

    save_tiny_llama(folder)
    return [f"model.path={folder}", "prompt.chat=false"]


def measured(way, words):
    """``rows_per_s`` and, for a run alone, the ``share`` of its time that went into commits and notes."""
    start = ["runner.cli", "run", "--json"] if way == "supervised" else ["tests.overhead", "--one", way]
    done = subprocess.run([sys.executable, "-m", *start, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one(way, words):
    """A run without a supervisor, in this process; prints what ``measured`` reads."""
    seconds = []
    if way == "nothing":
        store.Store.record = count
        flight.Flight.beat = lambda *_, **__: None
    else:
        store.Store.record = timed(store.Store.record, seconds)
        flight.Flight.beat = timed(flight.Flight.beat, seconds)

    def work(ready, opened, *given, original=session.work):
        original(ready, opened, *given)
        told = {"rows_per_s": opened.totals().finished / opened.active_s(), "share": sum(seconds) / opened.active_s()}
        print(json.dumps(told))

    session.work, session.result = work, lambda ready: {}
    run(words)


def count(self, completions=(), finished=(), rejected=()):
    """Instead of ``Store.record``: nothing is kept."""
    self._totals = self._totals.plus(Staged(one.row, one.error, *one.usage, "") for one in finished)


def timed(function, seconds):
    def call(*given, **named):
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds.append(time.perf_counter() - began)

    return call


if __name__ == "__main__":
    one(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--one"] else main()
