"""How right the labels are: accuracy and confusion against a gold column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.source import DataSource


def evaluate_labels(run_dir: Path, source: DataSource, labels: list[str]) -> dict[str, Any]:
    """``rows`` with gold, ``accuracy`` over them (rows in error count as wrong) and ``confusion[gold][label]``."""
    confusion = {gold: dict.fromkeys([*labels, "(none)"], 0) for gold in labels}
    start = 0
    for labelled in read_column(run_dir, "label"):
        golds = source.table(start, start + len(labelled), [source.conf.gold or ""]).column(0).to_pylist()
        start += len(labelled)
        for gold, label in zip(golds, labelled, strict=True):
            name = source.gold_name(gold)
            if name in confusion:
                confusion[name][label or "(none)"] += 1
    rows = sum(sum(counts.values()) for counts in confusion.values())
    right = sum(confusion[label][label] for label in labels)
    return {"rows": rows, "accuracy": right / rows if rows else None, "confusion": confusion}


def read_column(run_dir: Path, name: str) -> Iterator[list[Any]]:
    """A column's values, shard by shard in row order."""
    for file in sorted(run_dir.glob("data-*.arrow"), key=lambda file: int(file.stem.removeprefix("data-"))):
        with pa.memory_map(str(file)) as stream:
            yield pa.ipc.open_stream(stream).read_all().column(name).to_pylist()


def confusion_table(confusion: dict[str, dict[str, int]]) -> str:
    """The confusion matrix as text: a line for each gold label."""
    labels = list(confusion)
    columns = [*labels, *(["(none)"] if any(row["(none)"] for row in confusion.values()) else [])]
    width = max(map(len, [*columns, "gold \\ label"]))
    lines = [" ".join([f"{'gold / label':>{width}}", *(f"{name:>{max(len(name), 6)}}" for name in columns)])]
    for gold in labels:
        counts = (f"{confusion[gold][name]:>{max(len(name), 6)}}" for name in columns)
        lines.append(" ".join([f"{gold:>{width}}", *counts]))
    return "\n".join(lines)
