"""Both engines with what MLX compiles, as users have it: the other tests here compile nothing, see conftest.py."""

import shutil

import mlx.core as mx
import pytest

from runner.engine.attention.resident import ResidentModel
from runner.engine.copying.engine import CopyingEngine
from runner.engine.engine import BatchEngine
from tests.support.engines import END, finish, one_by_one, prompts, sequences
from tests.support.tiny import MODELS

ENGINES = {
    "sharing": lambda model: BatchEngine(ResidentModel(model), {END}, batch_size=3, prefill_tokens=16),
    "copying": lambda model: CopyingEngine(model, {END}, batch_size=3, prefill_tokens=16),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="mx.compile needs g++ on a CPU")
@pytest.mark.parametrize(("engine", "name"), [("sharing", "gpt_oss"), ("copying", "llama")])
def test_compiled_steps_give_the_tokens_of_steps_that_are_not(name, engine):
    mx.set_default_device(mx.cpu)
    rows = prompts(5, 5, 9)
    wanted = [one_by_one(MODELS[name](), row, 12) for row in rows]
    mx.enable_compile()
    try:
        done = finish(ENGINES[engine](MODELS[name]()), sequences(rows, 12, (9,)))
    finally:
        mx.disable_compile()
    assert [done[i, 0].tokens for i in range(5)] == wanted
