"""Choices scored together: the prompts of several rows in a batch of mlx-lm, then ways through their trees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx_lm.generate import PromptProcessingBatch

from runner.engine.copying.even import joined, picked
from runner.engine.sampling import normaliser
from runner.text.choices import PIECE, Floats, Piece, Walk


class Way(NamedTuple):
    """Tokens behind the prompt of row ``place``, and (how many of them come before it, edge, token) to be scored."""

    place: int
    tokens: tuple[int, ...]
    edges: list[tuple[int, int, int]]


# The logits behind each prompt and each token of some ways: [ways, longest + 1, V].
Run = Callable[[list[Way], int], mx.array]


def score(walks: list[Walk], run: Run, most: int, tokens: int, padded: bool = True) -> None:
    """Go through each row's tree to its end, with up to ``most`` ways in a pass, and ``tokens`` of theirs; all of one
    length unless they may be ``padded``.
    """
    while left := [(place, walk) for place, walk in enumerate(walks) if not walk.ended]:
        pieces = [(walk, walk.next(PIECE), place) for place, walk in left]
        ways = sorted((way for one in pieces for way in _ways(*one)), key=lambda way: len(way.tokens))
        found: dict[tuple[int, int], float] = {}
        for group in _groups(ways, most, tokens, padded):
            _read(group, run(group, max(len(way.tokens) for way in group)), found)
        for walk, piece, place in pieces:
            walk.take(piece, np.array([found[place, edge] for edge in piece.edges.tolist()]))


def _ways(walk: Walk, piece: Piece, place: int) -> Iterator[Way]:
    """Through all nodes of a piece, each edge on one of them."""
    inner = set(piece.parents)
    edges: dict[int, list[tuple[int, int]]] = {}
    for row, edge in zip(piece.rows.tolist(), piece.edges.tolist(), strict=True):
        edges.setdefault(row, []).append((edge, int(walk.tree.ends[edge])))
    for last in (row for row in [-1, *range(len(piece.tokens))] if row not in inner):
        nodes = [last]
        while nodes[-1] != -1:
            nodes.append(piece.parents[nodes[-1]])
        nodes.reverse()
        tokens = tuple(piece.tokens[node] for node in nodes[1:])
        yield Way(place, tokens, [(at, *edge) for at, node in enumerate(nodes) for edge in edges.pop(node, ())])


def _groups(ways: list[Way], most: int, tokens: int, padded: bool) -> Iterator[list[Way]]:
    """Of rising length."""
    group: list[Way] = []
    for way in ways:
        full = len(group) >= most or (len(group) + 1) * (len(way.tokens) + 1) > tokens
        if group and (full or not (padded or len(way.tokens) == len(group[0].tokens))):
            yield group
            group = []
        group.append(way)
    yield group


def _read(ways: list[Way], logits: mx.array, found: dict[tuple[int, int], float]) -> None:
    logits = logits.astype(mx.float32)
    edges = [(row, *edge) for row, way in enumerate(ways) for edge in way.edges]
    row, at, _, token = mx.array(edges).T
    values: Floats = np.array(logits[row, at, token] - normaliser(logits)[row, at]).astype(np.float64)
    for (row_, _, edge, _), value in zip(edges, values.tolist(), strict=True):
        found[ways[row_].place, edge] = value


def together(model: Any, rows: list[list[int]], caches: list[Any], *, prompts: int, chunk: int) -> Run:
    """Runs ways behind rows whose caches, which stay as they are, hold what comes before each.

    ``prompts`` are computed at once, ``chunk`` of their tokens at a time.
    """
    batch = _computed(model, [row[:-1] for row in rows], caches, prompts, chunk)
    at = {place: number for number, place in enumerate(batch.uids)}

    def run(ways: list[Way], longest: int) -> mx.array:
        cache = copy.deepcopy(batch.prompt_cache)
        for layer in cache:
            layer.filter([at[way.place] for way in ways])
        return _through(model, rows, cache, ways, longest)

    return run


def even(model: Any, rows: list[list[int]], caches: list[Any], chunk: int) -> Run:
    """The same for rows of one length behind as many tokens, in caches of any kind."""
    cache = joined([copy.deepcopy(one) for one in caches])
    for start in range(0, len(rows[0]) - 1, chunk):
        model(mx.array([row[:-1][start : start + chunk] for row in rows]), cache=cache)
        mx.eval([layer.state for layer in cache])

    def run(ways: list[Way], longest: int) -> mx.array:
        return _through(model, rows, picked(cache, [way.place for way in ways]), ways, longest)

    return run


def _through(model: Any, rows: list[list[int]], cache: Any, ways: list[Way], longest: int) -> mx.array:
    """The logits of ways behind all of their rows but the last token, which ``cache`` holds."""
    given = [(rows[way.place][-1], *way.tokens) for way in ways]
    # Zeros behind a row change nothing of what comes before.
    logits: mx.array = model(mx.array([[*row, *[0] * (longest + 1 - len(row))] for row in given]), cache=cache)
    return logits


def _computed(model: Any, rows: list[list[int]], caches: list[Any], together: int, chunk: int) -> Any:
    """One batch that holds all rows, each by its place.

    A row leaves when it ends: mlx-lm goes wrong in chunks behind a row's end, and takes no padding in a pass of one
    token.
    """
    ended: list[Any] = []
    for start in range(0, len(rows), together):
        left = rows[start : start + together]
        places = list(range(start, start + len(left)))
        none: dict[str, Any] = {"samplers": [None] * len(left), "logits_processors": [[] for _ in left]}
        batch = PromptProcessingBatch(model, places, caches[start : start + len(left)], prefill_step_size=chunk, **none)
        while left:
            if short := [at for at, row in enumerate(left) if not row]:
                ended.append(batch.split(short) if len(short) < len(left) else batch)
                left = [row for row in left if row]
            if left:
                batch.prompt([row[:chunk] for row in left])
                left = [row[chunk:] for row in left]
    for batch in ended[1:]:
        ended[0].extend(batch)
    return ended[0]
