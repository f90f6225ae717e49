import functools
import weakref

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gpt_neox
from mlx_lm.models.cache import RotatingKVCache

from runner.engine.attention import layout, parts, prefix
from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from runner.engine.kernels.cuda import attention as cuda_attention
from runner.sequences import Sequence
from runner.types import Sampling
from tests.support.engines import END, finish, one_by_one, plain_score, prompts, sequences
from tests.support.hybrids import tiny_gemma3
from tests.support.kernels import PlainKernels
from tests.support.logprobs import asking, check_logprobs
from tests.support.tiny import MODELS, VOCAB, scaled


@pytest.fixture(autouse=True)
def _on_cpu():
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def plain(name):
    mx.set_default_device(mx.cpu)
    return MODELS[name]()


@pytest.fixture(scope="module")
def resident(name):
    mx.set_default_device(mx.cpu)
    return ResidentModel(MODELS[name]())


@pytest.fixture(scope="module")
def alone(plain):
    """What the plain model goes on with, computed once for each row."""
    return functools.cache(lambda row, most: one_by_one(plain, row, most))


@pytest.mark.parametrize(("shared", "batch_size"), [(0, 3), (5, 1), (5, 8), (8, 3), (8, 8), (23, 1), (23, 8)])
def test_a_batch_generates_what_generate_does_one_by_one(alone, resident, shared, batch_size):
    rows = prompts(shared, 9, shared)
    lengths = [12, 3, 1, 20, 7, 12, 2, 9, 15]
    for boundaries in {(), (shared,) if shared else ()}:
        engine = BatchEngine(resident, {END}, batch_size=batch_size, prefill_tokens=16, streams=1 + shared % 2)
        done = finish(engine, sequences(rows, lambda i: lengths[i], boundaries))
        for i, row in enumerate(rows):
            assert done[i, 0].tokens == alone(tuple(row), lengths[i]), (i, boundaries)
            assert done[i, 0].cached_tokens in (0, shared if boundaries else 0)
        engine.close()


def test_several_levels_of_prefix(plain, resident):
    rng = np.random.default_rng(7)
    template = rng.integers(1, VOCAB, 6).tolist()
    documents = [template + rng.integers(1, VOCAB, size).tolist() for size in (3, 11, 19)]
    rows, boundaries = [], []
    for document in documents:
        for _ in range(3):
            rows.append(document + rng.integers(1, VOCAB, rng.integers(1, 9)).tolist())
            boundaries.append((6, len(document)))
    todo = [Sequence((i, 0), row, 10, boundaries=b) for i, (row, b) in enumerate(zip(rows, boundaries, strict=True))]
    done = finish(BatchEngine(resident, {END}, batch_size=4, prefill_tokens=8), todo)
    for i, row in enumerate(rows):
        assert done[i, 0].tokens == one_by_one(plain, row, 10)
    assert sum(generation.cached_tokens for generation in done.values()) == sum(
        0 if i == 0 else 6 if i % 3 == 0 else boundaries[i][1] for i in range(9)
    )


def test_choices_score_like_a_plain_forward_pass(plain, resident):
    choices = ((5,), (5, 9), (5, 9, 11), (7, 9), (8,), (5, 10, 11, 12))
    for shared in (0, 4, 17):
        rows = prompts(11 + shared, 6, shared)
        todo = sequences(rows, 1, (shared,) if shared else (), choices=choices)
        done = finish(BatchEngine(resident, {END}, batch_size=4, prefill_tokens=24), todo)
        for i, row in enumerate(rows):
            assert done[i, 0].finish_reason == "choice"
            for choice, logprob in zip(choices, done[i, 0].logprobs, strict=True):
                assert logprob == pytest.approx(plain_score(plain, row, choice), abs=1e-4)


def test_models_whose_head_computes_all_tokens_score_the_right_ones():
    args = gpt_neox.ModelArgs("gpt_neox", 64, 32, 4, 2, 1e-5, VOCAB, 10000, 0.25)
    plain, resident = (scaled(gpt_neox.Model(args), 0, 2.0) for _ in range(2))
    row, choices = [5] * 9, ((3,), (4,))
    todo = [
        Sequence((0, 0), [*row, 7], 0, boundaries=(9,), choices=choices),
        Sequence((1, 0), [*row, 8], 1, boundaries=(9,)),
    ]
    done = finish(BatchEngine(ResidentModel(resident), {END}, batch_size=2), todo)
    assert done[0, 0].logprobs == pytest.approx([plain_score(plain, [*row, 7], one) for one in choices], abs=1e-4)


