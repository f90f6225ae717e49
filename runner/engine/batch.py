"""A batch: sequences at work in the slots of one KV set, on one stream of the device.

Every step is one forward pass over a token of each decoding sequence and the prompts (or chunks of them) of new ones.
Nothing is copied when a sequence joins or leaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from runner.engine.attention.layout import Segment, Span, Step
from runner.engine.attention.resident import ResidentModel
from runner.engine.masks import Matching, bitmasks
from runner.engine.sampling import asks, draw, likeliest, masked, normaliser, pairs, uniforms
from runner.sequences import Scored, Sequence, Work
from runner.text.choices import ChoiceTree, choice_tree

SLOT_GRAIN = 32  # slots grow by so many tokens


@dataclass(eq=False)
class Lane:
    """A sequence in a batch, its slot, and how far it has come. ``launched`` counts sampled tokens, read or not."""

    sequence: Sequence
    prefix: Segment | None
    cached: int
    slot: int
    matching: Matching | None = None  # of a sequence with a grammar
    stored: int = 0
    launched: int = 0
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)  # the tokens sampled, for a sequence that asks
    ended: bool = False
    prompt: list[int] = field(init=False)  # known before they are computed: the sequence's, then what a grammar forces

    def __post_init__(self) -> None:
        self.prompt = self.sequence.tokens
        if self.matching is not None:
            self._force(self.matching)

    def append(self, token: int) -> None:
        """Take a drawn token, and those that the grammar forces after it: the next step computes them like a prompt."""
        self.tokens.append(token)
        if self.matching is not None:
            self.matching.take(token)
            self._force(self.matching)

    def _force(self, matching: Matching) -> None:
        if asks(self.sequence):
            return  # a token that is not drawn has no log-probability
        if forced := matching.force(self.sequence.max_tokens - len(self.tokens)):
            self.tokens += forced
            self.launched = len(self.tokens)
            self.prompt = self.sequence.tokens + self.tokens

    @property
    def over(self) -> str | None:
        """Why nothing more is to be drawn: ``stop`` (the grammar's end), ``length``, ``error``; None otherwise."""
        if self.matching is not None and self.matching.problem:
            return "error"
        if self.matching is not None and self.matching.ended:
            return "stop"
        drawn = self.sequence.choices is None
        return "length" if drawn and len(self.tokens) >= self.sequence.max_tokens else None

    @property
    def at(self) -> int:
        """How many tokens lie computed before the next one."""
        return (self.prefix.end if self.prefix else 0) + self.stored

    @property
    def rest(self) -> int:
        """Known tokens that are not computed yet."""
        return max(0, len(self.prompt) - self.at)

    @property
    def decoding(self) -> bool:
        """Whether its next token follows from one that was drawn, and nothing known is left to compute."""
        return 0 < self.launched < self.sequence.max_tokens and not self.ended and not self.rest

    @property
    def tree(self) -> ChoiceTree | None:
        return choice_tree(self.sequence.choices) if self.sequence.choices else None


@dataclass
class Launch:
    """A launched step: the lanes it samples for, in order, with their tokens; the lanes it scores, with their edges.

    ``logits`` [len(sampled), V] are there until ``draw`` has made ``tokens`` of them. ``logprobs`` are those of the
    tokens of ``asking``, the sampled lanes whose sequences ask for them; ``top`` [asking, most asked for] are the
    likeliest tokens with theirs.
    """

    sampled: list[Lane]
    logits: mx.array
    scored: list[Lane]
    edges: mx.array
    work: Work
    tokens: mx.array | None = None
    asking: list[Lane] = field(default_factory=list)
    logprobs: mx.array | None = None
    top: tuple[mx.array, mx.array] | None = None

    @property
    def waits(self) -> bool:
        """Whether a grammar has to see the last step's tokens before this one's can be drawn."""
        return any(lane.matching for lane in self.sampled)

    def draw(self) -> list[mx.array]:
        """Draw the tokens of all lanes but those that ended meanwhile, or whose grammar knows the next ones."""
        drawn = [row for row, lane in enumerate(self.sampled) if not (lane.matching and (lane.ended or lane.rest))]
        if len(drawn) < len(self.sampled):
            self.sampled = [self.sampled[row] for row in drawn]
            self.logits = self.logits[mx.array(drawn, mx.int32)]
        logits = self.logits
        if self.waits:
            logits = masked(logits, bitmasks([lane.matching for lane in self.sampled], logits.shape[-1]))
        self.tokens = _sample(logits, self.sampled)
        asking = [row for row, lane in enumerate(self.sampled) if asks(lane.sequence)]
        self.asking = [self.sampled[row] for row in asking]
        self.logprobs = _logprobs(self.logits, self.tokens, asking)
        most = max((lane.sequence.top_logprobs or 0 for lane in self.asking), default=0)
        self.top = likeliest(self.logits[mx.array(asking)], most) if most else None
        del self.logits
        for lane in self.sampled:
            lane.launched += 1
        return [self.tokens, self.logprobs, *(self.top or ())]

    def read(self) -> tuple[list[tuple[Lane, int]], list[tuple[Lane, Any]]]:
        """Wait for the step: each sampled lane's token, each scored lane's log-probabilities by edge."""
        values, first, scores = np.array(self.edges, np.float64), 0, []
        for lane in self.scored:
            count = len(lane.tree.edges) if lane.tree else 0
            scores.append((lane, values[first : first + count]))
            first += count
        tops = pairs(*self.top) if self.top else [()] * len(self.asking)
        for lane, logprob, top in zip(self.asking, np.array(self.logprobs).tolist(), tops, strict=True):
            if not lane.ended:
                lane.scored.append(Scored(logprob, top[: lane.sequence.top_logprobs or 0]))
        return list(zip(self.sampled, np.array(self.tokens).tolist(), strict=True)), scores


class Batch:
    """Up to ``size`` lanes. ``model`` has KV layers that no other batch uses; ``stream`` is where its steps run."""

    def __init__(self, model: ResidentModel, stream: Any, prefill_tokens: int) -> None:
        self.model = model
        self.stream = stream
        self.size = 1
        self.prefill_tokens = prefill_tokens
        self.lanes: list[Lane] = []
        self.latest: Launch | None = None
        self.slots = 0
        self.capacity = 0

    @property
    def kv_bytes(self) -> int:
        """What the slots take."""
        return self.slots * self.model.slot_bytes(self.capacity)

    def own(self, sequence: Sequence) -> int:
        """The slot size a sequence needs: tokens behind its prefix whose KV a later step reads."""
        own = len(sequence.tokens) - (sequence.boundaries[-1] if sequence.boundaries else 0)
        if sequence.choices is not None:
            return 0 if own <= self.prefill_tokens else own
        return own + sequence.max_tokens - 1

    def make_room(self, sequence: Sequence, ahead: Iterable[Sequence], kv_bytes: int) -> bool:
        """Give the slots the shape that one more sequence needs, and those ``ahead`` if it can be, within
        ``kv_bytes``; False if it must wait for others to leave.
        """
        if len(self.lanes) >= self.size:
            return False
        if not self.lanes and self.latest is None:
            self.clear()
        needed = self.own(sequence)
        held = max((self.own(lane.sequence) for lane in self.lanes), default=0)
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
        self.lanes.append(Lane(sequence, prefix, cached, slot, matching))
        return self.lanes[-1]

    def clear(self) -> None:
        """Give the slots' memory back."""
        self.lanes.clear()
        self.latest = None
        self.slots = self.capacity = 0
        self.model.clear()

    def launch(self) -> list[mx.array]:
        """Set the next step up, after the ``latest``, and put it in its place; the arrays to evaluate for it."""
        with mx.stream(self.stream):
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

    def _launch(self) -> Launch | None:
        spans = sorted(self._spans(), key=lambda entry: entry[1].order())
        if not spans:
            return None
        sampled: list[Lane] = []
        scored: list[Lane] = []
        rows: list[int] = []
        score_rows: list[int] = []
        token = 0
        for lane, span, drawn in spans:
            last = token + span.new - 1
            token += span.count
            if drawn or span.new == lane.rest:
                (sampled if lane.sequence.choices is None else scored).append(lane)
                rows += [last] if lane.sequence.choices is None else []
                score_rows += range(last, token) if lane.sequence.choices is not None else []
        step = Step([span for _, span, _ in spans])
        logits = self.model.forward(self._inputs(spans), step, rows=mx.array(np.array(rows + score_rows, np.int32)))
        decoded = sum(drawn for _, _, drawn in spans)
        work = Work(decoded, step.tokens - decoded, padded=step.padded, lanes=len(self.lanes))
        for lane, span, _ in spans:
            lane.stored += span.new
        return Launch(sampled, logits[: len(rows)], scored, _score(logits[len(rows) :], scored), work)

    def _spans(self) -> list[tuple[Lane, Span, bool]]:
        """What each lane brings to the next step, and whether that is the token that was drawn last."""
        spans = [(lane, Span(lane.prefix, lane.slot, lane.stored, 1), True) for lane in self.lanes if lane.decoding]
        decoding = {entry[0] for entry in spans}
        left = self.prefill_tokens
        for lane in self.lanes:
            if lane in decoding or lane.ended or not (rest := lane.rest):
                continue
            tree = lane.tree.parents if lane.tree else ()
            first = left == self.prefill_tokens
            if not first and rest + len(tree) > left:
                break
            new = min(rest, left)
            parents = tree if new == rest else ()
            left -= new + len(parents)
            last = new == rest and (lane.sequence.choices is not None or lane.sequence.max_tokens == 1)
            spans.append((lane, Span(lane.prefix, lane.slot, lane.stored, new, parents, keep=not last), False))
        return spans

    def _inputs(self, spans: list[tuple[Lane, Span, bool]]) -> mx.array:
        """The step's token ids [T], gathered from those sampled in the last step, still on the device, and prompts."""
        drawn = mx.zeros((0,), mx.int32)
        if self.latest is not None and self.latest.tokens is not None:
            drawn = self.latest.tokens
        place = {lane: index for index, lane in enumerate(self.latest.sampled)} if self.latest else {}
        prompt: list[int] = []
        index: list[int] = []
        for lane, span, drawn_last in spans:
            if drawn_last:
                index.append(place[lane])
                continue
            new = lane.prompt[lane.at : lane.at + span.new]
            new += lane.tree.tokens if lane.tree and span.parents else ()
            index += range(drawn.size + len(prompt), drawn.size + len(prompt) + len(new))
            prompt += new
        return mx.concatenate([drawn, mx.array(prompt, mx.int32)])[mx.array(index)]


def _grained(tokens: int) -> int:
    return -(-tokens // SLOT_GRAIN) * SLOT_GRAIN


def _sample(logits: mx.array, lanes: list[Lane]) -> mx.array:
    """The next token of each lane, from logits [R, V]."""
    if not lanes:
        return mx.zeros((0,), mx.int32)
    seeds = np.array([lane.sequence.draw_seed for lane in lanes], np.uint64)
    positions = np.array([lane.launched for lane in lanes], np.uint64)
    return draw(logits, [lane.sequence.sampling for lane in lanes], uniforms(seeds, positions))


def _logprobs(logits: mx.array, tokens: mx.array, places: list[int]) -> mx.array:
    """Log-probabilities of the tokens that were drawn from some rows of logits [R, V]: [places]."""
    if not places:
        return mx.zeros((0,))
    index = mx.array(places)
    logits = logits[index].astype(mx.float32)
    return mx.take_along_axis(logits, tokens[index][:, None], axis=1)[:, 0] - normaliser(logits)


def _score(logits: mx.array, lanes: list[Lane]) -> mx.array:
    """Log-probabilities of the lanes' choice edges, one lane after the other; logits [nodes, V]."""
    if not lanes:
        return mx.zeros((0,))
    rows: list[int] = []
    tokens: list[int] = []
    first = 0
    for lane in lanes:
        tree = lane.tree
        assert tree is not None
        rows += [first + 1 + node for node, _ in tree.edges]
        tokens += [token for _, token in tree.edges]
        first += 1 + len(tree.tokens)
    logits = logits.astype(mx.float32)
    row = mx.array(rows)
    return logits[row, mx.array(tokens)] - normaliser(logits)[row]
