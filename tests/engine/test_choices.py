"""Choices by the hundred: every score that is given is a plain forward pass's, whatever the model and its engine."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import cohere, gemma2, granite, llama

from runner.engine.attention.resident import ResidentModel
from runner.engine.copying.engine import CopyingEngine
from runner.engine.engine import BatchEngine
from runner.sequences import Sequence
from runner.text.choices import FEW_NODES, LEAST, LIKELIEST, Choices, choice_tree
from tests.support.engines import END, finish, one_by_one, prompts, sequences
from tests.support.hybrids import tiny_gemma3, tiny_llama4, tiny_mamba, tiny_nemotron_h
from tests.support.tiny import TINY_LLAMA, VOCAB, scaled, tiny_gpt_oss, tiny_llama

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
}
GEMMA2 = SIZES | {"model_type": "gemma2", "head_dim": 8, "rms_norm_eps": 1e-5}
GRANITE = SIZES | {"model_type": "granite", "rms_norm_eps": 1e-5, "logits_scaling": 3.0, "attention_multiplier": 0.3}
GRANITE |= {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "max_position_embeddings": 512}
GRANITE |= {"attention_bias": False, "mlp_bias": False, "rope_theta": 10000.0}


def quantised_llama(**overrides):
    args = TINY_LLAMA | {"hidden_size": 64, "intermediate_size": 64, **overrides}
    model = scaled(llama.Model(llama.ModelArgs(**args)), 0, gain=2.0)
    nn.quantize(model, group_size=32, bits=8)
    return model


class CappedLlama(llama.Model):
    def __call__(self, *args, **kwargs):
        return 2.0 * mx.tanh(super().__call__(*args, **kwargs) / 2.0)


def tiny_gemma2():
    return scaled(gemma2.Model(gemma2.ModelArgs(**GEMMA2, final_logit_softcapping=2.0)), 1, gain=2.0)


def tiny_cohere():
    return scaled(cohere.Model(cohere.ModelArgs(**SIZES, model_type="cohere", logit_scale=0.25)), 2, gain=2.0)


def tiny_granite():
    return scaled(granite.Model(granite.ModelArgs(**GRANITE, tie_word_embeddings=True)), 3, gain=2.0)


SHARING = {
    "untied": tiny_llama,
    "tied": lambda: tiny_llama(tie_word_embeddings=True),
    "quantised": quantised_llama,
    "quantised and tied": lambda: quantised_llama(tie_word_embeddings=True),
    "experts, windows and sinks": tiny_gpt_oss,
    "capped": lambda: scaled(CappedLlama(llama.ModelArgs(**TINY_LLAMA)), 1, gain=2.0),
    "scaled": tiny_cohere,
    "divided": tiny_granite,
    "sliding windows": tiny_gemma3,
}
CLOSE = 1e-5  # of each log-probability; a label's score is the sum of one for each of its tokens
LESS_CLOSE = {"sliding windows": 2e-5}  # where the plain pass itself is so far from what 64 bits give
MANY = Choices((1 + a, 1 + b, *([1 + a] if (a + b) % 3 else [])) for a in range(12) for b in range(12))
MANY = Choices((*MANY, (1,), (3, 3, 3, 3), (40, 41, 42, 43, 44)))  # beginnings of others, and long ways alone


@pytest.fixture(autouse=True)
def _on_cpu():
    mx.set_default_device(mx.cpu)


def plain_scores(model, row, choices):
    """Of all choices at once: rows padded with zeros behind them, which no token before them sees."""
    longest = max(map(len, choices))
    tokens = np.array([[*row, *choice, *[0] * (longest - len(choice))] for choice in choices])
    logits = model(mx.array(tokens)).astype(mx.float32)
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64)
    ways = [[logprobs[i, len(row) - 1 + at, token] for at, token in enumerate(way)] for i, way in enumerate(choices)]
    return np.array([sum(way) for way in ways])


def check_close(scores, want, close=CLOSE):
    """As close as 32 bits allow: computed with 64 of them, the plain pass's scores are as far from these."""
    lengths = np.array([len(choice) for choice in MANY])
    off = np.abs(np.array(scores) - want) / lengths
    assert off[np.isfinite(scores)].max() < close


