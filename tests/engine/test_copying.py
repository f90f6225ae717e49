import mlx.core as mx
import pytest
from mlx_lm.models import llama4, mamba

from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
from runner.engine.conf import EngineConf
from runner.engine.copying import CopyingEngine
from runner.engine.engine import BatchEngine
from runner.engine.open import batch_engine
from runner.machine.device import Device
from runner.sequences import Sequence
from runner.types import Sampling
from tests.support.engines import END, finish, one_by_one, plain_score, prompts, sequences
from tests.support.logprobs import asking, check_logprobs
from tests.support.tiny import VOCAB, scaled, tiny_gpt_oss, tiny_llama


def tiny_mamba():
    args = {
        "model_type": "mamba",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "state_size": 8,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    }
    return scaled(mamba.Model(mamba.ModelArgs(**args)), seed=0, gain=1.5)


def tiny_llama4():
    """Its caches, which forget chunk by chunk, cannot be put into a batch."""
    text = {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 8,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 48,
        "intermediate_size_mlp": 48,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000,
        "use_qk_norm": True,
        "vocab_size": VOCAB,
    }
    return scaled(llama4.Model(llama4.ModelArgs(text_config=text, model_type="llama4")), seed=0, gain=2.0)


@pytest.fixture(params=[tiny_mamba, tiny_gpt_oss, tiny_llama4], ids=["mamba", "gpt_oss", "llama4"])
def model(request):
    mx.set_default_device(mx.cpu)
    return request.param()


def test_a_state_space_model_is_refused_by_the_sharing_engine():
    mx.set_default_device(mx.cpu)
    with pytest.raises(UnsupportedModelError):
        ResidentModel(tiny_mamba())


def test_copies_are_told_in_the_log(caplog):
    mx.set_default_device(mx.cpu)
    with caplog.at_level("INFO", "rowmill"):
        engine = batch_engine(tiny_mamba(), Device("cpu", "this one", None, 10**9), EngineConf())
    engine.close()
    assert "this model cannot share prefixes (ArraysCache layers): every row gets a copy" in caplog.text


@pytest.mark.parametrize("shared", [0, 11])
def test_a_batch_generates_what_generate_does_one_by_one(model, shared):
    rows = prompts(shared, 6, shared)
    lengths = [9, 3, 1, 12, 7, 2]
    engine = CopyingEngine(model, {END}, batch_size=3, prefill_tokens=8)
    done = finish(engine, sequences(rows, lambda i: lengths[i], (shared,) if shared else ()))
    engine.close()
    for i, row in enumerate(rows):
        assert done[i, 0].tokens == one_by_one(model, row, lengths[i])
    assert sum(generation.cached_tokens for generation in done.values()) == 5 * shared


def test_choices_score_like_a_plain_forward_pass(model):
    choices = ((5,), (5, 9), (5, 9, 11), (8,))
    rows = prompts(4, 3, 7)
    done = finish(CopyingEngine(model, {END}), sequences(rows, 0, (7,), choices=choices))
    for i, row in enumerate(rows):
        for choice, logprob in zip(choices, done[i, 0].logprobs, strict=True):
            assert logprob == pytest.approx(plain_score(model, row, choice), abs=1e-4)


def test_it_draws_what_the_sharing_engine_draws():
    mx.set_default_device(mx.cpu)
    rows = prompts(6, 4, 5)
    todo = [Sequence((i, 0), row, 8, Sampling(0.9, top_p=0.95), draw_seed=50 + i) for i, row in enumerate(rows)]
    copied = finish(CopyingEngine(tiny_gpt_oss(), {END}, batch_size=2), todo)
    shared = finish(BatchEngine(ResidentModel(tiny_gpt_oss()), {END}, batch_size=3), todo)
    assert {key: one.tokens for key, one in copied.items()} == {key: one.tokens for key, one in shared.items()}


def test_stop_predicate_and_context(model):
    row = prompts(2, 1, 6)[0]
    tokens = one_by_one(model, row, 12)
    engine = CopyingEngine(model, {END}, context=40, stopped=lambda sequence, seen: len(seen) >= 3)
    done = finish(engine, [Sequence((0, 0), row, 12), Sequence((1, 0), [1] * 39, 12)])
    assert (done[0, 0].tokens, done[0, 0].finish_reason) == (tokens[:3], "stop")
    assert "context of 40" in done[1, 0].error


