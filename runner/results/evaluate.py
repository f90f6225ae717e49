"""How accurate a run's labels are against a gold column, read block by block whatever the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from runner.data.cells import values
from runner.data.gold import gold_name
from runner.data.source import DataSource
from runner.results.run import Run
from runner.results.scores import accuracy_by_coverage, calibration_error, label_figures
from runner.types import UserError

NONE = "(none)"
MOST_CLASSES = 1000  # where neither the job nor the data set names them
Golds = Callable[[int, pa.Table], list[str | None]]  # of a block: its first row and its columns


def evaluate_labels(run_dir: Path, source: DataSource, labels: list[str] | None = None) -> dict[str, Any]:
    """The figures of a run's labels against the gold column of its data set; see ``Evaluation.figures``.

    Without ``labels`` they are those that occur in the output or the gold column.
    """

    def golds(start: int, table: pa.Table) -> list[str | None]:
        return source.golds(start, start + len(table), labels or ())

    run = Run(run_dir)
    return Evaluation(run, _occurring(run, golds) if labels is None else labels, golds).figures()


def _occurring(run: Run, golds: Golds, also: Sequence[str] = ()) -> list[str]:
    seen: set[str | None] = set()
    for start, table in run.blocks(["label", *also]):
        seen.update(None if label is None else str(label) for label in table["label"].unique().to_pylist())
        seen.update(golds(start, table))
        if len(seen) > MOST_CLASSES:
            raise UserError(f"the label and gold columns have more than {MOST_CLASSES:,} different values")
    return sorted(name for name in seen if name is not None)


def evaluate_run(run_dir: Path, gold: str) -> dict[str, Any]:
    """The figures against any column that the output kept or the data set has. UserError if it does not exist."""
    run = Run(run_dir)
    columns = run.columns.names
    if "label" not in run.columns.job:
        raise UserError(f"{run_dir} has no column label of its job, whose columns are {', '.join(run.columns.job)}")
    labels = _label_names(run)
    kept = [name for name in columns if name != "label"]
    try:
        source, lost = run.source if run.is_row_by_row else None, None
    except (UserError, OSError) as problem:  # moved or changed: the kept columns may suffice
        source, lost = None, str(problem)
    if source is not None and gold in source.column_names:
        return evaluate_labels(run_dir, source.with_gold(gold, labels or []), labels)
    if gold not in kept:
        known = dict.fromkeys([*kept, *(source.column_names if source else [])])
        why = f" ({lost})" if lost else ""
        raise UserError("--gold", f"there is no such column{why}; valid: {', '.join(known)}", value=gold)
    classes = [str(name) for name in run.config["dataset"].get("classes") or labels or ()]

    def golds(start: int, table: pa.Table) -> list[str | None]:
        return [gold_name(value, classes, labels or ()) for value in values(gold, table.column(gold))]

    return Evaluation(run, _occurring(run, golds, [gold]) if labels is None else labels, golds, [gold]).figures()


def _label_names(run: Run) -> list[str] | None:
    """The labels in the job's order; None for a job of the user's own, which may return any."""
    from runner.text.labels import read_labels

    try:
        return [choice.name for choice in read_labels(run.identity["job"].get("labels"))]
    except UserError:
        return None


@dataclass
class Evaluation:
    """A run's labels compared with ``golds``. ``labels``: all names; ``also``: output columns that ``golds`` reads."""

    run: Run
    labels: list[str]
    golds: Golds
    also: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """JSON values, with 95% bootstrap intervals. Rows in error, and abstained ones, have no label and are wrong.

        ``rows`` with gold, of which ``labelled``, ``abstained`` and ``errors``; ``accuracy`` over them all and
        ``accuracy_labelled``; ``kappa``, ``macro_f1``, ``classes``, ``confusion[gold][label]``. Where there are
        confidences: ``ece`` (over labelled rows, without those that the temperature was fitted on), ``coverage``; and
        the effects of ``prior`` and ``calibration``, if the job has them.
        """
        parts = list(self._parts())
        if not any(len(part[0]) for part in parts):
            return {"rows": 0, "accuracy": None, "confusion": {}}
        joined = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        gold, label, confidence, before, plain, position, abstained, errors = joined
        rows = len(gold)
        labelled, right = label < len(self.labels), gold == label
        found = {
            "rows": rows,
            "labelled": int(labelled.sum()),
            "abstained": int(abstained.sum()),
            "errors": int(errors.sum()),
            "accuracy_labelled": float(right[labelled].mean()) if labelled.any() else None,
            **label_figures(gold, label, self.labels),
        }
        sure = labelled & np.isfinite(confidence)
        if sure.any():
            found |= self._trust(sure, confidence, before, right, position, rows)
        if "prior" in self.run.prelude:
            found["prior"] = self._effect_of_prior(gold, plain, right)
        return found

    def _trust(self, sure: Any, confidence: Any, before: Any, right: Any, position: Any, rows: int) -> dict[str, Any]:
        found: dict[str, Any] = {"coverage": accuracy_by_coverage(confidence[sure], right[sure], rows)}
        calibration = self.run.prelude.get("calibration")
        rest = sure & ~np.isin(position, calibration["rows"]) if calibration else sure
        if not rest.any():
            return found
        found["ece"], found["intervals_ece"] = calibration_error(confidence[rest], right[rest])
        if calibration:
            ece, interval = calibration_error(before[rest], right[rest])
            found["calibration"] = {
                "temperature": calibration["temperature"],
                "fitted_on": len(calibration["rows"]),
                "rows": int(rest.sum()),
                "ece_before": ece,
                "interval_before": interval,
                "ece": found["ece"],
                "interval": found["intervals_ece"],
                **{name: calibration[name] for name in ("fitted", "held_out", "left_out") if name in calibration},
            }
        return found

    def _effect_of_prior(self, gold: Any, plain: Any, right: Any) -> dict[str, Any]:
        """The accuracy of the labels without the prior: abstained rows count, error rows have no label."""
        prior = self.run.prelude["prior"]
        return {**prior, "accuracy_without": float((plain == gold).mean()), "accuracy": float(right.mean())}

    def _parts(self) -> Iterator[tuple[Any, ...]]:
        """Arrays over the rows with gold of each block, in the order in which ``figures`` takes them."""
        index = {name: at for at, name in enumerate(self.labels)}
        job = ("label", "confidence", "abstained", "probabilities")
        ours = [*(name for name in job if name in self.run.columns.job), "error"]
        for start, table in self.run.blocks(list(dict.fromkeys([*ours, *self.also]))):
            names = self.golds(start, table)
            if unknown := sorted({name for name in names if name is not None and name not in index}):
                raise UserError(f"the gold value {unknown[0]!r} is not among the labels ({', '.join(self.labels)})")
            known = np.array([name is not None for name in names], np.bool_)
            gold = np.array([index.get(name or "", 0) for name in names], np.int64)
            none = len(index)
            given = [none if one is None else index.get(str(one), none) for one in table["label"].to_pylist()]
            before, plain = self._without_prelude(table)
            said = table.select(ours)
            arrays = (
                *(gold, np.array(given, np.int64), _floats(said, "confidence"), before, plain),
                *(start + np.arange(len(table)), _flags(said, "abstained"), table["error"].is_valid().to_numpy()),
            )
            yield tuple(array[known] for array in arrays)

    def _without_prelude(self, table: pa.Table) -> tuple[Any, Any]:
        """Each row's confidence without temperature (NaN: none), and its label without prior (L: none)."""
        rows, L = len(table), len(self.labels)
        confidence, label = np.full(rows, np.nan), np.full(rows, L)
        if not self.run.prelude or "probabilities" not in table.column_names:
            return confidence, label
        struct = table["probabilities"].combine_chunks()
        there = struct.is_valid().to_numpy(zero_copy_only=False)
        values = [struct.field(name).fill_null(0).to_numpy(zero_copy_only=False) for name in self.labels]
        with np.errstate(divide="ignore"):
            scores = np.log(np.stack(values, axis=1)[there])
        scores *= self.run.prelude.get("calibration", {}).get("temperature", 1.0)
        confidence[there] = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
        if "prior" in self.run.prelude:
            scores = scores + np.array([self.run.prelude["prior"]["logprobs"][name] for name in self.labels])
        label[there] = scores.argmax(axis=1)
        return confidence, label


def _floats(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _flags(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.zeros(len(table), np.bool_)
    return table[name].fill_null(False).to_numpy(zero_copy_only=False)
