"""What the checkpoint and the output promise."""

import datetime
import errno
import json
import os
import shutil
import signal
import sqlite3
import struct
import threading
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from runner import disk
from runner.checkpoint import counts, records
from runner.checkpoint import store as store_module
from runner.checkpoint.identity import column_list, output_columns
from runner.checkpoint.lease import fresh_dir
from runner.checkpoint.records import Output, Record, Rejected, from_body, to_bodies, to_json, to_jsons, unpack_floats
from runner.checkpoint.shards import columns, unsealed
from runner.checkpoint.shards import layout as shards
from runner.checkpoint.shards.columns import fitting, staged, staged_type, table
from runner.checkpoint.shards.layout import ShardLayout, shard_schema
from runner.disk.errors import disk_errors
from runner.results.status import read_status
from runner.text.choices import score_fields
from runner.types import Completion, UserError
from tests.support.forks import Fork
from tests.support.stores import (
    JOB,
    SEED,
    USAGE,
    digest,
    finish_all,
    kept,
    load,
    open_store,
    output,
    shard_bytes,
)

# Output


def test_output_loads_with_datasets_and_has_the_promised_columns_in_input_order(tmp_path):
    with open_store(tmp_path / "run") as store:
        store.finish([output(row) for row in reversed(range(10))])
    data = load(tmp_path / "run")
    assert data.column_names == ["id", "text", "label", "score", "count", "error", "usage"]
    assert data["id"][:] == list(range(10))
    assert data[9] == {
        "id": 9,
        "text": "text 9",
        "label": "label 9",
        "score": pytest.approx(9 / 7),
        "count": 9,
        "error": None,
        "usage": {
            "prompt_tokens": 10,
            "cached_tokens": 8,
            "completion_tokens": 2,
            "finish_reason": "stop",
            "retries": 1,
            "seed": SEED,
        },
    }


def test_sealed_shards_can_be_read_while_the_run_goes_on(tmp_path):
    with open_store(tmp_path) as store:
        store.finish([output(row) for row in [0, 1, 2]])
        assert not (tmp_path / "state.json").exists()
        store.finish([output(row) for row in [3, 8, 9]])
        assert load(tmp_path)["id"][:] == [0, 1, 2, 3, 8, 9]


def test_listing_shards_takes_work_in_proportion_to_their_number(tmp_path, monkeypatch):
    listed = []

    def count(run_dir, files, *, synced, original=store_module.write_dataset):
        listed.append(len(files))
        original(run_dir, files, synced=synced)

    monkeypatch.setattr(store_module, "write_dataset", count)
    with open_store(tmp_path, rows=400, shard_rows=1) as store:
        store.finish([output(row) for row in range(399)])
    assert len(load(tmp_path)) == 399  # closing lists them all
    assert sum(listed) < 100 * 400  # 200 * 400 if each new shard listed all
    assert listed[:100] == [*range(1, 101)]  # while they are few, at once


def test_an_empty_data_set_loads(tmp_path):
    open_store(tmp_path, rows=0).close("finished")
    assert len(load(tmp_path)) == 0
    assert load(tmp_path).column_names[0] == "id"
    assert read_status(tmp_path)["state"] == "finished"


def test_a_job_may_keep_no_input_column(tmp_path):
    finish_all(tmp_path, keep=pa.schema([]))
    assert load(tmp_path).column_names == ["label", "score", "count", "error", "usage"]


def test_feature_types_of_kept_columns_survive(tmp_path):
    source = datasets.Dataset.from_dict(
        {"kind": [0, 1, 0, 1], "other": [1, 2, 3, 4]},
        features=datasets.Features(
            {"kind": datasets.ClassLabel(names=["ham", "spam"]), "other": datasets.Value("int8")}
        ),
    )
    table = source.data.table.select(["kind"])
    finish_all(tmp_path, rows=4, keep=table.schema, kept=lambda a, b: table.slice(a, b - a))
    assert load(tmp_path).features["kind"].int2str(1) == "spam"


def test_dictionary_columns_become_plain(tmp_path):
    table = pa.table({"id": pa.array(["a", "b", "a", None]).dictionary_encode()})
    finish_all(tmp_path, rows=4, keep=table.schema, kept=lambda a, b: table.slice(a, b - a))
    assert load(tmp_path)["id"][:] == ["a", "b", "a", None]


