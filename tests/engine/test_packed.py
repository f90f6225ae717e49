"""KV in 8 or 4 bits: the answers of mlx-lm's own caches that round as much, whatever shares and copies prefixes."""

from functools import partial

import mlx.core as mx
import pytest

from runner.engine.attention.copies import Copies
from runner.engine.attention.parts import attend
from runner.engine.attention.resident import ResidentModel
from runner.engine.budget import KVShape, kv_shape
from runner.engine.conf import EngineConf
from runner.engine.engine import BatchEngine
from runner.engine.kernels import packed
from runner.engine.windows.losses import losses
from runner.types import UserError
from tests.support.attentions import tiny
from tests.support.engines import END, finish, one_by_one, prompts, sequences
from tests.support.tiny import TINY_LLAMA, tiny_gpt_oss, tiny_llama

MODELS = {"llama": tiny_llama, "gpt_oss": tiny_gpt_oss}


@pytest.fixture(scope="module", params=[("llama", 8), ("llama", 4), ("gpt_oss", 8)], ids=str)
def case(request):
    """A plain model, its resident twin, the bits; gpt_oss has a layer with a window, which stays as it is."""
    mx.set_default_device(mx.cpu)
    name, bits = request.param
    plain, model = (MODELS[name](head_dim=32) for _ in range(2))
    return plain, ResidentModel(model, kv_bits=bits), bits


@pytest.mark.parametrize(("prefill", "streams", "copies"), [(7, 2, 0), (64, 1, 99)])
def test_rows_behind_a_prefix_answer_as_with_rounded_caches_alone(case, prefill, streams, copies):
    plain, resident, bits = case
    engine = BatchEngine(
        resident, {END}, batch_size=4, prefill_tokens=prefill, streams=streams, copies=Copies((copies,) * 3)
    )
    todo = sequences(prompts(3, 5, 20), 4, (9, 20))
    done = finish(engine, todo)
    for sequence in todo:
        alone = one_by_one(plain, sequence.tokens, 4, prompt_cache=packed.caches(plain, bits))
        assert done[sequence.key].tokens == alone
    engine.close()


def test_choices_are_scored_on_rounded_keys_and_values(case):
    plain, resident, bits = case
    choices = ((5, 6), (5, 7, 8), (9,))
    engine = BatchEngine(resident, {END}, batch_size=4, prefill_tokens=16)
    todo = sequences(prompts(4, 3, 11), 0, (11,), choices=choices)
    for sequence in todo:
        found = finish(engine, [sequence])[sequence.key].logprobs
        for choice, score in zip(choices, found, strict=True):
            row = [*sequence.tokens, *choice]
            logits = plain(mx.array([row]), cache=packed.caches(plain, bits))[0]
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            want = sum(float(logprobs[len(sequence.tokens) - 1 + at, token]) for at, token in enumerate(choice))
            assert score == pytest.approx(want, abs=0.02)
    engine.close()


def test_packed_slots_and_segments_take_what_was_planned(case):
    _, resident, bits = case
    windows = sum(layer.reach.window is not None for layer in resident.layers)
    row = 2 * 2 * (32 * bits // 8 + 2 * 4)  # keys and values of 2 heads; one group has a scale and an offset
    assert resident.token_bytes == (2 - windows) * row + windows * 2 * 2 * 32 * 4
    config = TINY_LLAMA | {"num_hidden_layers": 1, "head_dim": 32}
    assert kv_shape(config, "cpu", bits) == KVShape(row)
    assert kv_shape(config | {"head_dim": 24}, "cpu", bits) == kv_shape(config | {"head_dim": 24}, "cpu")


def test_what_is_packed_comes_back_rounded_to_its_bits():
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        a = mx.random.normal((3, 2, 96), dtype, key=mx.random.key(0))
        for bits in (4, 8):
            back = packed.unpack(packed.pack(a, bits), bits, 96, dtype)
            steps = (a.reshape(3, 2, 3, 32).max(-1) - a.reshape(3, 2, 3, 32).min(-1)) / (2**bits - 1)
            assert back.dtype == dtype
            assert mx.abs(back - a).max() <= 1.3 * steps.max()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_attention_over_packed_numbers_is_that_over_unpacked_ones(bits, dtype):
    mx.set_default_device(mx.cpu)
    draw = partial(mx.random.normal, key=mx.random.key(3))
    keys, values = (packed.pack(draw((3, 2, 9, 64)).astype(dtype) + at, bits) for at in (0, 1))
    held = [mx.pad(a, [(0, 1), (0, 0), (0, 2), (0, 0)])[:3, :, :9] for a in (keys, values)]  # as slots are cut
    q = draw((3, 2, 4, 64)) / 8
    want = attend(q, *(packed.unpack(a, bits, 64, dtype) for a in held))
    found = attend(q, *(packed.Packed(a, bits, 64, dtype) for a in held))
    for one, other in zip(found, want, strict=True):
        rounding = 0.03 if dtype == mx.bfloat16 else 1e-5
        assert mx.allclose(one.astype(mx.float32), other.astype(mx.float32), atol=rounding)


def test_models_that_cannot_have_it_cost_one_line(caplog):
    mx.set_default_device(mx.cpu)
    with pytest.raises(UserError, match=r"engine.kv_bits=8: no layer of this model can have it: windows, latent"):
        packed.tell(tiny_llama(head_dim=24), 8)
    with pytest.raises(UserError, match=r"no layer of this model can have it"):  # what chooses tokens is no KV
        packed.tell(tiny("deepseek_v32", index_head_dim=32), 8)
    with caplog.at_level("INFO", "rowmill"):
        packed.tell(tiny_gpt_oss(head_dim=32), 4)
    assert "KV caches of 4 bits in 1 layers; 1 stay at full precision" in caplog.text
    with pytest.raises(UserError, match=r"engine.kv_bits=4: engine.max_kv_size makes windows of all layers"):
        EngineConf(kv_bits=4, max_kv_size=64)


def test_windows_of_a_text_are_scored_with_the_same_rounding():
    mx.set_default_device(mx.cpu)
    model = tiny_llama(head_dim=32)
    batches = [mx.array([prompts(5, 1, 30)[0][:30]])]
    import numpy as np

    batches = [np.array(batch) for batch in batches]
    exact, eight, four = (losses(model, batches, [mx.default_stream(mx.cpu)], 8, kv_bits=b)[0] for b in (None, 8, 4))
    assert 0 < np.abs(eight - exact).mean() < 0.2 * np.abs(four - exact).mean()
    whole = losses(model, batches, [mx.default_stream(mx.cpu)], 64, kv_bits=4)[0]
    np.testing.assert_allclose(four, whole, atol=1e-3)  # however the text is cut into chunks
