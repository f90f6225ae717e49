"""After the last row: figures and a report. The rows are on disk by then, and nothing in here may fail the run."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from runner.data.source import DataSource
from runner.disk import write_json
from runner.night.link import Link
from runner.results.run import FIGURES, Run
from runner.session.runlog import run_log
from runner.session.runnable import Runnable, resume_command
from runner.types import EXIT_OK, EXIT_ROW_ERRORS, UserError

log = logging.getLogger("rowmill")
T = TypeVar("T")


def finish(run: Runnable, link: Link | None = None, *, is_last: bool = True) -> dict[str, Any]:
    """The figures of a finished run and ``path``; ``report`` where one was written. See ``conclude``."""
    read = Run(run.run_dir)  # once: its files are checked when they are read for the first time
    report = Report(run.source) if run.wants_report else None
    return conclude(read, lambda: run.figures(read), report, resume_command(run), link, is_last=is_last)


class Report(NamedTuple):
    """That there is to be one, and of which input rows: None where those of the run are still to be opened."""

    source: DataSource | None


def conclude(
    read: Run,
    own: Callable[[], dict[str, Any]],
    report: Report | None,
    resume: str,
    link: Link | None = None,
    *,
    is_last: bool = True,
) -> dict[str, Any]:
    """The figures of a finished run or chain, its ``own`` among them, as far as they can be had; they are kept.

    The supervisor at the other end of ``link`` is told first how the last run ended: whatever this process dies of
    afterwards changes nothing of that, and an interrupt only leaves out what is not computed yet.
    """
    figures: dict[str, Any] = {**read.status, "path": str(read.path)}
    if link and is_last:
        link.report(ended=exit_code(figures), resume=resume)
    with run_log(read.path):
        try:
            found = tried("figures", resume, lambda: _as_json(own()))
            figures |= _renamed(found or {}, {*figures, "report"})
            again = shlex.join(["rowmill", "report", str(read.path)])
            if report and (page := tried("report", again, lambda: _page(read, report.source, figures))):
                figures["report"] = page
            tried("figures.json", resume, lambda: write_json(read.path / FIGURES, figures))
        except KeyboardInterrupt:
            if not is_last:
                raise
            log.warning(
                "interrupted: the rows are safe. To compute what is left out of figures and report:\n%s", resume
            )
    return figures


def _renamed(found: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    """The job's figures, those with the name of one of the run's own under another name."""
    names = {name: name for name in found}
    for name in sorted(taken & names.keys()):
        new = f"job_{name}"
        while new in taken or new in found:
            new += "_"
        log.warning("the job's figure %s is called %s here: the run has one of that name", name, new)
        names[name] = new
    return {names[name]: value for name, value in found.items()}


def _as_json(figures: dict[str, Any]) -> Any:
    """What the figures are as JSON, which has no NaN and no infinities: null."""
    return json.loads(json.dumps(figures), parse_constant=lambda name: None)


def exit_code(status: dict[str, Any]) -> int:
    """That of a run with these figures: 1 for rows in error, and for attempts spent before all rows were made."""
    short = status["state"] == "finished" and status["finished"] < status["rows"]
    return EXIT_ROW_ERRORS if status["errors"] or short else EXIT_OK


def tried(what: str, again: str, compute: Callable[[], T]) -> T | None:
    """What ``compute`` returns; None, and a line that says how to try ``again``, whatever it raises."""
    try:
        return compute()
    except (Exception, SystemExit) as problem:
        said = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
        log.warning("no %s: %s; the rows are safe. To try again:\n%s", what, said, again)
        log.debug("what failed", exc_info=problem)
        return None


def _page(read: Run, source: DataSource | None, figures: dict[str, Any]) -> str:
    from runner.report import write_report

    return str(write_report(read, source, figures))
