"""What ``resume=extend`` promises of a run whose data set got more rows since it began."""

import io
import json
import logging
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runner import open_run, run
from runner.checkpoint import database
from runner.checkpoint.repair import repair
from runner.cli import main
from runner.engine.fake import FakeEngine
from runner.types import UserError
from tests.support import runs
from tests.support.forks import Fork

pytestmark = pytest.mark.usefixtures("folder")

TEMPERED = "engine.temperature=0.7"
KEYED = "dataset.key=id"


def write(numbers, path="rows.jsonl", **texts):
    """Rows with these ids, in this order; ``n3="..."`` is another text for the id 3."""
    rows = ({"id": n, "text": texts.get(f"n{n}", f"text number {n}")} for n in numbers)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(*more):
    return runs.overrides("dataset=jsonl", "dataset.path=rows.jsonl", "output.shard_rows=8", *more)


def extend(*more):
    return run(words(*more, "resume=extend"))


def rows_by_id(name="run"):
    return {row["id"]: row for row in runs.rows_of(name)}


@pytest.fixture
def computed(monkeypatch):
    """The texts that the engine was asked about since this was cleared."""
    asked = []

    def add(self, sequences, original=FakeEngine.add):
        asked.extend(bytes(one.tokens).decode().split("\n")[0].removeprefix("user: ") for one in sequences)
        return original(self, sequences)

    monkeypatch.setattr(FakeEngine, "add", add)
    return asked


def texts(*numbers):
    return sorted(f"text number {n}" for n in numbers)


@pytest.mark.parametrize(("before", "more"), [(16, []), (20, [TEMPERED, "dataset.where='id != 3'"]), (5, [KEYED])])
def test_added_rows_are_computed_alone_and_the_run_ends_as_one_that_had_them_from_the_start(before, more, computed):
    write(range(30))
    run(words(*more, "run_name=whole"))
    write(range(before))
    run(words(*more))
    write(range(30))
    computed.clear()
    figures = extend(*more)
    assert sorted(computed) == texts(*range(before, 30))
    assert (figures["state"], figures["finished"]) == ("finished", figures["rows"])
    assert runs.shards() == runs.shards("whole")
    assert open_run("outputs/run").identity == open_run("outputs/whole").identity
    assert run(words(*more))["sessions"] == extend(*more)["sessions"] - 1  # nothing is left to do, either way


def test_an_interrupted_run_takes_in_more_rows_too_and_keeps_its_answers(computed):
    write(range(30))
    runs.interrupt(words(), after=4)
    before = len(computed)
    write(range(40))
    extend()
    assert sorted(computed) == texts(*range(40))
    assert 0 < before < 30 and len(runs.rows_of()) == 40


def test_the_refusal_of_appended_data_names_resume_extend_and_one_of_shuffled_data_does_not():
    write(range(9))
    run(words("dataset.limit=8"))
    run(words("dataset.shuffle_seed=1", "run_name=shuffled"))
    write(range(12))
    added = r"the same command with resume=extend computes these alone"
    with pytest.raises(UserError, match=added):
        run(words("dataset.limit=12"))
    with pytest.raises(UserError, match="belongs to a different run") as refusal:
        run(words("dataset.shuffle_seed=1", "run_name=shuffled"))
    assert "extend" not in str(refusal.value)
    with pytest.raises(UserError, match=r"resume=extend: with more rows, dataset\.shuffle_seed gives another order"):
        extend("dataset.shuffle_seed=1", "run_name=shuffled")
    with pytest.raises(UserError, match="resume=extend: this job makes its own rows"):
        extend("job=synthesize", "run_name=made")
    assert extend("dataset.limit=12")["finished"] == 12


def test_rows_that_changed_moved_or_are_gone_are_told_by_position_and_nothing_is_touched():
    write(range(20))
    run(words())
    shards, identity = runs.shards(), open_run("outputs/run").identity
    changes = [
        (lambda: write(range(25), n3="new"), "row 3 changed"),
        (lambda: write(range(25), n3="new", n9="new", n19="new"), "rows 3, 9 and 19 changed"),
        (lambda: write([*range(12), *range(14, 25)]), "rows 12 and 13 are gone"),
        (lambda: write([*range(4), 50, *range(4, 25)]), "1 row inserted before row 4"),
        (lambda: write([*range(7), *reversed(range(7, 25))]), "their order changed from row 7 on"),
        (lambda: write(range(12)), "the last 8 rows are gone"),
    ]
    for change, told in changes:
        change()
        with pytest.raises(UserError, match=f"resume=extend: rows were not only added: {told}") as refusal:
            extend()
        assert "dataset.key=COLUMN" in str(refusal.value) and "another run_name" in str(refusal.value)
    assert (runs.shards(), open_run("outputs/run").identity) == (shards, identity)