def test_sampled_text_does_not_depend_on_batch_or_order(resident):
    rows = prompts(3, 8, 5)
    samplings = [
        Sampling(1.0),
        Sampling(0.8, top_p=0.9),
        Sampling(1.2, top_k=5),
        Sampling(0.7, min_p=0.1),
        Sampling(0.0),
        Sampling(1.0, top_p=0.8, top_k=20, min_p=0.02),
        Sampling(1.5),
        Sampling(0.9),
    ]
    todo = [Sequence((i, 0), row, 12, samplings[i], draw_seed=1000 + i, boundaries=(5,)) for i, row in enumerate(rows)]
    answers = [
        finish(BatchEngine(resident, {END}, batch_size=size), order)
        for size in (1, 3, 8)
        for order in (todo, todo[::-1])
    ]
    for answer in answers[1:]:
        assert {key: generation.tokens for key, generation in answer.items()} == {
            key: generation.tokens for key, generation in answers[0].items()
        }
    warm = {tuple(answers[0][i, 0].tokens) for i in range(8)}
    assert len(warm) == 8


def test_a_sequence_that_cannot_fit_comes_back_with_an_error(resident):
    rows = prompts(5, 3, 4)
    engine = BatchEngine(resident, {END}, context=32, batch_size=2)
    done = finish(engine, [Sequence((0, 0), rows[0], 8), Sequence((1, 0), list(range(1, 30)), 8)])
    assert done[0, 0].error is None
    assert "37 tokens" in done[1, 0].error and "context of 32" in done[1, 0].error
    engine = BatchEngine(resident, {END}, kv_bytes=resident.token_bytes * 128, batch_size=2)
    done = finish(engine, [Sequence((0, 0), rows[0], 8), Sequence((1, 0), [1] * 400, 8)])
    assert done[0, 0].error is None
    assert "KV caches" in done[1, 0].error


def test_a_sequence_that_only_just_fits_is_computed(resident, plain):
    row = list(range(1, 30))
    engine = BatchEngine(resident, {END}, kv_bytes=resident.slot_bytes(29 + 7), batch_size=2)
    engine.add([Sequence((0, 0), row, 8)])
    done = [generation for _ in range(20) for generation in engine.step()]
    assert [generation.tokens for generation in done] == [one_by_one(plain, row, 8)]


def test_a_closed_engine_gives_the_memory_of_prefixes_back(resident):
    engine = BatchEngine(resident, {END}, batch_size=2)
    engine.add(sequences(prompts(3, 1, 9), 4, (9,)))
    engine.step()
    (segment,) = map(weakref.ref, engine.snapshots.segments.values())
    while engine.lanes:
        engine.step()
    engine.close()
    assert segment() is None


def test_a_long_sequence_leaves_no_smaller_batch_behind(resident, plain):
    rows = prompts(3, 40, 0, longest=10)
    rows[5] = [1 + i % 90 for i in range(150)]
    engine = BatchEngine(resident, {END}, kv_bytes=resident.slot_bytes(160) * 2, batch_size=8, prefill_tokens=200)
    done = finish(engine, sequences(rows, lambda i: 8 + i % 7))
    assert [done[i, 0].tokens for i in range(40)] == [one_by_one(plain, row, 8 + i % 7) for i, row in enumerate(rows)]
    assert engine.work.lanes / engine.work.slots > 0.5


