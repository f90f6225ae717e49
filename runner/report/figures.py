"""The figures of a report, read from a run directory: plain data, nothing about how they look."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from runner.checkpoint.identity import OutputColumns, output_columns
from runner.checkpoint.records import error_kind
from runner.checkpoint.shards import OURS
from runner.data.cells import records, shown
from runner.data.source import DataSource
from runner.results.run import RowBlock, Run
from runner.results.status import Session, Status
from runner.types import UserError

LEAST_SURE, SAMPLED = 50, 200  # rows
EXAMPLES = 3  # of each kind of error
BINS = 10  # of the reliability diagram
MOST_TEXTS = 30  # different ones of a column whose balance is shown
SCORED = 2000  # summaries that are scored for a report alone; `rowmill run` scores all of them

log = logging.getLogger("rowmill")


@dataclass
class Figures:
    """All that a report shows. Arrays have an element for each finished row, in no promised order.

    ``marks``: see ``runner.checkpoint.marks.read_marks``. ``numbers``: the job's other numeric columns. ``balance``:
    how many rows have which value of its columns of few texts. ``reliability``: for each bin of confidence (mean
    confidence, share right, rows). ``least_sure`` and ``sample``: (position, columns).
    ``missing``: why the data set could not be read again, if it could not.
    """

    path: Path
    status: Status
    identity: dict[str, Any]
    sessions: list[Session]
    marks: list[dict[str, Any]]
    labels: dict[str, int]
    prompt_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    completion_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(0))
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    balance: dict[str, dict[str, int]] = field(default_factory=dict)
    rouge: dict[str, Any] | None = None
    diversity: dict[str, Any] | None = None
    reliability: list[tuple[float, float, int]] = field(default_factory=list)
    errors: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    least_sure: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    sample: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    missing: str | None = None

    @property
    def columns(self) -> OutputColumns:
        """The output's columns."""
        return output_columns(self.identity)


def collect(run_dir: Path, source: DataSource | None, known: Mapping[str, Any]) -> Figures:
    """Read a run directory, running or not; see ``write_report``."""
    run = Run(run_dir)
    figures = Figures(run_dir, run.status, run.identity, run.sessions, run.marks, run.label_counts)
    if not run.is_row_by_row:
        source = None  # its rows are not the data set's
    elif source is None:
        source, figures.missing = reopen(run)
    else:
        run.source = source
    _read_rows(figures, run, source)
    figures.evaluation = _ours(known, "evaluation", "confusion") or _evaluate(figures, source)
    figures.rouge = _ours(known, "rouge", "rows") or _score(figures, source)
    figures.diversity = _ours(known, "diversity", "copies") or _diversity(figures)
    return figures


def _ours(known: Mapping[str, Any], name: str, part: str) -> dict[str, Any] | None:
    """The figures of this name unless a job of one's own means others by it."""
    found = known.get(name)
    return found if isinstance(found, dict) and part in found else None


def reopen(run: Run) -> tuple[DataSource | None, str | None]:
    """The run's data set, or why it cannot be read again: it has moved, or it has changed."""
    try:
        return run.source, None
    except (UserError, OSError, ValueError, TypeError, KeyError, ImportError, pa.ArrowException) as problem:
        return None, str(problem)


@dataclass
class _Sums:
    """Sums over the rows, gathered block by block."""

    positions: list[np.ndarray] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    right: list[np.ndarray] = field(default_factory=list)


def _read_rows(figures: Figures, run: Run, source: DataSource | None) -> None:
    sums = _Sums()
    job, labels = list(figures.columns.job), _label_names(figures)
    for block in run.blocks([*job, "error", "usage"]):
        table = block.table
        sums.positions.append(block.positions)
        for name in ("prompt_tokens", "completion_tokens"):
            values = table.column("usage").combine_chunks().field(name)
            sums.arrays[name].append(values.fill_null(0).to_numpy(zero_copy_only=False))
        for name in job:
            sums.arrays[f"job.{name}"].append(_numbers(table, name))
            _count_texts(sums.texts[name], table, name)
        sums.arrays["job.compression"].append(_compression(block, source, figures.identity))
        sums.right.append(_right(block, source, labels))
        _note_errors(figures, block)
    if not sums.positions:
        return
    arrays = {name: np.concatenate(parts) for name, parts in sums.arrays.items()}
    few = {name: counts for name, counts in sums.texts.items() if 1 < len(counts) <= MOST_TEXTS and name != "label"}
    figures.balance = {name: dict(counts.most_common()) for name, counts in few.items()}
    figures.prompt_tokens, figures.completion_tokens = arrays["prompt_tokens"], arrays["completion_tokens"]
    figures.numbers = {
        name.removeprefix("job."): values[~np.isnan(values)]
        for name, values in arrays.items()
        if name.startswith("job.") and name != "job.confidence" and not np.isnan(values).all()
    }
    confidence = arrays.get("job.confidence", np.zeros(0))
    figures.confidence = confidence[~np.isnan(confidence)]
    positions = np.concatenate(sums.positions)
    if len(confidence):
        figures.reliability = reliability(confidence, np.concatenate(sums.right))
    _pick_rows(figures, run, source, positions, confidence)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as floats, NaN where it is null or holds no numbers."""
    column = table.column(name) if name in table.column_names else None
    if column is None or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return np.full(len(table), np.nan)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _count_texts(counts: Counter[str], table: pa.Table, name: str) -> None:
    """Count a column's texts, until there are too many different ones."""
    column = table.column(name) if name in table.column_names else None
    if column is None or not pa.types.is_string(column.type) or len(counts) > MOST_TEXTS:
        return
    for pair in column.drop_null().value_counts().to_pylist():
        counts[pair["values"]] += pair["counts"]


