"""Sequences that ask for log-probabilities, and what any engine must answer them."""

import mlx.core as mx
import numpy as np
import pytest

from runner.sequences import Sequence
from runner.types import Sampling

ASKED = [None, 0, 3, 20, 1]  # top_logprobs of each row


def asking(rows):
    """A sequence for each of five rows of token ids, greedy and drawn by turns; the last asks for the mean, too."""
    return [
        Sequence((i, 0), row, 5 + i, Sampling(float(i % 2)), draw_seed=i, mean_logprob=i > 3, top_logprobs=ASKED[i])
        for i, row in enumerate(rows)
    ]


def check_logprobs(model, rows, done):
    """The answers by key have the log-probabilities of a plain forward pass, and the likeliest tokens beside them."""
    assert done[0, 0].scored is None
    for i in range(1, len(ASKED)):
        answer = done[i, 0]
        assert (answer.mean_logprob is None) == (i < 4)
        assert len(answer.scored) == len(answer.tokens) > 0
        logits = model(mx.array([rows[i] + answer.tokens]))[0, len(rows[i]) - 1 : -1].astype(mx.float32)
        plain_logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        for token, one, want in zip(answer.tokens, answer.scored, plain_logprobs, strict=True):
            assert one.logprob == pytest.approx(want[token], abs=1e-4)
            assert [p for _, p in one.top] == pytest.approx(np.sort(want)[::-1][: ASKED[i]].tolist(), abs=1e-4)
            assert [p for _, p in one.top] == pytest.approx([want[t] for t, _ in one.top], abs=1e-4)
