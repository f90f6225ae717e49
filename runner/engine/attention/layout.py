"""The layout of one forward pass: the tokens it prefills and decodes, and where the keys of each of them lie.

A step's tokens belong to sequences (*spans*) that stand behind shared prefixes (*segments*). This module turns that
into the index arrays and masks that attention in ``prefix.py`` needs, once a step for all layers.

Shapes: T tokens of the step, R sequences, n new tokens of a sequence (padded), K keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np

from runner.engine.attention.reach import Bools, Ints, Reach, Ring, View, additive, indices, positions
from runner.engine.attention.segments import Segment

# Keys of a slot are attended to by so many: GPUs have fast kernels for few shapes, and find them anew for each one.
KEY_GRAIN = {mx.cpu: 1, mx.gpu: 32}


@dataclass
class Span:
    """What one sequence brings to a step: ``new`` tokens after ``stored`` own ones, behind a prefix.

    ``slot`` is where its own KV lies (None: it has none), ``keep`` whether to store the new tokens' KV there, too.
    ``parents`` describes a tree hanging from the last of the new tokens: node i continues node ``parents[i]`` < i, or
    with -1 that last token, which with ``again`` comes again in a later step, before another tree.
    """

    prefix: Segment | None
    slot: int | None
    stored: int
    new: int
    parents: tuple[int, ...] = ()
    keep: bool = True
    again: bool = False

    @cached_property
    def base(self) -> int:
        """The position of the sequence's first own token: how many the prefix has."""
        return self.prefix.end if self.prefix else 0

    @cached_property
    def count(self) -> int:
        """How many tokens of the step are its: the new ones and the tree's."""
        return self.new + len(self.parents)

    @cached_property
    def stores(self) -> bool:
        """Whether the new tokens' KV is stored."""
        return self.keep and self.slot is not None

    @cached_property
    def decodes(self) -> bool:
        """Whether it is one token whose KV is stored, as in decoding; all others count as prefilling."""
        return self.count == 1 and self.stores

    @cached_property
    def order(self) -> tuple[bool, list[int], int]:
        """Where the span stands in a step: decoding ones first, neighbours share prefix segments."""
        return not self.decodes, self.prefix.ids if self.prefix else [], self.slot or 0

    def positions(self) -> Ints:
        """[count]: where each of its tokens stands; a tree's node stands one behind its parent."""
        first = self.base + self.stored
        at = list(range(first, first + self.new))
        for parent in self.parents:
            at.append(1 + at[self._index(parent)])
        return np.array(at, np.int64)

    def visible(self, size: int) -> Bools:
        """[size, size]: which of the step's own tokens each of them attends to."""
        mask = np.tril(np.ones((size, size), np.bool_))
        for node, parent in enumerate(self.parents, self.new):
            mask[node] = mask[self._index(parent)]
            mask[node, node] = True
        return mask

    def _index(self, parent: int) -> int:
        return self.new + parent  # -1 is the last new token, and stands just before node 0


Prompts = tuple[mx.array, mx.array, mx.array]  # see ``Step.prompts``