@pytest.mark.parametrize("more", [[], [TEMPERED]], ids=["greedy", "drawn"])
def test_rows_with_a_known_key_keep_their_answers_in_any_order(more, computed, caplog):
    caplog.set_level(logging.INFO, "rowmill")
    write(range(20))
    run(words(KEYED, *more))
    before = rows_by_id()
    write([*reversed(range(2, 25))], n7="new")
    computed.clear()
    extend(KEYED, *more)
    assert sorted(computed) == sorted([*texts(*range(20, 25)), "new"])
    after = rows_by_id()
    assert list(after) == [*reversed(range(2, 25))]
    assert all(after[n] == before[n] for n in range(2, 20) if n != 7)
    assert "row 17 changed under the same key" in caplog.text
    assert "what was in rows 0 and 1 is gone: out of the run" in caplog.text
    write(range(25), n7="new")
    computed.clear()
    extend(KEYED, *more)
    assert computed == []  # answers of rows that come back were kept
    assert rows_by_id()[0]["text"] == before[0]["text"]


@pytest.mark.parametrize("more", [[], [TEMPERED]], ids=["greedy", "drawn"])
def test_a_run_with_a_key_ends_as_one_from_scratch_whatever_its_history(more, computed):
    write(range(20))
    runs.interrupt(words(KEYED, *more), after=4)
    write(reversed(range(2, 23)))
    runs.interrupt(words(KEYED, *more, "resume=extend"), after=1)
    write([*range(10, 24), *range(10)])
    extend(KEYED, *more)
    assert sorted(computed) == texts(*range(24))
    run(words(KEYED, *more, "run_name=whole"))
    assert runs.shards() == runs.shards("whole")


def test_a_key_can_be_named_when_a_run_is_extended_unless_draws_depend_on_it(computed):
    write(range(20))
    run(words())
    run(words(TEMPERED, "run_name=drawn"))
    write(reversed(range(21)))
    computed.clear()
    extend(KEYED)
    assert computed == texts(20)
    with pytest.raises(UserError, match=r"draws depend on dataset\.key, which has to be there from the start"):
        extend(KEYED, TEMPERED, "run_name=drawn")
    with pytest.raises(UserError, match=r"known by dataset\.key: name the same column"):
        extend()


def test_keys_that_do_not_identify_rows_are_refused_with_their_positions():
    write([0, 1, 2, 1, 0])
    with pytest.raises(UserError, match="the same 'id' is in rows 0 and 4; in rows 1 and 3"):
        run(words(KEYED))
    write([0, None, 2])
    with pytest.raises(UserError, match=r"dataset\.key: column 'id' has no value in row 1"):
        run(words(KEYED))
    with pytest.raises(UserError, match=r"dataset\.key: no column 'ids' .did you mean 'id'"):
        run(words("dataset.key=ids"))


def forget_inputs(name="run"):
    """Make it a run of an earlier version, which recorded nothing of what went into its shards."""
    # Nothing else says how its tables were.
    back = "".join(database._STEPS[version][1] for version in (9, 8))
    with closing(sqlite3.connect(f"outputs/{name}/run.db")) as connection:
        connection.executescript(f"{back} PRAGMA user_version = 8;")


def test_shards_of_earlier_versions_are_compared_by_their_columns_or_made_again(computed):
    write(range(20))
    for name, keep in (("run", "null"), ("less", "[id]")):
        run(words(f"output.keep={keep}", f"run_name={name}"))
        forget_inputs(name)
    write(range(22), n3="new")
    with pytest.raises(UserError, match="row 3 changed"):
        extend()
    computed.clear()
    extend("output.keep=[id]", "run_name=less")  # the text is in no shard
    assert sorted(computed) == ["new", *texts(20, 21)]
    write([*range(22)])
    computed.clear()
    extend()
    assert sorted(computed) == texts(20, 21)


def test_more_columns_and_other_types_write_all_shards_again_and_compute_nothing(computed):
    write(range(20))
    run(words())
    with Path("rows.jsonl").open("a") as file:
        file.write('{"id": "x", "text": "more", "language": "de"}\n')
    computed.clear()
    extend()
    assert computed == ["more"]
    assert [row["id"] for row in runs.rows_of()] == [*map(str, range(20)), "x"]
    assert [row["language"] for row in runs.rows_of()] == [None] * 20 + ["de"]


