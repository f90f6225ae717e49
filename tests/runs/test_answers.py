"""Answers that runs share with ``cache=true``."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from runner import run
from runner.checkpoint.records import with_crc
from runner.cli import main
from runner.engine.fake import FakeEngine
from runner.runs import answers
from runner.runs.answers import Answers
from runner.types import Completion
from tests.support.forks import Fork
from tests.support.runs import interrupt, overrides, rows_of, shards, write_rows


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    write_rows(40)


@pytest.fixture
def computed(monkeypatch):
    """The sequences that engines computed."""
    keys = []

    def add(self, sequences, original=FakeEngine.add):
        sequences = list(sequences)
        keys.extend(sequence.key for sequence in sequences)
        return original(self, sequences)

    monkeypatch.setattr(FakeEngine, "add", add)
    return keys


def test_what_one_run_computed_another_does_not(computed):
    run(overrides("cache=true", "run_name=first", "dataset.limit=30"))
    assert len(computed) == 30
    run(overrides("cache=true", "run_name=second"))
    assert sorted(computed[30:]) == [(row, 0) for row in range(30, 40)]
    assert answers.measure()["answers"] == 40 and answers.measure()["hits"] == 30
    run(overrides("run_name=without"))
    assert len(computed) == 80
    texts = [[row["text"] for row in rows_of(name)] for name in ("second", "without")]
    assert texts[0] == texts[1]


def test_seeded_draws_are_shared_and_those_of_another_seed_are_not(computed):
    drawn = ["cache=true", "engine.temperature=0.7"]
    run(overrides(*drawn, "run_name=one"))
    run(overrides(*drawn, "run_name=same"))
    assert len(computed) == 40 and shards("one").keys() == shards("same").keys()
    run(overrides(*drawn, "seed=1", "run_name=other"))
    assert len(computed) == 80


@pytest.mark.parametrize("change", ["prompt.stop=[ber]", "engine.max_tokens=3", "prompt.chat=false"])
def test_whatever_changes_an_answer_keeps_it_apart(computed, change):
    run(overrides("cache=true", "run_name=one"))
    run(overrides("cache=true", "run_name=two", change))
    assert len(computed) == 80


def test_an_interrupted_run_leaves_what_it_computed(computed):
    interrupt(overrides("cache=true"), after=4)
    known = answers.measure()["answers"]
    assert 0 < known < 40
    before = len(computed)
    run(overrides("cache=true", "run_name=other"))
    assert len(computed) - before == 40 - known


def test_a_killed_run_leaves_a_sound_cache_and_resumes():
    killed = Fork(lambda: _die_after(20))
    assert killed.wait() == -9
    run(overrides("cache=true"))
    assert len(rows_of()) == 40 and answers.measure()["answers"] >= 20


def test_answers_that_come_slowly_are_in_the_cache_before_the_run_ends(monkeypatch):
    slow = Answers({})
    slow.keep([(b"1", Completion("a"))])
    assert answers.measure()["answers"] == 0
    assert answers.SECONDS <= 1
    monkeypatch.setattr(answers, "SECONDS", 0.0)
    slow.keep([])  # a step without an answer
    assert answers.measure()["answers"] == 1
    slow.close()


def test_a_cache_that_takes_no_more_is_read(computed, monkeypatch, caplog):
    # A private function stands for the file system: tests may run as root, whom nothing is forbidden.
    run(overrides("cache=true", "run_name=first", "dataset.limit=30"))

    def refuse(file):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(answers, "_open", refuse)
    with caplog.at_level("INFO", "rowmill"):
        run(overrides("cache=true", "run_name=second"))
    assert sorted(computed[30:]) == [(row, 0) for row in range(30, 40)]
    assert caplog.text.count("using its answers, adding none") == 1
    assert answers.measure()["answers"] == 30


def _die_after(count):
    def keep(self, found, original=Answers.keep, kept=[0]):  # noqa: B006
        found = list(found)
        kept[0] += len(found)
        original(self, found)
        self._write()  # by themselves some thousand answers are written together
        if kept[0] >= count:
            os.kill(os.getpid(), 9)

    Answers.keep = keep
    run(overrides("cache=true"))


@pytest.mark.parametrize("broken", ["garbage", "folder", "full"])
def test_a_cache_that_fails_never_stops_a_run(broken, cache, monkeypatch, caplog):
    if broken == "garbage":
        cache.mkdir()
        (cache / "answers.db").write_bytes(b"no database at all " * 100)
    elif broken == "folder":
        cache.write_text("a file where the folder should be")
    else:
        monkeypatch.setattr(answers, "_TABLES", f"{answers._TABLES} PRAGMA max_page_count = 1;")  # SQLite's full disk
    run(overrides("cache=true"))
    assert len(rows_of()) == 40
    assert caplog.text.count("going on without it") == 1


def test_an_answer_that_was_damaged_or_is_written_as_by_another_version_is_computed_again(computed, caplog):
    run(overrides("cache=true", "run_name=one"))
    with sqlite3.connect(answers.path()) as connection:
        connection.execute("UPDATE answers SET body = replace(body, 'e', 'a') WHERE rowid <= 10")
        connection.execute("UPDATE answers SET body = CAST(x'ff' || body AS TEXT) WHERE rowid BETWEEN 11 AND 20")
        for key, body in connection.execute("SELECT key, body FROM answers WHERE rowid > 20").fetchall():
            newer = with_crc(key, json.dumps({**json.loads(body), "new": 1}))
            connection.execute("UPDATE answers SET body = ?2, crc = ?3 WHERE key = ?1", newer)
    computed.clear()
    run(overrides("cache=true", "run_name=two"))
    assert len(computed) == 40 and "going on without it" not in caplog.text
    assert [row["text"] for row in rows_of("two")] == [row["text"] for row in rows_of("one")]


def test_several_runs_use_it_at_once():
    forks = [
        Fork(lambda name=name: os._exit(len(run(overrides("cache=true", f"run_name={name}"))) < 5)) for name in "abc"
    ]
    assert [fork.wait() for fork in forks] == [0, 0, 0]
    assert answers.measure()["answers"] == 40
    assert [row["text"] for row in rows_of("a")] == [row["text"] for row in rows_of("c")]


def test_failed_requests_are_not_kept():
    found = Answers({"model": "m"})
    found.keep([(b"1" * 16, Completion("yes", prompt_tokens=3))])
    found.close()
    assert Answers({"model": "m"}).find([b"1" * 16, b"2" * 16]) == {b"1" * 16: Completion("yes", prompt_tokens=3)}
    assert Answers({"model": "other"}).find([b"1" * 16]) == {}
    run(overrides("cache=true", "prompt.user='{% if id|int == 3 %}{{ 1/0 }}{% endif %}{{ text }}'"))
    assert answers.measure()["answers"] == 40  # 39 rows, and the one from above


def test_cache_shows_and_prunes(capsys, monkeypatch):
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == 0
    run(overrides("cache=true"))
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert "40, used 0 times" in capsys.readouterr().out
    assert main(["cache", "--older-than", "1"]) == 0
    assert "pruned   0 answers" in capsys.readouterr().out
    with sqlite3.connect(answers.path()) as connection:
        connection.execute("UPDATE answers SET used = used - 9 WHERE rowid <= 10")
    assert main(["cache", "--older-than", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pruned"] == 10
    assert main(["cache", "--larger-than", "0.000001"]) == 0
    assert answers.measure()["answers"] < 30
    assert Path(answers.path()).stat().st_mode & 0o777 == 0o600