@pytest.mark.parametrize("streams", [2, 4])
def test_batches_with_long_sequences_stay_in_their_bounds_together(resident, streams):
    rows = [list(range(1, 70)), *prompts(1, 12, 0)]
    shared = [1 + i % 90 for i in range(64)]
    long = resident.slot_bytes(96)
    for before, bound in ([], long * 6 // 5), (shared, long * 2 + resident.token_bytes * 64):
        engine = BatchEngine(resident, {END}, kv_bytes=bound, batch_size=16, streams=streams)
        engine.add(sequences([before + row for row in rows], 8, (64,) if before else ()))
        ended = 0
        while ended < len(rows):
            ended += len(engine.step())
            slots = sum(a.nbytes for batch in engine.batches for a in batch.model.state())
            assert slots + engine.snapshots.nbytes <= bound


def test_a_batch_that_became_smaller_goes_on_taking_sequences(resident):
    engine = BatchEngine(resident, {END}, batch_size=4)
    engine.add(sequences(prompts(2, 8, 0), lambda i: 8 + 4 * i))
    engine.step()
    engine.growth.size = 2
    # A change of size in the middle of a batch, which measured speeds alone would bring.
    engine._size()
    lanes = []
    while engine.lanes or engine.waiting:
        engine.step()
        lanes.append(len(engine.lanes))
    assert 0 not in lanes[:-1]


def test_memory_for_kv_stays_in_its_bounds(resident, plain):
    rows = prompts(8, 12, 5, longest=40)
    bound = resident.slot_bytes(128) * 3
    engine = BatchEngine(resident, {END}, kv_bytes=bound, batch_size=8)
    waiting, done = sequences(rows, 30, (5,)), {}
    engine.add(waiting)
    while len(done) < len(rows):
        done.update({generation.key: generation for generation in engine.step()})
        assert sum(a.nbytes for a in resident.state()) <= bound
    for i, row in enumerate(rows):
        assert done[i, 0].tokens == one_by_one(plain, row, 30)


@pytest.mark.parametrize("is_tight", [False, True])
def test_what_a_row_may_ask_later_finds_its_text_computed_as_long_as_memory_lasts(resident, plain, is_tight):
    texts = prompts(4, 3, 0, longest=2)
    texts = [[*text, *(1 + (7 * i + at) % 90 for at in range(30))] for i, text in enumerate(texts)]
    bound = resident.slot_bytes(48) + 31 * resident.token_bytes if is_tight else 1 << 30
    engine = BatchEngine(resident, {END}, kv_bytes=bound, batch_size=8)
    asked = [Sequence((i, 0), [*text, 3], 3, boundaries=(31,), ahead=31) for i, text in enumerate(texts)]
    later = [Sequence((i, 1), [*text, 4], 3, boundaries=(31,)) for i, text in enumerate(texts)]
    done = finish(engine, asked)
    held = engine.snapshots.nbytes
    done |= finish(engine, later)
    for sequence in (*asked, *later):
        assert done[sequence.key].tokens == one_by_one(plain, sequence.tokens, 3)
    found = [done[one.key].cached_tokens for one in later]
    assert found == [31] * 3 if not is_tight else held <= bound
    finish(engine, sequences(prompts(5, 1, 0), 1))
    assert not engine.snapshots.held and not engine.snapshots.nbytes


def test_what_no_request_comes_for_is_let_go_after_two_batches(resident):
    engine = BatchEngine(resident, {END}, batch_size=2)
    finish(engine, [Sequence((100, 0), [*range(1, 40)], 2, boundaries=(30,), ahead=30)])
    for others, held in ((4, True), (1, False)):
        finish(engine, sequences(prompts(others, others, 0), 1))
        engine.snapshots.keep(Sequence((9, 0), [1], 1), ())
        assert bool(engine.snapshots.nbytes) == held


def test_a_bound_on_memory_changes_no_token_and_ends_with_the_engine(plain, resident):
    before = mx.set_memory_limit(1 << 40)
    rows = prompts(3, 6, 5)
    engine = BatchEngine(resident, {END}, batch_size=3, bound_bytes=1 << 10)
    done = finish(engine, sequences(rows, 8, (5,)))
    assert [done[i, 0].tokens for i in range(6)] == [one_by_one(plain, row, 8) for row in rows]
    engine.close()
    assert mx.set_memory_limit(before) == 1 << 40


def test_a_stop_predicate_ends_a_sequence(plain, resident):
    row = prompts(2, 1, 6)[0]
    tokens = one_by_one(plain, row, 20)
    engine = BatchEngine(resident, {END}, stopped=lambda sequence, seen: len(seen) >= 4 and seen[-1] == tokens[3])
    generation = finish(engine, [Sequence((0, 0), row, 20)])[0, 0]
    assert generation.tokens == tokens[:4]
    assert generation.finish_reason == "stop"


@pytest.fixture
def on_gpu(monkeypatch):
    """The way through the layers that GPUs take."""
    for module in (parts, prefix):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    monkeypatch.setitem(layout.KEY_GRAIN, mx.cpu, 32)


@pytest.mark.parametrize("shared", [0, 5, 8, 23])
def test_the_formulas_for_gpus_give_the_same_tokens(alone, resident, shared, on_gpu):
    rows = prompts(shared, 6, shared)
    for boundaries in {(), (shared,) if shared else ()}:
        engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=16)
        done = finish(engine, sequences(rows, 9, boundaries))
        assert [done[i, 0].tokens for i in range(6)] == [alone(tuple(row), 9) for row in rows]


@pytest.mark.parametrize("boundaries", [(), (5,), (23,), (3, 23)])
def test_the_kernels_of_attention_are_asked_for_the_right_parts(plain, resident, boundaries, on_gpu, monkeypatch):
    kernels = {}
    make = lambda dtype, *sizes: kernels.setdefault(sizes, PlainKernels(sizes[-1]))  # noqa: E731
    monkeypatch.setattr(cuda_attention, "kernels", make)
    rows = prompts(7, 6, boundaries[-1] if boundaries else 0)
    engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=16)
    several = [Sequence((i, 0), row, 9 + i % 2, boundaries=boundaries[: 1 + i % 2]) for i, row in enumerate(rows)]
    done = finish(engine, several)
    assert [done[i, 0].tokens for i in range(6)] == [one_by_one(plain, row, 9 + i % 2) for i, row in enumerate(rows)]
    calls = {"over_slots", "finish", *(["over_segment", "prompts", "prompts with their prefix"] if boundaries else [])}
    assert set().union(*(one.calls for one in kernels.values())) == calls


