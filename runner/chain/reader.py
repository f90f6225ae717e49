r"""A run as the data of the next one: ``dataset=run dataset.path=outputs/NAME``.

    rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv \
        'prompt.user=Ham or spam? {{ text }}' run_name=first
    rowmill run job=generate dataset=run dataset.path=outputs/first dataset.where='confidence >= 0' \
        'prompt.user=Why is this {{ label }}? {{ text }}' run_name=second

The rows are those that are finished, in the order of the input, with the columns of the output (all but ``usage``),
those of the input that it does not have, and ``row``, the row's position in the input. ``dataset.where`` filters over
all of them. A run is tied to what was finished when it began; ``dataset.key=row resume=extend`` takes in what has come
since, and what has changed.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from runner.chain.folder import Chain, open_folder, state_of
from runner.chain.plan import ROW, Plan
from runner.data.conf import DatasetConf
from runner.data.kept import INPUT, numbered
from runner.data.readers import Loaded
from runner.results.run import RowBlock, Run
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The finished rows of a run; of a chain all, or with ``dataset.table`` those of a stage."""
    run = open_folder(Path(path).expanduser())
    if conf.table is None:
        table = joined(run)
        if len(table) < (rows := run.status["rows"]):
            log.warning("%s: %s of %s are finished; no others are read", path, f"{len(table):,}", count_of(rows, "row"))
        return Loaded(table, state_of(run))
    if not isinstance(run, Chain):
        raise UserError("dataset.table", f"it names a stage of a chain, and {path} is a run", value=conf.table)
    chain = run.upto(conf.table)
    table = joined(chain)
    order = None if len(chain.plan.stages) == 1 else chain.rows_of(len(chain.plan.stages) - 1)
    if run.plan.sample:
        order = by_confidence(table, run.plan)
    return Loaded(table, chain.state, order)


def joined(run: Run) -> pa.Table:
    """The finished rows: ``row``, the output's columns, and those of the input that it does not have."""
    names = [name for name in run.columns.names if name != "usage"]
    kept = set(run.columns.kept.values())
    more = [name for name in _inputs(run) if name not in kept] if run.is_row_by_row else []
    tables = [_with_inputs(run, block, more) for block in run.blocks(names)]
    if not tables:
        raise UserError("dataset.path", f"{run.path} has no finished rows yet")
    return pa.concat_tables(tables)


def _inputs(run: Run) -> list[str]:
    """All columns of the input where it can be read, else those that were kept."""
    if isinstance(run, Chain):
        return list(run.plan.inputs.values())
    source = run.reopened()
    if source is None:
        log.warning("%s: its input has moved or changed; only the columns that it kept are read", run.path)
    return source.column_names if source is not None else []


def _with_inputs(run: Run, block: RowBlock, more: list[str]) -> pa.Table:
    table = block.table
    columns = {numbered(ROW, table.column_names): pa.chunked_array([pa.array(block.positions)])}
    columns |= dict(zip(table.column_names, table.columns, strict=True))
    if more:
        names = {column: name for name, column in run.plan.inputs.items()} if isinstance(run, Chain) else {}
        found = run.source.table(block.start, block.start + len(table), more)
        for name in more:
            output = names.get(name) or (name if name not in columns else numbered(INPUT + name, list(columns)))
            columns[output] = found[name]
    return pa.table(columns)


def by_confidence(table: pa.Table, plan: Plan) -> np.ndarray:
    """All rows: first a random sample, then the others, the least confident first; those without a label lead."""
    rows, seed = plan.sample or (0, 0)
    sampled = np.random.RandomState(seed % 2**32).permutation(len(table))[:rows]
    rest = np.setdiff1d(np.arange(len(table)), sampled)
    return np.concatenate([sampled, rest[np.argsort(confidences(table)[rest], kind="stable")]])


def confidences(table: pa.Table) -> np.ndarray:
    """Each row's confidence, -1 without one or without a label."""
    found = table["confidence"].to_numpy(zero_copy_only=False).astype(np.float64)
    known = table["label"].is_valid().to_numpy(zero_copy_only=False) & ~np.isnan(found)
    return np.where(known, found, -1.0)
