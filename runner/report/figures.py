"""The figures of a report, read from a run directory: plain data, nothing about how they look."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.chain.folder import parts_of
from runner.checkpoint.identity import OutputColumns, output_columns
from runner.checkpoint.records import Failure, error_kind
from runner.data.cells import shown
from runner.data.source import DataSource
from runner.report.shown import FAILED, Finished, Shown, judge_of, pick_rows
from runner.results.evaluate import evaluations_by_column
from runner.results.quality.columns import LABEL, labels_of, text_of
from runner.results.run import UNREADABLE, RowBlock, Run
from runner.results.status import Session, Status
from runner.types import UserError

EXAMPLES = 3  # of each kind of error
MOST_TEXTS = 30  # different ones of a column whose balance is shown
SCORED = 2000  # summaries that are scored for a report alone; `rowmill run` scores all of them

_BY_LABEL = ("probabilities", "logprobs")

log = logging.getLogger("rowmill")


@dataclass
class Figures:
    """All that a report shows. Arrays have an element for each finished row, in no promised order.

    ``marks``: see ``runner.checkpoint.marks.read_marks``. ``numbers``: the job's other numeric columns. ``balance``:
    how many rows have which value of its columns of few texts, of flags and of lists' members; parts of structs have
    dotted names. ``rows``: those shown, with why. ``evaluations``: those of several labels, of levels, and by question.
    ``wrong``: how many rows are not as the gold column has it; None without one. ``missing``: why the data set could
    not be read again, if it could not. ``provenance``: what is known beside ``identity`` of the run that this is of.
    """

    path: Path
    status: Status
    identity: dict[str, Any]
    sessions: list[Session]
    marks: list[dict[str, Any]]
    labels: dict[str, int]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    completion_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(0))
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    balance: dict[str, dict[str, int]] = field(default_factory=dict)
    rouge: dict[str, Any] | None = None
    diversity: dict[str, Any] | None = None
    errors: dict[str, list[Failure]] = field(default_factory=dict)
    rows: list[Shown] = field(default_factory=list)
    wrong: int | None = None
    evaluation: Mapping[str, Any] | None = None
    evaluations: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None

    def shown(self, why: str) -> list[Shown]:
        """The rows shown for one reason."""
        return [one for one in self.rows if why in one.why]

    @property
    def columns(self) -> OutputColumns:
        """The output's columns."""
        return output_columns(self.identity)


def collect(run: Run, source: DataSource | None, known: Mapping[str, Any]) -> Figures:
    """Read a run, at work or not; see ``write_report``."""
    figures = Figures(run.path, run.status, run.identity, run.sessions, run.marks, run.label_counts, _provenance(run))
    if not run.is_row_by_row:
        source = None  # its rows are not the data set's
    elif source is None:
        source, figures.missing = reopen(run)
    else:
        run.source = source
    _read_rows(figures, run, source)
    known_one = _ours(known, "evaluation", "confusion") or _ours(known, "evaluation", "partial_f1")
    figures.evaluation = known_one or _evaluate(figures, run, source)
    figures.evaluations = evaluations_by_column(run, source)
    figures.rouge = _ours(known, "rouge", "rows") or _score(figures, run, source)
    figures.diversity = _ours(known, "diversity", "copies") or _diversity(run)
    return figures


def _provenance(run: Run) -> Mapping[str, Any]:
    """Of the last session of a run; of a chain, of its first stage, which its identity is that of."""
    sessions = next(iter(parts_of(run)), run).sessions
    return sessions[-1]["provenance"] if sessions else {}


def _ours(known: Mapping[str, Any], name: str, part: str) -> dict[str, Any] | None:
    """The figures of this name unless a job of one's own means others by it."""
    found = known.get(name)
    ours = isinstance(found, dict) and part in found and found.get("kind", "labels") == "labels"
    return found if ours else None


def reopen(run: Run) -> tuple[DataSource | None, str | None]:
    """The run's data set, or why it cannot be read again: it has moved, or it has changed."""
    try:
        return run.source, None
    except UNREADABLE as problem:
        return None, str(problem)


@dataclass
class _Sums:
    """Sums over the rows, gathered block by block. ``right``: 1, 0, NaN without gold."""

    positions: list[np.ndarray] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    right: list[np.ndarray] = field(default_factory=list)


