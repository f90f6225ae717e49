"""What an engine finds out about its device: the fastest batch size, and what sharing a prefix costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any, TypeVar

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.cache import remember, remembered
from runner.engine.attention.copies import Copies
from runner.engine.attention.copies import measure as measure_copies
from runner.engine.attention.layout import Span, Step
from runner.engine.attention.parts import Form, on_cpu
from runner.engine.attention.resident import ResidentModel
from runner.engine.attention.segments import Segment
from runner.sequences import Costs

STEPS = 12  # measured at each batch size
WARM_UP = 4  # of them, not counted: new slots are made, kernels are compiled
GAIN = 1.05  # in tokens/s, for which a batch is doubled
REST = 4 * STEPS  # after a doubling that gained less, until it is tried again; twice as many after the next one
PREFIX = 16  # tokens of the prefix that is tried
ROWS, SUFFIX = 4, 12  # sequences behind it, and their tokens
REPEATS = 3  # in turns, so that what else the machine does slows all of them; the best of each counts
LEAST = Costs(snapshot=32, level=0.02)  # less cannot be told from noise, and small groups cost padding, too

T = TypeVar("T")


class Growth:
    """Doubles ``size`` while that makes more tokens a second, up to ``most``; goes back when it does not.

    What else the machine did may have decided: the doubled size is tried again later, and ever more rarely.
    """

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.most = most
        self._half: float | None = None  # tokens/s of half the size, while it is tried to be more
        self._seen: list[float] = []
        self._rest, self._next_rest = 0, REST  # steps until the next measurement; how many after the next failure

    def saw(self, tokens: int, seconds: float) -> None:
        """A step that decoded ``tokens``, one a sequence, and did nothing else."""
        if tokens < 0.9 * self.size or (self._half is None and 2 * self.size > self.most):
            return
        if self._rest:
            self._rest -= 1
            return
        self._seen.append(tokens / seconds)
        if len(self._seen) == STEPS:
            self._decide(median(self._seen[WARM_UP:]))
            self._seen.clear()

    def _decide(self, rate: float) -> None:
        if self._half is not None and rate < GAIN * self._half:
            self.size, self._half = self.size // 2, None
            self._rest, self._next_rest = self._next_rest, 2 * self._next_rest
        elif 2 * self.size <= self.most:
            self.size, self._half = 2 * self.size, rate
        else:
            self._half = None


def costs_here(model: ResidentModel, machine: str, *, anew: bool = False) -> Costs:
    """Measured (``anew``: in any case), or as before on a model of the same shapes. ``machine`` names the device."""
    shapes = [(name, array.shape, str(array.dtype)) for name, array in tree_flatten(model.model.parameters())]
    layers = [(repr(layer.reach), layer.kv_bits) for layer in model.layers]
    key = LEAST, machine, version("mlx"), version("rowmill"), shapes, layers
    found = None if anew else _read(Costs, remembered(key))
    if found is None:
        remember(key, (found := measure_costs(model))._asdict())
    return found


def copies_here(model: ResidentModel, machine: str) -> Copies:
    """The same for the way that prefixes are attended to. On a CPU it is measured by ``rowmill tune`` only: one matrix
    product for all of a batch is faster there.
    """
    shape = form_of(model)
    if shape is None:
        return Copies()
    found = _read(Copies, remembered(_copies_key(shape, machine)))
    if found is not None or on_cpu():
        return found or Copies()
    return keep(shape, machine, measure_copies(shape))


def form_of(model: ResidentModel) -> Form | None:
    """Of the attention whose prefixes may be copied; None where no layer sees all tokens."""
    return next((layer.form for layer in model.layers if layer.form and not layer.reach.window), None)


def keep(shape: Form, machine: str, found: Copies) -> Copies:
    """For later runs."""
    remember(_copies_key(shape, machine), found._asdict())
    return found


def _copies_key(shape: Form, machine: str) -> object:
    return repr(Copies()), machine, version("mlx"), version("rowmill"), repr(shape)


def _read(kind: Callable[..., T], found: dict[str, Any] | None) -> T | None:
    """None for what another version has kept, or what is damaged."""
    with contextlib.suppress(TypeError):
        return None if found is None else kind(**found)
    return None


def measure_costs(model: ResidentModel) -> Costs:
    """Three short forward passes: without a prefix, behind one, and the one that computes it."""
    prefix = Segment()
    model.forward(_tokens(PREFIX), Step([Span(prefix, None, 0, PREFIX)], building=prefix), rows=None)
    prefix.tokens.extend([1] * PREFIX)
    model.trim(prefix)
    alone, behind, built = _seconds(
        partial(_forward, model, spans)
        for spans in (
            [Span(None, None, 0, SUFFIX) for _ in range(ROWS)],
            [Span(prefix, None, 0, SUFFIX) for _ in range(ROWS)],
            [Span(None, None, 0, PREFIX)],
        )
    )
    token = alone / (ROWS * SUFFIX)
    return Costs(max(LEAST.snapshot, built / token), max(LEAST.level, (behind - alone) / alone))


def _forward(model: ResidentModel, spans: list[Span]) -> mx.array:
    return model.forward(_tokens(sum(span.count for span in spans)), Step(spans), rows=[0])


def _tokens(count: int) -> mx.array:
    return mx.ones((count,), mx.int32)


def _seconds(works: Iterable[Callable[[], mx.array]]) -> list[float]:
    todo = list(works)
    rounds = [[_timed(work) for work in todo] for _ in range(REPEATS)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def _timed(work: Callable[[], mx.array]) -> float:
    began = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - began
