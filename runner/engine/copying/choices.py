"""Choices scored together: the prompts of several rows in a batch of mlx-lm, then all of their choices at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import PromptProcessingBatch

from runner.engine.sampling import normaliser

MOST = 512  # tokens of choices in a pass, whose logits are held

Choice = tuple[int, ...]


def score(
    model: Any,
    rows: list[list[int]],
    caches: list[Any],
    choices: Sequence[Sequence[Choice]],
    *,
    together: int,
    chunk: int,
    copies: int,
) -> list[tuple[float, ...]]:
    """The log-probabilities of each row's choices behind its tokens, of which there is at least one.

    ``caches`` hold what comes before each row and stay as they are. ``together`` prompts are computed at once,
    ``chunk`` of their tokens at a time; ``copies`` bounds the caches of choices that are held.
    """
    prompts = _computed(model, [row[:-1] for row in rows], caches, together, chunk)
    ends = [(place, choice) for place, own in enumerate(choices) for choice in own]
    longest = max(len(choice) for _, choice in ends)
    size = max(1, min(copies, MOST // longest))
    found: list[float] = []
    for start in range(0, len(ends), size):
        group = ends[start : start + size]
        cache = copy.deepcopy(prompts) if start + size < len(ends) else prompts
        for layer in cache:
            layer.filter([place for place, _ in group])
        given = _padded([(rows[place][-1], *choice[:-1]) for place, choice in group], longest)
        found += _sums(model(given, cache=cache), [choice for _, choice in group], longest)
    values = iter(found)
    return [tuple(next(values) for _ in own) for own in choices]


def _computed(model: Any, rows: list[list[int]], caches: list[Any], together: int, chunk: int) -> list[Any]:
    """One batch of caches that holds all rows."""
    whole: Any = None
    for start, end in _groups([len(row) for row in rows], together):
        group = rows[start:end]
        uids = list(range(start, start + len(group)))
        step = max(2, chunk)
        step += max(map(len, group)) % step == 1  # in a pass of one token mlx-lm takes no padding
        batch = PromptProcessingBatch(model, uids, caches[start:end], prefill_step_size=step)
        batch.prompt(group)
        if whole is None:
            whole = batch
        else:
            whole.extend(batch)
    return list(whole.prompt_cache)


def _groups(lengths: list[int], together: int) -> Iterator[tuple[int, int]]:
    """Neighbours that are computed together; those that one token alone could pad are not."""
    for start in range(0, len(lengths), together):
        own = lengths[start : start + together]
        size = 1 if max(own) == 1 else len(own)
        yield from ((at, at + size) for at in range(start, start + len(own), size))


def _padded(rows: list[Choice], longest: int) -> mx.array:
    """Rows with zeros behind them, which change nothing of what comes before."""
    return mx.array([[*row, *[0] * (longest - len(row))] for row in rows])


def _sums(logits: mx.array, choices: list[Choice], longest: int) -> list[float]:
    logits = logits.astype(mx.float32)
    tokens = _padded(choices, longest)
    picked = mx.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0] - normaliser(logits)
    values = np.array(picked).astype(np.float64)
    return [float(row[: len(choice)].sum()) for row, choice in zip(values, choices, strict=True)]
