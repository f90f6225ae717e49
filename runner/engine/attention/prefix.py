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

import itertools
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from runner.engine.attention.hooks import Fetched, SharedKV
from runner.engine.attention.layout import Prompts, Step
from runner.engine.attention.parts import Form, Part, Query, attend, attend_all, attend_rows, blank, join, merge, on_cpu
from runner.engine.attention.reach import Reach, Ring, View
from runner.engine.attention.segments import Segment
from runner.engine.kernels import MASKED, packed

MOST_SHARES = 8  # of a segment's keys
# Segments at one depth of prefix, with their tokens [first, end) of a step; None: nothing there.
Runs = list[tuple[Segment | None, int, int]]


class LayerKV(SharedKV):
    """The KV cache of one layer as mlx-lm's models use it, and of later ones that attend to the same KV.

    ``reach``: which tokens it sees. Own KV: ``keys`` and ``values``, [slots, N, ring, D]; see ``Ring`` for what lies
    where. ``kv_bits``: in which KV is packed where it can be (``kernels.packed``), in slots and segments alike.
    """

    def __init__(self, index: int, reach: Reach, kv_bits: int | None = None):
        self.kv_bits = kv_bits
        self.packed = False
        self.index = index
        self.reach = reach
        self.shape = (0, 1)  # slots, ring
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.fused = False  # whether the latest step could be computed by the device's own kernels
        self.form: Form | None = None
        self.step: Step
        self.masks = reach.aligned
        self.stored = False
        self.chooser: Any = None  # a layer that chooses which keys this one's tokens see
        self._old: tuple[mx.array, mx.array] | None = None  # what prefilling sequences had before the step
        self._new: tuple[mx.array, mx.array] | None = None  # what it brings, once something has attended to it

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[Fetched, Fetched]:
        self.stored, self._new = False, None
        return super().update_and_fetch(k, v)

    @property
    def unused(self) -> bool:
        """Whether nothing attended to what the layer updated it with: such keys are for something else."""
        return self.fetched is not None and self._new is None

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for ``slots`` sequences of ``capacity`` own tokens, which may be fewer than before if no sequence
        in the slots has more; stored KV stays.
        """
        before, self.shape = self.shape, (slots, self.reach.ring(capacity))
        if self.keys is not None and self.values is not None and before != self.shape:
            ring = self.shape[1]  # whoever fits a smaller one has not turned around in the larger
            pad = [(0, slots - before[0]), (0, 0), (0, max(0, ring - before[1])), (0, 0)]
            self.keys, self.values = (mx.contiguous(mx.pad(a[:, :, :ring], pad)) for a in (self.keys, self.values))

    def clear(self) -> None:
        """Give the slots' memory back."""
        self.keys = self.values = None
        self.shape = (0, 1)

    def adopt(self, slots: mx.array, prefix: Segment) -> None:
        """Copy a whole prefix into slots, as if its tokens were their sequences' own."""
        index, ring = self.index, Ring.of(self.reach, self.shape[1], np.zeros(1, np.int64))
        chain = prefix.chain()
        at = np.concatenate([np.arange(one.end - one.keys[index].shape[1], one.end) for one in chain])
        (lasting,) = np.nonzero((at >= prefix.end - (ring.size - int(ring.kept[0]))) | (at < ring.kept))
        place = mx.array(ring.place(at[lasting]).astype(np.int32))
        for name in ("keys", "values"):
            new = mx.concatenate([getattr(one, name)[index] for one in chain], axis=1)  # [N, K, D]
            if len(lasting) < new.shape[1]:
                new = new[:, mx.array(lasting.astype(np.int32))]
            stored = getattr(self, name)
            if stored is None:
                stored = mx.zeros((self.shape[0], new.shape[0], self.shape[1], new.shape[-1]), new.dtype)
            stored[slots[:, None], :, place[None]] = new.swapaxes(0, 1)[None]
            setattr(self, name, stored)

    def attention(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, sinks: mx.array | None, cap: float | None = None
    ) -> mx.array:
        """Attend, and store the step's keys and values: q [T, H, 1, D], k and v [T, N, 1, D] -> [T, H, 1, D].

        Of queries that are wider than k, the rest is for v: these are the rest of the keys, whose first part are the
        values, too (latent attention: DeepSeek-AI 2024). A ``cap`` bends scores so that none is larger.
        """
        (T, H, _, D), N = q.shape, k.shape[1]
        self.step.attended.append(self.index)
        query = Query(q.reshape(T, N, H // N, D), scale, v, cap)
        self.fused = query.kernels is not None
        self.form = Form(H, D, N, k.shape[-1], v.shape[-1], v.dtype, cap)
        self._new = k[:, :, 0], v[:, :, 0]
        if self.kv_bits and self._pack(*self._new):
            query.kernels, self.fused = None, False
        view = self.step.view(self.reach, self.shape[1])
        if self.chooser and (chosen := self.chooser.chosen()):
            view, query.level_mask, query.kernels, self.fused = chosen.view, chosen.level_mask, None, False
        self._allocate(view, *self._new)
        fits = query.kernels is not None and (self.step.levels or not self.step.prefilling)  # MLX is faster without any
        prompts = self.step.prompts(self.reach, self.shape[1]) if fits else None
        if prompts is not None:
            out = self._finish(view, query, k, v, prompts, sinks)
        else:
            out = self._merged(view, query, q, *self._opened(*self._new), sinks)
        return out.reshape(T, H, 1, -1)

    def _merged(
        self, view: View, query: Query, q: mx.array, k: mx.array, v: mx.array, sinks: mx.array | None
    ) -> mx.array:
        """By MLX's operations, and what the device's own kernels have of them: [T, N, G, D]."""
        assert self.form is not None and self._new is not None
        self._store(view, *self._new)
        if self.step.levels or not self.step.plain or not self.form.plain or on_cpu():
            own = [self._decode(view, query)] if self.step.decoding else []
            return merge(self._parts(view, query, k, v, own, self._old), sinks, v.dtype)
        # nothing to merge: the device's own attention is faster
        outs = [self._own(view, q[:, :, 0], query.scale, sinks)] if self.step.decoding else []
        outs += [self._plain(view, q[:, :, 0], k, v, query.scale, sinks)] if self.step.prefilling else []
        return mx.concatenate(outs) if len(outs) > 1 else outs[0]

    def _parts(
        self,
        view: View,
        query: Query,
        k: mx.array,
        v: mx.array,
        own: list[Part],
        old: tuple[mx.array, mx.array] | None,
    ) -> list[Part]:
        """Attention by where the keys lie: parts for each level of prefix, one or two for the sequences' own."""
        parts = [part for runs in self.step.levels for part in self._level(runs, query)]
        if not self.step.prefilling:
            return parts + own
        fresh, before = self._prefill(view, query, k, v, old)
        parts.append(join([*own, fresh]))
        if before is not None:
            parts.append(join([*(blank(part.mass) for part in own), before]))
        return parts

    def _plain(
        self, view: View, q: mx.array, k: mx.array, v: mx.array, scale: float, sinks: mx.array | None
    ) -> mx.array:
        """Prefilling sequences with nothing before this step, through MLX's own kernel: [tokens, N, G, D]."""
        R, n = self.step.gather.shape
        qs, ks, vs = (self.step.rows(a).transpose(0, 2, 1, 3) for a in (q, k, v))
        far = self.reach.window is not None and (n > self.reach.window or self.reach.aligned)
        mask = view.fresh_mask.astype(q.dtype) if far and view.fresh_mask is not None else "causal"
        out = mx.fast.scaled_dot_product_attention(qs, ks, vs, scale=scale, mask=mask, sinks=sinks)
        out = out.transpose(0, 2, 1, 3).reshape(R * n, k.shape[1], -1, v.shape[-1])
        return out if self.step.dense else out[self.step.scatter]

    def _stored(self, view: View) -> tuple[mx.array, mx.array] | None:
        """KV that prefilling sequences already have in their slots, before this step overwrites any of it."""
        if view.old_slots is None or self.keys is None or self.values is None:
            return None
        at = view.old_slots
        return self._opened(self.keys[at, :, : view.old_keys], self.values[at, :, : view.old_keys])

    def _pack(self, k: mx.array, v: mx.array) -> bool:
        """Whether the layer's KV is packed; the step's own then is."""
        self.packed = packed.packs(k, v)
        if self.packed and self.kv_bits:
            self._new = packed.pack(k, self.kv_bits), packed.pack(v, self.kv_bits)
        return self.packed

    def _opened(self, keys: mx.array, values: mx.array, queries: int = packed.MOST_QUERIES + 1) -> tuple[Any, Any]:
        """As attention of so many queries a head takes them."""
        if not self.packed or self.form is None or self.kv_bits is None:
            return keys, values
        how = packed.Packed if packed.multiplies(queries) else packed.unpack
        opened = partial(how, bits=self.kv_bits, width=self.form.K, dtype=self.form.dtype)
        return opened(keys), opened(values)

    def _allocate(self, view: View, k: mx.array, v: mx.array) -> None:
        """Make the slots' arrays if this step is the first one to store k and v [T, N, D]."""
        if view.write is not None and (self.keys is None or self.values is None):
            self.keys = mx.zeros((self.shape[0], k.shape[1], self.shape[1], k.shape[-1]), k.dtype)
            self.values = mx.zeros((self.shape[0], v.shape[1], self.shape[1], v.shape[-1]), v.dtype)

    def _store(self, view: View, k: mx.array, v: mx.array) -> None:
        """Once a step, whichever layers attend to it."""
        if self.stored:
            return
        self.stored, self._old = True, self._stored(view)
        if view.write is None:
            return
        assert self.keys is not None and self.values is not None
        token, slot, place = view.write
        self.keys[slot, :, place] = k if token is None else k[token]
        self.values[slot, :, place] = v if token is None else v[token]

    def _decode(self, view: View, query: Query) -> Part:
        """Every decoding sequence's token over its own slot."""
        assert self.keys is not None and self.values is not None
        step, slots, K = self.step, self.step.slots, view.decode_keys
        if query.kernels is not None:
            return Part(
                *query.kernels.over_slots(query.raw, self.keys, self.values, view.decode_mask, step.slot_of_token)
            )
        q = query.scaled[: len(step.decoding)] if step.in_slot_order else query.scaled[step.token_of_slot]
        keys, values = self._opened(self.keys[:slots, :, :K], self.values[:slots, :, :K], q.shape[2])
        part = attend(q, keys, values, view.decode_mask, query.cap)
        return part if step.in_slot_order else Part(*(a[step.slot_of_token] for a in part))

    def _own(self, view: View, q: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Decoding sequences over their own slots, through MLX's own kernel: [tokens, N, G, D]; q [T, H, D]."""
        assert self.keys is not None and self.values is not None
        step, slots, K = self.step, self.step.slots, view.decode_keys
        q = q[: len(step.decoding)] if step.in_slot_order else q[step.token_of_slot]
        keys, values = self._opened(self.keys[:slots, :, :K], self.values[:slots, :, :K])
        mask = view.decode_mask.astype(q.dtype)
        out = mx.fast.scaled_dot_product_attention(q[:, :, None], keys, values, scale=scale, mask=mask, sinks=sinks)
        out = out.reshape(slots, keys.shape[1], -1, values.shape[-1])
        return out if step.in_slot_order else out[step.slot_of_token]

    def _finish(
        self, view: View, query: Query, k: mx.array, v: mx.array, prompts: Prompts, sinks: mx.array | None
    ) -> mx.array:
        """By the device's own kernels alone: [T, N, G, D]. They store k and v, too."""
        assert query.kernels is not None
        step, outs = self.step, []
        decoding, T = len(step.decoding), step.tokens
        stored = None if self.keys is None or self.values is None else (self.keys, self.values)
        if decoding:
            assert stored is not None and view.write is not None
            raw, place = (
                (query.raw, view.write[2]) if decoding == T else (query.raw[:decoding], view.write[2][:decoding])
            )
            before = self._before(query, step.levels_of(0, decoding))
            slots = *stored, view.decode_mask, step.slot_of_token
            outs.append(query.kernels.finish(raw, *slots, (k, v, place), before, sinks))
        if decoding < T:
            prefix, levels = self._whole(query, step.levels_of(decoding, T))
            before = self._before(query, levels)
            outs.append(query.kernels.prompts(query.raw, k, v, prefix, prompts, stored, before, sinks))
        return outs[0] if len(outs) == 1 else mx.concatenate(outs)

    def _whole(self, query: Query, levels: list[Runs]) -> tuple[tuple[mx.array, mx.array] | None, list[Runs]]:
        """Keys and values of a segment that all tokens see all of and whose keys need no shares; the other levels."""
        assert query.kernels is not None
        for runs in levels:
            (segment, a, b), *others = runs
            if segment is None or others or self.step.beyond(segment, a, b, self.reach):
                continue
            k, v = segment.keys[self.index], segment.values[self.index]
            hides = self.step.level_mask(segment, a, b, self.reach, k.shape[1]) is not None
            if not hides and query.kernels.shares(k.shape[0], b - a, k.shape[1]) == 1:
                return (k, v), [level for level in levels if level is not runs]
        return None, levels

    def _before(self, query: Query, levels: list[Runs]) -> tuple[mx.array, mx.array] | None:
        """Tokens over their prefixes: stacked outputs and masses; None if they see none of them."""
        found = [stacked for level in levels if (stacked := self._stacked(level, query, MOST_SHARES)) is not None]
        if len(found) < 2:
            return found[0] if found else None
        return mx.concatenate([out for out, _ in found]), mx.concatenate([mass for _, mass in found])

    def _level(self, runs: Runs, query: Query) -> list[Part]:
        """Every token over its segment at one depth of prefix: one matrix product for all that share it."""
        if query.kernels is not None:
            stacked = self._stacked(runs, query, most=1)
            return [] if stacked is None else [Part(*(a.reshape(a.shape[1:]) for a in stacked))]
        seen = self._seen(runs)
        if not any(seen):
            return []
        pieces = [
            self._over_segment(segment, a, b, query) if segment and sees else blank(query.raw[a:b])
            for (segment, a, b), sees in zip(runs, seen, strict=True)
        ]
        return [join(pieces)]

    def _stacked(self, runs: Runs, query: Query, most: int) -> tuple[mx.array, mx.array] | None:
        """``_level`` by the device's own kernels, the keys taken in up to ``most`` shares: outputs [shares, T, N, G, D]
        and masses; None if all is hidden.
        """
        assert query.kernels is not None
        N, G, D = query.raw.shape[1:]
        seen = self._seen(runs)
        if not any(seen):
            return None
        keys = max(segment.keys[self.index].shape[1] for segment, _, _ in itertools.compress(runs, seen) if segment)
        shares = min(most, query.kernels.shares(N, runs[-1][2] - runs[0][1], keys))
        pieces = []
        for (segment, a, b), sees in zip(runs, seen, strict=True):
            if segment is None or not sees:
                pieces.append((mx.zeros((shares, b - a, N, G, D)), mx.full((shares, b - a, N, G, 1), MASKED)))
                continue
            k, v = segment.keys[self.index], segment.values[self.index]
            mask = self.step.level_mask(segment, a, b, self.reach, k.shape[1])
            pieces.append(query.kernels.over_segment(query.raw, k, v, mask, a, b - a, shares))
        if len(pieces) == 1:
            return pieces[0]
        return mx.concatenate([out for out, _ in pieces], axis=1), mx.concatenate([mass for _, mass in pieces], axis=1)

    def _seen(self, runs: Runs) -> list[bool]:
        """Whether any token of each run sees a segment at this depth."""
        return [segment is not None and not self.step.beyond(segment, a, b, self.reach) for segment, a, b in runs]

    def _over_segment(self, segment: Segment, start: int, end: int, query: Query) -> Part:
        k, v = self._opened(segment.keys[self.index], segment.values[self.index])
        mask = (query.level_mask or self.step.level_mask)(segment, start, end, self.reach, k.shape[1])
        return attend_all(query.scaled[start:end], k, v, mask, query.cap)

    def _prefill(
        self, view: View, query: Query, k: mx.array, v: mx.array, old: tuple[mx.array, mx.array] | None
    ) -> tuple[Part, Part | None]:
        """Prefilling sequences over this step's own tokens, and over what their slots held before it."""
        qs, ks, vs = (self.step.rows(a) for a in (query.scaled, k, v))
        qs = qs.transpose(0, 2, 3, 1, 4)  # [R, N, G, n, D]
        ks, vs = ks.transpose(0, 2, 1, 3), vs.transpose(0, 2, 1, 3)  # [R, N, n, D]
        fresh = self._tokens(attend_rows(qs, ks, vs, view.fresh_mask, query.cap))
        before = self._tokens(attend_rows(qs, *old, view.old_mask, query.cap)) if old is not None else None
        return fresh, before

    def _tokens(self, part: Part) -> Part:
        """Of the prefilling tokens in their order, of a part of ``attend_rows``."""
        return part if self.step.dense else Part(*(a[self.step.scatter] for a in part))

    def leave(self) -> None:
        """End the step: its KV belongs to a segment under construction from now on."""
        if self.step.building is not None and self._new is not None:
            keys, values = self._new
            self.step.building.append(self.index, keys.swapaxes(0, 1), values.swapaxes(0, 1))
        del self.step  # it has the KV of prefixes
        self.fetched = self._old = self._new = None

    def trim(self, segment: Segment) -> None:
        """Drop the keys of a finished segment that this layer's window never reaches from behind it."""
        window = self.reach.window
        segment.trim(self.index, None if window is None or self.reach.keep else window - 1)
