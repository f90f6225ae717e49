"""Whether another way through a model gives its own logits: as close to them as the model is to itself.

Rows of several lengths go through the model by themselves, in one pass, and once more their last tokens one by one. How
far these two are apart is the model's own rounding. On a CPU both may add up in one order, and round alike: in 16 bits,
where that does not explain a difference, what each layer computes is let fall to a neighbouring number.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from runner.types import UserError

PROMPTS = (13, 4, 9, 6)  # tokens before the first answer
SHARED = 3  # of them at the beginning of all rows
STEPS = 4  # tokens decoded after it, the same for everybody
SPARE = 4.0  # other shapes of a batch round otherwise than the two ways that are compared
FALLS = 0.5  # of what rounded keys and values change at all, which way they fall may change
# Distances that rounding explains in any model, by the type of its weights; mixtures of experts have more of their own.
LEAST = {mx.float32: 1e-3}
LEAST_HALF = 0.03
NEIGHBOUR = {mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}  # at most so far off, as a share, is the next number


class Trial:
    """``rows``: token ids, each a prompt of PROMPTS tokens and STEPS more; all begin with the same SHARED ones.

    ``caches``: of the model, as its own logits are computed with.
    """

    def __init__(self, model: Any, caches: Callable[[Any], list[Any]] = make_prompt_cache) -> None:
        self.model, self.caches = model, caches
        size = int(model(mx.array([[1]]), cache=make_prompt_cache(model)).shape[-1])
        random = np.random.default_rng(0)
        shared = random.integers(1, size, SHARED).tolist()
        self.rows = [shared + random.integers(1, size, count - SHARED + STEPS).tolist() for count in PROMPTS]
        self.want = [_logits(model, caches(model), row, len(row)) for row in self.rows]
        if any(bool(mx.isnan(logits).any()) for row in self.want for logits in row):
            raise UserError(
                "the model computes NaN, no numbers: its weights are damaged, or too large for their type",
                exit_code=3,
            )
        again = [_logits(model, caches(model), row, len(row) - STEPS) for row in self.rows]
        kinds = {array.dtype for array in _floats(model)}
        least = max(LEAST.get(kind, LEAST_HALF) for kind in kinds)
        self.bound = max(least, SPARE * self._error(again))
        if (
            caches is not make_prompt_cache
        ):  # one number that falls to its other neighbour changes what all after it see
            exact = [_logits(model, make_prompt_cache(model), row, len(row)) for row in self.rows]
            self.bound = max(self.bound, FALLS * self._error(exact))

    def problem(self, got: Sequence[Sequence[Any]]) -> str | None:
        """What is wrong with the logits [STEPS + 1] [V] of each row after its prompt and each further token."""
        error = self._error(got)
        if error <= self.bound or error <= (bound := max(self.bound, self._rounding)):
            return None
        return f"logits differ by {error:.2%} of their spread, where rounding explains {bound:.2%}"

    @functools.cached_property
    def _rounding(self) -> float:
        """How far the logits move if what each layer computes in 16 bits does, by the last of them."""
        with _nudged(self.model):
            moved = [_logits(self.model, self.caches(self.model), row, len(row)) for row in self.rows]
        return 2 * self._error(moved)  # both of what is compared are rounded

    def _error(self, got: Sequence[Sequence[Any]]) -> float:
        """Of the row that is furthest off. The median of its tokens: rounding can make one choose other experts."""
        rows = zip(got, self.want, strict=True)
        return max(median(distance(a, b) for a, b in zip(row, want, strict=True)) for row, want in rows)


def distance(got: Any, want: Any) -> float:
    """Root mean square of the difference of two vectors of logits, whatever was added to all of them, as a share of
    ``want``'s standard deviation.
    """
    got, want = (np.array(one.astype(mx.float32)).astype(np.float64) for one in (got, want))
    difference = got - want
    return float(np.sqrt(np.var(difference) / np.var(want)))


def _logits(model: Any, cache: list[Any], row: list[int], first: int) -> list[mx.array]:
    """After the prompt and each further token, by the model's own caches: ``first`` tokens at once, then one by one."""
    passes = [model(mx.array([row[:first]]), cache=cache)[0]]
    passes += [model(mx.array([[token]]), cache=cache)[0] for token in row[first:]]
    logits = mx.concatenate(passes)[-STEPS - 1 :]
    mx.eval(logits)
    return list(logits)


@contextmanager
def _nudged(model: Any) -> Iterator[None]:
    """Modules with matrices give numbers of 16 bits that are half a step to the next one off, rounded up or down."""
    matrices = [module for module in model.modules() if getattr(module.get("weight"), "ndim", 0) > 1]
    plain = {kind: kind.__call__ for kind in {type(module) for module in matrices}}
    key = itertools.count()

    def nudged(call: Any, *given: Any, **named: Any) -> Any:
        a = call(*given, **named)
        if not isinstance(a, mx.array) or a.dtype not in NEIGHBOUR:
            return a
        up = mx.random.bernoulli(0.5, a.shape, key=mx.random.key(next(key)))
        step = NEIGHBOUR[a.dtype] / 2
        return (a.astype(mx.float32) * mx.where(up, 1 + step, 1 - step)).astype(a.dtype)

    try:
        for kind, call in plain.items():
            kind.__call__ = functools.partialmethod(functools.partial(nudged, call))  # type: ignore[assignment]
        yield
    finally:
        for kind, call in plain.items():
            kind.__call__ = call


def _floats(model: Any) -> list[mx.array]:
    from mlx.utils import tree_flatten

    found = [array for _, array in tree_flatten(model.parameters()) if mx.issubdtype(array.dtype, mx.floating)]
    return found or [mx.zeros((1,))]
