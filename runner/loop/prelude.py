"""The prelude: what a job asks of the model before the first row, once for a run.

A job has one if it has two methods. ``prelude(survey)`` is a generator like ``steps``: it yields requests, receives
completions and returns what it found (JSON values). That is recorded in the checkpoint and given to ``begin(found)``,
in this session and in those that resume the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from runner.config.hooks import Surveys
from runner.data.survey import Survey
from runner.loop.loop import Loop
from runner.loop.task import Task
from runner.types import Row, Steps, UserError

ROW = -1  # under which the prelude's completions are recorded
log = logging.getLogger("rowmill")


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
