"""What the accuracy and the confusion matrix promise."""

import pyarrow as pa
import pytest

from runner.evaluate import confusion_table, evaluate_labels
from runner.source import DatasetConf, DataSource


def source(golds, **conf):
    table = pa.table({"gold": golds})
    return DataSource(DatasetConf(path="x", gold="gold", **conf), table, "contents")


def write_shards(path, labels, size):
    for shard, start in enumerate(range(0, len(labels), size)):
        # Shard numbers of five and of six digits, as a run of very many rows has them.
        table = pa.table({"label": pa.array(labels[start : start + size], pa.string())})
        with pa.ipc.new_stream(path / f"data-{99_999 + shard:05d}.arrow", table.schema) as stream:
            stream.write_table(table)


def test_rows_in_error_count_as_wrong_and_rows_without_gold_not_at_all(tmp_path):
    write_shards(tmp_path, ["ham", "spam", None, "ham", "spam"], 2)
    found = evaluate_labels(tmp_path, source(["ham", "ham", "spam", "spam", None]), ["ham", "spam"])
    assert found["rows"] == 4
    assert found["accuracy"] == 0.25
    assert found["confusion"] == {
        "ham": {"ham": 1, "spam": 1, "(none)": 0},
        "spam": {"ham": 1, "spam": 0, "(none)": 1},
    }


def test_gold_numbers_are_named_by_the_classes(tmp_path):
    write_shards(tmp_path, ["neg", "pos", "pos"], 1)
    found = evaluate_labels(tmp_path, source([0, 1, 0], classes=["neg", "pos"]), ["neg", "pos"])
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_without_any_gold_there_is_no_accuracy(tmp_path):
    write_shards(tmp_path, ["a", "b"], 2)
    found = evaluate_labels(tmp_path, source(pa.array([None, None], pa.string())), ["a", "b"])
    assert (found["rows"], found["accuracy"]) == (0, None)


def test_the_table_shows_rows_without_a_label_only_if_there_are_some():
    confusion = {"ham": {"ham": 12, "spam": 3, "(none)": 0}, "spam": {"ham": 1, "spam": 9, "(none)": 0}}
    assert " ".join(confusion_table(confusion).split()) == "gold / label ham spam ham 12 3 spam 1 9"
    confusion["spam"]["(none)"] = 2
    assert " ".join(confusion_table(confusion).split()) == "gold / label ham spam (none) ham 12 3 0 spam 1 9 2"
