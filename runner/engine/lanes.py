"""Sequences at work, in prefill or decoding: what each brings to a step, and what comes of a launched step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from runner.engine.attention.layout import Span
from runner.engine.attention.segments import Segment
from runner.engine.drafts.lookup import Lookup
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
    lookup: Lookup | None = None
    passing: bool = False  # whether tokens that are guessed are not stored,
    again: int = 0  # and how many of those that were right are to be computed once more

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

    def settle(self) -> None:
        """All tokens that were drawn are read: the next step computes the last one like a prompt."""
        if self.tokens:
            self.launched = len(self.tokens)
            self.prompt = self.sequence.tokens + self.tokens

    def draft(self, most: int, length: Callable[[int], int]) -> list[Row]:
        """Rows behind up to ``most`` tokens that may come next: ``length`` of a match tells how many to take of it."""
        most = min(most, self.sequence.max_tokens - len(self.tokens) - 1)
        if most <= 0:
            return []
        if self.lookup is None:
            self.lookup = Lookup(self.sequence.tokens, self.sequence.max_tokens)
        self.lookup.follow(self.tokens)
        match = self.lookup.next(most)
        guesses = match.tokens[: length(match.length)] if match.tokens else []
        rows: list[Row] = []
        matching, ahead = self.matching, 0
        while ahead < len(guesses):
            link = [guesses[ahead]]
            if matching is not None:
                matching = matching.guess(link[0])
                if matching is None:
                    break
                link += [] if asks(self.sequence) else matching.force(most - ahead - 1)
                if matching.ended or matching.problem:
                    break
            ahead += len(link)
            rows.append(Row(self, matching, ahead, link, match.length))
            if link != guesses[ahead - len(link) : ahead]:
                break
        return rows

    @property
    def over(self) -> str | None:
        """Why nothing more is to be drawn: ``stop`` (the grammar's end), ``length``, ``error``; None otherwise."""
        if self.matching is not None and self.matching.problem:
            return "error"
        if self.matching is not None and self.matching.ended:
            return "stop"
        drawn = self.sequence.choices is None
        return "length" if drawn and len(self.tokens) >= self.sequence.max_tokens else None

    @cached_property
    def single(self) -> Span:
        """What it brings to a step while it decodes, once the span is told what is stored."""
        return Span(self.prefix, self.slot, 0, 1)

    @property
    def at(self) -> int:
        """How many tokens lie computed before the next one."""
        return self.single.base + self.stored

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


class Row(NamedTuple):
    """Where a token is drawn for a lane: behind what is known of it, or ``ahead`` tokens behind that, the last ones of
    which are the ``link``: what the row before must draw for this one to count, and what the grammar forces after that.
    ``match``: how many of the latest tokens stood before such a guess.
    """

    lane: Lane
    matching: Matching | None
    ahead: int = 0
    link: list[int] = []  # noqa: RUF012
    match: int = 0


class Drawn(NamedTuple):
    """A token that counts, and its log-probability for a sequence that asks."""

    row: Row
    token: int
    scored: Scored | None


@dataclass
class LaneSpan:
    """What a lane brings to a step, and whether that is the token that was drawn last. ``piece``: of its walk;
    ``drafts``: rows behind the tokens that are guessed.
    """

    lane: Lane
    span: Span
    drawn: bool = False
    piece: Piece | None = None
    drafts: tuple[Row, ...] = ()

    @property
    def known(self) -> int:
        """How many new tokens of the span are not guessed."""
        return self.span.new - (self.drafts[-1].ahead if self.drafts and not self.span.parents else 0)

    @property
    def silent(self) -> bool:
        """Whether no logits of it are asked for."""
        known = self.lane.walk is None and self.known == self.lane.rest
        return not self.drawn and self.piece is None and not known

    def tokens(self) -> list[int]:
        """The span's, if none of them was drawn in the step before."""
        at = self.span.base + self.span.stored
        guessed = itertools.chain(*(row.link for row in self.drafts))
        return [*self.lane.prompt[at : at + self.span.new], *guessed, *(self.piece.tokens if self.piece else ())]


@dataclass
class Launch:
    """A launched step: the rows it draws for, in order, with their tokens; the pieces it scores, with their edges.

    ``logits`` [len(rows), V] are there until ``draw`` has made ``tokens`` of them. ``logprobs`` are those of the
    tokens of ``asking``, the rows whose sequences ask for them; ``top`` [asking, most asked for] are the likeliest
    tokens with theirs. ``guesses`` that were compared, once it is read: the length of their match, whether they were
    right.
    """

    rows: list[Row]
    logits: mx.array
    scored: list[tuple[Lane, Piece]]
    edges: mx.array
    work: Work
    tokens: mx.array | None = None
    asking: list[int] = field(default_factory=list)
    logprobs: mx.array | None = None
    top: tuple[mx.array, mx.array] | None = None
    guesses: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether a grammar has to see the last step's tokens before this one's can be drawn."""
        return any(row.matching for row in self.rows)

    def draw(self) -> list[mx.array]:
        """Draw the tokens of all lanes but those that ended meanwhile, or whose grammar knows the next ones."""
        if self.waits:
            known = [matching and (lane.ended or lane.rest) for lane, matching, *_ in self.rows]
            if any(known):
                drawn = [at for at, one in enumerate(known) if not one]
                self.rows = [self.rows[at] for at in drawn]
                self.logits = self.logits[mx.array(drawn, mx.int32)]
        logits = self.logits
        if self.waits:
            logits = masked(logits, bitmasks([row.matching for row in self.rows], logits.shape[-1]))
        self.tokens = _sample(logits, self.rows)
        self.asking = [at for at, row in enumerate(self.rows) if asks(row.lane.sequence)]
        self.logprobs = _logprobs(self.logits, self.tokens, self.asking)
        most = max((self.rows[at].lane.sequence.top_logprobs or 0 for at in self.asking), default=0)
        self.top = likeliest(self.logits[mx.array(self.asking)], most) if most else None
        del self.logits
        for row in self.rows:
            row.lane.launched += not row.link
        return [self.tokens, self.logprobs, *(self.top or ())]

    def read(self) -> tuple[list[Drawn], list[Lane]]:
        """Wait for the step: the tokens that count, the lanes whose choices are scored to the end."""
        values, first = np.array(self.edges, np.float64), 0
        for lane, piece in self.scored:
            assert lane.walk is not None
            lane.walk.take(piece, values[first : first + len(piece.edges)])
            lane.weighs = False
            first += len(piece.edges)
        done = [lane for lane, _ in self.scored if lane.walk and lane.walk.ended]
        return list(self._counting(np.array(self.tokens).tolist())), done

    def _counting(self, tokens: list[int]) -> Iterator[Drawn]:
        """Up to the first guess that was wrong, for each lane."""
        scored = self._scored()
        right = True
        for at, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.link and right:
                right = tokens[at - 1] == row.link[0]
                self.guesses.append((row.match, right))
            elif not row.link:
                right = True
            if right:
                if row.lane.passing:
                    row.lane.again += len(row.link)
                else:
                    row.lane.stored += len(row.link)
                yield Drawn(row, token, scored.get(at))

    def _scored(self) -> dict[int, Scored]:
        tops = pairs(*self.top) if self.top else [()] * len(self.asking)
        return {
            at: Scored(logprob, top[: self.rows[at].lane.sequence.top_logprobs or 0])
            for at, logprob, top in zip(self.asking, np.array(self.logprobs).tolist(), tops, strict=True)
        }


def _sample(logits: mx.array, rows: list[Row]) -> mx.array:
    """The token of each row, from logits [R, V]."""
    if not rows:
        return mx.zeros((0,), mx.int32)
    seeds = np.array([row.lane.sequence.draw_seed for row in rows], np.uint64)
    positions = np.array([row.lane.launched + row.ahead for row in rows], np.uint64)
    return draw(logits, [row.lane.sequence.sampling for row in rows], uniforms(seeds, positions))


def _logprobs(logits: mx.array, tokens: mx.array, places: list[int]) -> mx.array:
    """Log-probabilities of the tokens that were drawn from some rows of logits [R, V]: [places]."""
    if not places:
        return mx.zeros((0,))
    index = mx.array(places)
    logits = logits[index].astype(mx.float32)
    return mx.take_along_axis(logits, tokens[index][:, None], axis=1)[:, 0] - normaliser(logits)
