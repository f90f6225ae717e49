import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import mlx.core as mx
import pytest

from runner.cli import main
from runner.engine import tuning
from runner.engine.attention.resident import ResidentModel
from runner.engine.tuning import REST, STEPS, Growth
from tests.support.tiny import tiny_llama


@pytest.fixture
def resident(cache):
    mx.set_default_device(mx.cpu)
    return ResidentModel(tiny_llama())


def test_costs_are_measured_on_the_model_once_for_a_machine(resident, monkeypatch):
    costs = tuning.costs_here(resident, "this one")
    assert costs.snapshot > 0 and costs.level >= 0
    monkeypatch.setattr(tuning, "measure_costs", lambda model: pytest.fail("measured again"))
    assert tuning.costs_here(resident, "this one") == costs
    with pytest.raises(pytest.fail.Exception):
        tuning.costs_here(resident, "another")


def test_a_damaged_record_of_costs_is_measured_again(resident, cache):
    tuning.costs_here(resident, "this one")
    (file,) = (cache / "costs").iterdir()
    file.write_text("{")
    assert tuning.costs_here(resident, "this one").snapshot > 0


def test_a_run_notes_what_it_chose_by_in_its_checkpoint_and_its_log(tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\nfirst\nsecond\n")
    words = ["job=generate", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}", "prompt.chat=false"]
    model = [f"model.path={tiny_model_folder}", "engine.backend=cpu", "engine.max_tokens=3", "run_name=noted"]
    assert main(["run", *words, *model]) == 0
    with closing(sqlite3.connect("outputs/noted/run.db")) as connection:
        (noted,) = (json.loads(told) for (told,) in connection.execute("SELECT provenance FROM sessions"))
    assert noted["snapshot_cost"] >= tuning.LEAST.snapshot
    assert noted["level_cost"] >= tuning.LEAST.level
    assert noted["batch_size"] >= 1
    assert "a shared prefix costs" in Path("outputs/noted/run.log").read_text()


def feed(growth, rate, steps=40 * STEPS):
    """The sizes of full decode steps at ``rate(size)`` tokens/s."""
    sizes = []
    for _ in range(steps):
        sizes.append(growth.size)
        growth.saw(growth.size, growth.size / rate(growth.size))
    return sizes


def test_a_batch_grows_while_tokens_per_second_do():
    sizes = feed(Growth(16, 1024), lambda size: min(size, 120))
    assert sizes[: 5 * STEPS] == [size for size in (16, 32, 64, 128, 256) for _ in range(STEPS)]
    assert sizes[5 * STEPS] == sizes[-1] == 128


def test_a_batch_that_is_best_as_it_is_is_doubled_ever_more_rarely():
    sizes = feed(Growth(16, 1024), lambda size: 100, 100 * REST)
    tried = [at for at, size in enumerate(sizes) if size == 32]
    assert set(sizes) == {16, 32} and len(tried) == 7 * STEPS
    begun = [at for at in tried if at - 1 not in tried]
    rests = [after - before - 2 * STEPS for before, after in itertools.pairwise(begun)]
    assert rests == [REST << tries for tries in range(6)]


def test_a_batch_that_a_busy_moment_kept_small_grows_later():
    growth = Growth(16, 32)
    feed(growth, lambda size: 16, 2 * STEPS)
    assert growth.size == 16
    assert feed(growth, lambda size: size)[-1] == 32


def test_growth_ends_at_its_bound():
    assert feed(Growth(16, 100), lambda size: size)[-1] == 64


def test_steps_of_a_batch_that_is_not_full_say_nothing():
    growth = Growth(16, 1024)
    for _ in range(100):
        growth.saw(8, 0.1)
    assert growth.size == 16
