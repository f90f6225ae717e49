"""Equal requests find each other's answer whether the index has it already or not, and after any end of a session."""

import pytest

from runner.checkpoint import digests
from runner.checkpoint.records import Record, with_crc
from runner.types import Completion
from tests.support.stores import digest, open_store


@pytest.fixture(autouse=True)
def _few_in_memory(monkeypatch):
    monkeypatch.setattr(digests, "FRESH", 3)


def record(row):
    return Record(row, 0, digest(str(row)), Completion(f"answer {row}"))


def found(store, rows):
    known = store.lookup(digest(str(row)) for row in rows)
    return [known[digest(str(row))].completion.text if digest(str(row)) in known else "" for row in rows]


def indexed(store):
    # How far the index is, which no answer shows.
    return store._connection.execute("SELECT count(*) FROM digests").fetchone()[0]


def test_an_answer_is_found_before_and_after_it_is_in_the_index(tmp_path):
    with open_store(tmp_path) as store:
        for row in range(8):
            store.record([record(row)])
            assert found(store, range(10)) == [f"answer {n}" for n in range(row + 1)] + [""] * (9 - row)
        assert indexed(store) == 6


def test_the_next_session_indexes_what_the_last_one_left(tmp_path):
    with open_store(tmp_path) as store:
        store.record([record(row) for row in range(2)])
        assert indexed(store) == 0
    with open_store(tmp_path) as store:
        assert indexed(store) == 2
        assert found(store, [0, 1]) == ["answer 0", "answer 1"]


def test_rowids_of_forgotten_answers_are_indexed_when_they_come_again(tmp_path):
    with open_store(tmp_path) as store:
        store.record([record(row) for row in range(4)])
        store.forget([(2, 0), (3, 0)])
        assert found(store, range(4)) == ["answer 0", "answer 1", "", ""]
        store.record([record(5)])
    with open_store(tmp_path) as store:
        assert found(store, [0, 3, 5]) == ["answer 0", "", "answer 5"]


def test_an_answer_given_again_elsewhere_takes_the_place_of_a_forgotten_one(tmp_path):
    with open_store(tmp_path) as store:
        store.record([record(row) for row in range(4)])
        store.forget([(1, 0)])
        store.record([Record(7, 0, digest("1"), Completion("again"))])
    with open_store(tmp_path) as store:
        assert found(store, [1]) == ["again"]


def test_all_levels_are_looked_in_and_each_passes_on_what_is_too_much_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "RATIO", 2)
    monkeypatch.setattr(digests, "LEVELS", 3)
    with open_store(tmp_path, rows=200) as store:
        for row in range(100):
            store.record([record(row)])
            assert found(store, [0, row // 2, row]) == [f"answer {n}" for n in (0, row // 2, row)]
        assert found(store, range(101)) == [f"answer {n}" for n in range(100)] + [""]
        # How the index is laid out, which no answer shows.
        sizes = dict(store._connection.execute("SELECT level, count(*) FROM digests GROUP BY level"))
        assert sizes[0] <= 6 and sizes[1] <= 12 and sum(sizes.values()) == 99
    with open_store(tmp_path, rows=200) as store:
        store.record([record(row) for row in range(100, 150)])
        assert found(store, range(151)) == [f"answer {n}" for n in range(150)] + [""]


def test_an_index_that_is_lost_is_made_again_from_the_answers(tmp_path):
    with open_store(tmp_path, rows=200) as store:
        store.record([record(row) for row in range(100)])
        # As a checkpoint of an earlier version is left by its steps to this one.
        store._connection.execute("DELETE FROM digests")
        store._connection.execute("UPDATE digested SET upto = ?, crc = ?", with_crc(0))
    with open_store(tmp_path, rows=200) as store:
        assert found(store, range(101)) == [f"answer {n}" for n in range(100)] + [""]
