"""Gated delta rules by blocks of tokens: what mlx-lm gives token by token, in less memory."""

import mlx.core as mx
import pytest
from mlx_lm.models.gated_delta import normalize_qk

from runner.engine.attention.recurrent import delta


@pytest.fixture(autouse=True)
def on_cpu():
    mx.set_default_device(mx.cpu)
    mx.random.seed(0)


def rows(B, T, *, gates=None, decay=1.0, alike=False, heads=(2, 4), sizes=(32, 24)):
    """Random q, k, v, g, beta and state; ``gates`` for each of the numbers of a key, if any."""
    (few, H), (Dk, Dv) = heads, sizes
    q, k = (mx.random.normal((B, T, few, Dk)) for _ in range(2))
    k = mx.broadcast_to(k[:, :1], k.shape) if alike else k
    q, k = normalize_qk(q, k, inv_scale=Dk**-0.5, eps=1e-6)
    g = mx.exp(-decay * mx.random.uniform(0, 20, (B, T, H, *([gates] if gates else []))))
    beta = 2 * mx.sigmoid(mx.random.normal((B, T, H)))
    return q, k, mx.random.normal((B, T, H, Dv)), g, beta, mx.random.normal((B, H, Dv, Dk))


def alike(found, wanted):
    return all(mx.allclose(a, b, rtol=1e-5, atol=5e-6) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("gates", [None, 32], ids=["head", "number"])
@pytest.mark.parametrize("tokens", [1, 2, 5, 15, 16, 17, 50])
def test_blocks_give_what_tokens_give_one_by_one(tokens, gates):
    given = rows(3, tokens, gates=gates, decay=0.02)
    assert alike(delta.update(*given), delta.plain(*given))
    assert alike(delta.update(*given[:-1]), delta.plain(*given[:-1]))  # without a state before


@pytest.mark.parametrize("gates", [None, 32], ids=["head", "number"])
@pytest.mark.parametrize("decay", [0.0, 1e-3, 1.0, 1e3])
def test_the_same_key_again_and_again_and_any_decay_are_exact(decay, gates):
    """The equations are hardest to solve then; all that is left of a state may be as little as 0."""
    given = rows(2, 70, gates=gates, decay=decay, alike=True)
    assert alike(delta.update(*given), delta.plain(*given))


@pytest.mark.parametrize("tokens", [1, 20])
def test_masked_tokens_leave_the_state_as_it_is(tokens):
    *given, state = rows(2, tokens, decay=0.02)
    length = max(1, tokens // 2)
    mask = mx.arange(tokens) < mx.array([[length], [0]])
    out, after = delta.update(*given, state, mask)
    wanted, end = delta.plain(*(a[:1, :length] for a in given), state[:1])
    assert alike((out[:1, :length], after[:1]), (wanted, end)) and mx.array_equal(after[1], state[1])


def test_what_comes_out_has_the_type_of_the_queries_and_states_stay_exact():
    given = [a.astype(mx.bfloat16) for a in rows(1, 9)[:-1]]
    out, state = delta.update(*given)
    assert (out.dtype, state.dtype) == (mx.bfloat16, mx.float32)
    assert mx.allclose(state, delta.plain(*given)[1], atol=1e-5)


def test_a_prompts_tokens_need_no_state_each():
    given = rows(8, 64, heads=(8, 8), sizes=(64, 64))
    mx.eval(given)
    mx.clear_cache()
    peaks = []
    for way in (delta.update, delta.plain):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(way(*given))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] < peaks[1] / 2
