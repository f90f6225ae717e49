"""Which rows a report shows, and what it shows of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from runner.checkpoint.shards.layout import OURS
from runner.data.cells import records
from runner.data.source import DataSource
from runner.results.quality.columns import Golds, column_with_gold, gold_column, is_right
from runner.results.run import RowBlock, Run
from runner.types import UserError

LEAST_SURE, SAMPLED, FAILED, WRONG = 50, 200, 50, 100  # rows shown, at most


@dataclass
class Shown:
    """A row that is shown. ``why``: sample, unsure, failed, wrong; ``right``: None without gold."""

    row: int
    columns: dict[str, Any]
    why: list[str]
    right: bool | None = None


class Finished(NamedTuple):
    """Of each finished row: where it is, its confidence (empty: no row has one), and whether it is right as 1 or 0."""

    positions: np.ndarray
    confidence: np.ndarray
    right: np.ndarray


def judge_of(run: Run, source: DataSource | None) -> Callable[[RowBlock], np.ndarray]:
    """What says of each row of a block whether its answer is the gold one: 1 or 0, NaN where there is no gold."""
    try:
        if source is None:
            raise UserError("no data")
        gold = gold_column(run, None)
        column = column_with_gold(run, None, gold)
        golds = Golds.open(run, gold, column)
    except UserError:
        return lambda block: np.full(len(block.table), np.nan)

    def judge(block: RowBlock) -> np.ndarray:
        pairs = zip(block.table.column(column).to_pylist(), golds.values(*block), strict=True)
        return np.array(
            [is_right(said, gold, golds) if golds.has(gold) else np.nan for said, gold in pairs], np.float64
        )

    return judge


def pick_rows(
    run: Run, source: DataSource | None, finished: Finished, failed: list[int], labels: list[str]
) -> list[Shown]:
    """Some rows at random, those that failed, the least sure and some that are wrong; ``labels``: the job's, if any."""
    positions, confidence, right = finished
    chosen = random.Random(0)
    unsure: list[int] = []
    if len(confidence):
        known = np.flatnonzero(~np.isnan(confidence))
        unsure = positions[known[np.argsort(confidence[known], kind="stable")][:LEAST_SURE]].tolist()
    some = chosen.sample(range(len(positions)), min(SAMPLED, len(positions)))
    wrong = positions[right == 0].tolist()
    picked = {
        "sample": positions[some].tolist(),
        "wrong": chosen.sample(wrong, min(WRONG, len(wrong))),
        "failed": failed,
        "unsure": unsure,
    }
    why: dict[int, list[str]] = defaultdict(list)
    for reason, numbers in picked.items():
        for number in numbers:
            why[number].append(reason)
    job = list(run.columns.job)
    has_inputs = source is not None or run.status["state"] == "finished"
    rows = run.take(why, None if has_inputs else [*job, "error", "usage"])
    _add_inputs(rows, source, job, labels)
    is_it = dict(zip(positions.tolist(), right.tolist(), strict=True))
    return [Shown(row, rows[row], why[row], None if np.isnan(is_it[row]) else bool(is_it[row])) for row in sorted(rows)]


def _add_inputs(rows: dict[int, dict[str, Any]], source: DataSource | None, job: list[str], labels: list[str]) -> None:
    """Put the input columns that the output lacks beside it, and the gold label as ``gold``."""
    if source is None:
        return
    for row, columns in rows.items():
        for values in records(source.table(row, row + 1, source.column_names)):
            if source.conf.gold:
                columns["gold"] = source.gold_name(values.pop(source.conf.gold), labels)
                if source.conf.gold not in (*job, *OURS.names):
                    columns.pop(source.conf.gold, None)
            columns.update({name: value for name, value in values.items() if name not in columns})