@pytest.mark.parametrize("shared", [0, 2, 9])
def test_a_bounded_cache_generates_what_mlx_lms_rotating_one_does(shared):
    plain, resident = MODELS["llama"](), ResidentModel(MODELS["llama"](), max_kv_size=16)
    assert resident.slot_bytes(400) == 16 * resident.token_bytes
    rows = prompts(shared, 5, shared, longest=8)
    engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=5)
    done = finish(engine, sequences(rows, 40, (shared,) if shared else ()))
    for i, row in enumerate(rows):
        rotating = [RotatingKVCache(max_size=16, keep=4) for _ in plain.layers]
        assert done[i, 0].tokens == one_by_one(plain, row, 40, prompt_cache=rotating)


def test_tokens_have_the_log_probabilities_of_a_plain_pass_and_the_likeliest_beside_them(plain, resident):
    rows = prompts(6, 5, 5)
    done = finish(BatchEngine(resident, {END}, batch_size=3), asking(rows))
    check_logprobs(plain, rows, done)


def test_the_mean_log_probability_is_that_of_the_tokens_drawn_for_those_who_ask(plain, resident):
    rows = prompts(6, 8, 5)
    samplings = [Sampling(1.0) if i % 2 else Sampling() for i in range(8)]
    todo = [
        Sequence((i, 0), row, 4 + i, samplings[i], draw_seed=i, boundaries=(5,), mean_logprob=i % 3 != 0)
        for i, row in enumerate(rows)
    ]
    done = finish(BatchEngine(resident, {END}, batch_size=3), todo)
    for i, row in enumerate(rows):
        answer = done[i, 0]
        if i % 3 == 0:
            assert answer.mean_logprob is None
            continue
        drawn = answer.tokens + ([END] if answer.finish_reason == "stop" else [])
        assert answer.mean_logprob == pytest.approx(plain_score(plain, row, drawn) / len(drawn), abs=1e-4)


def test_the_votes_about_a_row_share_its_prompt_which_is_computed_once(resident):
    from runner.loop.plan import Plan

    rows = [[1] * 20 + [2 + row, 3] * 30 for row in range(3)]
    votes = [
        Sequence((row, vote), tokens, 3, Sampling(1.0), draw_seed=10 * row + vote)
        for row, tokens in enumerate(rows)
        for vote in range(5)
    ]
    plan, done = Plan(), {}
    plan.add(votes)
    engine = BatchEngine(resident, {END}, batch_size=4)
    while len(done) < len(votes):
        engine.add(plan.take(engine.room()))
        done.update({generation.key: generation for generation in engine.step()})
    for row in range(3):
        cached = [done[row, vote].cached_tokens for vote in range(5)]
        assert sum(cached) >= 4 * (len(rows[row]) - 1)  # the last token is each vote's own
        assert max(cached) == len(rows[row]) - 1


def test_what_has_not_begun_is_taken_back_from_its_end(resident):
    engine = BatchEngine(resident, {END}, batch_size=2)
    engine.add(sequences(prompts(0, 5, 0), lambda i: 3))
    engine.step()
    assert [one.key[0] for one in engine.withdraw(1)] == [4]
    assert [one.key[0] for one in engine.withdraw(9)] == [3, 2]
    assert {one.key[0] for _ in range(5) for one in engine.step()} == {0, 1}


def test_every_prompt_token_is_counted_as_computed_or_cached(resident):
    rows = prompts(2, 7, 9)
    engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=8)
    finish(engine, sequences(rows, 4, (5, 9)))
    assert engine.work.prefilled + engine.work.cached == sum(map(len, rows))


@pytest.mark.parametrize("batch_size", [1, 16])
def test_gemma_goes_on_past_its_window_behind_prefixes_of_six_depths(batch_size):
    mx.set_default_device(mx.cpu)
    plain, engine = tiny_gemma3(), BatchEngine(ResidentModel(tiny_gemma3()), {END}, batch_size=batch_size)
    rows = prompts(4, 6, shared=30, longest=9)
    depths = (2, 7, 9, 16, 21, 30)
    done = finish(engine, [Sequence((i, 0), row, 25, boundaries=depths[: i + 1]) for i, row in enumerate(rows)])
    assert [done[i, 0].tokens for i in range(6)] == [one_by_one(plain, row, 25) for row in rows]