def _compression(block: RowBlock, source: DataSource | None, identity: dict[str, Any]) -> np.ndarray:
    """How many times longer, in characters, a document is than its ``summary``; NaN where one is missing."""
    start, table = block
    column = (identity.get("job") or {}).get("column")
    if "summary" not in table.column_names or source is None or column not in source.column_names:
        return np.full(len(table), np.nan)
    documents = shown(source.table(start, start + len(table), [column]).column(0))
    pairs = zip(table.column("summary").to_pylist(), documents, strict=True)
    return np.array([len(document) / len(summary) if summary and document else np.nan for summary, document in pairs])


def _right(block: RowBlock, source: DataSource | None, labels: list[str]) -> np.ndarray:
    """1.0 for rows whose label is the gold one, 0.0 for others, NaN where there is no gold."""
    start, table = block
    if source is None or not source.conf.gold or not {"label", "confidence"} <= set(table.column_names):
        return np.full(len(table), np.nan)
    names = source.golds(start, start + len(table), labels)
    labels = table.column("label").to_pylist()
    return np.array(
        [np.nan if gold is None else float(gold == label) for gold, label in zip(names, labels, strict=True)]
    )


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """Rows with gold in bins of equal width over confidence 0 to 1: (mean confidence, share right, rows) of each.

    The diagram of Niculescu-Mizil and Caruana (2005), as Guo et al. (2017) use it. Empty bins are left out.
    """
    known = ~np.isnan(confidence) & ~np.isnan(right)
    confidence, right = confidence[known], right[known]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [bins == number for number in range(BINS)]
    return [(float(confidence[g].mean()), float(right[g].mean()), int(g.sum())) for g in groups if g.any()]


def _note_errors(figures: Figures, block: RowBlock) -> None:
    column = block.table.column("error")
    if column.null_count == len(column):
        return
    for position, error in enumerate(column.to_pylist(), block.start):
        if error is not None:
            examples = figures.errors.setdefault(error_kind(error), [])
            if len(examples) < EXAMPLES:
                examples.append((position, error))


def _pick_rows(
    figures: Figures, run: Run, source: DataSource | None, positions: np.ndarray, confidence: np.ndarray
) -> None:
    unsure: list[int] = []
    if len(confidence):
        known = np.flatnonzero(~np.isnan(confidence))
        order = known[np.argsort(confidence[known], kind="stable")][:LEAST_SURE]
        unsure = positions[order].tolist()
    some = random.Random(0).sample(range(len(positions)), min(SAMPLED, len(positions)))
    sampled = sorted(positions[some].tolist())
    job = list(figures.columns.job)
    has_inputs = source is not None or figures.status["state"] == "finished"
    rows = run.take([*unsure, *sampled], None if has_inputs else [*job, "error", "usage"])
    _add_inputs(rows, source, job, _label_names(figures))
    figures.least_sure = [(row, rows[row]) for row in unsure if row in rows]
    figures.sample = [(row, rows[row]) for row in sampled if row in rows]


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


def _evaluate(figures: Figures, source: DataSource | None) -> dict[str, Any] | None:
    """The evaluation of labels against the run's gold column, where both are available."""
    if source is None or not source.conf.gold or not figures.labels:
        return None
    from runner.results.evaluate import evaluate_labels

    try:
        return evaluate_labels(figures.path, source, _label_names(figures))
    except (UserError, ValueError, KeyError, OSError, pa.ArrowException) as problem:
        log.warning("the report has no evaluation: %s", problem)
        return None


def _score(figures: Figures, source: DataSource | None) -> dict[str, Any] | None:
    """ROUGE of summaries against the run's references, where both are available within a few seconds."""
    if source is None or not source.conf.gold or "summary" not in figures.columns.job:
        return None
    if figures.status["finished"] > SCORED:
        return None
    try:
        from runner.results.rouge import evaluate_summaries, need_rouge

        need_rouge(source.conf.gold)
        return evaluate_summaries(figures.path, source)
    except (UserError, ValueError, KeyError, OSError, ImportError, pa.ArrowException) as problem:
        log.warning("the report has no scores of summaries: %s", problem)
        return None


def _diversity(figures: Figures) -> dict[str, Any] | None:
    """How different the job's texts are from each other, if it writes one a row."""
    if figures.columns.job.get("text") != "string":
        return None
    from runner.results.diversity import diversity

    status = figures.status
    return diversity(figures.path, status["finished"] + sum(status["rejected"].values()))


def _label_names(figures: Figures) -> list[str]:
    """The labels in the order in which the job has them, or the most frequent first."""
    labels = figures.identity.get("job", {}).get("labels")
    try:
        from runner.text.labels import read_labels

        return [choice.name for choice in read_labels(labels)]
    except (UserError, TypeError, AttributeError):
        return list(figures.labels)
