"""Whether sequences share one copy of their prefix while they decode, or each have one: what is faster here.

One shared copy is read once for all of them, but attention then has parts to merge, and MLX's own kernel is not used.
Which way wins depends on the device, the number of sequences and the length of the prefix: it is measured, on one layer
of the model's shape, and kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import mlx.core as mx

from runner.engine.attention.layout import Span, Step
from runner.engine.attention.parts import Form
from runner.engine.attention.prefix import LayerKV
from runner.engine.attention.reach import Reach
from runner.engine.attention.segments import Segment

PREFIXES = (512, 2048, 8192)  # tokens
BATCHES = (2, 4, 8, 16, 32, 64, 128, 256)
OWN = 32  # tokens behind the prefix
CALLS, TURNS = 8, 5  # in one evaluation, and evaluations of each way
MOST_BYTES = 1 << 30  # of keys and values that are tried


class Copies(NamedTuple):
    """Up to how many sequences copies are faster, for each of PREFIXES; 0: never."""

    most: tuple[int, ...] = (0,) * len(PREFIXES)

    def faster(self, prefix: int, sequences: int) -> bool:
        """For that many sequences behind a prefix of so many tokens, between the measured lengths by proportion."""
        return prefix > 0 and sequences <= self._most(prefix)

    def _most(self, prefix: int) -> float:
        if prefix <= PREFIXES[0]:
            return self.most[0]
        if prefix >= PREFIXES[-1]:
            return self.most[-1]
        above = next(at for at, length in enumerate(PREFIXES) if length >= prefix)
        low, high = PREFIXES[above - 1 : above + 1]
        share = math.log(prefix / low) / math.log(high / low)
        return self.most[above - 1] + share * (self.most[above] - self.most[above - 1])


class Cell(NamedTuple):
    """Seconds of one layer's attention in a step that decodes ``sequences`` behind so many tokens, in turns."""

    prefix: int
    sequences: int
    copied: list[float]
    shared: list[float]

    @property
    def ratio(self) -> float:
        """How many times as long copies take."""
        return median(self.copied) / median(self.shared)

    @property
    def copy(self) -> bool:
        """Whether copies are faster beyond what the turns differ by: in each of them."""
        return all(copied < shared for copied, shared in zip(self.copied, self.shared, strict=True))


def cell(form: Form, prefix: int, sequences: int) -> Cell:
    """Measured here, both ways in turns, so that what else the machine does slows both."""
    ways = [way(form, prefix, sequences, copied) for copied in (True, False)]
    for seconds in ways:
        seconds()  # kernels are compiled
    copied, shared = zip(*([seconds() for seconds in ways] for _ in range(TURNS)), strict=True)
    return Cell(prefix, sequences, list(copied), list(shared))


def measure(form: Form, one: Callable[[Form, int, int], Cell] = cell, beyond: float = 1.0) -> Copies:
    """Seconds of milliseconds each: larger batches are tried until copies take ``beyond`` times as long as sharing."""
    found = []
    for prefix in PREFIXES:
        most, ratio, won = 0, 0.0, True
        for count in BATCHES:
            if _bytes(form, count, prefix) > MOST_BYTES or ratio > beyond:
                break
            measured = one(form, prefix, count)
            ratio, won = measured.ratio, won and measured.copy
            most = count if won else most
        found.append(most)
    return Copies(tuple(found))


def way(form: Form, prefix: int, count: int, copied: bool) -> Callable[[], float]:
    """Measures one layer's attention in a decode step of ``count`` sequences behind a prefix, in seconds."""
    layer = LayerKV(0, Reach())
    H, D, N, K, V, dtype, cap = form
    q, k, v = (
        mx.random.normal(size, dtype, key=mx.random.key(1))
        for size in ((count, H, 1, D), (count, N, 1, K), (count, N, 1, V))
    )
    shared = Segment(
        tokens=[1] * prefix, keys=[_random((N, prefix, K), dtype)], values=[_random((N, prefix, V), dtype)]
    )
    layer.resize(count, OWN + (prefix if copied else 0))
    layer.keys, layer.values = (_random((count, N, layer.shape[1], size), dtype) for size in (K, V))
    mx.eval(q, k, v, shared.keys, shared.values, layer.keys, layer.values)
    spans = [Span(None, i, prefix + OWN - 1, 1) if copied else Span(shared, i, OWN - 1, 1) for i in range(count)]

    def seconds() -> float:
        began = time.perf_counter()
        outs: list[Any] = []
        layer.step = Step(spans)
        for _ in range(CALLS):
            outs.append(layer.attention(q, *layer.update_and_fetch(k, v), D**-0.5, None, cap))
        mx.eval(outs, layer.keys, layer.values)
        return (time.perf_counter() - began) / CALLS

    return seconds


def _random(size: Sequence[int], dtype: mx.Dtype) -> mx.array:
    return mx.random.normal(size, dtype, key=mx.random.key(len(size)))


def _bytes(form: Form, count: int, prefix: int) -> int:
    return count * (prefix + OWN) * form.N * (form.K + form.V) * form.dtype.size
