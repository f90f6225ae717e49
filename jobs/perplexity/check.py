"""Batches of windows held against forward passes one by one, which NumPy normalises."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from runner.engine.windows.losses import losses
from runner.results.perplexity import exp


def exact_loss(logits: Any, targets: np.ndarray) -> np.ndarray:
    """What ``loss`` is in float64, by NumPy alone: [T] of ``targets`` [T] under ``logits`` [T, V]."""
    import mlx.core as mx

    found = np.empty(len(targets))
    for place, target in enumerate(targets):  # one after the other: all of them would take twice the memory again
        row = np.array(logits[place].astype(mx.float32)).astype(np.float64)
        found[place] = np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
    return found


class Check(NamedTuple):
    """A batch against forward passes one by one. ``largest``: difference of a token's log-likelihood, in nats;
    ``mean``: of the windows' means. Both perplexities are over the same tokens.
    """

    windows: int
    tokens: int
    batched: float
    single: float
    largest: float
    mean: float


def self_check(model: Any, batches: list[np.ndarray], streams: list[Any], chunk: int) -> Check:
    """Compare ``losses`` with a forward pass for each window, without chunks, batches or streams, whose logits NumPy
    normalises in float64.

    It has empty caches: layers that share the keys of earlier ones, as Gemma 3n's, make their own without.
    Windows are cut so that a pass holds no more logits than a chunk of all batches does.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    most = max(2, chunk * sum(len(batch) for batch in batches))
    batches = [batch[:, :most] for batch in batches]
    batched = [row for part in losses(model, batches, streams, chunk) for row in part]
    single = []
    for row in (row for batch in batches for row in batch):
        logits = model(mx.array(row[None, :-1]), cache=make_prompt_cache(model))[0]
        single.append(exact_loss(logits, row[1:]))
    differences = [a.astype(np.float64) - b for a, b in zip(batched, single, strict=True)]
    return Check(
        len(single),
        sum(map(len, single)),
        exp(float(np.concatenate(batched).mean(dtype=np.float64))),
        exp(float(np.concatenate(single).mean(dtype=np.float64))),
        max(float(np.abs(one).max()) for one in differences),
        max(abs(float(one.mean())) for one in differences),
    )
