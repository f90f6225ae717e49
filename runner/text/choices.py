"""Choices as a trie, walked in pieces: each beginning is computed once, or not at all if it is unlikely."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from runner.sequences import MANY_SCORES

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
FEW_NODES = 64  # of a tree that is computed whole, even if its branches may be cut
LEAST = math.log(1 / 30)  # branches that are so much less likely than the likeliest choice may be cut
LIKELIEST = 10  # choices that are looked for, however alike all are
PIECE = 32  # nodes whose branches are weighed together, and more where a walk is long
LONG = 64, 192  # nodes scored, from where on and until where less and less is spent on other choices than those


class Choices(tuple[tuple[int, ...], ...]):
    """Token ids of some choices. Among thousands of rows they are looked up often, so they are hashed only once."""

    @cached_property
    def _hash(self) -> int:
        return tuple.__hash__(self)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        return Choices, (tuple(self),)


@dataclass(frozen=True, eq=False)
class ChoiceTree:
    """The trie of some token sequences below a prompt.

    ``tokens`` and ``parents`` are its inner nodes, parents first; parent -1 is the prompt's last token. ``edges`` are
    (node, next token) pairs whose log-probabilities are needed; node -1 likewise. ``paths[i]`` lists the edges of
    choice i, whose log-probabilities add up to its score.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    def may_be_cut(self, cut: bool) -> bool:
        """Whether it has so many nodes that some may be left out, if that is allowed at all."""
        return cut and len(self.tokens) > FEW_NODES

    @cached_property
    def edges_of(self) -> list[list[int]]:
        """The edges of each node, those of node -1 last."""
        found: list[list[int]] = [[] for _ in range(len(self.tokens) + 1)]
        for edge, (node, _) in enumerate(self.edges):
            found[node].append(edge)
        return found

    @cached_property
    def below(self) -> Ints:
        """The inner node that each edge leads to, -1 for none."""
        place = {edge: number for number, edge in enumerate(self.edges)}
        found = np.full(len(self.edges), -1)
        found[[place[edge] for edge in zip(self.parents, self.tokens, strict=True)]] = np.arange(len(self.tokens))
        return found

    @cached_property
    def is_last(self) -> npt.NDArray[np.bool_]:
        """Whether a choice ends with each edge."""
        found = np.zeros(len(self.edges), np.bool_)
        found[[path[-1] for path in self.paths]] = True
        return found

    @cached_property
    def starts(self) -> Ints:
        """The node of each edge."""
        return np.array([node for node, _ in self.edges])

    @cached_property
    def ends(self) -> Ints:
        """The token of each edge."""
        return np.array([token for _, token in self.edges])

    @cached_property
    def depth_first(self) -> list[int]:
        """The inner nodes, each followed by all below it."""
        children: list[list[int]] = [[] for _ in range(len(self.tokens) + 1)]
        for node, parent in enumerate(self.parents):
            children[parent].append(node)
        order, left = [], children[-1][::-1]
        while left:
            order.append(left.pop())
            left += children[order[-1]][::-1]
        return order

    @cached_property
    def steps(self) -> Ints:
        """``paths`` as a table, filled up with the number of edges."""
        longest = max(map(len, self.paths))
        return np.array([[*path, *[len(self.edges)] * (longest - len(path))] for path in self.paths])


@lru_cache(maxsize=256)
def choice_tree(choices: tuple[tuple[int, ...], ...]) -> ChoiceTree:
    """The trie of ``choices``; a choice may be a beginning of another. Raises ValueError for an empty choice."""
    nodes: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    paths = []
    for choice in choices:
        if not choice:
            raise ValueError("a choice has no tokens")
        node, path = -1, []
        for token in choice[:-1]:
            edge = node, token
            path.append(edges.setdefault(edge, len(edges)))
            if edge not in nodes:
                nodes[edge] = len(parents)
                parents.append(node)
            node = nodes[edge]
        path.append(edges.setdefault((node, choice[-1]), len(edges)))
        paths.append(tuple(path))
    return ChoiceTree(tuple(token for _, token in nodes), tuple(parents), tuple(edges), tuple(paths))


@lru_cache(maxsize=256)
def beginnings(choices: tuple[tuple[int, ...], ...]) -> Choices:
    """Each choice as far as it takes to tell it from all others: all of it where it is a beginning of another."""
    paths = choice_tree(choices).paths
    shared = Counter(edge for path in paths for edge in path)
    ends = (next((end for end, edge in enumerate(path, 1) if shared[edge] == 1), len(path)) for path in paths)
    return Choices(choice[:end] for choice, end in zip(choices, ends, strict=True))


class Piece(NamedTuple):
    """Nodes to compute together: ``tokens`` and ``parents`` as in a tree, and the ``edges`` to score, each of which
    continues node ``rows[i]`` of the piece, or with -1 the prompt's last token.
    """

    tokens: list[int]
    parents: list[int]
    edges: Ints
    rows: Ints


