"""The layout of one forward pass: which tokens it holds, and where the keys lie that each of them attends to.

A step's tokens belong to sequences (*spans*) that stand behind shared prefixes (*segments*). This module turns that
into the index arrays and masks that attention in ``prefix.py`` needs, once a step for all layers.

Shapes: T tokens of the step, R sequences, n new tokens of a sequence (padded), K keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# Scores are masked with a finite number: a part whose keys are all masked then merges with weight 0, without NaN.
MASKED = -1e30


@dataclass(eq=False)
class Segment:
    """KV of ``tokens``, which stand at positions [start, end) behind the tokens of ``parent``.

    ``keys[layer]`` and ``values[layer]`` are [N, K, D]; a sliding-window layer keeps only its last ``window - 1`` keys.
    A segment is built by steps that append to it.
    """

    parent: Segment | None = None
    tokens: list[int] = field(default_factory=list)
    keys: list[mx.array] = field(default_factory=list)
    values: list[mx.array] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.parent.end if self.parent else 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in itertools.chain(self.keys, self.values))

    def chain(self) -> list[Segment]:
        """The segments from the first token up to this one, leaving out empty ones."""
        return [*(self.parent.chain() if self.parent else []), *([self] if self.tokens else [])]


@dataclass
class Span:
    """What one sequence brings to a step: ``new`` tokens after ``stored`` own ones, behind a prefix.

    ``slot`` is where its own KV lies (None: it has none), ``keep`` whether to store the new tokens' KV there, too.
    ``parents`` describes a tree hanging from the last of the new tokens: node i continues node ``parents[i]`` < i, or
    with -1 that last token.
    """

    prefix: Segment | None
    slot: int | None
    stored: int
    new: int
    parents: tuple[int, ...] = ()
    keep: bool = True

    @property
    def base(self) -> int:
        return self.prefix.end if self.prefix else 0

    @property
    def count(self) -> int:
        return self.new + len(self.parents)

    @property
    def decodes(self) -> bool:
        return self.count == 1 and self.keep and self.slot is not None

    def order(self) -> tuple[bool, list[int]]:
        """Where the span stands in a step: decoding ones first, neighbours share prefix segments."""
        return not self.decodes, [id(segment) for segment in self.prefix.chain()] if self.prefix else []

    def positions(self) -> npt.NDArray[np.int32]:
        first = self.base + self.stored
        at = list(range(first, first + self.new))
        for parent in self.parents:
            at.append(1 + at[self._index(parent)])
        return np.array(at, np.int32)

    def visible(self, size: int) -> npt.NDArray[np.bool_]:
        """[size, size]: which of the step's own tokens each of them attends to."""
        mask = np.tril(np.ones((size, size), np.bool_))
        for node, parent in enumerate(self.parents, self.new):
            mask[node] = mask[self._index(parent)]
            mask[node, node] = True
        return mask

    def _index(self, parent: int) -> int:
        return self.new + parent  # -1 is the last new token, and stands just before node 0


def additive(allowed: npt.NDArray[np.bool_]) -> mx.array:
    """A mask to add to scores: 0 where allowed, MASKED elsewhere."""
    return mx.array(np.where(allowed, np.float32(0), np.float32(MASKED)))


@dataclass(frozen=True)
class View:
    """Which keys each token of a step sees in layers of one window (None: all): indices and masks, made once a step."""

    decode_mask: mx.array  # [slots, 1, K] over the slots' KV
    decode_keys: int  # K
    fresh_mask: mx.array | None  # [R or 1, 1, n, n] over the step's own tokens
    old_slots: mx.array | None  # [R], sequences that prefill and have KV in their slot
    old_keys: int
    old_mask: mx.array | None  # [R, 1, n, K]
    write: tuple[mx.array, mx.array, mx.array] | None  # tokens, slots and ring indices of the KV to store