def test_same_rows_give_the_same_bytes_whatever_their_order_and_however_often_interrupted(tmp_path, monkeypatch):
    """Sealed from the rows at hand, or read again: after an interrupt, and where they take too much memory to be kept.

    How much that is has a private name: the true one would take a large run.
    """
    finish_all(tmp_path / "a")
    for row in [9, 1, 0, 7, 3, 2, 8, 4, 6, 5]:
        with open_store(tmp_path / "b") as store:
            store.finish([output(row)])
    cut = kept(0, 10)
    pieces = lambda a, b: pa.concat_tables([cut.slice(i, 1) for i in range(a, b)])  # noqa: E731
    finish_all(tmp_path / "c", kept=pieces)
    monkeypatch.setattr(unsealed, "_HELD_CHARS", 1200)
    finish_all(tmp_path / "d")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b") == shard_bytes(tmp_path / "c")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "d")
    assert len(shard_bytes(tmp_path / "a")) == 3
    # What `datasets` keys its caches by.
    assert load(tmp_path / "a")._fingerprint == load(tmp_path / "b")._fingerprint


def test_rows_that_wait_for_their_shard_in_memory_are_staged_by_the_end_and_written_alike(tmp_path):
    """Whether a shard is sealed from memory alone, or some of its rows were staged by an earlier session."""
    finish_all(tmp_path / "a")
    with open_store(tmp_path / "b", hold_s=1e9) as store:
        for row in (9, 1, 0, 7, 3, 2):
            store.finish([output(row)])
        assert read_status(tmp_path / "b")["finished"] == 5  # the first shard, and what came first
        assert [*store.unfinished()] == [range(4, 7), range(8, 9)]
        with pytest.raises(sqlite3.IntegrityError):
            store.finish([output(9)])
    assert read_status(tmp_path / "b")["finished"] == 6
    finish_all(tmp_path / "b", hold_s=1e9)
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


def test_shards_do_not_depend_on_whether_their_rows_waited_in_memory_or_on_disk(tmp_path, monkeypatch):
    """Floats that JSON gives back as others, and more text than a batch of a shard has."""
    kind = pa.schema([("f", pa.float64()), ("s", pa.struct([("f", pa.float64())]))])
    odd = [struct.unpack("<d", struct.pack("<Q", bits << 48 | 7))[0] for bits in (0xFFF8, 0x7FF8, 0x7FF0)]
    rows = [Output(row, {"f": value, "s": {"f": -value}}) for row, value in enumerate([-0.0, 5e-324, *odd])]
    texts = pa.schema([("s", pa.string())])
    long = [Output(row, {"s": 100 * "x"}) for row in range(60)]
    monkeypatch.setattr(columns, "BATCH_CHARS", 5000)  # and what may be held, so that little text is too much
    for outputs, schema in (rows, kind), (long, texts):
        written = []
        for most in (0, 5000):
            folder = tmp_path / f"{len(outputs)}-{most}"
            monkeypatch.setattr(unsealed, "_HELD_CHARS", most)
            with open_store(folder, rows=len(outputs), shard_rows=100, schema=schema, hold_s=1e9) as store:
                store.finish(outputs[:1])
                store.finish(outputs[1:])
            written.append(shard_bytes(folder))
        assert written[0] == written[1]


def test_rows_whose_shard_cannot_be_written_are_staged_by_the_end(tmp_path):
    def lost(*_):
        raise UserError("the data set changed")

    with open_store(tmp_path, hold_s=1e9, kept=lost) as store:
        store.finish([output(0)])
        with pytest.raises(UserError):
            store.finish([output(row) for row in range(1, 5)])
    assert read_status(tmp_path)["finished"] == 5


def test_what_a_job_does_with_a_row_once_it_has_ended_changes_nothing(tmp_path):
    kind = pa.schema([("p", pa.struct([("n", pa.float64()), ("q", pa.string())]))])
    mine = {"n": 0.5, "q": "x"}
    with open_store(tmp_path, rows=2, shard_rows=2, schema=kind, hold_s=1e9) as store:
        for row in range(2):
            store.finish([Output(row, {"p": mine})])
            mine["n"] += 1
    assert load(tmp_path)["p"] == [{"n": 0.5, "q": "x"}, {"n": 1.5, "q": "x"}]


def test_record_batches_are_bounded(tmp_path):
    finish_all(tmp_path, rows=2500, shard_rows=2500)
    with pa.ipc.open_stream(tmp_path / "data-00000.arrow") as stream:
        assert [batch.num_rows for batch in stream] == [1000, 1000, 500]