class Step:
    """The tokens of one forward pass and where their keys lie; ``spans`` sorted by ``Span.order``."""

    def __init__(self, spans: list[Span], building: Segment | None = None):
        self.spans = spans
        self.building = building
        self.decoding = [span for span in spans if span.decodes]
        self.prefilling = spans[len(self.decoding) :]
        table = [
            (span.base, span.stored, -1 if span.slot is None else span.slot, span.new, span.count, span.stores)
            for span in spans
        ]
        columns = np.ascontiguousarray(np.array(table, np.int64).reshape(-1, 6).T)
        self.base, self.stored, self.slot, self.new, self.count, self.stores = columns
        self.tokens = int(self.count.sum())
        self.span_of = np.repeat(np.arange(len(spans)), self.count)  # of each token
        self.first = np.cumsum(self.count) - self.count  # token of each span
        self.offset = np.arange(self.tokens) - self.first[self.span_of]
        self.at = self._positions()
        self.levels = [list(level) for level in self._levels()]
        self.views: dict[tuple[Reach, int], View] = {}
        self.fresh: dict[tuple[Reach, int], Prompts | None] = {}
        self.masks: dict[tuple[Segment, int, Reach], mx.array | None] = {}
        self.attended: list[int] = []  # to which layers' keys attention went, in order
        self._index_decode()
        self._index_prefill()

    def _positions(self) -> Ints:
        at = (self.base + self.stored)[self.span_of] + self.offset
        for first, span in zip(self.first[len(self.decoding) :], self.prefilling, strict=True):
            if span.parents:
                at[first : first + span.count] = span.positions()
        return at

    def _levels(self) -> Iterator[list[tuple[Segment | None, int, int]]]:
        """For each depth of prefix: runs (segment or None, first token, end) that cover the step's tokens in order."""
        runs = [
            (prefix.chain() if prefix else [], sum(span.count for span in spans))
            for prefix, spans in itertools.groupby(self.spans, key=lambda span: span.prefix)
        ]
        for depth in range(max((len(chain) for chain, _ in runs), default=0)):
            level: list[tuple[Segment | None, int, int]] = []
            end = 0
            for chain, count in runs:
                segment = chain[depth] if depth < len(chain) else None
                if level and level[-1][0] is segment:
                    level[-1] = (segment, level[-1][1], end + count)
                else:
                    level.append((segment, end, end + count))
                end += count
            yield level

    def _index_decode(self) -> None:
        slots = self.slot[: len(self.decoding)]
        self.slots = int(slots.max(initial=-1)) + 1
        token_of_slot = np.zeros(self.slots, np.int64)
        token_of_slot[slots] = np.arange(len(slots))
        self.in_slot_order = self.slots == len(slots) and bool((slots == np.arange(self.slots)).all())
        self._token_of_slot = token_of_slot

    def _index_prefill(self) -> None:
        decoding = len(self.decoding)
        count, first = self.count[decoding:], self.first[decoding:]
        self.longest = int(count.max(initial=0))
        within = np.arange(self.longest)
        self._gather = np.where(within < count[:, None], first[:, None] + within, 0)
        self._scatter = (self.span_of[decoding:] - decoding) * self.longest + self.offset[decoding:]
        self.dense = decoding == 0 and self._scatter.size == self._gather.size  # nothing is padded or left out

    @cached_property
    def positions(self) -> mx.array:
        """[T]: where each token stands in its sequence."""
        return positions(self.at)

    @cached_property
    def slot_of_token(self) -> mx.array:
        """[decoding tokens]."""
        return indices(self.slot[: len(self.decoding)])

    @cached_property
    def token_of_slot(self) -> mx.array:
        """[slots]: the decoding token of each slot up to the last one that has any."""
        return indices(self._token_of_slot)

    @cached_property
    def gather(self) -> mx.array:
        """[R, n]: the tokens of each prefilling sequence, padded."""
        return indices(self._gather)

    @cached_property
    def scatter(self) -> mx.array:
        """[prefilling tokens]: where each lies among R * n."""
        return indices(self._scatter)

    def rows(self, a: mx.array) -> mx.array:
        """The prefilling sequences' tokens of [T, ...] side by side, padded: [R, n, ...]."""
        return a.reshape(*self.gather.shape, *a.shape[1:]) if self.dense else a[self.gather]

    @property
    def padded(self) -> int:
        """Tokens that attention computes in vain, as prompts of different lengths are prefilled together."""
        return self.longest * len(self.prefilling) - (self.tokens - len(self.decoding))

    @cached_property
    def plain(self) -> bool:
        """Whether prefilling sequences see nothing but this step's tokens before them."""
        return not any(span.parents or span.stored for span in self.prefilling)

    def levels_of(self, start: int, end: int) -> list[list[tuple[Segment | None, int, int]]]:
        """The ``levels`` of tokens [start, end)."""
        return [
            [(segment, max(a, start), min(b, end)) for segment, a, b in level if a < end and b > start]
            for level in self.levels
        ]

    def beyond(self, segment: Segment, start: int, end: int, reach: Reach) -> bool:
        """Whether tokens [start, end) all lie too far behind the segment to see any of it."""
        return segment.start >= reach.keep and reach.beyond(int(self.at[start:end].min()), segment.end - 1)

    def level_seen(self, segment: Segment, start: int, end: int, reach: Reach, keys: int) -> Bools | None:
        """[end - start, keys]: which of a segment's last ``keys`` keys tokens [start, end) see; None if all."""
        if reach.window is None or reach.sees_all(int(self.at[start:end].max()), segment.end - keys):
            return None
        return reach.sees(self.at[start:end, None], np.arange(segment.end - keys, segment.end)[None, :])

    def level_mask(self, segment: Segment, start: int, end: int, reach: Reach, keys: int) -> mx.array | None:
        """A mask of what is seen, see ``level_seen``."""
        key = (segment, start, reach)
        if key not in self.masks:
            seen = self.level_seen(segment, start, end, reach, keys)
            self.masks[key] = None if seen is None else additive(seen)
        return self.masks[key]

    def view(self, reach: Reach, ring: int) -> View:
        """The masks for layers of one reach that store own KV in rings of ``ring`` tokens."""
        if (reach, ring) not in self.views:
            self.views[reach, ring] = self._make_view(reach, Ring.of(reach, ring, self.base))
        return self.views[reach, ring]

    def prompts(self, reach: Reach, ring: int) -> Prompts | None:
        """For each prefilling token: the first of the step's tokens that it sees, its slot (-1: none) and the place
        there; None where a token sees others than prefixes and the latest tokens of this step.
        """
        if (reach, ring) not in self.fresh:
            self.fresh[reach, ring] = self._make_prompts(reach, Ring.of(reach, ring, self.base))
        return self.fresh[reach, ring]

    def _make_prompts(self, reach: Reach, ring: Ring) -> Prompts | None:
        prompts = slice(len(self.decoding), None)
        held = (self.slot >= 0) & (self.stored > 0)
        if reach.keep or held[prompts].any() or any(span.parents for span in self.prefilling):
            return None
        since, (stored, place) = self.first[self.span_of], self._lasting(ring)
        if reach.window is not None:
            before = self.at % reach.window if reach.aligned else reach.window - 1
            since = np.maximum(since, np.arange(self.tokens) - before)
        slot = np.where(stored, self.slot[self.span_of], -1)
        return indices(since[prompts]), indices(slot[prompts]), indices(place[prompts])

    def _make_view(self, reach: Reach, ring: Ring) -> View:
        decoding = len(self.decoding)
        old = np.where(self.slot < 0, 0, np.minimum(self.stored, ring.size))[decoding:]
        keys = int(np.minimum(self.stored[:decoding] + 1, ring.size).max(initial=0))
        grain = KEY_GRAIN[mx.default_device().type]
        keys = min(ring.size, -(-keys // grain) * grain)
        seen = np.zeros((self.slots, 1, 1, keys), np.bool_)
        seen[self.slot[:decoding], 0, 0] = self._ring_visible(reach, ring, slice(decoding), 1, keys)
        return View(
            decode_seen=seen,
            decode_keys=keys,
            fresh_mask=self._fresh_mask(reach),
            old_slots=indices(np.maximum(self.slot[decoding:], 0)) if old.any() else None,
            old_keys=int(old.max(initial=0)),
            old_mask=self._old_mask(reach, ring, old) if old.any() else None,
            written=self._writes(ring),
        )

    def _ring_visible(self, reach: Reach, ring: Ring, spans: slice, ahead: int, keys: int) -> Bools:
        """[spans, keys]: which places of their slots' rings the spans' first tokens see, ``ahead`` of the step's own
        tokens being stored already.
        """
        base, stored = self.base[spans, None], self.stored[spans, None]
        own = Ring(ring.size, ring.kept[spans, None]).latest(np.arange(keys), stored + ahead)
        return (own >= 0) & reach.sees(base + stored, base + own)

    def _old_mask(self, reach: Reach, ring: Ring, old: Ints) -> mx.array:
        """[R, 1, n, K]: what prefilling sequences see of the KV that lay in their slots before this step."""
        decoding = len(self.decoding)
        mask = np.zeros((len(old), 1, self.longest, int(old.max())), np.bool_)
        for row in np.flatnonzero(old):
            span = decoding + int(row)
            own = Ring(ring.size, ring.kept[span]).latest(np.arange(mask.shape[-1]), self.stored[span])
            at = self.at[self.first[span] :][: self.count[span]]
            mask[row, 0, : at.size] = (own >= 0) & reach.sees(at[:, None], self.base[span] + own[None, :])
        return additive(mask)

    def _fresh_mask(self, reach: Reach) -> mx.array | None:
        if self.longest <= 1:
            return None
        if not reach.keep and not reach.aligned and not any(span.parents for span in self.prefilling):
            at = np.arange(self.longest)
            return additive(reach.sees(at[:, None], at[None, :])[None, None])
        masks = np.zeros((len(self.prefilling), 1, self.longest, self.longest), np.bool_)
        for mask, span in zip(masks, self.prefilling, strict=True):
            at = span.positions()
            mask[0] = span.visible(self.longest)
            mask[0, : span.count, : span.count] &= reach.sees(at[:, None], at[None, :])
        return additive(masks)

    def _writes(self, ring: Ring) -> tuple[Ints | None, Ints, Ints] | None:
        stored, place = self._lasting(ring)
        (token,) = np.nonzero(stored)
        if not token.size:
            return None
        return None if token.size == self.tokens else token, self.slot[self.span_of][token], place[token]

    def _lasting(self, ring: Ring) -> tuple[Bools, Ints]:
        """Which tokens' KV is to be stored, and where in their rings: the others would be overwritten at once."""
        kept, own = ring.kept[self.span_of], self.stored[self.span_of] + self.offset
        new = self.new[self.span_of]
        lasting = (self.offset >= new - (ring.size - kept)) | (own < kept)
        stored = (self.stores[self.span_of] > 0) & (self.offset < new) & lasting
        return stored, Ring(ring.size, kept).place(own) if stored.any() else own
