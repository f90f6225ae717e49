"""CUDA kernels for the parts of attention that a step is made of: one launch each.

Made of MLX's own operations, a part takes seven launches of about 12 us on the host (H200, MLX 0.32.4), more than the
device needs to compute it. ``parts.attend`` is the same in MLX's operations, and what all other devices use.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from runner.engine.kernels import MASKED
from runner.engine.kernels.cuda import CheckedKernels, checked
from runner.engine.kernels.cuda.nvrtc import Kernel, Template, numbers

SOURCE = Path(__file__).with_suffix(".cu")
HEAD_SIZES = (16, 32, 64, 128)
MOST_QUERIES = 8  # a KV head: they lie in registers
WARPS = 4  # of a block: those of Hopper's group, 16 rows each
ROWS = 16 * WARPS
BLOCKS = 264  # keep an H200's 132 multiprocessors busy
FEWEST_KEYS = 128  # of a share
TILE = 64  # keys


@cache
def kernels(dtype: mx.Dtype, head_size: int, value_size: int, queries: int, scale: float) -> Kernels | None:
    """For heads of these sizes and ``queries`` queries a KV head; None where there are none: on other devices, too."""
    fits = head_size in HEAD_SIZES and value_size == head_size and queries <= MOST_QUERIES
    if not fits or dtype not in (mx.bfloat16, mx.float16) or not mx.cuda.is_available():
        return None
    made = Kernels(head_size, queries, scale)
    made.compile(dtype)
    return checked(made, "attention", dtype)


class Kernels(CheckedKernels):
    """Queries are q [T, N, G, D] or [T, H, 1, D]: the same in memory. Parts are float32 and stacked: outputs
    [shares, tokens, N, G, D] with masses [shares, tokens, N, G, 1], as in ``parts.Part``.
    """

    def __init__(self, head_size: int, queries: int, scale: float) -> None:
        self.sizes = (head_size, queries)
        self.scale = scale
        header = f"#define SCALE {scale!r}f\n#define KEYS {TILE}\n{SOURCE.read_text()}"
        slots = ["q", "keys", "values", "mask", "slot_of", "bounds"]
        stored = "const_cast<T*>(keys), const_cast<T*>(values)"  # ``finish`` writes to them
        tiles = 4 * TILE * 2 * head_size + 1024  # bytes: two of keys, two of values, and what they are aligned by
        self._slots = Kernel(
            slots,
            ["out", "mass"],
            f"""
            Fresh<T> fresh = {{nullptr, nullptr, nullptr}};
            Others<float> others = {{nullptr, nullptr, 0, nullptr}};
            attend_slot<T, D, G, {WARPS}>(q, {stored}, mask, slot_of, bounds, fresh, others, out, mass);""",
            header,
        )
        self._finish = Kernel(
            [*slots, "k", "v", "place", "outs", "masses", "sinks"],
            ["out"],
            f"""
            Fresh<T> fresh = {{k, v, place}};
            Others<S> others = {{outs, masses, bounds[2], SINKS ? sinks : nullptr}};
            attend_slot<T, D, G, {WARPS}>(q, {stored}, mask, slot_of, bounds, fresh, others, out, (float*)nullptr);""",
            header,
        )
        self._segment = Kernel(
            ["q", "k", "v", "mask", "bounds"],
            ["out", "mass"],
            f"attend_segment<T, D, G, {WARPS}, MASK>(q, k, v, mask, bounds, out, mass);",
            header,
            shared_memory=tiles,
        )
        self._prompts = Kernel(
            [
                *("q", "k", "v", "prefix_k", "prefix_v", "since", "slot", "place", "bounds"),
                *("keys", "values", "outs", "masses", "sinks"),
            ],
            ["out"],
            f"""
            Others<S> others = {{outs, masses, bounds[4], SINKS ? sinks : nullptr}};
            attend_prompts<T, D, G, {WARPS}>(
                q, k, v, prefix_k, prefix_v, since, slot, place, bounds, {stored}, others, out);""",
            header,
            shared_memory=tiles,
        )

    def compile(self, dtype: mx.Dtype) -> None:
        """Begin with what a model of this type may need."""
        whole, real = mx.int32, mx.float32
        for sinks in (None, dtype):
            merged, others = self._merged(dtype, sinks), [real, real, sinks or real]
            slots = [dtype, dtype, dtype, real, whole, whole]
            self._finish.compile(merged, [*slots, dtype, dtype, whole, *others], [dtype])
            self._prompts.compile(merged, [*[dtype] * 5, *[whole] * 4, dtype, dtype, *others], [dtype])
        for mask in (False, True):
            template = [*self._heads(dtype), ("MASK", mask)]
            self._segment.compile(template, [dtype, dtype, dtype, real, whole], [real, real])

    def _heads(self, dtype: mx.Dtype) -> Template:
        return [("T", dtype), ("D", self.sizes[0]), ("G", self.sizes[1])]

    def _merged(self, dtype: mx.Dtype, sinks: mx.Dtype | None) -> Template:
        return [*self._heads(dtype), ("S", sinks or mx.float32), ("SINKS", sinks is not None)]

    def _error(self, dtype: mx.Dtype) -> float:
        """Compared with attention written out."""
        (D, G), T, N, K, own = self.sizes, 3, 2, 5 * TILE - 20, 90
        shapes = [(T, N, G, D), (N, K, D), (N, K, D), *[(T, N, own, D)] * 2, *[(T, N, 1, D)] * 2, (N * G,)]
        seeds = mx.random.split(mx.random.key(0), len(shapes))
        q, k, v, keys, values, new_k, new_v, sinks = (
            mx.random.normal(shape, key=seed).astype(dtype) for shape, seed in zip(shapes, seeds, strict=True)
        )
        slots, mask = mx.array([2, 0, 1], mx.int32), mx.zeros((T, 1, 1, own)) + mx.array([0.0] * (own - 1) + [MASKED])
        place = mx.array([3, 0, 1], mx.int32)
        stored_k, stored_v = mx.array(keys), mx.array(values)
        stored_k[slots, :, place], stored_v[slots, :, place] = new_k[:, :, 0], new_v[:, :, 0]
        own_scores = self.scale * q.astype(mx.float32) @ stored_k[slots].swapaxes(-1, -2) + mask
        scores = [self.scale * q.astype(mx.float32) @ k.swapaxes(-1, -2), own_scores]
        sink = mx.broadcast_to(sinks.reshape(1, N, G, 1), (T, N, G, 1))
        weights = mx.softmax(mx.concatenate([*scores, sink], axis=-1), axis=-1)
        want = weights[..., :K] @ v + weights[..., K:-1] @ stored_v[slots]
        alone = mx.softmax(own_scores, axis=-1) @ stored_v[slots], mx.logsumexp(own_scores, axis=-1, keepdims=True)
        mx.eval(want, *alone, keys, values)
        before = self.over_segment(q, k, v, None, 0, T, 2)
        got = self.finish(q, keys, values, mask, slots, (new_k, new_v, place), before, sinks)
        mx.eval(got)
        part = self.over_slots(q, keys, values, mask, slots)
        prompts = self._prompts_error(dtype)
        pairs = zip((got, *part, keys, values), (want, *alone, stored_k, stored_v), strict=True)
        return max(prompts, *(float(mx.abs(a.astype(mx.float32) - b).max()) for a, b in pairs))

    def _prompts_error(self, dtype: mx.Dtype) -> float:
        """``prompts`` compared with attention written out, with the prefix and apart from it: a prompt of 70 tokens of
        which each sees 67 at most, behind a decoding token, and one of 9; one token is not kept.
        """
        (D, G), N, K, T, window = self.sizes, 2, 4 * TILE + 6, 80, 67
        shapes = [(T, N, G, D), (T, N, 1, D), (T, N, 1, D), (N, K, D), (N, K, D), (N * G,)]
        seeds = mx.random.split(mx.random.key(1), len(shapes))
        q, k, v, before_k, before_v, sinks = (
            mx.random.normal(shape, key=seed).astype(dtype) for shape, seed in zip(shapes, seeds, strict=True)
        )
        at = np.arange(1, T)
        since = np.where(at > 70, 71, np.maximum(1, at - window + 1))
        slot, place = np.where(at > 70, 0, 2), np.where(at > 70, at - 71, at - 1)
        slot[5] = -1
        keys, values = (mx.zeros((3, N, 72, D), dtype) for _ in range(2))
        stored_k, stored_v = mx.array(keys), mx.array(values)
        kept = mx.array(np.flatnonzero(slot >= 0).astype(np.int32))
        to, of = mx.array(slot.astype(np.int32)), mx.array(place.astype(np.int32))
        stored_k[to[kept], :, of[kept]], stored_v[to[kept], :, of[kept]] = k[1:, :, 0][kept], v[1:, :, 0][kept]
        every = np.arange(T)
        seen = (every >= since[:, None]) & (every <= at[:, None])
        mask = mx.array(np.where(seen, 0, MASKED).astype(np.float32))[:, None, None]
        scaled = self.scale * q[1:].astype(mx.float32)
        scores = [scaled @ before_k.swapaxes(-1, -2), scaled @ k[:, :, 0].transpose(1, 2, 0) + mask]
        sink = mx.broadcast_to(sinks.reshape(1, N, G, 1), (T - 1, N, G, 1))
        weights = mx.softmax(mx.concatenate([*scores, sink], axis=-1), axis=-1)
        want = weights[..., :K] @ before_v + weights[..., K:-1] @ v[:, :, 0].swapaxes(0, 1)
        mx.eval(want, keys, values)
        before = self.over_segment(q, before_k, before_v, None, 1, T - 1, 1)
        fresh = mx.array(since.astype(np.int32)), to, of
        apart = self.prompts(q, k, v, None, fresh, (keys, values), before, sinks)
        whole = self.prompts(q, k, v, (before_k, before_v), fresh, (keys, values), None, sinks)
        mx.eval(apart, whole)
        pairs = zip((apart, whole, keys, values), (want, want, stored_k, stored_v), strict=True)
        return max(float(mx.abs(a.astype(mx.float32) - b).max()) for a, b in pairs)

    def over_slots(
        self, q: mx.array, keys: mx.array, values: mx.array, mask: mx.array, slot_of: mx.array
    ) -> tuple[mx.array, mx.array]:
        """The first tokens of q over keys and values [slots, N, ring, D], each over the slot that ``slot_of`` [tokens]
        names: one part, not stacked. mask [slots, 1, 1, K] is added to the scores.
        """
        N, (D, G), tokens = keys.shape[1], self.sizes, slot_of.size
        out, mass = self._slots(
            inputs=[q, keys, values, mask, slot_of, numbers(mask.shape[-1], keys.shape[2])],
            template=self._heads(q.dtype),
            grid=(tokens * WARPS * 32, N, 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(tokens, N, G, D), (tokens, N, G, 1)],
            output_dtypes=[mx.float32, mx.float32],
        )
        return out, mass

    def finish(
        self,
        q: mx.array,
        keys: mx.array,
        values: mx.array,
        mask: mx.array,
        slot_of: mx.array,
        fresh: tuple[mx.array, mx.array, mx.array],
        before: tuple[mx.array, mx.array] | None,
        sinks: mx.array | None,
    ) -> mx.array:
        """As ``over_slots`` for all tokens of q, merged with stacked parts ``before`` and the model's ``sinks`` [H]:
        attention itself, shaped as q and of its type.

        ``fresh`` are the tokens' own keys and values [T, N, 1, D] and the places [T] in their slots where they belong:
        ``keys`` and ``values`` are written to IN PLACE, which MLX does not know of. Both must be evaluated or come
        from an operation that lays them out in a row; whatever else reads them must not be of the same step.
        """
        none = _nothing()
        outs, masses = before or (none, none)
        done: list[mx.array] = self._finish(
            inputs=[
                *(q, keys, values, mask, slot_of),
                numbers(mask.shape[-1], keys.shape[2], outs.shape[0] if before else 0),
                *fresh,
                *(outs, masses, none if sinks is None else sinks),
            ],
            template=self._merged(q.dtype, None if sinks is None else sinks.dtype),
            grid=(slot_of.size * WARPS * 32, keys.shape[1], 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[q.shape],
            output_dtypes=[q.dtype],
        )
        return done[0]

    def shares(self, heads: int, tokens: int, keys: int) -> int:
        """In how many parts keys are to be taken, so that the device is busy: a power of 2."""
        blocks, shares = heads * self._blocks(tokens), 1
        while 2 * shares * blocks <= BLOCKS and 2 * shares * FEWEST_KEYS <= keys:
            shares *= 2
        return shares

    def over_segment(
        self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, first: int, tokens: int, shares: int
    ) -> tuple[mx.array, mx.array]:
        """Tokens [first, first + tokens) of q over k and v [N, K, D], a part for each share of the keys; mask
        [tokens, K] is added to the scores.
        """
        N, keys = k.shape[:2]
        D, G = self.sizes
        outs, masses = self._segment(
            inputs=[q, k, v, _nothing() if mask is None else mask, numbers(first, tokens, keys, -(-keys // shares))],
            template=[*self._heads(q.dtype), ("MASK", mask is not None)],
            grid=(self._blocks(tokens) * WARPS * 32, N, shares),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(shares, tokens, N, G, D), (shares, tokens, N, G, 1)],
            output_dtypes=[mx.float32, mx.float32],
        )
        return outs, masses

    def prompts(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        prefix: tuple[mx.array, mx.array] | None,
        fresh: tuple[mx.array, mx.array, mx.array],
        stored: tuple[mx.array, mx.array] | None,
        before: tuple[mx.array, mx.array] | None,
        sinks: mx.array | None,
    ) -> mx.array:
        """The last tokens of q over a ``prefix`` [N, K, D] that all of them see and the step's keys and values k and v
        [T, N, 1, D], merged with stacked parts ``before`` and the model's ``sinks`` [H]: attention itself,
        [tokens, N, G, D] of q's type.

        ``fresh``, for each of these tokens: the first token of the step that it sees, the slot where its key and value
        belong (-1: none) and the place there. ``stored``, keys and values [slots, N, ring, D], are written to IN PLACE,
        as ``finish`` does; None where no token belongs in a slot.
        """
        none, tokens, N, (D, G) = _nothing(), fresh[0].size, k.shape[1], self.sizes
        outs, masses = before or (none, none)
        keys, values = stored or (k, v)
        seen, others = prefix[0].shape[1] if prefix else 0, outs.shape[0] if before else 0
        done: list[mx.array] = self._prompts(
            inputs=[
                *(q, k, v, *(prefix or (k, v)), *fresh),
                numbers(q.shape[0] - tokens, tokens, keys.shape[2], seen, others),
                *(keys, values, outs, masses, none if sinks is None else sinks),
            ],
            template=self._merged(q.dtype, None if sinks is None else sinks.dtype),
            grid=(self._blocks(tokens) * WARPS * 32, N, 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(tokens, N, G, D)],
            output_dtypes=[q.dtype],
        )
        return done[0]

    def _blocks(self, tokens: int) -> int:
        return -(-tokens * self.sizes[1] // ROWS)


@cache
def _nothing() -> Any:
    return mx.zeros((1,))