@pytest.mark.parametrize("name", ["error", "usage", "id"])
def test_a_name_clash_is_refused_before_anything_starts(tmp_path, name):
    with pytest.raises(UserError, match=f"'{name}'"):
        open_store(tmp_path / "run", schema=pa.schema([(name, pa.string())]))
    assert not (tmp_path / "run").exists()


def test_a_column_type_that_cannot_be_staged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'when' has type timestamp"):
        open_store(tmp_path, schema=pa.schema([("when", pa.timestamp("s"))]))


@pytest.mark.parametrize("recorded", [pa.string(), pa.date32()])
def test_dates_are_texts_in_the_runs_of_versions_that_kept_them_so(tmp_path, recorded):
    with open_store(tmp_path, rows=2, schema=pa.schema([("day", recorded), ("n", pa.int64())])) as store:
        store.finish([Output(0, {"day": "2024-01-31", "n": 1})])
    identity = json.loads((tmp_path / "identity.json").read_text())
    found = output_columns({**identity, "keep": {"id": "id", "text": "text"}}).job
    schema = shards.as_recorded(pa.schema([("day", pa.date32()), ("n", pa.int64())]), found)
    assert schema.types == [recorded, pa.int64()]
    days = [datetime.date(2024, 1, 31), datetime.date(2024, 2, 29)]
    with open_store(tmp_path, rows=2, schema=schema) as store:
        store.finish([Output(1, {"day": days[1], "n": 2})])
    assert load(tmp_path)["day"][:] == (days if recorded == pa.date32() else [str(day) for day in days])


# Bad values


def test_lone_surrogates_become_replacement_characters_and_pairs_are_joined(tmp_path):
    with open_store(tmp_path, rows=3) as store:
        store.finish([output(0, label="a\ud800b"), output(1, label="\ud83d\ude00"), Output(2, {}, "bad: \udfff")])
    assert load(tmp_path)["label"][:] == ["a\ufffdb", "\U0001f600", None]
    assert load(tmp_path)["error"][:] == [None, None, "bad: \ufffd"]


def test_nan_infinity_and_nul_bytes_are_values(tmp_path):
    with open_store(tmp_path, rows=3) as store:
        store.finish([output(0, score=float("nan")), output(1, score=float("inf")), output(2, label="a\0b")])
    assert str(load(tmp_path)["score"][:2]) == "[nan, inf]"
    assert load(tmp_path)["label"][2] == "a\0b"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", 3),
        ("label", b"bytes"),
        ("score", "high"),
        ("count", 1.5),
        ("count", 2**40),
        ("count", float("nan")),
        ("label", {"a", "set"}),
        ("unknown", 1),
    ],
)
def test_a_value_that_does_not_fit_makes_an_error_row(tmp_path, column, value):
    with open_store(tmp_path, rows=3) as store:
        store.finish([output(0), output(1, **{column: value}), output(2)])
        assert store.totals().errors == 1
    rows = load(tmp_path)
    assert column in rows["error"][1]
    assert "unknown" in rows["error"][1] or str(JOB.field(column).type) in rows["error"][1]
    assert [rows["error"][i] for i in (0, 2)] == [None, None]
    assert [rows[1].get(name) for name in (column, *JOB.names)] == [None] * (1 + len(JOB))
    assert read_status(tmp_path)["error_kinds"] == {"output type": 1}


def test_numpy_values_are_stored_as_plain_ones(tmp_path):
    np = pytest.importorskip("numpy")
    with open_store(tmp_path, rows=1) as store:
        store.finish([output(0, score=np.float32(0.5), count=np.int64(3))])
    assert load(tmp_path)[0]["count"] == 3


def test_input_that_shrank_during_the_run_is_noticed_and_nothing_is_lost(tmp_path):
    with (
        open_store(tmp_path, kept=lambda a, b: kept(a, b - 1)) as store,
        pytest.raises(UserError, match="data set changed during the run: of rows 0 to 3 it has only 3 left"),
    ):
        store.finish([output(row) for row in range(4)])
    finish_all(tmp_path)
    assert load(tmp_path)["id"][:] == list(range(10))


# Completions


