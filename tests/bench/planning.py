"""What planning 100,000 prompts of 700 tokens takes: `python -m tests.bench.planning` (on one core; no model).

For prompts with one template, documents x questions in shuffled order, and prompts that share nothing: seconds of
processor time for all of them waiting at once, and read ahead as a run does; the memory that the plan adds to the
prompts'; the shares of prompt tokens that this order serves from cache and that any order could, of planned prefixes.
"""

import random
import time
import tracemalloc

import numpy as np

from runner.config.conf import EngineConf
from runner.loop.loop import READ_ROWS, WINDOW_TOKENS
from runner.loop.plan import Plan
from runner.sequences import Sequence

COUNT, TOKENS, QUESTIONS, VOCABULARY = 100_000, 700, 20, 49_152
BATCH = 64  # sequences taken at a time


def prompts(workload, count):
    """Token ids, made when they are asked for: each integer an object of its own, as tokenizers make them."""
    rng = np.random.default_rng(0)
    template = rng.integers(0, VOCABULARY, 600 if workload == "template" else 50)
    order = list(range(count))
    random.Random(0).shuffle(order)
    for i in order:
        own = np.random.default_rng([1, i]).integers(0, VOCABULARY, TOKENS)
        if workload == "documents":
            document = np.random.default_rng([2, i // QUESTIONS]).integers(0, VOCABULARY, 600)
            own = np.concatenate([template, document, own[:50]])
        elif workload == "template":
            own[:600] = template
        yield own.tolist()


def served(taken):
    """Prompt tokens served by a cache that holds the prefixes of the latest sequence alone."""
    tokens, path = 0, []
    for one in taken:
        new = [hash(tuple(one.tokens[:boundary])) for boundary in one.boundaries]
        tokens += max((b for b, prefix in zip(one.boundaries, new, strict=True) if prefix in path), default=0)
        path = new
    return tokens


class Planning:
    """A plan and the processor time spent in it."""

    def __init__(self):
        self.plan, self.seconds, self.cached = Plan(), 0.0, 0
        self.last = []

    def add(self, rows):
        sequences = [Sequence((i, 0), row, 32) for i, row in rows]
        began = time.process_time()
        self.plan.add(sequences)
        self.seconds += time.process_time() - began

    def take(self):
        began = time.process_time()
        taken = self.plan.take(BATCH)
        self.seconds += time.process_time() - began
        self.cached += served(self.last + taken)
        self.last = taken[-1:]


def at_once(workload, count):
    planning = Planning()
    planning.add(list(enumerate(prompts(workload, count))))
    while len(planning.plan):
        planning.take()
    return planning


def as_read(workload, count):
    """As the loop does with the usual window: rows are read while fewer than so many, and WINDOW_TOKENS, wait."""
    planning, rows, read, window = Planning(), enumerate(prompts(workload, count)), 0, EngineConf().window
    while read < count or len(planning.plan):
        while read < count and planning.plan.tokens < WINDOW_TOKENS and len(planning.plan) <= window - READ_ROWS:
            some = [row for _, row in zip(range(READ_ROWS), rows, strict=False)]
            read += len(some)
            planning.add(some)
        planning.take()
    return planning


def memory(workload, count):
    """Bytes that the plan of some waiting prompts takes at its peak, theirs not counted, for each of them."""
    sequences = [Sequence((i, 0), row, 32) for i, row in enumerate(prompts(workload, count))]
    tracemalloc.start()
    plan = Plan()
    plan.add(sequences)
    plan.take(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / count


if __name__ == "__main__":
    for workload in ("template", "documents", "unique"):
        for way in (at_once, as_read):
            done = way(workload, COUNT)
            taken, cached = done.plan.taken, done.cached / done.plan.taken
            print(
                f"{workload}, {way.__name__}: {done.seconds:.1f} s, {cached:.1%} from cache, "
                f"{done.plan.shareable / taken:.1%} in any order",
                flush=True,
            )
        print(f"{workload}: {memory(workload, COUNT // 20) / 1000:.1f} kB a prompt beside its token ids", flush=True)
