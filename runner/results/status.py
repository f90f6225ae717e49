"""What a run directory says about itself, read without disturbing the run: all of it derived from the checkpoint."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

from runner.checkpoint.database import open_reader, read_identity
from runner.checkpoint.lease import holder
from runner.checkpoint.marks import active_seconds
from runner.checkpoint.records import Staged, Usage, count_rejected, error_kind, read_rejected, read_shards, read_staged

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


class Session(TypedDict):
    """One session of a run; times are Unix times. ``ended`` and ``why`` are None if it was killed."""

    session: int
    started: float
    ended: float | None
    why: str | None
    provenance: dict[str, Any]


class Status(TypedDict):
    """The figures of ``rowmill status --json``: those of Totals, and how it goes.

    ``state``: running (the lease is held), finished (all rows are) or interrupted. ``pid``: of the runner. ``started``:
    Unix time of the first session. ``active_s``, ``rows_per_s``: over the time that sessions were at work, each known
    to a second. ``rejected``: attempts that no row was made of, by what took them. Of ended sessions, None if unknown:
    ``model_share`` (of the time at work, what was spent in the model), ``slot_occupancy`` (of the batch's slots in
    every step, those taken), ``padding_share`` (of prompt tokens in attention), ``cached_share`` and
    ``best_cached_share`` (of prompt tokens computed or spared, those spared, and what an unlimited cache would have
    spared in any order); ``forced_tokens``, generated ones that a grammar knew before.
    """

    rows: int
    finished: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    shards: int
    state: str
    pid: int | None
    started: float
    sessions: int
    active_s: float
    rows_per_s: float
    model_share: float | None
    slot_occupancy: float | None
    padding_share: float | None
    cached_share: float | None
    best_cached_share: float | None
    forced_tokens: int
    error_kinds: dict[str, int]
    rejected: dict[str, int]


def read_totals(connection: sqlite3.Connection) -> Totals:
    """The totals of a checkpoint, every row of its sums checked on the way. Raises DamagedError."""
    totals = Totals().plus(read_staged(connection))
    for shard in read_shards(connection):
        sums = (shard.rows, sum(json.loads(shard.error_kinds).values()), *shard[5:8], 1)
        totals = Totals(*map(sum, zip(totals, sums, strict=True)))
    return totals.plus_tokens(one.output.usage for one in read_rejected(connection))


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


def read_sessions(connection: sqlite3.Connection) -> list[Session]:
    """The run's sessions in order."""
    query = "SELECT session, started, ended, why, provenance FROM sessions ORDER BY session"
    return [
        Session(session=number, started=started, ended=ended, why=why, provenance=json.loads(provenance or "{}"))
        for number, started, ended, why, provenance in connection.execute(query)
    ]


def read_status(run_dir: Path) -> Status:
    """The progress of a run, whether it is running, interrupted or finished; changes nothing in its directory.

    Raises UserError if ``run_dir`` holds no readable checkpoint.
    """
    run_dir = Path(run_dir)
    pid = holder(run_dir)
    with open_reader(run_dir) as connection:
        totals = read_totals(connection)
        rows = read_identity(connection)["rows"]
        started, sessions = connection.execute("SELECT min(started), count(*) FROM sessions").fetchone()
        active = active_seconds(connection)
        work = _read_work(connection)
        kinds = read_error_kinds(connection)
        rejected = count_rejected(connection)
        last = connection.execute("SELECT why FROM sessions ORDER BY session DESC LIMIT 1").fetchone()
    spent = bool(rejected) and last == ("finished",)  # all attempts are made, too few were accepted
    ended = "finished" if totals.finished == rows or spent else "interrupted"
    figures = {
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
    return cast(Status, figures)


def _read_work(connection: sqlite3.Connection) -> dict[str, float]:
    """What engines did, over all sessions that have ended; see ``Work``."""
    sums = ", ".join(f"sum(json_extract(provenance, '$.{name}'))" for name in _WORK)
    return {
        name: value or 0
        for name, value in zip(_WORK, connection.execute(f"SELECT {sums} FROM sessions").fetchone(), strict=True)
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
