"""A run's marks of progress stay few and true, however long it takes and however often it is restarted."""

import itertools
import json
import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest

from runner.checkpoint import marks
from runner.checkpoint.counts import read_label_counts
from runner.checkpoint.database import open_read_only
from runner.checkpoint.records import Output
from runner.checkpoint.shards import layout as shards
from runner.results.status import read_status
from runner.sequences import Gauge
from runner.types import UserError
from tests.support.clocks import Clock, work
from tests.support.stores import open_store, output


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(marks, "time", clock)
    return clock


def rows_of(path, query):
    with closing(sqlite3.connect(path / "run.db")) as connection:
        return connection.execute(query).fetchall()


def test_a_week_has_few_marks_and_the_last_one_is_new(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(marks, "MOST", 500)
    rows = 1_500
    with open_store(tmp_path / "run", rows=rows, shard_rows=rows) as store:
        work(store, clock, range(rows - 1), 100.0)
        seconds = 100.0 * (rows - 1)
        kept = rows_of(store.run_dir, "SELECT elapsed_s, finished FROM progress ORDER BY rowid")
        assert marks.MOST / 4 <= len(kept) <= marks.MOST
        assert kept[-1] == (seconds, rows - 1)
        assert all(finished == elapsed / 100.0 for elapsed, finished in kept)
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(kept)]
        assert max(gaps) < 5 * seconds / len(kept)
        assert read_status(store.run_dir)["active_s"] == seconds


def test_every_session_keeps_its_time(tmp_path, clock):
    for session in range(5):
        with open_store(tmp_path / "run", rows=100) as store:
            assert store.active_s() == 30.0 * session
            clock.now += 500  # loading the model does not count
            store.start()
            work(store, clock, range(10 * session, 10 * session + 10), 3.0)
            assert store.active_s() == 30.0 * (session + 1)
    assert read_status(tmp_path / "run")["active_s"] == 150.0


def test_many_restarts_keep_a_mark_each(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(marks, "MOST", 8)
    for session in range(30):
        with open_store(tmp_path / "run", rows=100) as store:
            work(store, clock, [session], 2.0)
    sessions = rows_of(tmp_path / "run", "SELECT count(DISTINCT session), sum(elapsed_s) FROM progress")
    assert read_status(tmp_path / "run")["active_s"] == 60.0
    assert sessions[0][0] == 30


def test_memory_and_slots_are_the_engines(tmp_path, clock):
    with open_store(tmp_path / "run") as store:
        store.start(lambda: Gauge(3, 8, 5_000))
        work(store, clock, [0], 2.0)
        store.start(lambda: Gauge(0, 8, 9_000))  # as when the engine has been closed
    marks = rows_of(tmp_path / "run", "SELECT slots, slots_total, memory_bytes FROM progress")
    assert set(marks) == {(3, 8, 5_000)}


def test_memory_without_a_gauge_is_the_process_s(tmp_path, clock):
    with open_store(tmp_path / "run") as store:
        work(store, clock, [0], 2.0)
    ((slots, memory),) = set(rows_of(tmp_path / "run", "SELECT slots, memory_bytes FROM progress"))
    assert slots is None
    assert memory > 10_000_000


def test_the_latest_rows_outlive_their_shard_and_stay_short(tmp_path, clock):
    with open_store(tmp_path / "run", rows=40) as store:
        work(store, clock, range(39), 2.0)
        clock.now += 2
        store.finish([Output(39, {"label": "x" * 100_000}, None)])
    latest = rows_of(tmp_path / "run", "SELECT row, body FROM latest")
    assert [row for row, _ in latest] == list(range(30, 40))
    assert json.loads(latest[0][1])["label"] == "label 30"
    assert len(latest[-1][1]) < 2 * marks.LATEST_CHARS


def test_the_latest_rows_have_the_start_of_the_text_that_they_were_made_from(tmp_path, clock):
    columns = {"name": ["a", None, "c"], "text": ["x" * 5_000, "shorter than the name", None], "id": [1, 2, 3]}
    source = pa.table(columns)
    with open_store(tmp_path / "run", rows=3, keep=source.schema, kept=lambda a, b: source.slice(a, b - a)) as store:
        work(store, clock, range(3), 2.0)
    bodies = [json.loads(body) for (body,) in rows_of(tmp_path / "run", "SELECT body FROM latest")]
    assert [body.get("text") for body in bodies] == ["x" * shards.EXCERPT_CHARS, "shorter than the name", None]
    assert all(body.keys() - {"text"} == {"label", "score", "count"} for body in bodies)


def test_data_that_changed_take_no_answer_with_them(tmp_path, clock):
    def changed(start, stop):
        raise UserError("the data have changed")

    with open_store(tmp_path / "run", rows=3, kept=changed) as store:
        work(store, clock, [0], 2.0)
    ((body,),) = rows_of(tmp_path / "run", "SELECT body FROM latest")
    assert json.loads(body)["label"] == "label 0"


def test_labels_are_counted_in_sealed_and_staged_rows(tmp_path, clock):
    with open_store(tmp_path / "run", rows=10, shard_rows=4) as store:
        store.finish([output(row, label="ham" if row % 2 else "spam") for row in range(6)])
        store.finish([Output(6, {}, "timeout: 3 s"), output(7, label=None)])
        with open_read_only(store.run_dir, live=True) as connection:
            assert read_label_counts(connection) == {"ham": 3, "spam": 3}