def test_a_recorded_completion_is_there_when_record_returns_and_comes_back_equal(tmp_path):
    answers = [
        Completion("t\ud800ü", "length", 5, 4, 3),
        Completion("ham", "choice", logprobs=(-0.1, float("-inf"))),
        Completion(finish_reason="error", error="no"),
    ]
    store = open_store(tmp_path)
    store.record([Record(7, number, None, answer) for number, answer in enumerate(answers)])
    with sqlite3.connect(tmp_path / "run.db") as other:
        assert other.execute("SELECT count(*) FROM completions").fetchone() == (3,)
    store.close()
    with open_store(tmp_path) as store:
        found = store.recorded([7, 8])
        assert {number: record.completion for number, record in found[7].items()} == dict(enumerate(answers))
        assert store.recorded(range(8)) == found
        assert store.recorded(range(7)) == {}


def test_json_of_many_is_that_of_each():
    odd = [{"a": "},{"}, {"a": [{}, {}]}, {"a": "\ud800"}, {"a": {"b": "}"}}, {}, {1: 0.5}]
    for some in [], odd, odd[3:], [{}, {}], *([one] for one in odd):
        assert to_jsons(some) == [to_json(one) for one in some]


VALUES = [9 * "\1", 9 * '"', "é\U0001f600", 5e-324, -1.7976931348623157e308, False, None, {"\1": True}, [{}], 10**30]


@pytest.mark.parametrize("value", [*VALUES, 5000 * "x", 5000 * "\1"])
def test_rows_that_wait_are_taken_for_no_less_than_their_json(value):
    # private: only what they take in all shows outside, and that after thousands of rows
    assert unsealed._chars([Output(0, {"a": value})]) >= unsealed._ROW_CHARS + len(to_json({"a": value}))


@pytest.mark.parametrize(("count", "most"), [(1000, 21_000), (10_000, 54_000)])
def test_scores_of_very_many_choices_take_few_bytes_each_and_come_back_equal(count, most):
    scores = np.random.default_rng(0).normal(-20, 4, count)
    scores[-3:] = -np.inf, 0.0, -1e-30
    completion = Completion(finish_reason="choice", **score_fields(scores, None))
    (body,) = to_bodies([completion])
    assert len(body) < most
    assert from_body(body) == completion
    assert completion.logprobs == pytest.approx(scores.tolist(), rel=1e-7)
    odd = Completion(logprobs=(0.1,) * count)  # as an earlier version kept them
    assert from_body(*to_bodies([odd])) == odd
    assert unpack_floats("004kL004mh00000") == (1.0, -np.inf, 0.0)  # as an earlier version packed them


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"1": 0.5}, {"1": 0.5, "2": None}),
        ({"1": 1, "2": None}, {"1": 1.0, "2": None}),
        ({1: 0.5}, {"1": 0.5, "2": None}),
        ({"1": np.float32(0.5)}, {"1": 0.5, "2": None}),
        ({"1": -np.inf, "2": -0.0}, {"1": -np.inf, "2": -0.0}),
        ({"3": 0.5}, {"1": None, "2": None}),
        ({}, {"1": None, "2": None}),
        (None, None),
        ({1: "x"}, None),
        ({"1": True}, {"1": 1.0, "2": None}),
        ({"2": "x"}, None),
        ([0.5], None),
        (0.5, None),
    ],
)
def test_what_is_staged_can_be_sealed_whatever_a_struct_of_numbers_is_given(value, written):
    job = pa.schema([("p", pa.struct([("1", pa.float64()), ("2", pa.float64())]))])
    layout = ShardLayout(2, 2, job, pa.schema([]), lambda *_: None, shard_schema(pa.schema([]), job))
    rows = fitting([Output(0, {"p": value}), Output(1, {"p": {"1": 0.25, "2": 0.75}})], layout)
    assert table(rows, layout)["p"].to_pylist() == [written, {"1": 0.25, "2": 0.75}]
    assert (rows[0].error is None) == (value is None or written is not None)


