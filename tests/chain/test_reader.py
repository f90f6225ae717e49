"""A run as the data of the next one."""

from pathlib import Path

import pytest

from runner import open_run, run
from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.types import UserError
from tests.support import runs

FIRST = ["job=label", "job.labels=[a,b]", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}"]
FIRST += ["engine.backend=fake", "engine.batch_size=4", "output.shard_rows=8", "dataset.limit=20", "run_name=first"]
NEXT = ["job=generate", "dataset=run", "dataset.path=outputs/first", "engine.backend=fake", "run_name=next"]
NEXT += ["prompt.user=Why {{ label }}? {{ text }}"]


@pytest.fixture(autouse=True)
def folder(folder):
    runs.write_rows(40)
    return folder


def source(**values):
    return open_source(DatasetConf(kind="run", path="outputs/first", **values))


def test_the_rows_are_the_output_beside_the_input_and_where_is_over_both():
    run([*FIRST, "output.keep=[id]"])
    found = source(where="label == a and id > 3 and error is null")
    assert found.column_names == ["row", "id", "label", "confidence", "probabilities", "error", "text"]
    expected = [row for row in open_run("outputs/first").rows() if row["label"] == "a" and row["id"] > 3]
    assert [(row["row"], row["label"]) for row in found.rows()] == [(row["row"], row["label"]) for row in expected]
    assert {row["text"] for row in found.rows()} == {f"text number {row['id']}" for row in expected}
    run([*NEXT, "dataset.where=label == a"])
    assert open_run("outputs/next").config["dataset"]["kind"] == "run"
    assert {row["label"] for row in runs.rows_of("next")} == {"a"}


def test_an_unfinished_run_is_read_as_far_as_it_is_and_a_run_of_it_is_tied_to_that():
    runs.interrupt(FIRST, after=4)
    before = [row["row"] for row in open_run("outputs/first").rows()]
    assert 0 < len(before) < 20
    assert [row["row"] for row in source().rows()] == before
    for sessions in (1, 2):
        run([*NEXT, "dataset.key=row"])
        assert open_run("outputs/next").status["sessions"] == sessions
    assert [row["row"] for row in runs.rows_of("next")] == before
    run(FIRST)
    with pytest.raises(UserError, match=r"(?s)dataset.fingerprint.*resume=extend"):
        run([*NEXT, "dataset.key=row"])
    run([*NEXT, "dataset.key=row", "resume=extend"])
    grown = runs.rows_of("next")
    assert [row["row"] for row in grown] == list(range(20))
    assert [row["label"] for row in grown] == [row["label"] for row in open_run("outputs/first").rows()]


def test_a_stage_of_a_chain_is_read_with_the_columns_of_those_before_it():
    words = [word for word in FIRST if not word.startswith("run_name")]
    run([*words, "run_name=first", "stages=[{name: one}, {name: two, where: id < 9}]"])
    assert [row["row"] for row in source(table="two").rows()] == list(range(9))
    assert "two_label" in source().column_names
    assert "two_label" not in source(table="one").column_names
    assert len(source()) == 20
    with pytest.raises(UserError, match=r"dataset.table=three: there is no such stage; there are one, two"):
        source(table="three")


def test_what_is_no_run_is_refused():
    with pytest.raises(UserError, match=r"rows.csv is not a run directory|there is no"):
        open_source(DatasetConf(kind="run", path="rows.csv"))
    run(FIRST)
    with pytest.raises(UserError, match="it names a stage of a chain"):
        source(table="x")
    Path("rows.csv").write_text("id,text\n1,other\n")
    assert "text" in source().column_names  # it was kept
