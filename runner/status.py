"""What a run directory says about itself, read without disturbing the run: all of it derived from the checkpoint."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from runner.database import open_read_only, read_identity
from runner.disk import disk_errors
from runner.lease import holder
from runner.marks import active_seconds
from runner.records import Staged, Usage, error_kind
from runner.rejects import SUMS, rejected_kinds, rejected_tokens

_LABELS = 200  # distinct labels counted in a shard
_WORK = (
    "model_s",
    "loop_s",
    "lanes",
    "slots",
    "padded",
    "prefilled",
    "cached",
    "served",
    "shareable",
    "prompt",
    "forced",
)


class Totals(NamedTuple):
    """Sums over the finished rows, sealed or staged; ``shards`` counts the sealed ones."""

    finished: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    shards: int = 0

    def plus(self, rows: Iterable[Staged]) -> Totals:
        """The totals when these rows are finished too."""
        finished, errors, prompt, cached, completion, shards = self
        for row in rows:
            finished += 1
            errors += row.error is not None
            prompt += row.prompt_tokens
            cached += row.cached_tokens
            completion += row.completion_tokens
        return Totals(finished, errors, prompt, cached, completion, shards)

    def plus_tokens(self, usages: Iterable[Usage]) -> Totals:
        """The totals with what was spent on attempts that are no rows."""
        finished, errors, prompt, cached, completion, shards = self
        for usage in usages:
            prompt += usage.prompt_tokens
            cached += usage.cached_tokens
            completion += usage.completion_tokens
        return Totals(finished, errors, prompt, cached, completion, shards)


def read_totals(connection: sqlite3.Connection) -> Totals:
    """The totals of a checkpoint; costs a scan of the staged rows and of one row for each shard."""
    staged = connection.execute(f"SELECT count(*), count(error), {SUMS} FROM staged").fetchone()
    sealed = connection.execute(f"SELECT coalesce(sum(rows), 0), 0, {SUMS} FROM shards").fetchone()
    rejected = (0, 0, *rejected_tokens(connection))
    errors = connection.execute("SELECT coalesce(sum(value), 0) FROM shards, json_each(error_kinds)").fetchone()
    shards = connection.execute("SELECT count(*) FROM shards").fetchone()
    finished, failed, *tokens = map(sum, zip(staged, sealed, rejected, strict=True))
    return Totals(finished, failed + errors[0], *tokens, *shards)


def read_error_kinds(connection: sqlite3.Connection) -> dict[str, int]:
    """How many finished rows have each kind of error, the most frequent first."""
    kinds: Counter[str] = Counter()
    query = "SELECT key, sum(value) FROM shards, json_each(error_kinds) GROUP BY key"
    kinds.update(dict(connection.execute(query).fetchall()))
    for error, count in connection.execute("SELECT error, count(*) FROM staged WHERE error IS NOT NULL GROUP BY error"):
        kinds[error_kind(error)] += count
    return dict(kinds.most_common())


def read_labels(connection: sqlite3.Connection, where: str = "", values: Iterable[Any] = ()) -> dict[str, int]:
    """How many of the staged rows selected have each value of the column ``label``, the most frequent first."""
    label = "CASE WHEN json_valid(body) THEN json_extract(body, '$.label') END"  # not so with NaN in it
    query = f"SELECT {label}, count(*) FROM staged {where} GROUP BY 1 ORDER BY 2 DESC LIMIT {_LABELS}"
    return {str(name): count for name, count in connection.execute(query, tuple(values)) if name is not None}


def read_label_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many finished rows have each label, the most frequent first; empty for jobs without labels."""
    counts: Counter[str] = Counter()
    query = "SELECT key, sum(value) FROM shards, json_each(labels) GROUP BY key"
    counts.update(dict(connection.execute(query).fetchall()))
    counts.update(read_labels(connection))
    return dict(counts.most_common())


def read_sessions(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """The run's sessions: ``started`` and ``ended`` (Unix times, the latter None if killed), ``why``, provenance."""
    query = "SELECT session, started, ended, why, provenance FROM sessions ORDER BY session"
    names = ("session", "started", "ended", "why")
    return [
        dict(zip(names, values, strict=True)) | {"provenance": json.loads(provenance or "{}")}
        for *values, provenance in connection.execute(query)
    ]


def read_status(run_dir: Path) -> dict[str, Any]:
    """The progress of a run, whether it is running, interrupted or finished; changes nothing in its directory.

    Keys: ``rows``, the fields of Totals, ``state`` (running: the lease is held; finished: all rows are; else
    interrupted), ``pid`` of the runner or None, ``started`` (Unix time of the first session), ``sessions``,
    ``active_s`` and ``rows_per_s`` (over the time that sessions were at work, each known to a second),
    ``error_kinds``, ``rejected`` (attempts that no row was made of, by what took them);
    of ended sessions, None if unknown: ``model_share`` (of the time at work, what was spent in the
    model), ``slot_occupancy`` (of the batch's slots in every step, those taken), ``padding_share`` (of prompt tokens in
    attention), ``cached_share`` and ``best_cached_share`` (of prompt tokens computed or spared, those spared, and what
    an unlimited cache would have spared in any order); ``forced_tokens``, generated ones that a grammar knew before.
    Raises UserError if ``run_dir`` holds no readable checkpoint.
    """
    run_dir = Path(run_dir)
    pid = holder(run_dir)
    with disk_errors(run_dir), open_read_only(run_dir, live=pid is not None) as connection:
        totals = read_totals(connection)
        rows = read_identity(connection)["rows"]
        started, sessions = connection.execute("SELECT min(started), count(*) FROM sessions").fetchone()
        active = active_seconds(connection)
        work = _read_work(connection)
        kinds = read_error_kinds(connection)
        rejected = rejected_kinds(connection)
        last = connection.execute("SELECT why FROM sessions ORDER BY session DESC LIMIT 1").fetchone()
    spent = bool(rejected) and last == ("finished",)  # all attempts are made, too few were accepted
    ended = "finished" if totals.finished == rows or spent else "interrupted"
    return {
        "rows": rows,
        **totals._asdict(),
        "state": "running" if pid is not None else ended,
        "pid": pid,
        "started": started,
        "sessions": sessions,
        "active_s": active,
        "rows_per_s": totals.finished / active if active else 0.0,
        "model_share": _share(work["model_s"], work["loop_s"]),
        "slot_occupancy": _share(work["lanes"], work["slots"]),
        "padding_share": _share(work["padded"], work["padded"] + work["prefilled"]),
        "cached_share": _share(work["cached"] + work["served"], work["prompt"]),
        "best_cached_share": _share(work["shareable"], work["prompt"]),
        "forced_tokens": int(work["forced"]),
        "error_kinds": kinds,
        "rejected": rejected,
    }


def _read_work(connection: sqlite3.Connection) -> dict[str, float]:
    """What engines did, over all sessions that have ended; see ``Work``."""
    sums = ", ".join(f"sum(json_extract(provenance, '$.{name}'))" for name in _WORK)
    return {
        name: value or 0
        for name, value in zip(_WORK, connection.execute(f"SELECT {sums} FROM sessions").fetchone(), strict=True)
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
