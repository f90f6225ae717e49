import mlx.core as mx
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache

from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
from runner.engine.conf import EngineConf
from runner.engine.copying.batched import even_batch, prefill_batch
from runner.engine.copying.engine import CopyingEngine
from runner.engine.engine import BatchEngine
from runner.engine.open import batch_engine
from runner.engine.trial import Trial
from runner.machine.device import Device
from runner.sequences import Sequence
from runner.types import Sampling
from tests.support.engines import END, finish, one_by_one, plain_score, prompts, sequences
from tests.support.hybrids import (
    CONTEXT,
    tiny_deepseek_v41,
    tiny_internlm2,
    tiny_internlm3,
    tiny_llama4,
    tiny_mamba,
    tiny_nemotron_h,
)
from tests.support.logprobs import asking, check_logprobs
from tests.support.recurrent import granitemoehybrid, recurrent, recurrent_gemma
from tests.support.tiny import TINY_LLAMA, scaled, tiny_gpt_oss, tiny_llama


@pytest.fixture(
    params=[tiny_mamba, tiny_gpt_oss, tiny_llama4, tiny_nemotron_h], ids=["mamba", "gpt_oss", "llama4", "nemotron_h"]
)
def model(request):
    mx.set_default_device(mx.cpu)
    return request.param()


class OddCache(KVCache):
    """As good as its kind, but of a class that nobody knows."""


@pytest.fixture
def odd_model(monkeypatch):
    mx.set_default_device(mx.cpu)
    monkeypatch.setattr(llama.Model, "make_cache", lambda self: [OddCache() for _ in self.layers], raising=False)
    return tiny_llama()


def test_caches_of_an_unknown_kind_are_refused_by_the_sharing_engine(odd_model):
    with pytest.raises(UnsupportedModelError):
        ResidentModel(odd_model)


def test_copies_are_told_in_the_log(odd_model, caplog):
    with caplog.at_level("INFO", "rowmill"):
        engine = batch_engine(odd_model, Device("cpu", "this one", None, 10**9), EngineConf())
    engine.close()
    assert "this model cannot share prefixes (OddCache layers): every row gets a copy" in caplog.text


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


@pytest.mark.parametrize("copies", [1, 3, 100])
def test_choices_of_many_rows_score_together_as_they_do_alone(model, copies):
    choices = ((5,), (6, 7), (6, 8, 9), (1, END))
    rows = [*prompts(2, 9, shared=4), *prompts(3, 2, shared=1, longest=2), [7]]
    rows += [[7, 8], [9], [3] * 9]  # a pass of one token is left over where chunks have 8
    engine = CopyingEngine(model, {END}, batch_size=8, kv_bytes=1 << 30, prefill_tokens=8)
    engine.kv_bytes = (copies + 8) * max(engine.row_bytes + engine.token_bytes * (len(row) + 1) for row in rows)
    wanted = sequences(rows[:9], 1, boundaries=(4,), choices=choices)
    wanted += [Sequence((i, 0), rows[i], 1, choices=choices) for i in range(9, len(rows))]
    done = finish(engine, wanted)
    for i, row in enumerate(rows):
        assert done[i, 0].logprobs == pytest.approx([plain_score(model, row, choice) for choice in choices], abs=1e-4)


@pytest.mark.parametrize("family", [granitemoehybrid, recurrent_gemma], ids=lambda family: family.__name__)
def test_choices_behind_prompts_in_chunks_and_of_one_token_score_as_alone(family):
    """A state behind a row's end, or of zeros where there should be none yet, is another one."""
    mx.set_default_device(mx.cpu)
    model = recurrent(family)
    rows = [[7], *prompts(8, 2, shared=6, longest=14)]
    choices = ((5,), (6, 7), (6, 8, 9))
    done = finish(CopyingEngine(model, {END}, batch_size=8, prefill_tokens=8), sequences(rows, 0, choices=choices))
    for i, row in enumerate(rows):
        assert done[i, 0].logprobs == pytest.approx([plain_score(model, row, choice) for choice in choices], abs=1e-4)


def test_it_draws_what_the_sharing_engine_draws():
    mx.set_default_device(mx.cpu)
    rows = prompts(6, 4, 5)
    todo = [Sequence((i, 0), row, 8, Sampling(0.9, top_p=0.95), draw_seed=50 + i) for i, row in enumerate(rows)]
    copied = finish(CopyingEngine(tiny_gpt_oss(), {END}, batch_size=2), todo)
    shared = finish(BatchEngine(ResidentModel(tiny_gpt_oss()), {END}, batch_size=3), todo)
    assert {key: one.tokens for key, one in copied.items()} == {key: one.tokens for key, one in shared.items()}


