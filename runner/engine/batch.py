"""A batch: sequences in the slots of one KV set, prefilled and decoded together on one stream of the device.

Every step is one forward pass over a token of each decoding sequence and the prompts (or chunks of them) of new ones.
Nothing is copied when a sequence joins or leaves, but its prefix where attention is faster over copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from runner.engine.attention.copies import Copies
from runner.engine.attention.layout import Span, Step
from runner.engine.attention.resident import ResidentModel
from runner.engine.attention.segments import Segment
from runner.engine.lanes import Lane, LaneSpan, Launch, Row
from runner.engine.masks import Matching
from runner.sequences import Sequence, Work
from runner.text.choices import PIECE, Ints, Piece, choice_tree

SLOT_GRAIN = 32  # slots grow by so many tokens
FEW = 4  # tokens that a pass of their own would spare too little


class Batch:
    """Up to ``size`` lanes. ``model`` has KV layers that no other batch uses; ``stream`` is where its steps run.

    Choices are scored by ``logit_bytes`` of logits at a time. Prefixes are copied into slots if ``copies`` says so and
    ``kv_bytes`` holds them.
    """

    def __init__(
        self, model: ResidentModel, stream: Any, prefill_tokens: int, logit_bytes: int, kv_bytes: int, copies: Copies
    ) -> None:
        self.model = model
        self.stream = stream
        self.size = 1
        self.prefill_tokens = prefill_tokens
        self.logit_bytes = logit_bytes
        self.most_bytes = kv_bytes
        self.copies = copies
        self.adopting: dict[int, Segment] = {}  # prefixes to be copied, by slot
        self.lanes: list[Lane] = []
        self.drafts: dict[Lane, list[Row]] = {}  # of lanes whose latest token is read, for the next step
        self.latest: Launch | None = None
        self.slots = 0
        self.capacity = 0

    @property
    def kv_bytes(self) -> int:
        """What the slots take."""
        return self.slots * self.model.slot_bytes(self.capacity)

    def copied(self, sequence: Sequence) -> bool:
        """Whether the sequence gets a copy of its prefix: it will decode for long, and a full batch of copies fits."""
        if sequence.choices is not None or not self.copies.faster(sequence.shared_tokens, self.size):
            return False
        whole = self.model.slot_bytes(_grained(len(sequence.tokens) + sequence.max_tokens - 1))
        shared = self.model.prefix_bytes(sequence.shared_tokens, len(sequence.boundaries))
        return self.size * whole + shared <= self.most_bytes

    def own(self, sequence: Sequence) -> int:
        """The slot size a sequence needs: tokens whose KV a later step reads, those of a shared prefix left out."""
        if self.copied(sequence):
            return len(sequence.tokens) + sequence.max_tokens - 1
        own = len(sequence.tokens) - sequence.shared_tokens
        if sequence.choices is None:
            return own + sequence.max_tokens - 1
        tree = choice_tree(sequence.choices)
        whole = not tree.may_be_cut(sequence.cut) and own + len(tree.tokens) <= self.prefill_tokens
        return 0 if whole and (not self.model.spares or own <= FEW) else own

    def make_room(self, sequence: Sequence, ahead: Iterable[Sequence], kv_bytes: int) -> bool:
        """Give the slots the shape that one more sequence needs, and those ``ahead`` if it can be, within
        ``kv_bytes``; False if it must wait for others to leave.
        """
        if len(self.lanes) >= self.size:
            return False
        if not self.lanes and self.latest is None:
            self.clear()
        needed = self.own(sequence)
        held = max((lane.room for lane in self.lanes), default=0)
        wanted = _grained(max([needed, *map(self.own, ahead)])), _grained(needed), needed
        least = self.capacity, min(self.capacity, _grained(held))  # smaller slots make room for more
        for capacity in itertools.starmap(max, itertools.product(wanted, least)):
            slots = min(max(self.size, self.slots), max(0, kv_bytes) // max(1, self.model.slot_bytes(capacity)))
            if slots >= max(self.slots, len(self.lanes) + 1):
                self._resize(slots, capacity)
                return True
        return False

    def join(self, sequence: Sequence, prefix: Segment | None, cached: int, matching: Matching | None) -> Lane:
        """Add a sequence whose prefix is computed; there must be room."""
        taken = {lane.slot for lane in self.lanes}
        slot = next(slot for slot in range(self.slots) if slot not in taken)
        copied = prefix is not None and self.copied(sequence)
        lane = Lane(sequence, None if copied else prefix, cached, slot, matching, room=self.own(sequence))
        if copied and prefix is not None:
            lane.stored, self.adopting[slot] = prefix.end, prefix
        self.lanes.append(lane)
        return lane

    def clear(self) -> None:
        """Give the slots' memory back."""
        self.lanes.clear()
        self.adopting.clear()
        self.drafts.clear()
        self.latest = None
        self.slots = self.capacity = 0
        self.model.clear()

    def settle(self) -> None:
        """The ``latest`` step is read: the next one takes its tokens from the lanes."""
        self.latest = None
        for lane in self.lanes:
            lane.settle()
        self.drafts = {lane: [] for lane in self.lanes if lane.tokens}

    def draft(self, length: Callable[[int], int]) -> None:
        """Guess what comes next for lanes that are settled; see ``Lane.draft``.

        Guesses are not stored if a wrong one could not be taken back: it would change a state, or overwrite keys that
        are still seen. Those that were right are computed once more then, before the next ones.
        """
        for lane in self.drafts:
            most = self.prefill_tokens // max(1, len(self.lanes)) - lane.rest
            self.drafts[lane] = rows = lane.draft(most, length)
            end = lane.stored + lane.rest + (rows[-1].ahead if rows else 0)
            lane.passing = bool(self.model.states) or end > self.model.kept_tokens

    def launch(self) -> list[mx.array]:
        """Set the next step up, after the ``latest``, and put it in its place; the arrays to evaluate for it."""
        with mx.stream(self.stream):
            self._adopt()
            self.latest = launch = self._launch()
            if launch is None:
                return []
            drawn = [launch.logits] if launch.waits else launch.draw()
        return [*drawn, launch.edges, *self.model.state()]

    def draw(self) -> list[mx.array]:
        """Draw what ``launch`` could not, now that the step before is read; the arrays to evaluate for it."""
        if self.latest is None or self.latest.tokens is not None:
            return []
        with mx.stream(self.stream):
            return self.latest.draw()

    def _resize(self, slots: int, capacity: int) -> None:
        if (slots, capacity) != (self.slots, self.capacity):
            self.slots, self.capacity = slots, capacity
            with mx.stream(self.stream):
                self.model.resize(slots, capacity)

    def _adopt(self) -> None:
        slots: dict[Segment, list[int]] = {}
        for slot, prefix in self.adopting.items():
            slots.setdefault(prefix, []).append(slot)
        self.adopting.clear()
        for prefix, places in slots.items():
            self.model.adopt(mx.array(places), prefix)

    def _launch(self) -> Launch | None:
        parts = sorted(self._parts(), key=lambda part: part.span.order)
        if not parts:
            return None
        before = Work()
        if self.model.spares and (silent := [part for part in parts if part.silent]) and len(silent) < len(parts):
            parts, before = [part for part in parts if not part.silent], self._store(silent)
        sampled: list[Row] = []
        scored: list[tuple[Lane, Piece]] = []
        rows: list[int] = []
        edges: list[tuple[Ints, Ints]] = []  # the tokens that they follow, their own
        end = 0
        for part in parts:
            lane, span = part.lane, part.span
            last, end = end + span.new - 1, end + span.count
            if part.piece is not None and lane.walk is not None:
                scored.append((lane, part.piece))
                edges.append((last + 1 + part.piece.rows, lane.walk.tree.ends[part.piece.edges]))
            elif lane.walk is None and (part.drawn or part.known == lane.rest):
                sampled.append(Row(lane, lane.matching))
                rows.append(last)
                if part.drafts:
                    rows[-1] += part.known - span.new
                    sampled += part.drafts
                    rows += [rows[-1] + row.ahead for row in part.drafts]
        inputs, step = self._inputs(parts), Step([part.span for part in parts])
        for part in parts:
            part.lane.stored += part.known if part.drawn or part.lane.rest else 0
        logits, values = self._forward(inputs, step, rows, edges)
        before += self._work(parts, step)
        for lane in self.drafts:
            lane.again = 0
        self.drafts = {}
        return Launch(sampled, logits, scored, values, before)

    def _store(self, parts: list[LaneSpan]) -> Work:
        """A pass for keys and values alone: nothing behind the last layer that stores any is computed."""
        step = Step([part.span for part in parts])
        self.model.forward(self._inputs(parts), step, rows=None)
        for part in parts:
            part.lane.stored += part.span.new
        return Work(prefilled=step.tokens, padded=step.padded)

    def _work(self, parts: list[LaneSpan], step: Step) -> Work:
        if not self.drafts:
            decoded = sum(part.drawn for part in parts)
            return Work(decoded, step.tokens - decoded, padded=step.padded, lanes=len(self.lanes))
        guessed = sum(part.span.count - part.known + part.lane.again for part in parts if part.lane in self.drafts)
        prefilled = step.tokens - guessed - len(self.drafts)
        drafted = sum(len(part.drafts) for part in parts)
        return Work(len(self.drafts), prefilled, lanes=len(self.lanes), drafted=drafted)

    def _forward(
        self, inputs: mx.array, step: Step, rows: list[int], edges: list[tuple[Ints, Ints]]
    ) -> tuple[mx.array, mx.array]:
        """The logits of some rows, and the log-probabilities of edges, given as (token of the step, next token)."""
        if not edges:
            return self.model.forward(inputs, step, rows=rows), mx.zeros((0,))
        after, tokens = (np.concatenate(arrays) for arrays in zip(*edges, strict=True))
        scored, place = np.unique(after, return_inverse=True)
        logits = self.model.forward(inputs, step, rows=[*rows, *scored])
        return self.model.score(logits, len(rows), place, tokens, self.logit_bytes)

    def _parts(self) -> Iterator[LaneSpan]:
        """What each lane brings to the next step."""
        others = []
        for lane in self.lanes:
            if lane.decoding:
                lane.single.stored = lane.stored
                yield LaneSpan(lane, lane.single, drawn=True)
            else:
                others.append(lane)
        yield from itertools.starmap(_with_drafts, self.drafts.items())
        left = self.prefill_tokens
        for lane in others:
            if not lane.ready or lane in self.drafts:
                continue
            if left < self.prefill_tokens and self._least(lane) > left:
                break
            part = self._part(lane, left)
            left -= part.span.count
            yield part

    def _least(self, lane: Lane) -> int:
        """How many tokens a lane that does not decode brings to a step that has others."""
        nodes = len(lane.walk.tree.tokens) if lane.walk else 0
        if lane.walk and self.own(lane.sequence):
            nodes = 0 if lane.rest else min(PIECE, nodes)
        return lane.rest + nodes

    def _part(self, lane: Lane, left: int) -> LaneSpan:
        """What a lane that does not decode brings, of about ``left`` tokens."""
        new = min(lane.rest, left)
        if self.model.spares and new == lane.rest > FEW:  # what is asked for of the last one comes with the next step
            new -= lane.walk is None
        span = Span(lane.prefix, lane.slot, lane.stored, new)
        if new < lane.rest or (self.model.spares and lane.walk and new > FEW):
            return LaneSpan(lane, span)
        if lane.walk is None:
            span.keep = lane.sequence.max_tokens > 1
            return LaneSpan(lane, span)
        whole = not self.own(lane.sequence)
        span.keep, span.again = bool(new) and not whole, not whole
        if not new:  # the tree hangs from the prompt's last token
            span.stored, span.new = lane.stored - 1, 1
        piece = lane.walk.next(len(lane.walk.tree.tokens) if whole else left - span.new)
        span.parents = tuple(piece.parents)
        lane.weighs = lane.walk.cut
        return LaneSpan(lane, span, piece=piece)

    def _inputs(self, parts: list[LaneSpan]) -> mx.array:
        """The step's token ids [T], gathered from those sampled in the last step, still on the device, and prompts."""
        drawn = mx.zeros((0,), mx.int32)
        if self.latest is not None and self.latest.tokens is not None:
            drawn = self.latest.tokens
        before = [row.lane for row in self.latest.rows] if self.latest else []
        if before == [part.lane for part in parts if part.drawn] and len(before) == len(parts):
            return drawn.astype(mx.int32)
        place = {lane: index for index, lane in enumerate(before)}
        prompt: list[int] = []
        index: list[int] = []
        for part in parts:
            if part.drawn:
                index.append(place[part.lane])
                continue
            new = part.tokens()
            index += range(drawn.size + len(prompt), drawn.size + len(prompt) + len(new))
            prompt += new
        return mx.concatenate([drawn, mx.array(prompt, mx.int32)])[mx.array(index)]


def _with_drafts(lane: Lane, drafts: list[Row]) -> LaneSpan:
    guesses = drafts[-1].ahead if drafts else 0
    span = Span(lane.prefix, lane.slot, lane.stored, lane.rest)
    if lane.passing:
        span.parents = tuple(range(-1, guesses - 1))
    else:
        span.new += guesses
    return LaneSpan(lane, span, drafts=tuple(drafts))


def _grained(tokens: int) -> int:
    return -(-tokens // SLOT_GRAIN) * SLOT_GRAIN
