"""Attention in parts, by where the keys lie, merged exactly by the log-sum-exp of their scores.

The merge is that of online softmax (Milakov and Gimelshein 2018).

Shapes: T tokens of a step, N KV heads, G queries a KV head, D head size, K keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx

from runner.engine.kernels import MASKED, cpu
from runner.engine.kernels.cuda import attention as cuda_attention
from runner.engine.kernels.packed import Packed

# Attention scores held at once, for a part: what a CPU's cache holds, what a GPU is kept busy by.
SCORE_BYTES = {mx.cpu: 4 << 20, mx.gpu: 128 << 20}


class Part(NamedTuple):
    """Attention over some of a token's keys: output [T, N, G, D], and the logarithm of the sum of its scores'
    exponentials, ``mass`` [T, N, G, 1], with which it counts among other parts.
    """

    out: mx.array
    mass: mx.array


class Form(NamedTuple):
    """Of a layer's attention: query heads and their size, KV heads and the sizes of what is stored as keys and values,
    the cap on scores.
    """

    H: int
    D: int
    N: int
    K: int
    V: int
    dtype: mx.Dtype
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether MLX's own attention computes it."""
        return self.D == self.K and self.cap is None


class Query:
    """A step's queries: as they came, ``raw`` [T, N, G, D]; scaled, in float32; the device's own kernels for them."""

    def __init__(self, raw: mx.array, scale: float, v: mx.array, cap: float | None) -> None:
        self.raw, self.scale, self.cap = raw, scale, cap
        self.level_mask: Callable[..., mx.array] | None = None  # in place of a step's own
        fits = not on_cpu() and raw.dtype == v.dtype and cap is None
        sizes = raw.shape[-1], v.shape[-1], raw.shape[2]
        self.kernels = cuda_attention.kernels(raw.dtype, *sizes, scale) if fits else None

    @cached_property
    def scaled(self) -> mx.array:
        return scaled(self.raw, self.scale)


def attend(
    q: mx.array, k: mx.array | Packed, v: mx.array | Packed, mask: mx.array | None = None, cap: float | None = None
) -> Part:
    """Attention of scaled queries [..., M, D] over keys and values [..., K, D], with an additive mask and a cap on the
    scores. Where queries are wider than k, v is the rest of the keys, and k the values.
    """
    D = k.shape[-1]
    columns = on_cpu() and not isinstance(k, Packed)  # there, MLX goes down columns in a third of the time
    product: Callable[[mx.array, Any], mx.array] = _columns if columns else _scores
    scores = product(q[..., :D], k)
    if q.shape[-1] > D:
        scores, v = scores + product(q[..., D:], v), k
    if cap is not None:
        scores = _capped(scores, cap)
    if mask is not None:
        scores = scores + (mx.contiguous(mask.swapaxes(-1, -2)) if columns else mask)
    if not on_cpu():
        mass = mx.logsumexp(scores, axis=-1, keepdims=True)
        return Part(_sums(_weights[v.dtype](scores, mass), v), mass)
    top = scores.max(axis=-2 if columns else -1, keepdims=True)
    weights = cpu.shifted_exp(scores, top)
    total = weights.sum(axis=-2 if columns else -1, keepdims=True)
    if columns:
        weights, total, top = (a.swapaxes(-1, -2) for a in (weights, total, top))
    return Part(_sums(weights.astype(v.dtype), v) / total, top + mx.log(total))


