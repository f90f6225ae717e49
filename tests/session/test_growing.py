"""What ``dataset.limit`` promises of a run that is started again with another one."""

import json
import sqlite3
from pathlib import Path

import pytest

from runner import open_run, run
from runner.checkpoint.repair import repair
from runner.types import UserError
from tests.support import runs

ROWS = 60
JOBS = {
    "label": ["job=label", "job.labels=[ham,spam]"],
    "generate": ["engine.temperature=0.7", "output.keep=[id]"],
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder):
    runs.write_rows(ROWS)


def overrides(limit, *more):
    return runs.overrides(f"dataset.limit={limit}", "output.shard_rows=8", *more)


def completions(name="run"):
    with sqlite3.connect(Path("outputs", name, "run.db")) as database:
        return set(database.execute("SELECT row, number, digest, body FROM completions"))


@pytest.mark.parametrize(
    ("job", "is_finished", "before", "limit"),
    [
        ("label", True, 20, 40),
        ("label", False, 16, 17),
        ("label", False, 6, "null"),
        ("generate", True, 6, "null"),
        ("generate", True, 16, 17),
        ("generate", False, 20, 40),
    ],
)
def test_a_run_with_more_rows_goes_on_and_ends_as_one_that_had_them_from_the_start(job, is_finished, before, limit):
    run(overrides(limit, *JOBS[job], "run_name=whole"))
    if is_finished:
        run(overrides(before, *JOBS[job]))
    else:
        runs.interrupt(overrides(before, *JOBS[job]), after=before // 6)
    answers = completions()
    figures = run(overrides(limit, *JOBS[job]))
    rows = ROWS if limit == "null" else limit
    assert (figures["rows"], figures["finished"], figures["state"]) == (rows, rows, "finished")
    assert answers <= completions()
    assert runs.shards() == runs.shards("whole")
    assert len(runs.rows_of()) == rows
    assert open_run("outputs/run").identity == open_run("outputs/whole").identity
    assert len(open_run("outputs/run").source) == rows
    assert figures["sessions"] == 2 and run(overrides(limit, *JOBS[job]))["finished"] == rows


@pytest.mark.parametrize("choice", ["dataset.shuffle_seed=3", "dataset.where='id > 9'"])
def test_chosen_and_shuffled_rows_grow_too_because_the_limit_comes_last(choice):
    run(overrides(40, *JOBS["generate"], choice, "run_name=whole"))
    run(overrides(20, *JOBS["generate"], choice))
    run(overrides(40, *JOBS["generate"], choice))
    assert runs.shards() == runs.shards("whole")


def test_growing_can_be_interrupted_at_any_time():
    run(overrides(40, "run_name=whole"))
    run(overrides(20))
    runs.interrupt(overrides(30), after=1)
    runs.interrupt(overrides(40), after=2)
    assert open_run("outputs/run").status["rows"] == 40
    run(overrides(40))
    assert runs.shards() == runs.shards("whole")


def test_a_limit_beyond_the_data_is_as_good_as_none():
    run(overrides(1000))
    before = runs.shards()
    for limit in ("null", ROWS, 2000):
        assert run(overrides(limit))["finished"] == ROWS
    assert runs.shards() == before


@pytest.mark.parametrize("more", [[], ["dataset.shuffle_seed=3"]])
def test_a_smaller_limit_is_refused_with_what_to_do(more):
    run(overrides(20, *more))
    before = runs.shards()
    with pytest.raises(UserError) as refusal:
        run(overrides(10, *more))
    assert "dataset.limit: 20 -> 10" in str(refusal.value)
    assert "rows only grow: give dataset.limit=20 or more, choose another run_name, or resume=force" in str(
        refusal.value
    )
    assert runs.shards() == before


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "prompt.user='Now: {{ text }}'",
        "dataset.shuffle_seed=1",
        "dataset.where='id > 0'",
        "output.shard_rows=9",
    ],
)
def test_more_rows_and_another_change_are_refused(change):
    run(overrides(20))
    before = runs.shards()
    with pytest.raises(UserError, match="different run") as refusal:
        run(runs.overrides("dataset.limit=40", "output.shard_rows=8", change))
    assert "only grow" not in str(refusal.value)
    assert runs.shards() == before


def test_more_rows_of_data_that_changed_are_refused():
    run(overrides(20))
    runs.write_rows(ROWS, "other text {}")
    with pytest.raises(UserError, match=r"dataset\.fingerprint"):
        run(overrides(40))


def test_what_was_found_in_the_rows_first_does_not_grow():
    words = [*JOBS["label"], "job.prior=batch"]
    run(overrides(20, *words))
    with pytest.raises(UserError, match="found in its rows before the first answer"):
        run(overrides(40, *words))


def test_rows_that_are_made_do_not_grow_with_the_data():
    words = ["job=synthesize", "job.target=6", "job.ahead=2"]
    run(overrides(20, *words))
    with pytest.raises(UserError, match="different run"):
        run(overrides(40, *words))


def test_a_run_that_has_grown_is_repaired_with_all_its_rows():
    run(overrides(20))
    run(overrides(40))
    identity = json.loads(Path("outputs/run/identity.json").read_text())
    assert (identity["rows"], identity["dataset"]["limit"]) == (40, 40)
    before = runs.shards()
    Path("outputs/run/run.db").write_bytes(b"")
    repair(Path("outputs/run"))
    assert run(overrides(40))["finished"] == 40
    assert runs.shards() == before


def test_the_copy_of_the_identity_is_put_right_after_a_death_between_the_two():
    run(overrides(20))
    old = Path("outputs/run/identity.json").read_bytes()
    run(overrides(40))
    new = Path("outputs/run/identity.json").read_bytes()
    Path("outputs/run/identity.json").write_bytes(old)
    run(overrides(40))
    assert json.loads(Path("outputs/run/identity.json").read_bytes()) == json.loads(new)