def test_very_many_numbers_of_a_row_are_staged_in_few_bytes_and_written_as_they_were():
    """Rows in error and rows with numbers of 64 bits, as earlier versions staged all, beside them."""
    names = [f"a: b, {number}, <é>" for number in range(1001)]
    kind = pa.struct([(name, pa.float64()) for name in names])
    job = pa.schema([("label", pa.string()), ("p", kind)])
    layout = ShardLayout(5, 5, job, pa.schema([]), lambda *_: None, shard_schema(pa.schema([]), job))
    numbers = np.float32(np.random.default_rng(0).random((5, 1001))).astype(float)
    columns = [{"label": "x", "p": dict(zip(names, some.tolist(), strict=True))} for some in numbers]
    outputs = [*map(Output, range(3), columns), Output(3, {"p": "text"}), Output(4, {}, "wrong: label")]
    rows = fitting(outputs, layout)
    assert max(len(row.body) for row in staged(rows)) < 5500
    assert rows[3].error.startswith("output type: column 'p' takes struct<")
    assert staged_type([rows[0].columns], "p", str(kind)) == kind  # for readers before a shard is whole
    assert layout.shown(rows[:1]) == columns[:1]
    assert table(rows, layout)["p"].to_pylist() == [*(one["p"] for one in columns[:3]), None, None]
    columns[1]["p"][names[0]] = 0.1
    rows[1:2] = fitting([Output(1, columns[1])], layout)
    assert table(rows, layout)["p"].to_pylist()[:3] == [one["p"] for one in columns[:3]]
    odd = pa.schema([("p", pa.struct([(f"{name}: double, x", pa.float64()) for name in names]))])
    assert ShardLayout(1, 1, odd, pa.schema([]), lambda *_: None, odd).wide == {}  # its name tells no fields


def test_equal_requests_find_the_recorded_answer_but_no_failed_one(tmp_path):
    with open_store(tmp_path) as store:
        store.record(
            [
                Record(0, 0, digest("a"), Completion("A")),
                Record(1, 0, None, Completion("B")),
                Record(2, 0, digest("c"), Completion(finish_reason="error", error="out of memory")),
            ]
        )
        many = [digest(str(i)) for i in range(2000)]
        found = store.lookup([*many, digest("a"), digest("c")])
        assert {one: record.completion for one, record in found.items()} == {digest("a"): Completion("A")}


def test_a_completion_or_row_is_never_committed_twice_nor_half_a_call(tmp_path):
    with open_store(tmp_path) as store:
        store.record([Record(0, 0, None, Completion("A"))], [output(5)])
        with pytest.raises(sqlite3.IntegrityError):
            store.record([Record(1, 0, None, Completion()), Record(0, 0, None, Completion("B"))])
        with pytest.raises(sqlite3.IntegrityError):
            store.record([Record(1, 0, None, Completion())], [output(5)])
        store.finish([output(row) for row in range(4)])
        with pytest.raises(sqlite3.IntegrityError, match="sealed"):
            store.finish([output(3)])
        with pytest.raises(ValueError, match="row 10"):
            store.finish([output(10)])
        assert store.recorded(range(10)) == {0: {0: Record(0, 0, None, Completion("A"))}}
        assert store.totals().finished == 5


def test_unfinished_lists_what_is_left(tmp_path):
    with open_store(tmp_path) as store:
        assert [*store.unfinished()] == [range(4), range(4, 8), range(8, 10)]
        store.finish([output(row) for row in [0, 2, 4, 5, 6, 7]])
        assert [*store.unfinished()] == [range(1, 2), range(3, 4), range(8, 10)]


# Death


def die(*_, **__):
    os._exit(9)


DEATHS = {
    "table": (columns, "table", die),
    "sync": (disk, "sync", die),
    "rename": (Path, "replace", die),
    "renamed": (Path, "replace", lambda old, new: (os.replace(old, new), die())),  # noqa: PTH105
    "transaction": (counts, "Shard", die),
    "publish": (store_module, "write_dataset", die),
}


def killed_at(point, path):
    with open_store(path) as store:
        where, name, last = DEATHS[point]
        assert hasattr(where, name)  # a renamed point must not pass for one that was not reached
        setattr(where, name, last)
        store.record([Record(row, 0, None, Completion("A")) for row in range(4)])
        store.finish([output(row) for row in range(3)])
        store.finish([output(3)])


@pytest.mark.parametrize("point", DEATHS)
def test_a_kill_at_any_point_of_sealing_loses_nothing_and_leaves_nothing(tmp_path, point):
    finish_all(tmp_path / "whole")
    run = tmp_path / "run"
    assert Fork(killed_at, point, run).wait() == 9
    with open_store(run) as store:
        assert [*store.unfinished()] == [range(4, 8), range(8, 10)]
        assert sorted(store.recorded(range(4))) == [0, 1, 2, 3]
        assert store.totals().finished == 4
    finish_all(run)
    assert shard_bytes(run) == shard_bytes(tmp_path / "whole")
    assert load(run)["id"][:] == list(range(10))
    assert not [*run.glob("*.tmp")]


