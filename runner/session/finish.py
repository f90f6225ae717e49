"""After the last row: figures and a report. The rows are on disk by then, and nothing in here may fail the run."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

from runner.night.link import Link
from runner.results.run import Run
from runner.results.status import read_status
from runner.session.prepare import Prepared
from runner.session.runlog import run_log
from runner.types import EXIT_OK, EXIT_ROW_ERRORS, UserError

log = logging.getLogger("rowmill")


def finish(ready: Prepared, resume: str, link: Link | None = None) -> dict[str, Any]:
    """The figures of a finished run, those of its job among them, and ``path``; ``report`` where one was written.

    ``resume``: the command line that goes on with the run, which computes figures anew. The supervisor at the other end
    of ``link`` is told first how the run ended: whatever this process dies of afterwards changes nothing of that.
    """
    status: dict[str, Any] = {**read_status(ready.run_dir), "path": str(ready.run_dir)}
    if link:
        link.report(ended=exit_code(status), resume=resume)
    with run_log(ready.run_dir):
        figures = _figures(ready, resume) | status
        if report := _report(ready, figures):
            figures["report"] = str(report)
    return figures


def exit_code(status: dict[str, Any]) -> int:
    """That of a run with these figures: 1 for rows in error, and for attempts spent before all rows were made."""
    short = status["state"] == "finished" and status["finished"] < status["rows"]
    return EXIT_ROW_ERRORS if status["errors"] or short else EXIT_OK


def _figures(ready: Prepared, resume: str) -> dict[str, Any]:
    gold = ready.source.conf.gold if ready.attempts is None else None
    try:
        return dict(json.loads(json.dumps(_compute(ready))))
    except (Exception, SystemExit) as problem:
        if gold and "label" in ready.job.schema().names:
            resume = shlex.join(["rowmill", "evaluate", str(ready.run_dir), "--gold", gold])
        log.warning("no figures: %s; the rows are safe. To try again:\n%s", _named(problem), resume)
        log.debug("what failed", exc_info=problem)
        return {}


def _compute(ready: Prepared) -> dict[str, Any]:
    """What the job says of its rows; of one of the user's own that says nothing, how right its labels are."""
    if ready.hooks.figures is not None:
        return dict(ready.hooks.figures.figures(Run(ready.run_dir), ready.source))
    if ready.source.conf.gold and ready.attempts is None and "label" in ready.job.schema().names:
        from runner.results.evaluate import evaluate_labels

        return {"evaluation": evaluate_labels(ready.run_dir, ready.source)}
    return {}


def _report(ready: Prepared, figures: dict[str, Any]) -> Path | None:
    """The path of the report, written now."""
    wanted = ready.config.conf.output.report
    if not (ready.folder is not None if wanted is None else wanted):
        return None
    try:
        from runner.report import write_report

        return write_report(ready.run_dir, ready.source, figures)
    except Exception as problem:
        log.warning("no report: %s. To try again:\nrowmill report %s", _named(problem), shlex.quote(str(ready.run_dir)))
        log.debug("what failed", exc_info=problem)
        return None


def _named(problem: BaseException) -> str:
    return str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
