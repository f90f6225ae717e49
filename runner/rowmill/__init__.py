"""rowmill: put a prompt through every row of a data set with one local LLM, resumably.

``run`` and ``open_run`` make a run and read one; the other names are for writing a job of your own.

Modules:
__main__  ``python -m rowmill``: the command line.
"""

from typing import TYPE_CHECKING

from runner import __version__, open_run, run
from runner.types import (
    Attempts,
    Columns,
    Completion,
    Job,
    RejectedError,
    Request,
    Row,
    RowError,
    Sampling,
    Setting,
    Source,
    Steps,
    UserError,
)

if TYPE_CHECKING:
    from runner.results.run import Run

__all__ = [
    "Attempts",
    "Columns",
    "Completion",
    "Job",
    "RejectedError",
    "Request",
    "Row",
    "RowError",
    "Run",
    "Sampling",
    "Setting",
    "Source",
    "Steps",
    "UserError",
    "__version__",
    "open_run",
    "run",
]


def __getattr__(name: str) -> object:
    """``Run``, late: Arrow is loaded by whoever reads a run."""
    if name != "Run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runner.results.run import Run

    return Run