def test_only_files_of_ours_are_ever_removed(tmp_path):
    open_store(tmp_path).close()
    ours = ["data-00000.arrow", "data-00001.arrow.tmp", "state.json.tmp"]
    theirs = ["data-00000-of-00001.arrow", "notes.txt", "data.arrow", "report.html"]
    for name in ours + theirs:
        (tmp_path / name).write_text("x")
    open_store(tmp_path).close()
    assert [name for name in ours if (tmp_path / name).exists()] == []
    assert [name for name in theirs if (tmp_path / name).exists()] == theirs


def test_a_folder_with_somebody_elses_shards_is_refused(tmp_path):
    (tmp_path / "data-00000.arrow").write_text("x")
    with pytest.raises(UserError, match="no checkpoint"):
        open_store(tmp_path)
    assert (tmp_path / "data-00000.arrow").read_text() == "x"


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, 100)])
def test_a_missing_or_truncated_shard_is_made_again(tmp_path, damage, caplog):
    finish_all(tmp_path)
    whole = shard_bytes(tmp_path)
    damage(tmp_path / "data-00001.arrow")
    with open_store(tmp_path) as store:
        assert [*store.unfinished()] == [range(4, 8)]
        assert load(tmp_path)["id"][:] == [0, 1, 2, 3, 8, 9]
    assert "data-00001.arrow" in caplog.text
    finish_all(tmp_path)
    assert shard_bytes(tmp_path) == whole


def test_a_full_disk_while_sealing_is_told_with_exit_code_3_and_the_run_resumes(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with open_store(tmp_path) as store, monkeypatch.context() as patch:
        patch.setattr(disk, "sync", full)
        with pytest.raises(UserError, match=r"is full \(.*; \d+ MiB free\)") as caught:
            store.finish([output(row) for row in range(4)])
        assert caught.value.exit_code == 3
    assert not [*tmp_path.glob("data-*")]
    finish_all(tmp_path)
    assert load(tmp_path)["id"][:] == list(range(10))


def test_a_full_disk_while_recording_is_told_with_exit_code_3_and_the_run_resumes(tmp_path):
    with open_store(tmp_path) as store:
        store.record([Record(0, 0, None, Completion("A"))])
        # The database itself is made to be full: a disk would need root.
        store._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(UserError, match="full") as caught:
            store.record([Record(1, 0, None, Completion("B" * 100_000))])
        assert caught.value.exit_code == 3
    with open_store(tmp_path) as store:
        assert [*store.recorded(range(10))] == [0]


@pytest.mark.parametrize(
    "harm", ["removed", "replaced", "moved away", "moved with its parent", "run.db-wal", "run.lock", "run.db cut short"]
)
def test_a_run_whose_folder_is_taken_from_under_it_says_so_at_the_next_commit(tmp_path, harm):
    run_dir = tmp_path / "outputs" / "run"
    store = open_store(run_dir)
    store.finish([output(0)])
    what = harm if "." in harm and " " not in harm else "run.db"
    if harm in ("removed", "replaced"):
        shutil.rmtree(run_dir)
    elif harm == "run.db cut short":
        os.truncate(run_dir / what, 4096)
    elif "." in harm:
        (run_dir / what).unlink()
    else:
        moved = run_dir if harm == "moved away" else run_dir.parent
        moved.rename(tmp_path / "elsewhere")
    if harm == "replaced":
        finish_all(run_dir)
    left = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and run_dir in file.parents}
    with pytest.raises(UserError, match=f"{what} was removed or replaced while the run was at work") as caught, store:
        store.finish([output(1)])
    assert caught.value.exit_code == 3
    if "." not in harm:
        assert left == {file: file.read_bytes() for file in left}
    if harm.startswith("moved"):
        there = tmp_path / "elsewhere" / ("run" if harm.endswith("parent") else "")
        assert read_status(there)["finished"] == 1


def test_what_is_recorded_is_synced_within_a_second_by_a_thread(tmp_path, monkeypatch):
    synced = threading.Semaphore(0)
    threads = set()

    def sync(descriptor):
        threads.add(threading.current_thread().name)
        synced.release()

    assert disk.SYNC_SECONDS < 1
    with open_store(tmp_path) as store, monkeypatch.context() as patch:
        patch.setattr(disk, "sync", sync)
        for row in range(3):
            store.finish([output(row)])
            assert synced.acquire(timeout=60)
    assert "MainThread" not in threads


