"""The order in which a recurrent layer takes a step's tokens: runs of them, each from one state to the next.

A layer that keeps a state needs its tokens in their order, and the state before the first of them. A *run* is a stretch
of one sequence's tokens: all that it brings to the step, or between two branches of a tree. Runs that may be computed
together are rows of a batch, longest first; where the shorter ones end, the others go on without them. A state is never
that of padding: rows are padded where nobody needs the state, or where the layer's own masks are found to work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from runner.engine.attention.layout import Span, Step
from runner.engine.attention.reach import indices
from runner.engine.attention.segments import Segment

PADDING = {mx.cpu: 16, mx.gpu: 256}  # tokens that cost less than a call more


@dataclass(eq=False)
class Run:
    """``tokens`` of a step, one after the other; the first one follows the last of ``after``, or the ``source``: a
    slot's state or a prefix's, or none.
    """

    tokens: list[int]
    after: Run | None = None
    source: int | Segment | None = None
    slot: int | None = None  # that keeps the state after it
    needed: bool = False  # whether anyone wants that state
    level: int = 0
    row: int = 0


class Chunk:
    """The next tokens of the first ``rows`` rows: ``length`` of each, or where rows are padded as many as ``lengths``
    says. ``tokens`` are those that count, as they come out.
    """

    def __init__(self, runs: list[list[int]]) -> None:
        self.rows, self.length = len(runs), max(map(len, runs))
        own = np.array([len(run) for run in runs])
        counts = np.arange(self.length) < own[:, None]
        at = np.repeat(np.array([[run[0]] for run in runs]), self.length, axis=1)
        self.tokens = np.array(list(itertools.chain(*runs)))
        at[counts] = self.tokens
        self.padded = int(own.min()) < self.length
        self.lengths, self.mask = indices(own), mx.array(counts)
        self.out = indices(np.flatnonzero(counts))
        self.first = indices(at[:, 0])
        start, count = int(at[0, 0]), at.size
        ordered = bool((at.ravel() == np.arange(start, start + count)).all())
        self._at: slice | mx.array = slice(start, start + count) if ordered else indices(at.ravel())

    def take(self, a: mx.array) -> mx.array:
        """An array of the step's tokens [T, 1, ...], or of what is said of their rows [T], for these: [rows, length,
        ...] or [rows].
        """
        if a.ndim == 1:
            return a[self.first]
        return a[self._at].reshape(self.rows, self.length, *a.shape[2:])

    def give(self, a: mx.array) -> mx.array:
        """What came out, [rows, length, ...], of the tokens alone: [tokens, 1, ...]."""
        a = a.reshape(self.rows * self.length, 1, *a.shape[2:])
        return a[self.out] if self.padded else a


class Wave:
    """Runs that are computed together. ``start``: which row of the wave before each goes on from, None: all in order.
    ``kept``: rows whose last states go into ``slots``, None: into the first slots in order.
    """

    def __init__(self, runs: list[Run], masks: bool) -> None:
        runs.sort(key=lambda run: (-len(run.tokens), run.slot or 0))
        for row, run in enumerate(runs):
            run.row = row
        self.runs = runs
        rows = [run.after.row if run.after else row for row, run in enumerate(runs)]
        self.start = None if runs[0].after is None else mx.array(rows)
        self.chunks = list(_chunks(runs, masks))
        kept = [run.row for run in runs if run.slot is not None]
        slots = [run.slot for run in runs if run.slot is not None]
        self.keeps = len(kept)
        self.all_kept = self.keeps == len(runs)
        self.kept, self.slots = mx.array(kept, mx.int32), mx.array(slots, mx.int32)
        self.in_slot_order = self.all_kept and slots == list(range(len(slots)))


class Course:
    """Waves, each of runs that go on from runs of the one before. Those of the first begin without any state, or with
    states of ``slots`` and then ``segments``, picked by ``order``.
    """

    def __init__(self, runs: list[Run], masks: bool) -> None:
        levels = itertools.groupby(sorted(runs, key=lambda run: run.level), key=lambda run: run.level)
        self.waves = [Wave(list(some), masks) for _, some in levels]
        sources = [run.source for run in self.waves[0].runs if run.source is not None]
        self.slots = [source for source in sources if isinstance(source, int)]
        self.segments = list(dict.fromkeys(source for source in sources if isinstance(source, Segment)))
        place = {source: at for at, source in enumerate([*self.slots, *self.segments])}
        self.order = [place[source] for source in sources]


class Plan:
    """How recurrent layers go through a step; made once for all of them. ``masks``: whether they leave the padding of
    rows out of their states.
    """

    def __init__(self, step: Step, masks: bool) -> None:
        self.masks = masks
        self.tokens = step.tokens
        self.building = step.building
        runs = [
            run
            for first, span in zip(step.first, step.spans, strict=True)
            for run in _runs(span, int(first), step.building is not None)
        ]
        begin = [run for run in runs if _root(run).source is None]
        others = [run for run in runs if _root(run).source is not None]
        self.courses = [Course(some, masks) for some in (begin, others) if some]
        order = np.concatenate(
            [chunk.tokens for course in self.courses for wave in course.waves for chunk in wave.chunks]
        )
        ordered = bool((order == np.arange(order.size)).all())
        self.place = None if ordered else indices(np.argsort(order))

    def tells(self, a: mx.array) -> bool:
        """Whether an array says something of each of the step's tokens."""
        return a.shape[:1] == (self.tokens,) and a.shape[1:2] in ((), (1,))


def _root(run: Run) -> Run:
    while run.after is not None:
        run = run.after
    return run


def _runs(span: Span, first: int, building: bool) -> Iterator[Run]:
    """A span's tokens, cut behind the one whose state is kept and where a tree branches."""
    source = span.slot if span.stored and span.slot is not None else _with_state(span.prefix)
    stored = span.slot if span.keep else None
    kept = span.new - 1 - span.again if stored is not None else -1
    if not span.parents and (stored is None or kept == span.new - 1):
        yield Run(list(range(first, first + span.new)), None, source, stored, building or stored is not None)
        return
    parents = [
        *range(-1, span.new - 1),
        *(span.new + parent if parent >= 0 else span.new - 1 for parent in span.parents),
    ]
    children = np.bincount(np.array(parents)[1:], minlength=span.count)
    run_of: list[Run] = []
    for node, parent in enumerate(parents):
        if node and children[parent] == 1 and parent != kept:
            run_of.append(run_of[parent])
        else:
            before = run_of[parent] if node else None
            if before:
                before.needed = True
            run_of.append(Run([], before, None if before else source, level=before.level + 1 if before else 0))
        run_of[-1].tokens.append(first + node)
        if node == kept:
            run_of[-1].slot, run_of[-1].needed = stored, True
    yield from dict.fromkeys(run_of)


def _with_state(prefix: Segment | None) -> Segment | None:
    """The innermost segment of a prefix that has tokens: its state is the prefix's."""
    while prefix is not None and not prefix.tokens:
        prefix = prefix.parent
    return prefix


def _chunks(runs: list[Run], masks: bool) -> Iterator[Chunk]:
    """Rows, longest first, cut where some end, unless a little padding saves a call."""
    start, most = 0, PADDING[mx.default_device().type]
    while rows := [run for run in runs if len(run.tokens) > start]:
        end, wasted = len(rows[-1].tokens), 0
        for number, run in enumerate(reversed(rows)):
            wasted += number * (len(run.tokens) - end)
            if wasted > most:
                break
            end = len(run.tokens)
            if run.needed and not masks:  # its state would be that of the padding
                break
        yield Chunk([run.tokens[start:end] for run in rows])
        start = end
