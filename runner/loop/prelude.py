"""The prelude: what a job asks of the model before the first row, once for a run.

A job has one if it has two methods. ``prelude(survey)`` is a generator like ``steps``: it yields requests, receives
completions and returns what it found (JSON values). That is recorded in the checkpoint and given to ``begin(found)``,
in this session and in those that resume the run.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from runner.data.source import DataSource
from runner.hooks import Surveys
from runner.loop.loop import Loop
from runner.loop.task import Task
from runner.types import Row, Steps, UnreadableRow, UserError

ROW = -1  # under which the prelude's completions are recorded
CALIBRATION_ROWS = 2000  # at most: one number is fitted
log = logging.getLogger("rowmill")


@dataclass
class Survey:
    """The data set as a prelude sees it. Samples depend on the run's seed only; ``share`` is ``calibrate.rows``."""

    source: DataSource
    seed: int
    share: float = 0.0

    def sample(self, count: int, purpose: str) -> dict[int, Row]:
        """At most ``count`` rows by position, drawn anew for each purpose; unreadable ones are left out."""
        rows = len(self.source)
        drawn = random.Random(f"{self.seed}/{purpose}").sample(range(rows), min(count, rows))
        found = {at: next(self.source.rows(at, at + 1)) for at in sorted(drawn)}
        return {at: row for at, row in found.items() if not isinstance(row, UnreadableRow)}

    def calibration(self) -> dict[int, tuple[Row, str]]:
        """The rows to calibrate on, those without a gold label left out, with their gold labels; often none."""
        gold = self.source.conf.gold
        if not self.share or gold is None:
            return {}
        count = min(CALIBRATION_ROWS, max(1, round(self.share * len(self.source))))
        rows = self.sample(count, "calibrate")
        named = {at: self.source.gold_name(row[gold]) for at, row in rows.items()}
        return {at: (rows[at], name) for at, name in named.items() if name is not None}


@dataclass
class _PreludeJob:
    job: Surveys
    survey: Survey

    def steps(self, row: Row) -> Steps:
        return self.job.prelude(self.survey)

    def schema(self) -> pa.Schema:
        return pa.schema([])


def begin(job: Surveys | None, survey: Survey, loop: Loop, tick: Callable[[], None]) -> bool:
    """Run the job's prelude, or take what an earlier session found; False if ``loop`` was stopped before its end.

    Raises UserError if the prelude fails: nothing can be done for any row then.
    """
    if job is None:
        return True
    found = loop.store.prelude()
    if found is None:
        output = loop.finish(Task(ROW, {}, _PreludeJob(job, survey)), tick)
        if output is None:
            return False
        if output.error is not None:
            raise UserError(f"what the job asks before the first row failed: {output.error}")
        found = output.columns
        loop.store.record_prelude(found)
    job.begin(found)
    return True