def test_tokens_have_the_log_probabilities_of_a_plain_pass_and_the_likeliest_beside_them(model):
    rows = prompts(6, 5, 5)
    done = finish(CopyingEngine(model, {END}, batch_size=3), asking(rows))
    check_logprobs(model, rows, done)


def test_the_mean_log_probability_is_that_of_the_tokens_drawn_for_those_who_ask(model):
    row = prompts(4, 1, 7)[0]
    todo = [Sequence((i, 0), row, 6, Sampling(1.0), draw_seed=i, mean_logprob=i > 0) for i in range(3)]
    done = finish(CopyingEngine(model, {END}, batch_size=3), todo)
    assert done[0, 0].mean_logprob is None
    for i in (1, 2):
        drawn = done[i, 0].tokens + ([END] if done[i, 0].finish_reason == "stop" else [])
        assert done[i, 0].mean_logprob == pytest.approx(plain_score(model, row, drawn) / len(drawn), abs=1e-4)


def test_rows_join_as_the_bytes_of_their_caches_allow(model):
    rows = prompts(4, 6, 0)
    want = [one_by_one(model, row, 8) for row in rows]
    engine = CopyingEngine(model, {END}, batch_size=6, prefill_tokens=8)
    todo, together, done = sequences(rows, 8), [], {}
    engine.kv_bytes = 2 * max(cache_bytes(engine, one) for one in todo)
    engine.add(todo)
    while len(done) < len(rows):
        done.update({one.key: one for one in engine.step()})
        together.append(engine.gauge().slots)
    assert [done[i, 0].tokens for i in range(6)] == want
    assert max(together) == min(2, engine.batch_size)


def test_a_row_whose_caches_can_never_fit_is_an_error(model):
    engine = CopyingEngine(model, {END}, batch_size=2, prefill_tokens=8, kv_bytes=engine_bytes(model, 20))
    done = finish(engine, sequences([[1] * 4, [1] * 400], 8))
    assert done[0, 0].error is None
    if engine.token_bytes:  # a state-space model's caches are as large for any prompt
        assert done[1, 0].error.startswith("too long: 408 tokens exceed the 0.00 GB")
    else:
        assert done[1, 0].error is None


def test_every_prompt_token_is_counted_as_computed_or_cached(model):
    rows = prompts(2, 7, 9)
    engine = CopyingEngine(model, {END}, batch_size=3, prefill_tokens=8)
    finish(engine, sequences(rows[:4], 4, (5, 9)))
    finish(engine, sequences(rows[4:], 0, (5, 9), choices=((5,), (6, 7))))
    assert engine.work.prefilled + engine.work.cached == sum(map(len, rows))
    assert engine.work.cached == 6 * 9
    engine.close()


def test_the_caches_of_each_token_are_counted():
    mx.set_default_device(mx.cpu)
    engine = CopyingEngine(tiny_llama(), {END}, batch_size=1)
    assert engine.token_bytes == ResidentModel(tiny_llama()).token_bytes
    engine.close()


def test_caches_that_are_padded_to_the_longest_stay_in_their_bounds():
    mx.set_default_device(mx.cpu)
    engine = CopyingEngine(tiny_llama(), {END}, batch_size=16)
    todo = sequences([[1 + i % 90 for i in range(1000)], *prompts(1, 15, 0)], 20)
    engine.kv_bytes = 2 * cache_bytes(engine, todo[0])
    engine.add(todo)
    ended = 0
    while ended < 16:
        ended += len(engine.step())
        assert engine.generator.prompt_cache_nbytes <= 1.3 * engine.kv_bytes  # they grow by 256 tokens
    engine.close()


def test_a_row_that_can_never_fit_keeps_none_waiting(model):
    engine = CopyingEngine(model, {END}, context=60, batch_size=2)
    engine.batch_size = 2  # as if mlx-lm could batch all of them
    engine.kv_bytes = engine.row_bytes + engine.token_bytes * 24
    engine.add(sequences([[1] * 4, [1] * 400], 20))
    assert "context of 60" in engine.step()[0].error
    engine.close()


def engine_bytes(model, tokens):
    return cache_bytes(CopyingEngine(model, {END}, batch_size=1), Sequence((0, 0), [1] * tokens, 0))


def cache_bytes(engine, sequence):
    return engine.row_bytes + engine.token_bytes * (len(sequence.tokens) + sequence.max_tokens)
