"""Drawing tokens from logits so that a row's draws depend on its own seed alone, never on its batch.

A draw is the inverse of the cumulative distribution at one uniform number, made on the host from (seed, position): the
same on every device, one number a token. What it goes through are integers, so that no token is too unlikely to come.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from runner.engine.attention.parts import shifted_exp
from runner.machine import sums
from runner.machine.sums import passed, portion, shares, total
from runner.sequences import Scored, Sequence
from runner.types import Sampling

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Uniform numbers below 2**64, one for each (seed, position): the SplitMix64 generator of Steele et al. 2014."""
    with np.errstate(over="ignore"):
        z = seeds + (positions + np.uint64(1)) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def masked(logits: mx.array, allowed: npt.NDArray[np.uint32]) -> mx.array:
    """Logits [R, V] with -inf for the tokens whose bit in ``allowed`` [R, ceil(V / 32)] is 0."""
    R, V = logits.shape
    bits = (mx.array(allowed)[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return mx.where(bits.reshape(R, -1)[:, :V] != 0, logits, mx.array(-mx.inf, logits.dtype))


def draw(logits: mx.array, samplings: list[Sampling], uniform: npt.NDArray[np.uint64]) -> mx.array:
    """One token id for each row of logits [R, V], drawn by that row's sampling and uniform number: [R] int32."""
    greedy = logits.argmax(axis=-1).astype(mx.int32)
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not warm:
        return greedy
    every = len(warm) == len(samplings)
    chosen = [samplings[row] for row in warm]
    index = mx.array(warm)
    drawn = _draw(logits if every else logits[index], chosen, mx.array(uniform[warm]))
    if every:
        return drawn
    greedy[index] = drawn
    return greedy


def _draw(logits: mx.array, samplings: list[Sampling], uniform: mx.array) -> mx.array:
    temperature = mx.array([sampling.temperature for sampling in samplings])[:, None]
    scaled = logits.astype(mx.float32) / temperature
    weights = shifted_exp(scaled, scaled.max(axis=-1, keepdims=True))  # the likeliest token weighs 1
    if any(sampling.top_k > 0 or sampling.top_p < 1 for sampling in samplings):
        weights = mx.where(weights >= _floor(weights, samplings), weights, 0.0)
    min_p = mx.array([sampling.min_p for sampling in samplings])[:, None]
    weights = mx.where(weights >= min_p, weights, 0.0)
    tickets = shares(weights)
    goal = portion(total(tickets)[:, None], uniform[:, None])
    return passed(tickets, goal).astype(mx.int32)


def _floor(weights: mx.array, samplings: list[Sampling]) -> mx.array:
    """The least weight that top-k, then top-p leave in, by row: [R, 1]. Ties at the floor stay in."""
    V = weights.shape[-1]
    falling = -mx.sort(-weights, axis=-1)
    top_k = mx.array([min(sampling.top_k or V, V) for sampling in samplings])[:, None]
    kept = mx.where(mx.arange(V)[None] < top_k, falling, 0.0)
    if all(sampling.top_p >= 1 for sampling in samplings):
        last = top_k - 1
    else:
        fractions = [min(int(sampling.top_p * (1 << 64)), (1 << 64) - 1) for sampling in samplings]
        tickets = shares(kept)
        mass = tickets.cumsum(axis=-1)
        goal = portion(mass[:, -1:], mx.array(np.array(fractions, np.uint64)[:, None]))
        inside = (mass - tickets < goal) & (tickets > 0)
        last = mx.maximum(inside.sum(axis=-1, keepdims=True) - 1, 0)
    return mx.take_along_axis(kept, last, axis=-1)


def normaliser(logits: mx.array) -> mx.array:
    """The logarithm of the sum of the exponentials of logits [..., V]: [...]."""
    return sums.normaliser(logits, shifted_exp)


def likeliest(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The ``count`` likeliest tokens for each row of logits [N, V], likeliest first, and their log-probabilities."""
    logits = logits.astype(mx.float32)
    tokens = mx.argsort(-logits, axis=-1)[:, :count]
    return tokens, mx.take_along_axis(logits, tokens, axis=-1) - normaliser(logits)[:, None]


def pairs(tokens: mx.array, logprobs: mx.array) -> list[tuple[tuple[int, float], ...]]:
    """``likeliest`` on the host: (token, log-probability) pairs for each row."""
    rows = zip(np.array(tokens).tolist(), np.array(logprobs).tolist(), strict=True)
    return [tuple(zip(row, values, strict=True)) for row, values in rows]


def asks(sequence: Sequence) -> bool:
    """Whether the log-probabilities of its tokens are wanted."""
    return sequence.mean_logprob or sequence.top_logprobs is not None


def logprob_fields(sequence: Sequence, scored: list[Scored], tokens: int) -> dict[str, Any]:
    """A generation's ``mean_logprob`` and ``scored``, as the sequence asks; ``scored`` may have its end token."""
    mean = sum(one.logprob for one in scored) / len(scored) if scored and sequence.mean_logprob else None
    return {"mean_logprob": mean, "scored": tuple(scored[:tokens]) if sequence.top_logprobs is not None else None}
