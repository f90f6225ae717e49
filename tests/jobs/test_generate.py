"""What the job ``generate`` promises."""

import pytest

from jobs.generate import Generate
from runner.types import Sampling, UserError
from tests.support.world import CountingEngine, World


def run(path, samples, texts=("one", "two"), **more):
    job = Generate(samples)
    world = World(path, list(texts), job.steps, job.schema(), **more)
    return world.run(), world


def test_one_completion_a_row_is_a_text(tmp_path):
    output, _ = run(tmp_path, 1)
    assert all(isinstance(row["text"], str) and row["text"] for row in output)


def test_samples_are_a_list_each_with_draws_of_its_own(tmp_path):
    output, world = run(tmp_path, 5, sampling=Sampling(0.8))
    assert [len(set(row["text"])) for row in output] == [5, 5]
    assert len(world.engine.computed) == 10


def test_greedy_samples_are_equal_and_computed_once(tmp_path):
    output, world = run(tmp_path, 5)
    assert [len(set(row["text"])) for row in output] == [1, 1]
    assert [len(row["text"]) for row in output] == [5, 5]
    assert len(world.engine.computed) == 2


def test_more_samples_begin_with_the_fewer(tmp_path):
    few, many = (run(tmp_path / str(n), n, sampling=Sampling(0.8))[0] for n in (2, 4))
    assert [row["text"] for row in few] == [row["text"][:2] for row in many]


def test_a_row_of_which_a_sample_fails_is_in_error(tmp_path):
    engine = CountingEngine(fails=lambda sequence: "too long" if sequence.key == (1, 2) else None)
    output, _ = run(tmp_path, 3, sampling=Sampling(0.8), engine=engine)
    assert [(row["error"], row["text"] is None) for row in output] == [(None, False), ("too long", True)]


@pytest.mark.parametrize("samples", [0, -1])
def test_samples_must_be_at_least_1(samples):
    with pytest.raises(UserError, match=r"job\.samples="):
        Generate(samples)