def test_a_log_that_the_disk_does_not_take_ends_the_run_with_3(tmp_path, monkeypatch):
    def fail(descriptor):
        failed.set()
        raise OSError(5, "Input/output error")

    failed = threading.Event()
    with open_store(tmp_path) as store, monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        store.finish([output(0)])
        assert failed.wait(60)
        # The thread has failed, and may not have said so yet.
        store._writer._syncer._thread.join()
        with pytest.raises(UserError, match="the disk is failing") as caught:
            store.finish([output(1)])
        assert caught.value.exit_code == 3
    finish_all(tmp_path)
    assert load(tmp_path)["id"][:] == list(range(10))


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "run.db").write_text("not a database" * 1000)
    for read in (open_store, read_status):
        with pytest.raises(UserError, match=r"run\.db"):
            read(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / "run.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    for read in (open_store, read_status):
        with pytest.raises(UserError, match="version 99"):
            read(tmp_path)


def test_a_killed_creation_starts_again(tmp_path):
    sqlite3.connect(tmp_path / "run.db").execute("PRAGMA journal_mode = WAL")
    finish_all(tmp_path)
    assert len(load(tmp_path)) == 10


def test_programming_errors_are_not_dressed_up():
    with pytest.raises(sqlite3.IntegrityError), disk_errors(Path()):
        raise sqlite3.IntegrityError("twice")


def test_power_durability_gives_the_same_bytes(tmp_path):
    finish_all(tmp_path / "a")
    finish_all(tmp_path / "b", durability="power")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


def test_the_status_of_a_run_reads_each_record_once(tmp_path, monkeypatch):
    read = Counter()

    def note(table, *row, original=records.checked):
        read[table] += 1
        return original(table, *row)

    with open_store(tmp_path) as store:
        attempts = [Rejected(i, f"{kind}: why", output(i)) for i, kind in enumerate(["length", "near", "near"])]
        store.record([], [output(0), output(1)], attempts)
    monkeypatch.setattr(records, "checked", note)
    assert read_status(tmp_path)["rejected"] == {"near": 2, "length": 1}
    assert read == {"staged": 2, "rejected": 3}


# The lease


def race(path, go, told):
    os.read(go, 1)
    try:
        store = open_store(path)
    except UserError as refused:
        os.write(told, b"-" if "is in use by process" in str(refused) else b"?")
        os._exit(0)
    store.finish([output(row) for row in [*next(store.unfinished())][:1]])
    os.write(told, b"+")
    signal.pause()


def test_of_several_that_start_at_once_one_holds_the_run_and_killed_ones_lose_nothing(tmp_path):
    for number in range(8):
        (go, begin), (heard, told) = os.pipe(), os.pipe()
        racers = [Fork(race, tmp_path / "run", go, told) for _ in range(4)]
        os.write(begin, b"....")
        answers = b""
        while len(answers) < len(racers):
            answers += os.read(heard, 1)
        for racer in racers:
            racer.kill()
        for descriptor in (go, begin, heard, told):
            os.close(descriptor)
        assert sorted(answers) == sorted(b"+---")
        assert read_status(tmp_path / "run")["finished"] == number + 1
    finish_all(tmp_path / "run")
    finish_all(tmp_path / "whole")
    assert shard_bytes(tmp_path / "run") == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_share_without_locks_is_named_and_runs_copied_to_it_can_be_read(tmp_path, monkeypatch, number):
    finish_all(tmp_path)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"file system without locks .*: choose another output\.dir"):
        open_store(tmp_path)
    assert read_status(tmp_path)["state"] == "finished"


def hold(path, pipe):
    store = open_store(path)
    store.finish([output(row) for row in range(5)])
    os.write(pipe, b"holding")
    signal.pause()


@pytest.fixture
def writer(tmp_path):
    """A process that holds the run and has finished five rows."""
    ours, theirs = os.pipe()
    process = Fork(hold, tmp_path, theirs)
    os.close(theirs)
    assert os.read(ours, 10) == b"holding"
    os.close(ours)
    yield process
    process.kill()


def test_a_second_process_is_told_who_holds_the_run_and_a_killed_holder_holds_nothing(tmp_path, writer):
    with pytest.raises(UserError, match=f"process {writer.pid}") as caught:
        open_store(tmp_path)
    assert caught.value.exit_code == 2
    writer.kill()
    with open_store(tmp_path) as store:
        assert store.totals().finished == 5
        assert [*store.unfinished()] == [range(5, 8), range(8, 10)]


