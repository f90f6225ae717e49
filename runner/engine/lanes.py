"""Sequences at work: how far each has come, what it brings to a step, and what comes of a launched step."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from runner.engine.attention.layout import Segment, Span
from runner.engine.masks import Matching, bitmasks
from runner.engine.sampling import asks, draw, likeliest, masked, normaliser, pairs, uniforms
from runner.sequences import Scored, Sequence, Work
from runner.text.choices import Piece, Walk, choice_tree


@dataclass(eq=False)
class Lane:
    """A sequence in a batch, its slot, and how far it has come. ``launched`` counts sampled tokens, read or not.

    One that has choices goes through their tree (``walk``), behind a prompt that is computed.
    """

    sequence: Sequence
    prefix: Segment | None
    cached: int
    slot: int
    matching: Matching | None = None  # of a sequence with a grammar
    room: int = 0  # own tokens that the slot must hold
    stored: int = 0
    launched: int = 0
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)  # the tokens sampled, for a sequence that asks
    walk: Walk | None = None  # of a sequence with choices
    weighs: bool = False  # whether the latest piece of the walk is to be read before the next one
    ended: bool = False
    prompt: list[int] = field(init=False)  # known before they are computed: the sequence's, then what a grammar forces

    def __post_init__(self) -> None:
        self.prompt = self.sequence.tokens
        if self.sequence.choices:
            self.walk = Walk(choice_tree(self.sequence.choices), self.sequence.cut, self.sequence.top)
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
    def ready(self) -> bool:
        """Whether there is something to compute that no drawn token comes before."""
        return not self.ended and not self.weighs and bool(self.rest or (self.walk and self.walk.goes_on))

    @property
    def decoding(self) -> bool:
        """Whether its next token follows from one that was drawn, and nothing known is left to compute."""
        return 0 < self.launched < self.sequence.max_tokens and not self.ended and not self.rest


@dataclass
class LaneSpan:
    """What a lane brings to a step, and whether that is the token that was drawn last. ``piece``: of its walk."""

    lane: Lane
    span: Span
    drawn: bool = False
    piece: Piece | None = None

    def tokens(self) -> list[int]:
        """The span's, none of which was drawn."""
        at = self.span.base + self.span.stored
        return self.lane.prompt[at : at + self.span.new] + (self.piece.tokens if self.piece else [])


@dataclass
class Launch:
    """A launched step: the lanes it samples for, in order, with their tokens; the pieces it scores, with their edges.

    ``logits`` [len(sampled), V] are there until ``draw`` has made ``tokens`` of them. ``logprobs`` are those of the
    tokens of ``asking``, the sampled lanes whose sequences ask for them; ``top`` [asking, most asked for] are the
    likeliest tokens with theirs.
    """

    sampled: list[Lane]
    logits: mx.array
    scored: list[tuple[Lane, Piece]]
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

    def read(self) -> tuple[list[tuple[Lane, int]], list[Lane]]:
        """Wait for the step: each sampled lane's token, the lanes whose choices are scored to the end."""
        values, first = np.array(self.edges, np.float64), 0
        for lane, piece in self.scored:
            assert lane.walk is not None
            lane.walk.take(piece, values[first : first + len(piece.edges)])
            lane.weighs = False
            first += len(piece.edges)
        tops = pairs(*self.top) if self.top else [()] * len(self.asking)
        for lane, logprob, top in zip(self.asking, np.array(self.logprobs).tolist(), tops, strict=True):
            if not lane.ended:
                lane.scored.append(Scored(logprob, top[: lane.sequence.top_logprobs or 0]))
        done = [lane for lane, _ in self.scored if lane.walk and lane.walk.ended]
        return list(zip(self.sampled, np.array(self.tokens).tolist(), strict=True)), done


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