class Step:
    """The tokens of one forward pass and where their keys lie; ``spans`` sorted by ``Span.order``."""

    def __init__(self, spans: list[Span], building: Segment | None = None):
        self.spans = spans
        self.building = building
        self.decoding = [span for span in spans if span.decodes]
        self.prefilling = spans[len(self.decoding) :]
        self.at = np.concatenate([span.positions() for span in spans])
        self.positions = mx.array(self.at)
        self.tokens = sum(span.count for span in spans)
        self.levels = [list(level) for level in self._levels()]
        self._views: dict[tuple[int | None, int], View] = {}
        self._masks: dict[tuple[Segment, int, int], mx.array] = {}
        self._index_decode()
        self._index_prefill()

    def _levels(self) -> Iterator[list[tuple[Segment | None, int, int]]]:
        """For each depth of prefix: runs (segment or None, first token, end) that cover the step's tokens in order."""
        chains = [span.prefix.chain() if span.prefix else [] for span in self.spans]
        for depth in range(max(map(len, chains), default=0)):
            runs: list[tuple[Segment | None, int, int]] = []
            end = 0
            for span, chain in zip(self.spans, chains, strict=True):
                segment = chain[depth] if depth < len(chain) else None
                if runs and runs[-1][0] is segment:
                    runs[-1] = (segment, runs[-1][1], end + span.count)
                else:
                    runs.append((segment, end, end + span.count))
                end += span.count
            yield runs

    def _index_decode(self) -> None:
        self.slots = 1 + max((span.slot for span in self.decoding if span.slot is not None), default=-1)
        token_of_slot = np.zeros(self.slots, np.int32)
        for token, span in enumerate(self.decoding):
            token_of_slot[span.slot] = token
        self.token_of_slot = mx.array(token_of_slot)
        self.slot_of_token = mx.array(np.array([span.slot for span in self.decoding], np.int32))

    def _index_prefill(self) -> None:
        self.longest = max((span.count for span in self.prefilling), default=0)
        gather = np.zeros((len(self.prefilling), self.longest), np.int32)  # [R, n] -> token; padding repeats token 0
        scatter = np.zeros(self.tokens - len(self.decoding), np.int32)  # prefill token -> index in R * n
        token = len(self.decoding)
        for row, span in enumerate(self.prefilling):
            gather[row, : span.count] = np.arange(token, token + span.count)
            scatter[token - len(self.decoding) :][: span.count] = row * self.longest + np.arange(span.count)
            token += span.count
        self.gather, self.scatter = mx.array(gather), mx.array(scatter)
        self.dense = len(self.decoding) == 0 and scatter.size == gather.size  # nothing is padded or left out

    def beyond(self, segment: Segment, start: int, end: int, window: int | None) -> bool:
        """Whether tokens [start, end) all lie too far behind the segment to see any of it."""
        return window is not None and bool(self.at[start:end].min() - segment.end + 1 >= window)

    def level_mask(self, segment: Segment, start: int, end: int, window: int | None, keys: int) -> mx.array | None:
        """[end - start, keys]: which of a segment's last ``keys`` keys tokens [start, end) see; None if all."""
        if window is None or self.at[start:end].max() - (segment.end - keys) < window:
            return None
        key = (segment, start, window)
        if key not in self._masks:
            at = np.arange(segment.end - keys, segment.end)
            self._masks[key] = additive(self.at[start:end, None] - at[None, :] < window)
        return self._masks[key]

    def view(self, window: int | None, ring: int) -> View:
        """The masks for layers that see ``window`` tokens back and store own KV in rings of ``ring`` tokens."""
        if (window, ring) not in self._views:
            self._views[window, ring] = self._make_view(window, ring)
        return self._views[window, ring]

    def _make_view(self, window: int | None, ring: int) -> View:
        old = [min(span.stored, ring) if span.slot is not None else 0 for span in self.prefilling]
        decode_keys = max((min(span.stored + 1, ring) for span in self.decoding), default=0)
        decode_mask = np.zeros((self.slots, 1, decode_keys), np.bool_)
        for span in self.decoding:
            decode_mask[span.slot] = _ring_visible(span, span.stored + 1, decode_keys, ring, window)
        old_mask = None
        if any(old):
            blank = np.zeros((len(old), 1, self.longest, max(old)), np.bool_)
            for row, span in enumerate(self.prefilling):
                if old[row]:
                    blank[row, 0, : span.count] = _ring_visible(span, span.stored, max(old), ring, window)
            old_mask = additive(blank)
        return View(
            decode_mask=additive(decode_mask),
            decode_keys=decode_keys,
            fresh_mask=self._fresh_mask(window),
            old_slots=mx.array(np.array([span.slot or 0 for span in self.prefilling], np.int32)) if any(old) else None,
            old_keys=max(old, default=0),
            old_mask=old_mask,
            write=self._writes(ring),
        )

    def _fresh_mask(self, window: int | None) -> mx.array | None:
        if self.longest <= 1:
            return None
        if not any(span.parents for span in self.prefilling):
            far = np.tri(self.longest, k=-window, dtype=np.bool_) if window else np.False_
            return additive((np.tri(self.longest, dtype=np.bool_) & ~far)[None, None])
        masks = np.zeros((len(self.prefilling), 1, self.longest, self.longest), np.bool_)
        for mask, span in zip(masks, self.prefilling, strict=True):
            mask[0] = span.visible(self.longest)
            if window:
                at = span.positions()
                mask[0, : span.count, : span.count] &= at[:, None] - at[None, :] < window
        return additive(masks)

    def _writes(self, ring: int) -> tuple[mx.array, mx.array, mx.array] | None:
        tokens, slots, places, token = [], [], [], 0
        for span in self.spans:
            if span.slot is not None and span.keep:
                own = np.arange(max(0, span.new - ring), span.new)
                tokens.append(token + own)
                slots.append(np.full(own.size, span.slot))
                places.append((span.stored + own) % ring)
            token += span.count
        if not tokens:
            return None
        return tuple(mx.array(np.concatenate(a).astype(np.int32)) for a in (tokens, slots, places))  # type: ignore[return-value]


def _ring_visible(span: Span, stored: int, keys: int, ring: int, window: int | None) -> npt.NDArray[np.bool_]:
    """[count, keys]: which places of the slot's ring the span's tokens see, when ``stored`` own tokens lie in it."""
    place = np.arange(keys)
    latest = stored - 1 - (stored - 1 - place) % ring  # the own token that lies in each place
    distance = span.positions()[:, None] - span.base - latest[None, :]
    seen = (latest >= 0) & (distance >= 0)
    return seen & (distance < window) if window else seen
