"""What thousands of labels cost with SmolLM2-135M on the CPU, beside 20 of them.

``python -m tests.bench.labels [ROWS [ROUNDS]]``: rows of 60 own tokens behind 30 shared ones with 20, 2,000 and 10,000
labels take turns in one process, and the medians of wall and processor time are compared; then each has a process of
its own, whose highest memory is compared.
``python -m tests.bench.labels fake [ROWS [LABELS]]``: 100,000 rows and 10,000 labels with the fake engine: seconds,
memory of all processes as it went, size of the files.
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (20, 2000, 10000)
DO = """open|close|cancel|change|check|verify|report|request|update|transfer|block|activate|dispute|track
return"""
TO = """account|card payment|direct debit|savings plan|mortgage|insurance claim|phone number|postal address|delivery
invoice|refund|password|loan|pension|travel booking|subscription|device|gift voucher|tax form|parking permit|school fee
energy contract"""
HOW = """abroad|by app|by post|for a business|for a child|in a branch|with a fee|without notice|after a move
for a friend|by phone|online|due to fraud|due to illness|at night|in advance|next year|in cash|by mistake|urgently
for a pensioner|with a voucher|in another currency|for a student|twice|for a couple|on paper|on a holiday|without a code
at an airport|within a day"""
WORDS = """my card was lost and I need help today please with the payment of last week at home or the shop now"""


def catalogue(count):
    """Made-up intents of a bank's customers, in an order that is always the same."""
    do, to, how = (text.replace("\n", "|").split("|") for text in (DO, TO, HOW))
    names = [" ".join(filter(None, parts)) for parts in itertools.product(do, to, how)]
    return random.Random(0).sample(names, count)


def opened():
    from tests.bench.constrained import load

    engine, vocabulary = load()
    return engine(()), vocabulary


def requests(vocabulary, rows, count):
    """Sequences as the job makes them: in full up to 20 labels, beginnings of more."""
    from runner.loop.requests import Defaults, sequence_of
    from runner.text.choices import Choices
    from runner.types import Request, Sampling

    surfaces = tuple(" " + name for name in catalogue(count))
    chosen = Choices(tuple(vocabulary.encode_plain(surface)) for surface in surfaces)
    request = Request({}, choices=surfaces, whole=count <= 20, cut=count > 20, top_choices=10 if count > 1000 else None)
    shared = vocabulary.encode(["What does this customer of a bank want? Name the intent of the message. " * 2])[0][:30]
    own = vocabulary.encode([" ".join(random.Random(row).choices(WORDS.split(), k=70)) for row in range(rows)])
    made = [shared + tokens[:56] + vocabulary.encode_plain("\nIntent:") for tokens in own]
    defaults = Defaults(9, Sampling(), 0)
    return [
        sequence_of((row, 0), row, request, tokens[:90], defaults, lambda *_: chosen) for row, tokens in enumerate(made)
    ]


def measured(engine, todo):
    from tests.bench.constrained import finish

    for sequence in todo:
        sequence.boundaries = (30,)
    wall, processor = time.perf_counter(), time.process_time()
    before = engine.work.prefilled
    finish(engine, todo)
    return time.perf_counter() - wall, time.process_time() - processor, engine.work.prefilled - before


def speed(rows=16, rounds=3):
    engine, vocabulary = opened()
    sets = {count: requests(vocabulary, rows, count) for count in COUNTS}
    for todo in sets.values():
        measured(engine, todo[:2])
    taken = {count: [] for count in COUNTS}
    for _ in range(rounds):
        for count, todo in sets.items():
            taken[count].append(measured(engine, todo))
    medians = {
        count: [statistics.median(values) for values in zip(*each, strict=True)] for count, each in taken.items()
    }
    for count, (wall, processor, tokens) in medians.items():
        ratio = processor / medians[COUNTS[0]][1]
        print(
            f"{count:,} labels: {1e3 * wall / rows:.0f} ms a row, {1e3 * processor / rows:.0f} ms of processor time",
            end="",
        )
        print(f" ({ratio:.2f}x), {tokens / rows:.0f} tokens a row", flush=True)


def memory(rows=16):
    peaks = {}
    for count in COUNTS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.labels", "peak", str(rows), str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[count] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{count:,} labels: {peaks[count] / 1e6:,.0f} MB at most ({peaks[count] / peaks[COUNTS[0]]:.2f}x)",
            flush=True,
        )


def peak(rows, count):
    import resource

    engine, vocabulary = opened()
    measured(engine, requests(vocabulary, rows, count))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def fake(rows=100_000, count=10_000):
    """The whole run, all of its processes watched from outside."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "labels.txt").write_text("\n".join(catalogue(count)))
        (work / "rows.csv").write_text(
            "text\n" + "\n".join(f"message {row} {WORDS[row % 90 :]}" for row in range(rows))
        )
        words = ["job=label", "job.labels_file=labels.txt", "dataset=csv", "dataset.path=rows.csv", "run_name=labels"]
        words += ["prompt.user=Which intent? {{ text }}", "engine.backend=fake"]
        began, seen = time.perf_counter(), []
        process = subprocess.Popen([sys.executable, "-m", "runner.cli", "run", *words], cwd=work, env=environment())
        while process.poll() is None:
            seen.append(sum(map(resident_bytes, [process.pid, *descendants(process.pid)])))
            time.sleep(0.5)
        seconds, run_dir = time.perf_counter() - began, work / "outputs" / "labels"
        parts = [max(seen[at * len(seen) // 4 : (at + 1) * len(seen) // 4] or [0]) / 1e6 for at in range(4)]
        size = sum(file.stat().st_size for file in run_dir.rglob("*") if file.is_file())
        print(f"{rows:,} rows, {count:,} labels: {seconds:.0f} s, exit code {process.returncode}")
        print("most memory of all processes in each quarter: " + ", ".join(f"{part:,.0f} MB" for part in parts))
        print(f"run.db {(run_dir / 'run.db').stat().st_size / 1e6:,.0f} MB, all files {size / 1e6:,.0f} MB")


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}


def descendants(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in map(int, children) for one in [child, *descendants(child)]]


def resident_bytes(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    what, *numbers = [word if word.isalpha() else int(word) for word in sys.argv[1:]] or [16]
    if what == "peak":
        peak(*numbers)
    elif what == "fake":
        fake(*numbers)
    else:
        speed(what, *numbers)
        memory(what)
