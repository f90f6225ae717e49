"""Promises of runner/engine/sampling.py: log-probabilities and draws are those of exact arithmetic."""

import numpy as np
import pytest
from scipy.stats import chisquare

from runner.engine.sampling import draw, likeliest, normaliser, uniforms
from runner.machine import sums
from runner.types import Sampling

pytestmark = pytest.mark.usefixtures("cpu")

LARGE = 200_003  # a prime: no block fits
DRAWS = 2000


def logits(size, seed=0, spread=2.5):
    """Some rows as models give them: a few tokens far above a long tail."""
    found = np.random.default_rng(seed).normal(0, spread, (4, size)).astype(np.float32)
    found[:, :5] += 9
    return found


def exact(row):
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


@pytest.mark.parametrize("size", [2, 300, 32_000, 49_152, 50_257, LARGE, 262_144])
def test_log_probabilities_over_a_large_vocabulary_are_those_of_double_precision(size):
    import mlx.core as mx

    rows = logits(size)
    want = np.log(np.exp(rows.astype(np.float64)).sum(axis=1))
    for normalise in (normaliser, sums.normaliser):  # with quick exponentials, and with MLX's
        assert np.abs(np.array(normalise(mx.array(rows))) - want).max() < 2e-6
    tokens, logprobs = map(np.array, likeliest(mx.array(rows), 2))
    assert np.allclose(logprobs, np.take_along_axis(rows, tokens, 1) - want[:, None], atol=3e-6)
    # One row of many, in more than one dimension.
    assert np.abs(np.array(normaliser(mx.array(rows.reshape(2, 2, size)))).ravel() - want).max() < 2e-6


def drawn(row, sampling, count, batch=50):
    import mlx.core as mx

    rows = mx.broadcast_to(mx.array(row), (batch, len(row)))
    numbers = uniforms(np.arange(count, dtype=np.uint64), np.full(count, 7, np.uint64))
    parts = [draw(rows, [sampling] * batch, numbers[at : at + batch]) for at in range(0, count, batch)]
    return np.concatenate([np.array(part) for part in parts])


def test_every_token_of_a_large_vocabulary_can_be_drawn():
    """The uniform number that falls into a token's share draws it, however small that is."""
    import mlx.core as mx

    row = logits(LARGE)[0]
    ends = np.cumsum(exact(row).astype(np.longdouble))
    rare = np.random.default_rng(1).permutation(np.argsort(row)[: LARGE // 2])[:64]
    middles = (ends[rare] + np.where(rare > 0, ends[rare - 1], 0)) / 2
    numbers = (middles * 2.0**64).astype(np.uint64)
    rows = mx.broadcast_to(mx.array(row), (64, LARGE))
    near = np.array(draw(rows, [Sampling(temperature=1.0)] * 64, numbers))
    # Single precision knows where a share lies to some millionths of the whole, and its size to as much of itself.
    assert np.abs(ends[near] - ends[rare]).max() < 1e-6
    assert np.median(row[near]) < np.median(row) + 1


@pytest.mark.slow
def test_draws_from_a_large_vocabulary_have_its_probabilities_in_the_tail_too(slow):
    row, count, groups = logits(LARGE, spread=1.5)[0], 4000 if slow else 300, 20 if slow else 8
    chances = exact(row)
    falling = np.argsort(-chances)
    group = np.empty(LARGE, int)  # of about equal chances, the rarest 100,000 tokens in the last ones
    group[falling] = np.minimum(np.cumsum(chances[falling]) * groups, groups - 1).astype(int)
    expected = np.bincount(group, chances, groups)
    found = np.bincount(group[drawn(row, Sampling(temperature=1.0), count)], minlength=groups)
    there = expected > 0
    assert chisquare(found[there], count * expected[there] / expected.sum()).pvalue > 1e-3


SAMPLINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7),
    Sampling(temperature=1.3, top_k=20),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.2, top_k=40, top_p=0.9, min_p=0.01),
]


def allowed(row, sampling):
    """The probabilities that ``Sampling`` describes, worked out step by step."""
    chances = exact(row / sampling.temperature)
    falling = np.argsort(-chances)
    if sampling.top_k:
        chances[falling[sampling.top_k :]] = 0
    before = np.cumsum(chances[falling]) - chances[falling]
    chances[falling[before >= sampling.top_p * chances.sum()]] = 0
    chances[chances < sampling.min_p * chances.max()] = 0
    return chances / chances.sum()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_draws_have_the_probabilities_that_are_asked_for_and_none_lies_outside(sampling):
    row = logits(1000, seed=3, spread=1.5)[0]
    row[:5] -= 5
    chances = allowed(row, sampling)
    found = np.bincount(drawn(row, sampling, DRAWS), minlength=1000)
    assert not found[chances == 0].any()
    order = np.argsort(-chances)
    group = np.empty(1000, int)
    group[order] = np.minimum(np.cumsum(chances[order]) * 15, 14).astype(int)
    expected = np.bincount(group, chances, 15)
    there = expected > 0
    assert chisquare(np.bincount(group, found, 15)[there], DRAWS * expected[there]).pvalue > 1e-3


def test_a_draw_is_the_same_in_any_batch():
    import mlx.core as mx

    rows = logits(5000, spread=1.5)
    numbers = uniforms(np.arange(4, dtype=np.uint64), np.zeros(4, np.uint64))
    mixed = [*SAMPLINGS[2:5], Sampling()]
    together = np.array(draw(mx.array(rows), mixed, numbers)).tolist()
    alone = [int(draw(mx.array(rows[i : i + 1]), [mixed[i]], numbers[i : i + 1]).item()) for i in range(4)]
    assert together == alone
    assert together[3] == rows[3].argmax()
