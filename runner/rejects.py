"""The attempts that a run did not accept, with their reasons: a table of the checkpoint. Part of the store."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runner.records import Output, clean, error_kind, sealed, to_json

SUMS = "coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0)"


class Rejected(NamedTuple):
    """An attempt that was not accepted. ``reason`` reads ``filter: detail``; ``output`` has what the job made of it."""

    attempt: int
    reason: str
    output: Output

    def values(self) -> tuple[Any, ...]:
        """The table's columns."""
        return sealed(self.attempt, clean(self.reason), *self.output.usage[:3], to_json(self.output.columns))


def insert_rejected(connection: sqlite3.Connection, rejected: Iterable[Rejected]) -> None:
    """Add attempts inside of the caller's transaction."""
    values = (one.values() for one in rejected)
    connection.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def rejected_tokens(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Prompt, cached and completion tokens of all rejected attempts."""
    prompt, cached, completion = connection.execute(f"SELECT {SUMS} FROM rejected").fetchone()
    return prompt, cached, completion


def rejected_kinds(connection: sqlite3.Connection) -> dict[str, int]:
    """How many attempts each filter took, the most first."""
    kinds: Counter[str] = Counter()
    for (reason,) in connection.execute("SELECT reason FROM rejected"):
        kinds[error_kind(reason)] += 1
    return dict(kinds.most_common())


def read_rejected(run_dir: Path | str) -> Iterator[dict[str, Any]]:
    """``attempt``, ``reason`` and the job's columns of each rejected attempt, in order; of a run in any state."""
    from runner.database import open_read_only
    from runner.disk import disk_errors
    from runner.lease import holder

    run_dir = Path(run_dir)
    with disk_errors(run_dir), open_read_only(run_dir, live=holder(run_dir) is not None) as connection:
        for attempt, reason, body in connection.execute("SELECT attempt, reason, body FROM rejected ORDER BY attempt"):
            yield {**json.loads(body), "attempt": attempt, "reason": reason}
