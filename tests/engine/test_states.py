"""Recurrent layers behind shared prefixes: batches give what each row gives alone through mlx-lm's own caches."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gated_delta

from runner.engine.attention.copies import Copies
from runner.engine.attention.recurrent import delta, runs
from runner.engine.attention.resident import ResidentModel
from runner.engine.budget import kv_shape
from runner.engine.engine import BatchEngine
from runner.sequences import Sequence
from tests.support.engines import END, finish, one_by_one, plain_score
from tests.support.recurrent import FAMILIES, configuration, lfm2, mamba2, recurrent, rwkv7
from tests.support.tiny import VOCAB

CHOICES = ((5,), (5, 9), (5, 9, 11), (7, 9), (8,), (5, 10, 11, 12))


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def model(request):
    mx.set_default_device(mx.cpu)
    return recurrent(request.param)


@pytest.fixture(scope="module")
def resident(model):
    return ResidentModel(model)


def test_keys_and_states_are_foretold_before_weights_load(model, resident):
    """By a configuration alone, for all families; the first of their layers' modules may lie in another one's file."""
    name = type(model).__module__.rpartition(".")[2]
    said = kv_shape(configuration(next(one for one in FAMILIES if one.__name__ == name)), "cpu")
    found = said.state_bytes, said.token_bytes + said.sliding_bytes
    assert found == (resident.state_bytes, resident.token_bytes)


def levels(seed):
    """Ragged rows behind a template and documents after it, of which one is a single token, and some without any."""
    rng = np.random.default_rng(seed)
    template = rng.integers(1, VOCAB, 6).tolist()
    found = []
    for size in (1, 9):
        document = template + rng.integers(1, VOCAB, size).tolist()
        found += [(document + rng.integers(1, VOCAB, own).tolist(), (6, len(document))) for own in (1, 7, 4)]
    return [*found, (rng.integers(1, VOCAB, 5).tolist(), ())]


def test_rows_behind_several_levels_of_prefix_go_on_as_alone(model, resident, monkeypatch):
    """Half of the families with prefixes that are copied, on two streams, and padded as on a GPU."""
    copies, streams = (99, 2) if model.model_type >= "l" else (0, 1)
    monkeypatch.setitem(runs.PADDING, mx.cpu, 256 if copies else 0)
    most = [5, 3, 1, 6, 4, 2, 3]
    todo = [Sequence((i, 0), row, most[i], boundaries=boundaries) for i, (row, boundaries) in enumerate(levels(copies))]
    todo[1::3] = [Sequence(one.key, one.tokens, 0, boundaries=one.boundaries, choices=CHOICES) for one in todo[1::3]]
    engine = BatchEngine(
        resident, {END}, batch_size=3, prefill_tokens=8 * streams, streams=streams, copies=Copies((copies,) * 3)
    )
    done = finish(engine, todo)
    engine.close()
    monkeypatch.setattr(gated_delta, "gated_delta_ops", delta.plain)
    for one in todo:
        if one.choices is None:
            assert done[one.key].tokens == one_by_one(model, one.tokens, one.max_tokens)
        else:
            want = [plain_score(model, one.tokens, choice) for choice in CHOICES]
            assert done[one.key].logprobs == pytest.approx(want, abs=1e-4)


def test_states_count_in_the_memory_of_slots_and_prefixes():
    mx.set_default_device(mx.cpu)
    resident = ResidentModel(recurrent(mamba2))
    state = 4 * 4 * (3 * (32 + 2 * 2 * 16) + 4 * 8 * 16)  # of 4 layers: a window of 3 tokens, and 4 heads
    assert (resident.state_bytes, resident.token_bytes) == (state, 0)
    assert [resident.slot_bytes(own) for own in (0, 1, 100)] == [0, state, state]
    row = list(range(1, 12))
    todo = [Sequence((i, 0), [*row, 20 + i], 2, boundaries=(4, 11)) for i in range(5)]
    engine, most = BatchEngine(resident, batch_size=8, kv_bytes=4 * state), 0
    engine.add(todo)
    while engine.waiting or engine.lanes:
        assert all(not one.error for one in engine.step())
        most = max(most, len(engine.lanes))
        assert engine.snapshots.nbytes == 2 * state
    assert most == 2
    small = BatchEngine(resident, batch_size=8, kv_bytes=2 * state)
    assert "exceed" in str(finish(small, todo[:1])[0, 0].error)


@pytest.mark.parametrize("family", [lfm2, rwkv7], ids=["lfm2", "rwkv7"])
@pytest.mark.parametrize("prefill", [1, 9])
def test_trees_in_pieces_go_on_from_the_state_before_the_last_token_of_the_prompt(family, prefill):
    mx.set_default_device(mx.cpu)
    model = recurrent(family)
    rng = np.random.default_rng(3)
    choices = tuple(tuple(rng.integers(1, VOCAB, size).tolist()) for size in (1, 4, 3, 2, 5, 4))
    choices = tuple(one[:1] + two for one in choices[:2] for two in choices)
    rows = [row for row, _ in levels(5)][1:3]
    engine = BatchEngine(ResidentModel(model), {END}, batch_size=4, prefill_tokens=prefill)
    done = finish(engine, [Sequence((i, 0), row, 0, boundaries=(6,), choices=choices) for i, row in enumerate(rows)])
    for i, row in enumerate(rows):
        assert done[i, 0].logprobs == pytest.approx([plain_score(model, row, one) for one in choices], abs=1e-4)