def _read_rows(figures: Figures, run: Run, source: DataSource | None) -> None:
    sums, judge = _Sums(), judge_of(run, source)
    job = list(figures.columns.job)
    for block in run.blocks([*job, "error", "usage"]):
        sums.positions.append(block.positions)
        for name in ("prompt_tokens", "completion_tokens"):
            values = block.table.column("usage").combine_chunks().field(name)
            sums.arrays[name].append(values.fill_null(0).to_numpy(zero_copy_only=False))
        for name, column in _leaves(block.table, job):
            sums.arrays[f"job.{name}"].append(_numbers(column))
            _count_texts(sums.texts[name], column)
        sums.arrays["job.compression"].append(_compression(block, source, figures.identity))
        sums.right.append(judge(block))
    if not sums.positions:
        return
    failed = _note_errors(figures, run, source)
    arrays = {name: np.concatenate(parts) for name, parts in sums.arrays.items()}
    few = {name: counts for name, counts in sums.texts.items() if 1 < len(counts) <= MOST_TEXTS and name != LABEL}
    figures.balance = {name: dict(counts.most_common()) for name, counts in few.items()}
    figures.prompt_tokens, figures.completion_tokens = arrays["prompt_tokens"], arrays["completion_tokens"]
    figures.numbers = {
        name.removeprefix("job."): values[~np.isnan(values)]
        for name, values in arrays.items()
        if name.startswith("job.") and not name.endswith("confidence") and not np.isnan(values).all()
    }
    confidence = _least(arrays)
    figures.confidence = confidence[~np.isnan(confidence)]
    right = np.concatenate(sums.right)
    figures.wrong = None if np.isnan(right).all() else int((right == 0).sum())
    finished = Finished(np.concatenate(sums.positions), confidence, right)
    figures.rows = pick_rows(run, source, finished, failed, list(labels_of(run)))


def _least(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The confidence of each row, of several questions the least; NaN without one."""
    found = [values for name, values in arrays.items() if name == "job.confidence" or name.endswith("_confidence")]
    return np.fmin.reduce(found) if found else np.zeros(0)


def _leaves(table: pa.Table, names: list[str]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The job's columns, structs by their parts; what each label's probability is says little about all rows."""
    for name in names:
        if name in table.column_names and not name.endswith(_BY_LABEL):
            yield from _parts(name, table.column(name))


def _parts(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    if not pa.types.is_struct(column.type):
        yield name, _decoded(column)
        return
    for field_, part in zip(column.type, pa.table({"": column}).flatten().columns, strict=True):
        yield from _parts(f"{name}.{field_.name}", part)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column of enums, which Arrow holds as numbers into a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as floats, NaN where it is null or holds no numbers."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return np.full(len(column), np.nan)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _count_texts(counts: Counter[str], column: pa.ChunkedArray) -> None:
    """Count a column's texts, flags, or members of lists, until there are too many different ones."""
    t = pa.types
    if t.is_list(column.type) or t.is_large_list(column.type):
        column = _decoded(pc.list_flatten(column))
    if len(counts) > MOST_TEXTS or not (t.is_string(column.type) or t.is_boolean(column.type)):
        return
    for pair in column.drop_null().value_counts().to_pylist():
        counts[text_of(pair["values"]) or ""] += pair["counts"]


def _compression(block: RowBlock, source: DataSource | None, identity: dict[str, Any]) -> np.ndarray:
    """How many times longer, in characters, a document is than its ``summary``; NaN where one is missing."""
    start, table = block
    column = (identity.get("job") or {}).get("column")
    if "summary" not in table.column_names or source is None or column not in source.column_names:
        return np.full(len(table), np.nan)
    documents = shown(source.table(start, start + len(table), [column]).column(0))
    pairs = zip(table.column("summary").to_pylist(), documents, strict=True)
    return np.array([len(document) / len(summary) if summary and document else np.nan for summary, document in pairs])


def _note_errors(figures: Figures, run: Run, source: DataSource | None) -> list[int]:
    """Keep examples of each kind of error; some rows that failed."""
    failed: list[int] = []
    for one in sorted(run.failures(lambda: source)):
        if len(failed) < FAILED:
            failed.append(one.row)
        examples = figures.errors.setdefault(error_kind(one.error), [])
        if len(examples) < EXAMPLES:
            examples.append(one)
    return failed


def _evaluate(figures: Figures, run: Run, source: DataSource | None) -> Mapping[str, Any] | None:
    """The evaluation of labels or spans against the run's gold column, where both are available."""
    has_spans = "spans" in figures.columns.job
    if source is None or not source.conf.gold or not (figures.labels or has_spans):
        return None
    from runner.results.evaluate import evaluate_labels, evaluate_run

    try:
        if has_spans:
            return evaluate_run(run, column="spans", kind="spans")
        return evaluate_labels(run, source, list(labels_of(run)) or None)
    except (UserError, ValueError, KeyError, OSError, pa.ArrowException) as problem:
        log.warning("the report has no evaluation: %s", problem)
        return None


def _score(figures: Figures, run: Run, source: DataSource | None) -> dict[str, Any] | None:
    """ROUGE of summaries against the run's references, where both are available within a few seconds."""
    if source is None or not source.conf.gold or "summary" not in figures.columns.job:
        return None
    if figures.status["finished"] > SCORED:
        return None
    try:
        from runner.results.rouge import evaluate_summaries, need_rouge

        need_rouge(source.conf.gold)
        return evaluate_summaries(run, source)
    except (UserError, ValueError, KeyError, OSError, ImportError, pa.ArrowException) as problem:
        log.warning("the report has no scores of summaries: %s", problem)
        return None


def _diversity(run: Run) -> dict[str, Any] | None:
    """How different the job's texts are from each other, if it writes one a row."""
    if run.columns.job.get("text") != "string":
        return None
    from runner.results.diversity import diversity

    return diversity(run)
