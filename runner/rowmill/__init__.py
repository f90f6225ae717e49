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
    Example,
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
    from runner.results.evaluate import label_evaluation
    from runner.results.run import Run

__all__ = [
    "Attempts",
    "Columns",
    "Completion",
    "Example",
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
    "label_evaluation",
    "open_run",
    "run",
]


_LATE = {"Run": "runner.results.run", "label_evaluation": "runner.results.evaluate"}


def __getattr__(name: str) -> object:
    """``Run`` and what reads one, late: they load Arrow and scikit-learn."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
