"""Shared-prefix KV caches and attention: a batch of ragged sequences that hold their common prefixes once.

The model sees every token of a step as a batch row of its own, ``[T, 1]``, so that prompts of all lengths and single
decode tokens go through its matrix products together, without padding. Only attention knows sequences. It is computed
in parts, over keys that lie in different places: each level of shared prefix (*segments*), the sequence's own KV in its
*slot*, and the tokens of the step itself. ``merge`` joins parts exactly by the log-sum-exp of their scores (as in
online softmax: Milakov and Gimelshein 2018).

Shapes: T tokens of the step, R sequences, n new tokens of a sequence (padded), K keys, H query heads, KV heads ``N``,
``G = H / N`` queries a KV head, D head size.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models import base

from runner import cpu
from runner.layout import MASKED, Segment, Step, View
from runner.reach import Reach

# Attention scores held at once, for a part: what a CPU's cache holds, what a GPU is kept busy by.
SCORE_BYTES = {mx.cpu: 4 << 20, mx.gpu: 128 << 20}


class Part(NamedTuple):
    """Attention over some of a token's keys: output [T, N, G, D], and the logarithm of the sum of its scores'
    exponentials, ``mass`` [T, N, G, 1], with which it counts among other parts.
    """

    out: mx.array
    mass: mx.array


def attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> Part:
    """Attention of scaled queries [..., M, D] over keys and values [..., K, D], with an additive mask."""
    scores = q @ k.astype(mx.float32).swapaxes(-1, -2)  # half-precision scores would cost percents of a weight
    if mask is not None:
        scores = scores + mask
    if not _on_cpu():
        mass = mx.logsumexp(scores, axis=-1, keepdims=True)
        return Part(_weights[v.dtype](scores, mass) @ v, mass)
    top = scores.max(axis=-1, keepdims=True)
    weights = cpu.shifted_exp(scores, top)
    total = weights.sum(axis=-1, keepdims=True)
    return Part(weights.astype(v.dtype) @ v / total, top + mx.log(total))


def shifted_exp(x: mx.array, shift: mx.array) -> mx.array:
    """exp(x - shift) in float32."""
    return cpu.shifted_exp(x, shift) if _on_cpu() else mx.exp(x - shift)


def merge(parts: list[Part], sinks: mx.array | None) -> mx.array:
    """The softmax over the keys of all parts, and ``sinks`` [H] if the model has them: [T, N, G, D]."""
    if len(parts) == 1 and sinks is None:
        return parts[0].out
    if sinks is not None:
        sinks = sinks.astype(mx.float32).reshape(1, *parts[0].mass.shape[1:3], 1)
    return (_merge if _on_cpu() else _fused_merge)(parts, sinks)


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


_fused_merge = mx.compile(_merge)
_scaled = mx.compile(lambda q, scale: q.astype(mx.float32) * scale)
_weights = {
    dtype: mx.compile(lambda scores, mass, dtype=dtype: mx.exp(scores - mass).astype(dtype))
    for dtype in (mx.float32, mx.bfloat16, mx.float16)
}


class LayerKV:
    """The KV cache of one layer as mlx-lm's models use it: ``offset``, ``make_mask``, ``update_and_fetch``.

    ``reach``: which tokens it sees. Own KV: ``keys`` and ``values``, [slots, N, ring, D]; see ``Ring`` for what lies
    where.
    """

    def __init__(self, index: int, reach: Reach):
        self.index = index
        self.reach = reach
        self.shape = (0, 1)  # slots, ring
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.step: Step

    @property
    def offset(self) -> mx.array:
        return self.step.positions

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def make_mask(self, *_: Any, **__: Any) -> None:
        """None: ``attention`` masks by itself."""
        return

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """[T, N, 1, D] each, as they came: ``attention`` stores them."""
        return k, v

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for ``slots`` sequences of ``capacity`` own tokens; stored KV stays (rings never shrink)."""
        grow = (slots - self.shape[0], self.reach.ring(capacity) - self.shape[1])
        self.shape = (slots, self.reach.ring(capacity))
        if self.keys is not None and self.values is not None and grow != (0, 0):
            pad = [(0, grow[0]), (0, 0), (0, grow[1]), (0, 0)]
            self.keys, self.values = mx.pad(self.keys, pad), mx.pad(self.values, pad)

    def clear(self) -> None:
        """Give the slots' memory back."""
        self.keys = self.values = None
        self.shape = (0, 1)

    def attention(self, q: mx.array, k: mx.array, v: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Store the step's keys and values and attend: q [T, H, 1, D], k and v [T, N, 1, D] -> [T, H, 1, D]."""
        T, H, _, D = q.shape
        N = k.shape[1]
        k, v = k[:, :, 0], v[:, :, 0]
        scaled = _scaled(q, scale).reshape(T, N, H // N, D)
        view = self.step.view(self.reach, self.shape[1])
        old = self._stored(view)
        self._store(view, k, v)
        own = [self._decode(view, scaled)] if self.step.decoding else []
        if self.step.levels or not self.step.plain or _on_cpu():
            out = merge(self._parts(view, scaled, k, v, own, old), sinks).astype(v.dtype)
        else:  # nothing to merge: the device's own attention is faster
            outs = [merge([part], sinks).astype(v.dtype) for part in own]
            outs += [self._plain(view, q[:, :, 0], k, v, scale, sinks)] if self.step.prefilling else []
            out = mx.concatenate(outs) if len(outs) > 1 else outs[0]
        if self.step.building is not None:
            self._extend(self.step.building, k, v)
        return out.reshape(T, H, 1, v.shape[-1])

    def _parts(
        self,
        view: View,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        own: list[Part],
        old: tuple[mx.array, mx.array] | None,
    ) -> list[Part]:
        """Attention by where the keys lie: a part for each level of prefix, one or two for the sequences' own."""
        parts = [self._level(runs, q) for runs in self.step.levels]
        if not self.step.prefilling:
            return parts + own
        fresh, before = self._prefill(view, q, k, v, old)
        parts.append(_join([*own, fresh]))
        if before is not None:
            parts.append(_join([*(_blank(part.mass) for part in own), before]))
        return parts

    def _plain(
        self, view: View, q: mx.array, k: mx.array, v: mx.array, scale: float, sinks: mx.array | None
    ) -> mx.array:
        """Prefilling sequences with nothing before this step, through MLX's own kernel: [tokens, N, G, D]."""
        R, n = self.step.gather.shape
        qs, ks, vs = (self._rows(a).transpose(0, 2, 1, 3) for a in (q, k, v))
        far = self.reach.window is not None and n > self.reach.window
        mask = view.fresh_mask.astype(q.dtype) if far and view.fresh_mask is not None else "causal"
        out = mx.fast.scaled_dot_product_attention(qs, ks, vs, scale=scale, mask=mask, sinks=sinks)
        out = out.transpose(0, 2, 1, 3).reshape(R * n, k.shape[1], -1, v.shape[-1])
        return out if self.step.dense else out[self.step.scatter]

    def _rows(self, a: mx.array) -> mx.array:
        """The prefilling sequences' tokens [T, ...] side by side, padded: [R, n, ...]."""
        return a.reshape(*self.step.gather.shape, *a.shape[1:]) if self.step.dense else a[self.step.gather]

    def _stored(self, view: View) -> tuple[mx.array, mx.array] | None:
        """KV that prefilling sequences already have in their slots, before this step overwrites any of it."""
        if view.old_slots is None or self.keys is None or self.values is None:
            return None
        at = view.old_slots
        return self.keys[at, :, : view.old_keys], self.values[at, :, : view.old_keys]

    def _store(self, view: View, k: mx.array, v: mx.array) -> None:
        if view.write is None:
            return
        if self.keys is None or self.values is None:
            self.keys = mx.zeros((self.shape[0], k.shape[1], self.shape[1], k.shape[2]), k.dtype)
            self.values = mx.zeros((self.shape[0], v.shape[1], self.shape[1], v.shape[2]), v.dtype)
        token, slot, place = view.write
        self.keys[slot, :, place] = k if token is None else k[token]
        self.values[slot, :, place] = v if token is None else v[token]

    def _decode(self, view: View, q: mx.array) -> Part:
        """Every decoding sequence's token over its own slot."""
        assert self.keys is not None and self.values is not None
        slots, K = self.step.slots, view.decode_keys
        q = q[: len(self.step.decoding)] if self.step.in_slot_order else q[self.step.token_of_slot]
        part = attend(q, self.keys[:slots, :, :K], self.values[:slots, :, :K], view.decode_mask)
        return part if self.step.in_slot_order else Part(*(a[self.step.slot_of_token] for a in part))

    def _level(self, runs: list[tuple[Segment | None, int, int]], q: mx.array) -> Part:
        """Every token over its segment at one depth of prefix: one matrix product for all that share it."""
        pieces = []
        for segment, start, end in runs:
            if segment is None or self.step.beyond(segment, start, end, self.reach):
                pieces.append(_blank(q[start:end]))
                continue
            rows = max(1, _score_bytes() // (4 * q.shape[1] * q.shape[2] * len(segment.tokens)))
            for a in range(start, end, rows):
                pieces.append(self._over_segment(segment, a, min(end, a + rows), q))
        return _join(pieces)

    def _over_segment(self, segment: Segment, start: int, end: int, q: mx.array) -> Part:
        N, G, D = q.shape[1:]
        k, v = segment.keys[self.index], segment.values[self.index]
        flat = q[start:end].transpose(1, 0, 2, 3).reshape(N, -1, D)
        mask = self.step.level_mask(segment, start, end, self.reach, k.shape[1])
        part = attend(flat, k, v, None if mask is None else mx.repeat(mask, G, axis=0))
        return Part(*(a.reshape(N, end - start, G, -1).transpose(1, 0, 2, 3) for a in part))

    def _prefill(
        self, view: View, q: mx.array, k: mx.array, v: mx.array, old: tuple[mx.array, mx.array] | None
    ) -> tuple[Part, Part | None]:
        """Prefilling sequences over this step's own tokens, and over what their slots held before it."""
        qs, ks, vs = (self._rows(a) for a in (q, k, v))
        qs = qs.transpose(0, 2, 3, 1, 4)  # [R, N, G, n, D]
        ks, vs = ks.transpose(0, 2, 1, 3), vs.transpose(0, 2, 1, 3)  # [R, N, n, D]
        fresh = self._blocks(qs, ks, vs, view.fresh_mask)
        before = self._blocks(qs, *old, view.old_mask) if old is not None else None
        return fresh, before

    def _blocks(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> Part:
        """Queries [R, N, G, n, D] over k, v [R, N, K, D] in blocks of queries that bound the scores' memory."""
        R, N, G, n, D = q.shape
        size = max(1, _score_bytes() // (4 * R * N * G * k.shape[2]))
        pieces = []
        for a in range(0, n, size):
            b = min(n, a + size)
            rows = None if mask is None else mx.tile(mask[:, :, a:b], (1, 1, G, 1))
            part = attend(q[:, :, :, a:b].reshape(R, N, G * (b - a), D), k, v, rows)
            pieces.append([p.reshape(R, N, G, b - a, -1) for p in part])
        joined = (
            mx.concatenate(list(same), axis=3) if len(same) > 1 else same[0] for same in zip(*pieces, strict=True)
        )
        tokens = (a.transpose(0, 3, 1, 2, 4).reshape(R * n, N, G, -1) for a in joined)
        return Part(*(a if self.step.dense else a[self.step.scatter] for a in tokens))

    def _extend(self, segment: Segment, k: mx.array, v: mx.array) -> None:
        """Append the step's KV to a segment under construction; sliding layers drop what nobody will see."""
        for stored, new in ((segment.keys, k), (segment.values, v)):
            new = new.swapaxes(0, 1)
            if self.index < len(stored):
                new = mx.concatenate([stored[self.index], new], axis=1)
                stored[self.index] = new
            else:
                stored.append(new)

    def trim(self, segment: Segment) -> None:
        """Drop the keys of a finished segment that this layer's window never reaches from behind it."""
        if self.reach.window is not None and not self.reach.keep:
            for stored in (segment.keys, segment.values):
                first = max(0, stored[self.index].shape[1] - (self.reach.window - 1))
                stored[self.index] = mx.contiguous(stored[self.index][:, first:])


def _on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def _score_bytes() -> int:
    return SCORE_BYTES[mx.default_device().type]


def _blank(q: mx.array) -> Part:
    """Of no keys: zeros that broadcast over D."""
    shape = (*q.shape[:-1], 1)
    return Part(mx.zeros(shape), mx.full(shape, MASKED))


def _join(parts: list[Part]) -> Part:
    """Parts of consecutive tokens, one after the other."""
    if len(parts) == 1:
        return parts[0]
    D = max(part.out.shape[-1] for part in parts)
    outs = [mx.broadcast_to(part.out, (*part.out.shape[:-1], D)) for part in parts]
    return Part(mx.concatenate(outs), mx.concatenate([part.mass for part in parts]))


def hook() -> None:
    """Send attention with a LayerKV to it, in all loaded model modules; all other caches go mlx-lm's way."""
    for module in list(sys.modules.values()):
        if getattr(module, "scaled_dot_product_attention", None) is _plain_attention:
            module.scaled_dot_product_attention = _attention  # type: ignore[attr-defined]


_plain_attention = base.scaled_dot_product_attention


def _attention(queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None) -> Any:
    if isinstance(cache, LayerKV):
        return cache.attention(queries, keys, values, scale, sinks)
    return _plain_attention(queries, keys, values, cache, scale, mask, sinks=sinks)