class Walk:
    """A row's way through a tree, piece by piece: ``next`` and then ``take``, until it has ``ended``.

    With ``cut``, branches are weighed in rounds: those that are less likely than LEAST of the likeliest choice are left
    out, and so are all choices in them. All that are at least so likely are scored, unless they are so many that the
    walk gets LONG; the ``top`` likeliest of them, ten at least, are found even then. Rounds do not depend on how many
    pieces they are taken in.
    """

    def __init__(self, tree: ChoiceTree, cut: bool = False, top: int | None = None) -> None:
        self.tree = tree
        self.cut = tree.may_be_cut(cut)
        self._begun = False
        self._asked = 0  # pieces that are not taken yet
        self._scores = np.full(len(tree.edges) + 1, -np.inf)
        self._scores[-1] = 0.0  # of what fills up tree.steps
        self._done = 0  # nodes scored, with and without cut
        self._round: list[int] = []  # nodes that are left of it, with cut
        self._edges: list[Ints] = []  # those that were scored in it
        self._best = np.full(max(LIKELIEST, top or 0), -np.inf)  # the likeliest choices, in rising order
        self._reached = np.zeros(len(tree.tokens) + 1)  # how likely each node is; the last one is the prompt
        self._weighed: dict[int, float] = {}  # nodes that may be computed next, and how likely they are

    @property
    def goes_on(self) -> bool:
        """Whether there is a next piece, as far as is known: with ``cut``, all that went before have to be taken."""
        left = self._round or self._weighed if self.cut else self._done < len(self.tree.tokens)
        return not self._begun or bool(left)

    @property
    def ended(self) -> bool:
        return not self.goes_on and not self._asked

    def next(self, room: int) -> Piece:
        """The next piece, of at most ``room`` nodes, or of one and those above it."""
        parents, scored = self.tree.parents, [] if self._begun else [-1]
        place = {-1: -1}
        for node in self._ahead():
            way = [node]
            while parents[way[-1]] not in place:
                way.append(parents[way[-1]])
            if len(place) - 1 + len(way) > room and scored:
                break
            for one in reversed(way):
                place[one] = len(place) - 1
            scored.append(node)
        count = len(scored) - (not self._begun)
        del self._round[:count]
        self._done += count
        self._begun = True
        self._asked += 1
        edges = [edge for node in scored for edge in self.tree.edges_of[node]]
        rows = [place[int(node)] for node in self.tree.starts[edges]]
        nodes = list(place)[1:]
        tokens = [self.tree.tokens[node] for node in nodes]
        return Piece(tokens, [place[parents[node]] for node in nodes], np.array(edges), np.array(rows))

    def take(self, piece: Piece, scores: Floats) -> None:
        """The log-probabilities of a piece's edges."""
        self._scores[piece.edges] = scores
        self._asked -= 1
        self._edges.append(piece.edges)
        if self.cut and not self._round and not self._asked:
            self._weigh(np.concatenate(self._edges))
            self._edges.clear()

    def scores(self) -> Floats:
        """The log-probability of each choice; -inf where its branch was cut."""
        return np.asarray(self._scores[self.tree.steps].sum(axis=1))

    def _ahead(self) -> Iterable[int]:
        if not self.cut:
            return itertools.islice(self.tree.depth_first, self._done, None)
        if not self._round and self._weighed:
            size = max(PIECE, self._done // 2)
            likely = heapq.nlargest(size, self._weighed.items(), key=lambda item: item[1])
            self._round = [node for node, one in likely if one >= likely[0][1] + LEAST]
            for node in self._round:
                del self._weighed[node]
        return self._round

    def _weigh(self, edges: Ints) -> None:
        """Weigh the branches behind these edges, and cut those that are unlikely."""
        tree = self.tree
        total = self._scores[edges] + self._reached[tree.starts[edges]]
        self._best = np.sort(np.concatenate([self._best, total[tree.is_last[edges]]]))[-len(self._best) :]
        inner = tree.below[edges] >= 0
        nodes = tree.below[edges][inner]
        self._reached[nodes] = total[inner]
        self._weighed.update(zip(nodes.tolist(), total[inner].tolist(), strict=True))
        least = self._least()
        self._weighed = {node: one for node, one in self._weighed.items() if one >= least}

    def _least(self) -> float:
        """How likely a branch must be: as LEAST says and, the longer the walk, the more so, up to what may win."""
        least, most = self._best[-1] + LEAST, self._best[0]
        spent = (self._done - LONG[0]) / (LONG[1] - LONG[0])
        return float(least if spent <= 0 or most <= least else least + (most - least) * min(1.0, spent))


def score_fields(scores: Floats, top: int | None) -> dict[str, Any]:
    """A generation's fields for its choices' log-probabilities: all of them, or the ``top`` likeliest and the others'
    together.
    """
    if top is None or len(scores) <= top:
        return {"logprobs": tuple((scores.astype(np.float32) if len(scores) > MANY_SCORES else scores).tolist())}
    order = np.argsort(-scores, kind="stable")
    rest, first = (
        scores[order[top:]],
        [(at, score) for at, score in enumerate(scores.tolist()) if math.isnan(score)][:1],
    )
    if not first:
        first = [(at, float(scores[at])) for at in order[:top].tolist() if np.isfinite(scores[at])]
    others = float(np.log(np.exp(rest - rest[0]).sum()) + rest[0]) if np.isfinite(rest[0]) else -math.inf
    return {"likeliest": tuple(first), "others": others}