@pytest.mark.parametrize(
    ("make", "together"),
    [(tiny_llama, 8), (tiny_gpt_oss, 8), (tiny_mamba, 1), (tiny_nemotron_h, 1), (tiny_llama4, 0)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_prompts_are_computed_together_only_where_a_trial_of_several_lengths_shows_no_harm(make, together):
    """Nemotron's state of padded rows is lost, which a single token of one row did not show; in 16 bits, too."""
    mx.set_default_device(mx.cpu)
    model = make()
    assert prefill_batch(model, Trial(model)) == together
    if make is tiny_nemotron_h:  # experts have no 16 bits on a CPU
        model.set_dtype(mx.float16)
        assert prefill_batch(model, Trial(model)) == together


def test_rows_that_mlx_lm_cannot_batch_go_on_together_once_they_are_equally_far(monkeypatch):
    """The labels of each row, too, and all rows of one length; ways of one length where padding is no good."""
    mx.set_default_device(mx.cpu)
    model, plain = tiny_deepseek_v41(), tiny_deepseek_v41()
    engine = CopyingEngine(model, {END}, batch_size=4, prefill_tokens=8)
    assert (engine.prompts, engine.even, engine.padded) == (0, True, True)
    rows = [[5] * 12, [*[5] * 5, *[6] * 7], [5] * 8]
    passes = []
    call = type(model).__call__
    monkeypatch.setattr(
        type(model), "__call__", lambda self, tokens, cache: passes.append(tokens.shape) or call(self, tokens, cache)
    )
    written = finish(engine, sequences(rows, 5, (5,)))
    decoded = [count for count, tokens in passes if tokens == 1]
    assert len(decoded) < sum(decoded)
    choices = ((5,), (6, 7), (6, 8, 9), (4, 4, 4), (3, 3))
    for engine.padded, most in ((True, 6), (False, 4)):
        passes.clear()
        scored = finish(engine, sequences(rows, 0, (5,), choices=choices))
        assert max(count for count, _ in passes) == most
        for i, row in enumerate(rows):
            assert scored[i, 0].logprobs == pytest.approx([plain_score(plain, row, one) for one in choices], abs=1e-4)
    assert [written[i, 0].tokens for i in range(3)] == [one_by_one(plain, row, 5) for row in rows]


class OddBatch(llama.Model):
    """Its rows change with how many there are, in mlx-lm's batches and any others."""

    def __call__(self, inputs, *args, **kwargs):
        logits = super().__call__(inputs, *args, **kwargs)
        return logits + mx.roll(logits, 1, axis=0)


def test_rows_that_others_beside_them_change_run_one_at_a_time():
    mx.set_default_device(mx.cpu)
    model = scaled(OddBatch(llama.ModelArgs(**TINY_LLAMA)), 0, gain=2.0)
    engine = CopyingEngine(model, {END}, batch_size=4, prefill_tokens=8)
    assert (engine.batch_size, even_batch(model, Trial(model))) == (1, (False, False))
    rows = prompts(3, 3, shared=5)
    done = finish(engine, [*sequences(rows, 6, (5,)), Sequence((9, 0), rows[0], 0, choices=((5,), (6, 7)))])
    assert [done[i, 0].tokens for i in range(3)] == [one_by_one(model, row, 6) for row in rows]
    assert done[9, 0].logprobs == pytest.approx([plain_score(model, rows[0], one) for one in ((5,), (6, 7))], abs=1e-4)


@pytest.mark.parametrize("make", [tiny_llama, tiny_nemotron_h])
def test_what_is_off_by_a_hundredth_is_more_than_rounding(make):
    mx.set_default_device(mx.cpu)
    trial = Trial(make())
    exact = [list(row) for row in trial.want]
    assert trial.problem(exact) is None
    off = [[one + 0.01 * mx.random.normal(one.shape) * mx.std(one) for one in row] for row in exact[-1:]]
    assert "logits differ by 1." in trial.problem(exact[:-1] + off)


@pytest.mark.parametrize("make", [tiny_internlm2, tiny_internlm3])
@pytest.mark.parametrize("boundary", [5, 30, 50])
def test_positions_that_stretch_with_the_text_are_those_of_the_context_wherever_a_prefix_ends(make, boundary):
    """Beyond the context, each cut would give other positions: such rows are refused."""
    plain = make()
    mx.set_default_device(mx.cpu)
    engine = batch_engine(make(), Device("cpu", "this one", None, 10**9), EngineConf(), end_tokens=[END], context=None)
    rows = prompts(3, 4, shared=boundary, longest=8)
    wanted = sequences(rows, 6, boundaries=(boundary,))
    done = finish(engine, [*wanted, Sequence((9, 0), [5] * CONTEXT, 1)])
    assert isinstance(engine, BatchEngine)
    assert [done[i, 0].tokens for i in range(4)] == [one_by_one(plain, row, 6) for row in rows]
    assert done[9, 0].error and f"context of {CONTEXT}" in done[9, 0].error


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
        assert done[1, 0].error.startswith("too long: 408 tokens exceed the ")
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