def test_closing_gives_the_lease_back_and_failing_to_open_does_too(tmp_path):
    store = open_store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(UserError, match="different run"):
        open_store(tmp_path, {"model": "other"})
    open_store(tmp_path).close()


# Identity


def test_a_different_run_is_refused_with_a_line_for_each_difference(tmp_path):
    old = {
        "model": {"name": "a", "quantised": True},
        "prompt": {"user": "x" * 500 + "OLD" + "y" * 500},
        "labels": ["a", "b"],
    }
    new = {"model": {"name": "b", "quantised": True}, "prompt": {"user": "x" * 500 + "NEW" + "y" * 500}, "seed": 1}
    open_store(tmp_path, old).close()
    with pytest.raises(UserError) as caught:
        open_store(tmp_path, new, rows=11)
    lines = str(caught.value).splitlines()
    assert '  model.name: "a" -> "b"' in lines
    assert '  labels: ["a", "b"] -> (none)' in lines
    assert "  seed: (none) -> 1" in lines
    assert "  rows: 10 -> 11" in lines
    prompt = next(line for line in lines if "prompt.user" in line)
    assert "xOLDy" in prompt
    assert "xNEWy" in prompt
    assert len(prompt) < 200
    assert "quantised" not in str(caught.value)
    assert "resume=force" in lines[-1]


def test_an_equal_identity_resumes_even_if_written_otherwise(tmp_path):
    open_store(tmp_path, {"labels": ("a", "b"), "n": 1}).close()
    open_store(tmp_path, {"n": 1, "labels": ["a", "b"]}).close()


def test_a_fresh_directory_is_the_first_free_name(tmp_path):
    assert fresh_dir(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert fresh_dir(tmp_path / "run") == tmp_path / "run-3"


# Status


def test_status_while_another_process_writes(tmp_path, writer):
    status = read_status(tmp_path)
    assert (status["state"], status["pid"]) == ("running", writer.pid)
    assert (status["rows"], status["finished"], status["shards"]) == (10, 5, 1)
    writer.kill()
    assert read_status(tmp_path)["state"] == "interrupted"
    finish_all(tmp_path)
    status = read_status(tmp_path)
    assert (status["state"], status["finished"], status["sessions"]) == ("finished", 10, 2)
    assert status["rows_per_s"] > 0


def test_status_counts_what_is_sealed_and_what_is_staged_as_the_store_does(tmp_path):
    with open_store(tmp_path) as store:
        failed = [Output(2, {}, "no label: 'spahm'", USAGE), Output(9, {}, "no label: 'humm'", USAGE)]
        store.finish([output(0), output(1), output(3), output(5), *failed])
        totals = store.totals()
    status = read_status(tmp_path)
    assert {key: status[key] for key in totals._fields} == totals._asdict()
    assert totals == (6, 2, 60, 48, 12, 1)
    assert status["error_kinds"] == {"no label": 2}
    with open_store(tmp_path) as store:
        assert store.totals() == totals
    assert json.dumps(status)


def test_status_leaves_no_trace_and_says_what_is_wrong(tmp_path):
    finish_all(tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    read_status(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    with pytest.raises(UserError, match=r"no run\.db"):
        read_status(tmp_path)


def test_sessions_note_provenance_and_why_they_ended(tmp_path):
    open_store(tmp_path, provenance={"mlx": "1"}).close("interrupted")
    open_store(tmp_path, provenance={"mlx": "2"}).close("finished")
    with sqlite3.connect(tmp_path / "run.db") as connection:
        sessions = connection.execute("SELECT provenance, why FROM sessions").fetchall()
    assert sessions == [('{"mlx": "1"}', "interrupted"), ('{"mlx": "2"}', "finished")]


def test_columns_with_colons_in_their_names_are_known_again():
    types = [pa.string(), pa.list_(pa.struct([("x: y", pa.int64())])), pa.dictionary(pa.int32(), pa.string())]
    schema = pa.schema([(f"{name}{at}", kind) for at, kind in enumerate(types) for name in ("a", "a: b", ": ")])
    ours = [*schema, pa.field("error", pa.string()), pa.field("usage", pa.struct([("n", pa.int32())]))]
    found = output_columns({"keep": {}, "columns": column_list(ours)})
    assert found.job == {field.name: str(field.type) for field in schema}
