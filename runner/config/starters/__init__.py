"""What a look at a data set tells the commands ``init`` and ``new``, and the files that they write.

Modules:
answers  Which column of a data set looks like right answers, and to what kind of question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner.disk import write_together
from runner.types import UserError


def write_new(folder: Path, contents: Mapping[Path, str], other: str) -> None:
    """Write new files into ``folder``, all or none. UserError where one is there; ``other``: what else to choose."""
    if there := [path for path in contents if path.exists()]:
        raise UserError(f"{there[0]} exists already: choose another {other} or --config-dir; nothing was written")
    try:
        write_together(contents)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