def check_cut(scores, want, close=CLOSE):
    """All that is scored is right, and of all that is likely the ten likeliest are scored."""
    scored = np.isfinite(scores)
    check_close(scores, want, close)
    assert scored[want >= max(want.max() + LEAST, np.sort(want)[-LIKELIEST])].all()
    assert int(scores.argmax()) == int(want.argmax())
    return scored.mean()


def test_the_choices_here_are_more_than_one_piece():
    assert len(choice_tree(MANY).tokens) > FEW_NODES


@pytest.mark.parametrize("family", sorted(SHARING))
def test_scores_are_those_of_a_plain_forward_pass(family):
    model = SHARING[family]()
    rows = prompts(5, 2, 6, longest=9)
    want = [plain_scores(model, row, MANY) for row in rows]
    written = [one_by_one(model, row, 4) for row in rows]
    sizes = {"prefill_tokens": 80, "logit_bytes": 2 * 16 * 4 * VOCAB}  # 40 tokens and 16 rows for each stream
    engine = BatchEngine(ResidentModel(model), {END}, batch_size=6, streams=2, **sizes)
    todo = sequences(rows, 1, (6,), choices=MANY)
    todo += [Sequence((i, 1), row, 0, choices=MANY, cut=True) for i, row in enumerate(rows)]
    todo += [Sequence((i, 2), row, 4) for i, row in enumerate(rows)]  # written in the same steps
    done = finish(engine, todo)
    engine.close()
    close = LESS_CLOSE.get(family, CLOSE)
    for i in range(len(rows)):
        check_close(done[i, 0].logprobs, want[i], close)
        assert np.isfinite(done[i, 0].logprobs).all()
        assert check_cut(np.array(done[i, 1].logprobs), want[i], close) < 1  # something was cut
        assert done[i, 2].tokens == written[i]


@pytest.mark.parametrize("make", [tiny_mamba, tiny_nemotron_h, tiny_llama4, tiny_gemma2, tiny_llama])
def test_the_engine_that_copies_scores_like_a_plain_forward_pass(make):
    """One of them takes one row at a time."""
    model = make()
    rows = prompts(5, 3, 6, longest=9)
    want = [plain_scores(model, row, MANY) for row in rows]
    engine = CopyingEngine(model, {END}, batch_size=4, logit_bytes=40 * 4 * VOCAB)
    todo = sequences(rows, 0, (6,), choices=MANY)
    todo += [Sequence((i, 1), row, 0, choices=MANY, cut=True) for i, row in enumerate(rows)]
    done = finish(engine, todo)
    for i in range(len(rows)):
        check_close(done[i, 0].logprobs, want[i])
        assert np.isfinite(done[i, 0].logprobs).all()
        check_cut(np.array(done[i, 1].logprobs), want[i])


def test_the_likeliest_choices_are_told_with_the_sum_of_the_others():
    rows = prompts(5, 2, 0)
    engine = BatchEngine(ResidentModel(tiny_llama()), {END})
    full = finish(engine, sequences(rows, 0, choices=MANY))
    some = finish(engine, sequences(rows, 0, choices=MANY, top=5))
    for key, one in some.items():
        scores = np.array(full[key].logprobs)
        order = np.argsort(-scores)
        assert one.logprobs is None and [place for place, _ in one.likeliest] == order[:5].tolist()
        assert [score for _, score in one.likeliest] == pytest.approx(scores[order[:5]], abs=1e-6)
        assert one.others == pytest.approx(math.log(np.exp(scores[order[5:]]).sum()), abs=1e-6)
