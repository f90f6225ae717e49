"""The resident MLX model: prefill and decode of a batch that rows join and leave at any step.

A step is one forward pass over a token of every decoding sequence and the prompts (or chunks of them) of new ones; the
next step is launched before the tokens of the last one are read. Keys and values lie in preallocated slots and shared
prefix segments, see ``prefix.py``; nothing is copied when a sequence joins or leaves.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from runner.choices import ChoiceTree, choice_tree
from runner.layout import Segment, Span, Step
from runner.model import ResidentModel
from runner.prefix import shifted_exp
from runner.sampling import draw, uniforms
from runner.types import Generation, Sequence

log = logging.getLogger("rowmill")


@dataclass(eq=False)
class Lane:
    """A sequence in the batch, its slot, and how far it has come. ``launched`` counts sampled tokens, read or not."""

    sequence: Sequence
    prefix: Segment | None
    cached: int
    slot: int
    stored: int = 0
    launched: int = 0
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def at(self) -> int:
        """How many tokens lie computed before the next one."""
        return (self.prefix.end if self.prefix else 0) + self.stored

    @property
    def rest(self) -> int:
        """Prompt tokens that are not computed yet."""
        return max(0, len(self.sequence.tokens) - self.at)

    @property
    def decoding(self) -> bool:
        return 0 < self.launched < self.sequence.max_tokens and not self.ended

    @property
    def tree(self) -> ChoiceTree | None:
        return choice_tree(self.sequence.choices) if self.sequence.choices else None


@dataclass
class Flight:
    """A launched step: the lanes it samples for, in order, with their tokens; the lanes it scores, with their edges."""

    sampled: list[Lane]
    tokens: mx.array
    scored: list[Lane]
    edges: mx.array


class BatchEngine:
    """Continuous batching on a ResidentModel; see the ``Engine`` protocol.

    ``end_tokens`` end a generation and are left out of it; ``stopped(tokens)`` may end it, too. ``kv_bytes`` bounds the
    memory of slots and segments. ``prefill_tokens`` bounds the prompt tokens of a step.
    """

    def __init__(
        self,
        model: ResidentModel,
        end_tokens: Collection[int],
        *,
        batch_size: int = 32,
        prefill_tokens: int = 512,
        kv_bytes: int = 1 << 33,
        context: int | None = None,
        stopped: Callable[[list[int]], bool] = lambda tokens: False,
    ) -> None:
        self.model = model
        self.end_tokens = frozenset(end_tokens)
        self.batch_size = batch_size
        self.prefill_tokens = prefill_tokens
        self.kv_bytes = kv_bytes
        self.context = context
        self.stopped = stopped
        self.waiting: deque[Sequence] = deque()
        self.lanes: list[Lane] = []
        self.segments: dict[tuple[Segment | None, tuple[int, ...]], Segment] = {}
        self.flight: Flight | None = None
        self.capacity = 0
        self.slots = 0

    # -- joining ---------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many sequences to add so that the batch is full, and as many again are ready to join it."""
        return max(0, 2 * self.batch_size - len(self.lanes) - len(self.waiting))

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences; they join in this order as memory allows."""
        self.waiting.extend(sequences)

    def step(self) -> list[Generation]:
        """Admit, launch the next forward pass, read the one before it."""
        ended = self._admit()
        flight, self.flight = self.flight, self._launch()
        return ended + (self._read(flight) if flight else [])

    def close(self) -> None:
        """Drop the batch and give its memory back."""
        self.waiting.clear()
        self.lanes.clear()
        self.segments.clear()
        self.flight = None
        self.model.clear()
        mx.clear_cache()

    def _admit(self) -> list[Generation]:
        refused = []
        while self.waiting and len(self.lanes) < self.batch_size:
            problem = self._misfit(self.waiting[0])
            if problem:
                refused.append(Generation(self.waiting.popleft().key, finish_reason="error", error=problem))
            elif self._make_room(self.waiting[0]):
                self._join(self.waiting.popleft())
            else:
                break
        return refused

    def _misfit(self, sequence: Sequence) -> str | None:
        """Why a sequence can never be computed here; None if it can."""
        needed = len(sequence.tokens) + (sequence.max_tokens if sequence.choices is None else 0)
        if self.context is not None and needed > self.context:
            return f"{needed} tokens (prompt {len(sequence.tokens)}) exceed the model's context of {self.context}"
        if self._bytes(sequence, slots=1, capacity=self._own(sequence), kept=0) > self.kv_bytes:
            return (
                f"{needed} tokens (prompt {len(sequence.tokens)}) exceed the {self.kv_bytes / 1e9:.2f} GB for KV caches"
            )
        return None

    def _own(self, sequence: Sequence) -> int:
        """The slot size a sequence needs: tokens behind its prefix whose KV a later step reads."""
        own = len(sequence.tokens) - (sequence.boundaries[-1] if sequence.boundaries else 0)
        if sequence.choices is not None:
            return 0 if own <= self.prefill_tokens else own
        return own + sequence.max_tokens - 1

    def _bytes(self, sequence: Sequence, slots: int, capacity: int, kept: int) -> int:
        """KV bytes with ``slots`` of ``capacity`` tokens, ``kept`` bytes of segments and this sequence's new ones."""
        prefix = sequence.boundaries[-1] if sequence.boundaries else 0
        return slots * self.model.slot_bytes(capacity) + kept + prefix * self.model.token_bytes

    def _make_room(self, sequence: Sequence) -> bool:
        """Give the slots the shape that one more sequence needs; False if it must wait for others to leave."""
        if not self.lanes and self.flight is None:
            self.model.clear()
            self.slots = self.capacity = 0
        self._drop_unused(sequence)
        ahead = [self._own(waiting) for waiting, _ in zip(self.waiting, range(self.batch_size), strict=False)]
        kept = sum(segment.nbytes for segment in self.segments.values())
        for own in (max(ahead), self._own(sequence)):
            capacity = max(self.capacity, -(-own // 64) * 64)
            spare = self.kv_bytes - self._bytes(sequence, 0, 0, kept)
            slots = min(self.batch_size, max(0, spare) // max(1, self.model.slot_bytes(capacity)))
            if slots >= max(self.slots, len(self.lanes) + 1):
                self._resize(slots, capacity)
                return True
        if not self.lanes:  # nothing to wait for: the estimate of the shared part was too careful
            self._resize(1, capacity)
            return True
        return False

    def _resize(self, slots: int, capacity: int) -> None:
        if (slots, capacity) != (self.slots, self.capacity):
            self.slots, self.capacity = slots, capacity
            self.model.resize(slots, capacity)

    def _drop_unused(self, sequence: Sequence) -> None:
        """Keep the segments that lanes use and those on this sequence's path: a stack, as sequences come sorted."""
        used: set[Segment] = set()
        for lane in self.lanes:
            used.update(lane.prefix.chain() if lane.prefix else [])
        used.update(self._path(sequence)[1])
        self.segments = {key: segment for key, segment in self.segments.items() if segment in used}

    def _path(self, sequence: Sequence) -> tuple[int, list[Segment]]:
        """How many of the sequence's tokens lie in existing segments, and those segments."""
        found: list[Segment] = []
        for boundary in sequence.boundaries:
            parent = found[-1] if found else None
            tokens = tuple(sequence.tokens[parent.end if parent else 0 : boundary])
            if (parent, tokens) not in self.segments:
                break
            found.append(self.segments[parent, tokens])
        return (found[-1].end if found else 0), found

    def _join(self, sequence: Sequence) -> None:
        cached, path = self._path(sequence)
        prefix = path[-1] if path else None
        for boundary in sequence.boundaries[len(path) :]:
            prefix = self._build(prefix, sequence.tokens[prefix.end if prefix else 0 : boundary])
        taken = {lane.slot for lane in self.lanes}
        slot = next(slot for slot in range(self.batch_size) if slot not in taken)
        self.lanes.append(Lane(sequence, prefix, cached, slot))

    def _build(self, parent: Segment | None, tokens: list[int]) -> Segment:
        """Prefill a shared prefix once."""
        segment = Segment(parent)
        for start in range(0, len(tokens), self.prefill_tokens):
            chunk = tokens[start : start + self.prefill_tokens]
            step = Step([Span(segment, None, 0, len(chunk))], building=segment)
            self.model.forward(mx.array(chunk), step, rows=None)
            segment.tokens.extend(chunk)
            mx.eval(segment.keys, segment.values)
        self.model.trim(segment)
        self.segments[parent, tuple(tokens)] = segment
        return segment

    # -- stepping --------------------------------------------------------------------------------------------------

    def _launch(self) -> Flight | None:
        spans = sorted(self._spans(), key=lambda pair: pair[1].order())
        if not spans:
            return None
        step = Step([span for _, span in spans])
        sampled: list[Lane] = []
        scored: list[Lane] = []
        rows: list[int] = []
        score_rows: list[int] = []
        token = 0
        for lane, span in spans:
            last = token + span.new - 1
            if lane.decoding or span.new == lane.rest:
                if lane.sequence.choices is None:
                    sampled.append(lane)
                    rows.append(last)
                else:
                    scored.append(lane)
                    score_rows.extend(range(last, token + span.count))
            token += span.count
        logits = self.model.forward(self._inputs(spans), step, rows=mx.array(np.array(rows + score_rows, np.int32)))
        flight = Flight(sampled, self._sample(logits, sampled), scored, self._score(logits[len(rows) :], scored))
        mx.async_eval(flight.tokens, flight.edges, *self.model.state())
        for lane, span in spans:
            lane.stored += span.new
        for lane in sampled:
            lane.launched += 1
        return flight

    def _spans(self) -> list[tuple[Lane, Span]]:
        spans = [(lane, Span(lane.prefix, lane.slot, lane.stored, 1)) for lane in self.lanes if lane.decoding]
        left = self.prefill_tokens
        for lane in self.lanes:
            if lane.launched or lane.ended or not (rest := lane.rest):
                continue
            new = rest if rest <= left else self.prefill_tokens
            if new > left:
                break
            left -= new
            last = new == rest and (lane.sequence.choices is not None or lane.sequence.max_tokens == 1)
            parents = lane.tree.parents if lane.tree and new == rest else ()
            spans.append((lane, Span(lane.prefix, lane.slot, lane.stored, new, parents, keep=not last)))
        return spans

    def _inputs(self, spans: list[tuple[Lane, Span]]) -> mx.array:
        """The step's token ids [T], gathered from those sampled in the last step, still on the device, and prompts."""
        drawn = self.flight.tokens if self.flight else mx.zeros((0,), mx.int32)
        place = {id(lane): index for index, lane in enumerate(self.flight.sampled)} if self.flight else {}
        prompt: list[int] = []
        index: list[int] = []
        for lane, span in spans:
            if lane.decoding:
                index.append(place[id(lane)])
                continue
            new = lane.sequence.tokens[lane.at : lane.at + span.new]
            new += lane.tree.tokens if lane.tree and span.parents else ()
            index.extend(range(drawn.size + len(prompt), drawn.size + len(prompt) + len(new)))
            prompt.extend(new)
        return mx.concatenate([drawn, mx.array(prompt, mx.int32)])[mx.array(index)]

    def _sample(self, logits: mx.array, lanes: list[Lane]) -> mx.array:
        if not lanes:
            return mx.zeros((0,), mx.int32)
        seeds = np.array([lane.sequence.draw_seed for lane in lanes], np.uint64)
        positions = np.array([lane.launched for lane in lanes], np.uint64)
        samplings = [lane.sequence.sampling for lane in lanes]
        return draw(logits[: len(lanes)], samplings, uniforms(seeds, positions))

    def _score(self, logits: mx.array, lanes: list[Lane]) -> mx.array:
        """Log-probabilities of the lanes' choice edges, one lane after the other; logits [nodes, V]."""
        if not lanes:
            return mx.zeros((0,))
        rows: list[int] = []
        tokens: list[int] = []
        first = 0
        for lane in lanes:
            tree = lane.tree
            assert tree is not None
            rows.extend(first + 1 + node for node, _ in tree.edges)
            tokens.extend(token for _, token in tree.edges)
            first += 1 + len(tree.tokens)
        logits = logits.astype(mx.float32)
        top = logits.max(axis=-1, keepdims=True)
        normaliser = (top + mx.log(shifted_exp(logits, top).sum(axis=-1, keepdims=True)))[:, 0]
        row = mx.array(rows)
        return logits[row, mx.array(tokens)] - normaliser[row]

    def _read(self, flight: Flight) -> list[Generation]:
        generations = [self._scored(lane, edges) for lane, edges in _split_edges(flight)]
        for lane, token in zip(flight.sampled, np.array(flight.tokens).tolist(), strict=True):
            if not lane.ended and (reason := self._advance(lane, token)):
                generations.append(self._end(lane, finish_reason=reason))
        self.lanes = [lane for lane in self.lanes if not lane.ended]
        return generations

    def _advance(self, lane: Lane, token: int) -> str | None:
        """Append a token; the reason why the lane ends with it, or None."""
        if token in self.end_tokens:
            return "stop"
        lane.tokens.append(token)
        if self.stopped(lane.tokens):
            return "stop"
        return "length" if len(lane.tokens) >= lane.sequence.max_tokens else None

    def _scored(self, lane: Lane, edges: Any) -> Generation:
        tree = lane.tree
        assert tree is not None
        return self._end(lane, finish_reason="choice", logprobs=tuple(float(edges[list(p)].sum()) for p in tree.paths))

    def _end(self, lane: Lane, **fields: Any) -> Generation:
        lane.ended = True
        return Generation(lane.sequence.key, lane.tokens, cached_tokens=lane.cached, **fields)


def _split_edges(flight: Flight) -> list[tuple[Lane, Any]]:
    values, first, pairs = np.array(flight.edges, np.float64), 0, []
    for lane in flight.scored:
        count = len(lane.tree.edges) if lane.tree else 0
        pairs.append((lane, values[first : first + count]))
        first += count
    return pairs