def test_every_reader_of_a_run_sees_all_rows_and_what_its_prelude_found_stays(caplog, capsys):
    words_of = ["job=label", "job.labels=['0','1']", "job.prior=batch", "calibrate.rows=0.2", "dataset.gold=kind"]

    def write_golds(count):
        rows = ({"id": n, "text": f"text {n}", "kind": str(n % 2)} for n in range(count))
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write_golds(20)
    run(words(*words_of))
    found = open_run("outputs/run").prelude
    write_golds(30)
    assert main(["preview", "--json", *words(*words_of, "resume=extend")]) == 0
    assert json.loads(capsys.readouterr().out)["differs"] == []
    assert extend(*words_of)["evaluation"]["rows"] == 30
    assert open_run("outputs/run").prelude == found
    assert "stays that of the first 20 rows" in caplog.text
    assert main(["export", "outputs/run", "all.jsonl", "--join"]) == 0
    assert len(Path("all.jsonl").read_text().splitlines()) == 30
    for command in ("status", "evaluate", "report"):
        assert main([command, "outputs/run"]) == 0
    assert "30 of 30" in capsys.readouterr().out


def in_table(count):
    with closing(sqlite3.connect("rows.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS mails (id INTEGER PRIMARY KEY, text TEXT)")
        values = [(n, f"text number {n}") for n in range(count)]
        database.executemany("INSERT OR IGNORE INTO mails VALUES (?, ?)", values)
        database.commit()


CARD = """---
configs:
- config_name: all
  data_files: [{split: train, path: rows.jsonl}]
---
"""


def in_folder(count):
    Path("docs").mkdir(exist_ok=True)
    for n in range(count):
        Path(f"docs/{n:03}.txt").write_text(f"text number {n}")


def in_files(count):
    write(range(9), "part-1.jsonl")
    if count > 9:
        write(range(9, count), "part-2.jsonl")


def in_data_set(count):
    """A data set as it lies on the hub, with a configuration and a split, in a folder of this machine."""
    Path("mails").mkdir(exist_ok=True)
    Path("mails/README.md").write_text(CARD)
    write(range(count), "mails/rows.jsonl")


READERS = {
    "sqlite": (in_table, ["dataset=sqlite", "dataset.path=rows.db"]),
    "documents": (in_folder, ["dataset=documents", "dataset.path=docs"]),
    "data set": (in_data_set, ["dataset=hub", "dataset.path=mails", "dataset.subset=all", "offline=true"]),
    "pattern": (in_files, ["dataset.path='part-*.jsonl'"]),
}


@pytest.mark.parametrize("reader", READERS)
def test_tables_folders_data_sets_and_patterns_grow_too(reader, computed, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    grow, choice = READERS[reader]
    grow(9)
    run(words(*choice))
    grow(12)
    computed.clear()
    extend(*choice)
    assert sorted(computed) == texts(9, 10, 11)


def test_all_rows_are_piped_in_again_and_kept_instead_of_the_earlier_ones(monkeypatch, computed):
    def piped(count):
        write(range(count))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("rows.jsonl").read_bytes())))

    piped(9)
    run(words("dataset.path=-"))
    piped(11)
    computed.clear()
    extend("dataset.path=-")
    assert sorted(computed) == texts(9, 10)
    assert len(Path("outputs/run/stdin").read_text().splitlines()) == 11
    piped(0)
    assert run(words("dataset.path=-"))["finished"] == 11


def dying(statement):
    """Extend the run, and die of SIGKILL before such an SQL statement."""

    def trace(sql):
        if sql.startswith(statement):
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(*given, original=sqlite3.connect, **more):
        connection = original(*given, **more)
        connection.set_trace_callback(trace)
        return connection

    sqlite3.connect = connect
    extend(KEYED)


def test_a_kill_at_any_moment_of_extending_leaves_a_run_that_the_same_line_extends():
    write([*reversed(range(3, 30))], n9="new")
    run(words(KEYED, "run_name=whole"))
    write(range(20))
    run(words(KEYED))
    write([*reversed(range(3, 30))], n9="new")
    moments = ["UPDATE run", "DELETE FROM shards", "UPDATE completions", "UPDATE digested", "INSERT INTO sessions"]
    for statement in [*moments, "INSERT INTO completions", "INSERT INTO shards", "INSERT OR REPLACE INTO inputs"]:
        assert Fork(dying, statement).wait() == -signal.SIGKILL, statement
        assert open_run("outputs/run").status["rows"] == (20 if statement in moments[:4] else 27)
    assert extend(KEYED)["finished"] == 27
    assert [row["text"] for row in runs.rows_of()] == [row["text"] for row in runs.rows_of("whole")]


def test_a_repaired_run_can_still_be_extended(computed):
    write(range(20))
    run(words())
    Path("outputs/run/run.db").write_bytes(b"")
    repair(Path("outputs/run"))
    write(range(21))
    computed.clear()
    extend()
    assert sorted(computed) == texts(
        16, 17, 18, 19, 20
    )  # the answers of a shard that is not full went with the checkpoint
