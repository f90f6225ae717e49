"""The morning report: one HTML file on a run, its results and how far to trust them.

Modules:
charts   The charts of a report: figures in, inline SVG or HTML out; "" where there is nothing to draw.
figures  The figures of a report, read from a run directory: plain data, nothing about how they look.
page     A report's figures as one HTML page that loads nothing and escapes every text of a row.
quality  The quality of labels, spans, summaries and synthetic texts in a report, as names and values.
shown    Which rows a report shows, and what it shows of them.
svg      Matplotlib figures as inline SVG that takes its colours and its type from the page, light or dark.
tables   The tables of a report: rows with their answers first, figures by label, and which labels are taken for which.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.data.source import DataSource
    from runner.results.run import Run

__all__ = ["write_report"]


def write_report(run: Run, source: DataSource | None = None, known: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the directory of a run, finished or not, and return its path.

    ``source`` is the run's data set if it is open already, else it is opened from what the checkpoint says;
    ``known``: figures that need not be computed again: ``evaluation`` of labels, ``rouge`` of summaries. UserError
    where that cannot be done.
    """
    from runner.disk import write_text
    from runner.disk.errors import disk_errors
    from runner.report.figures import collect
    from runner.report.page import render

    path = run.path / "report.html"
    page = render(collect(run, source, known or {}), _cascade(run, known or {}))
    with disk_errors(run.path):
        write_text(path, page)
    return path


def _cascade(run: Run, known: Mapping[str, Any]) -> Mapping[str, Any] | None:
    from runner.chain.cascade import cascade_figures
    from runner.chain.folder import Chain

    if not isinstance(run, Chain) or not run.is_cascade or not run.is_complete:
        return None
    return known.get("cascade") or cascade_figures(run)
