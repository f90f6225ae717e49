"""Before the first row: what a job learns of its run, and its prelude, what it asks the model once for a run.

A job has a prelude if it has two methods. ``prelude(survey)`` is a generator like ``steps``: it yields requests,
receives completions and returns what it found (JSON values). That is recorded in the checkpoint and given to
``begin(found)``, in this session and in those that resume the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from runner.checkpoint.records import PRELUDE
from runner.config.hooks import Opens, Surveys, calling
from runner.data.source import DataSource
from runner.data.survey import Survey
from runner.loop.loop import Loop
from runner.loop.task import Task
from runner.text.prompter import Prompter
from runner.types import Request, Row, RowError, Setting, Steps, UserError

COUNTED_CHARS = 100_000  # tokenised together: a tokenizer takes some hundred bytes for each


def open_job(
    job: Opens | None, prompter: Prompter, source: DataSource, model_config: dict[str, Any], max_tokens: int, seed: int
) -> None:
    """Call the job's ``open``, if it has one; what it raises is a UserError."""
    if job is None:
        return
    setting = Setting(
        source,
        seed,
        max_tokens,
        _context(model_config),
        lambda texts: count_tokens(prompter, texts),
        lambda request: _prompt_tokens(prompter, request, source),
    )
    with calling("open"):
        job.open(setting)


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
        output = loop.finish(Task(PRELUDE, {}, _PreludeJob(job, survey)), tick)
        if output is None:
            return False
        if output.error is not None:
            raise UserError(f"what the job asks before the first row failed: {output.error}")
        found = output.columns
        loop.store.record_prelude(found)
    with calling("begin"):
        job.begin(found)
    return True


def count_tokens(prompter: Prompter, texts: list[str]) -> list[int]:
    """The number of tokens of each text; token ids are held for some of them at a time."""
    counts: list[int] = []
    some: list[str] = []
    chars = 0
    for text in texts:
        some.append(text)
        chars += len(text)
        if chars >= COUNTED_CHARS:
            counts += map(len, prompter.vocabulary.encode(some))
            some, chars = [], 0
    return [*counts, *map(len, prompter.vocabulary.encode(some))]


def _prompt_tokens(prompter: Prompter, request: Request, source: DataSource) -> int:
    try:
        return len(prompter.render(request, next(source.rows(0, 1))))
    except RowError:  # the first row may lack something: the next ones are another matter
        return 0


def _context(model_config: dict[str, Any]) -> int | None:
    if not model_config:
        return None
    from runner.models.tensors import context_length

    return context_length(model_config)