def attend_all(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, cap: float | None) -> Part:
    """Scaled queries [T, N, G, D] over the same keys and values [N, K, D], in blocks of tokens that bound the scores'
    memory; mask [T, K].
    """
    T, N, G, D = q.shape
    rows, parts = max(1, score_bytes() // (4 * N * G * k.shape[1])), []
    for a in range(0, T, rows):
        b = min(T, a + rows)
        flat = q[a:b].transpose(1, 0, 2, 3).reshape(N, -1, D)
        part = attend(flat, k, v, None if mask is None else mx.repeat(mask[a:b], G, axis=0), cap)
        parts.append(Part(*(x.reshape(N, b - a, G, -1).transpose(1, 0, 2, 3) for x in part)))
    return join(parts)


def attend_rows(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, cap: float | None) -> Part:
    """Scaled queries [R, N, G, n, D], each row over its own keys and values [R, N, K, D], in blocks of queries; mask
    [R or 1, 1, n, K]. The part has R * n tokens.
    """
    R, N, G, n, D = q.shape
    size = max(1, score_bytes() // (4 * R * N * G * k.shape[2]))
    pieces = []
    for a in range(0, n, size):
        b = min(n, a + size)
        rows = None if mask is None else mx.tile(mask[:, :, a:b], (1, 1, G, 1))
        part = attend(q[:, :, :, a:b].reshape(R, N, G * (b - a), D), k, v, rows, cap)
        pieces.append([p.reshape(R, N, G, b - a, -1) for p in part])
    joined = (mx.concatenate(list(same), axis=3) if len(same) > 1 else same[0] for same in zip(*pieces, strict=True))
    return Part(*(a.transpose(0, 3, 1, 2, 4).reshape(R * n, N, G, -1) for a in joined))


def _scores(q: mx.array, k: mx.array | Packed) -> mx.array:
    """In float32: half-precision scores would cost percents of a weight."""
    return k.scores(q) if isinstance(k, Packed) else q @ k.astype(mx.float32).swapaxes(-1, -2)


def _columns(q: mx.array, k: mx.array) -> mx.array:
    """The same with a column for each query: [..., K, M]."""
    return k.astype(mx.float32) @ q.swapaxes(-1, -2)


def _sums(weights: mx.array, v: mx.array | Packed) -> mx.array:
    return v.sums(weights) if isinstance(v, Packed) else weights @ v


def _capped(scores: mx.array, cap: float) -> mx.array:
    return cap * (cpu.tanh(scores / cap) if on_cpu() else mx.tanh(scores / cap))


def shifted_exp(x: mx.array, shift: mx.array) -> mx.array:
    """exp(x - shift) in float32."""
    return cpu.shifted_exp(x, shift) if on_cpu() else mx.exp(x - shift)


def merge(parts: list[Part], sinks: mx.array | None, dtype: mx.Dtype) -> mx.array:
    """The softmax over the keys of all parts, and ``sinks`` [H] if the model has them: [T, N, G, D]."""
    if len(parts) == 1 and sinks is None:
        return parts[0].out.astype(dtype)
    if sinks is not None:
        sinks = sinks.astype(mx.float32).reshape(1, *parts[0].mass.shape[1:3], 1)
    return _merge(parts, sinks).astype(dtype) if on_cpu() else _fused_merge[dtype](parts, sinks)


def _merge(parts: list[Part], sinks: mx.array | None) -> mx.array:
    top = parts[0].mass
    for part in parts[1:]:
        top = mx.maximum(top, part.mass)
    if sinks is not None:
        top = mx.maximum(top, sinks)
    total = mx.zeros((1,)) if sinks is None else shifted_exp(sinks, top)
    out = mx.zeros((1,))
    for part in parts:
        weight = shifted_exp(part.mass, top)
        total, out = total + weight, out + weight * part.out
    return out / total


FLOATS = (mx.float32, mx.bfloat16, mx.float16)
scaled = mx.compile(lambda q, scale: q.astype(mx.float32) * scale)
_fused_merge = {
    dtype: mx.compile(lambda parts, sinks, dtype=dtype: _merge(parts, sinks).astype(dtype)) for dtype in FLOATS
}
_weights = {
    dtype: mx.compile(lambda scores, mass, dtype=dtype: mx.exp(scores - mass).astype(dtype)) for dtype in FLOATS
}


def on_cpu() -> bool:
    """Whether MLX computes on the CPU here."""
    return bool(mx.default_device() == mx.cpu)


def score_bytes() -> int:
    """How many bytes of scores one pass over a part may take here."""
    return SCORE_BYTES[mx.default_device().type]


def blank(q: mx.array) -> Part:
    """Of no keys: zeros that broadcast over D."""
    shape = (*q.shape[:-1], 1)
    return Part(mx.zeros(shape), mx.full(shape, MASKED))


def join(parts: list[Part]) -> Part:
    """Parts of consecutive tokens, one after the other."""
    if len(parts) == 1:
        return parts[0]
    D = max(part.out.shape[-1] for part in parts)
    outs = [mx.broadcast_to(part.out, (*part.out.shape[:-1], D)) for part in parts]
    return Part(mx.concatenate(outs), mx.concatenate([part.mass for part in parts]))
