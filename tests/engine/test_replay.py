"""Decode steps that are recorded and run again, with what stands in for a GPU's kernels on a CPU."""

import mlx.core as mx
import pytest

from runner.engine.attention import layout, parts, prefix, replay
from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from runner.engine.kernels.cuda import attention as cuda_attention
from runner.sequences import Sequence
from tests.support.engines import END, finish, one_by_one, prompts
from tests.support.kernels import PlainKernels, compile_without_fusing
from tests.support.tiny import MODELS


@pytest.fixture(params=[False, True], ids=["traced", "compiled"])
def _on_gpu(request, monkeypatch):
    """``traced``: the recording itself is run each time, as without a compiler."""
    kernels = {}
    make = lambda dtype, *sizes: kernels.setdefault(sizes, PlainKernels(sizes[-1]))  # noqa: E731
    monkeypatch.setattr(cuda_attention, "kernels", make)
    for module in (parts, prefix):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    monkeypatch.setitem(layout.KEY_GRAIN, mx.cpu, 32)
    mx.set_default_device(mx.cpu)
    if request.param:
        compile_without_fusing()
    yield
    mx.disable_compile()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("_on_gpu")
def test_steps_that_are_run_again_give_the_same_tokens(name, monkeypatch, slow):
    again, most = [], [(30 if slow else 16) + (5 if slow else 2) * i for i in range(7)]
    # That steps were replayed at all shows in nothing else: the tokens are the same.
    monkeypatch.setattr(replay, "_with_arrays", lambda *given, do=replay._with_arrays: again.append(1) or do(*given))
    plain, engine = MODELS[name](), BatchEngine(ResidentModel(MODELS[name]()), {END}, batch_size=3, prefill_tokens=16)
    rows = [*prompts(3, 4, 9), *prompts(5, 3, 0)]  # some behind a prefix, some not, more than there are slots
    boundaries = [(9,)] * 4 + [()] * 3
    todo = [
        Sequence((i, 0), row, most[i], boundaries=b) for i, (row, b) in enumerate(zip(rows, boundaries, strict=True))
    ]
    done = finish(engine, todo)
    for i, row in enumerate(rows):
        assert done[i, 0].tokens == one_by_one(plain, row, most[i])
    assert again


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("_on_gpu")
def test_the_first_step_of_all_may_be_one_of_single_tokens(name):
    plain, engine = MODELS[name](), BatchEngine(ResidentModel(MODELS[name]()), {END}, batch_size=2)
    row = prompts(3, 1, 9)[0]
    want = one_by_one(plain, row, 12)
    for _ in range(2 * replay.OFTEN):  # each time the slots are made anew
        todo = [Sequence((i, 0), row, 12, boundaries=(len(row) - 1,)) for i in range(2)]
        done = finish(engine, todo)
        assert [done[i, 0].tokens for i in range(2)] == [want, want]
        engine.close()


@pytest.mark.usefixtures("_on_gpu")
def test_a_model_forgets_forms_of_steps_that_are_too_many(monkeypatch):
    monkeypatch.setattr(replay, "MOST_FORMS", 1)
    plain, resident = MODELS["llama"](), ResidentModel(MODELS["llama"]())
    rows = prompts(3, 4, 9)
    for size in (1, 2, 4):
        todo = [Sequence((i, 0), row, 30, boundaries=(9,)) for i, row in enumerate(rows)]
        done = finish(BatchEngine(resident, {END}, batch_size=size), todo)
        assert [done[i, 0].tokens for i in range(4)] == [one_by_one(plain, row, 30) for row in rows]
    # What is kept shows in no token.
    assert len(resident._replay._forms) <= 1
