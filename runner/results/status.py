"""The state and the figures of a run directory, all of them derived from the checkpoint."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from runner.checkpoint.counts import SessionWork, read_error_kinds, read_totals
from runner.checkpoint.database import open_reader, read_identity
from runner.checkpoint.lease import holder
from runner.checkpoint.marks import active_seconds
from runner.fleet.show import seats_of

DOING = "doing"  # among what is noted of a session: what it does while it has finished no row
_LAST = f"SELECT why, json_extract(provenance, '$.{DOING}') FROM sessions ORDER BY session DESC LIMIT 1"


class Session(TypedDict):
    """One session of a run; times are Unix times. ``ended`` and ``why`` are None if it was killed."""

    session: int
    started: float
    ended: float | None
    why: str | None
    provenance: dict[str, Any]


class Status(TypedDict):
    """The figures of ``rowmill status --json``: those of Totals, and how it goes.

    A finished run with gold has ``evaluation`` there, too, or ``evaluations`` by question.

    ``state``: running (the lease is held), finished (all rows are) or interrupted. ``doing``: what a running session
    does while it has finished no row; None otherwise. ``pid``: of the runner. ``started``:
    Unix time of the first session. ``active_s``, ``rows_per_s``, ``tokens_per_s`` (read and generated): over the time
    that sessions were at work, each known to a second. ``cached_share``: ``cached_tokens`` of ``prompt_tokens``; None
    without any. ``rejected``: attempts that no row was made of, by what took them. Of ended sessions, None if unknown:
    ``model_share`` (of the time at work, what was spent in the model), ``slot_occupancy`` (of the batch's slots in
    every step, those taken), ``padding_share`` (of prompt tokens in attention), ``best_cached_share`` (what
    ``cached_share`` would have been with an unlimited cache, in any order); ``forced_tokens``, generated ones that a
    grammar knew before, ``drafted_tokens`` (see ``engine.draft_tokens``), of which ``accepted_tokens`` were right, and
    ``thoughts_ended``, because they had ``engine.think_tokens``. ``seats``: those of a fleet (see ``rowmill fleet
    --json``), their answers as of the last second.
    """

    rows: int
    finished: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    shards: int
    state: str
    doing: str | None
    pid: int | None
    started: float
    sessions: int
    active_s: float
    rows_per_s: float
    tokens_per_s: float
    model_share: float | None
    slot_occupancy: float | None
    padding_share: float | None
    cached_share: float | None
    best_cached_share: float | None
    forced_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    thoughts_ended: int
    error_kinds: dict[str, int]
    rejected: dict[str, int]
    seats: list[dict[str, Any]]


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
        totals, rejected = read_totals(connection)
        rows = read_identity(connection)["rows"]
        started, sessions = connection.execute("SELECT min(started), count(*) FROM sessions").fetchone()
        active = active_seconds(connection)
        work = SessionWork.total(SessionWork.from_json(one["provenance"]) for one in read_sessions(connection))
        kinds = read_error_kinds(connection)
        seats = seats_of(connection, pid is not None, counted=False)
        last = connection.execute(_LAST).fetchone() or (None, None)
    spent = bool(rejected) and last[0] == "finished"  # all attempts are made, too few were accepted
    ended = "finished" if totals.finished == rows or spent else "interrupted"
    figures = {
        "rows": rows,
        **totals._asdict(),
        "state": "running" if pid is not None else ended,
        "doing": last[1] if pid is not None else None,
        "pid": pid,
        "started": started,
        "sessions": sessions,
        "active_s": active,
        "model_share": _share(work.model_s, work.loop_s),
        "slot_occupancy": _share(work.lanes, work.slots),
        "padding_share": _share(work.padded, work.padded + work.prefilled),
        "best_cached_share": _best(totals.cached_share, work.missed_share),
        "forced_tokens": work.forced,
        "drafted_tokens": work.drafted,
        "accepted_tokens": work.accepted,
        "thoughts_ended": work.thoughts_ended,
        "error_kinds": kinds,
        "rejected": rejected,
        "seats": seats,
    }
    return cast(Status, figures | rates_of(figures))


def rates_of(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a Status that follow from its totals and the time that sessions were at work."""
    seconds, prompt = figures["active_s"], figures["prompt_tokens"]
    return {
        "rows_per_s": figures["finished"] / seconds if seconds else 0.0,
        "tokens_per_s": (prompt + figures["completion_tokens"]) / seconds if seconds else 0.0,
        "cached_share": _share(figures["cached_tokens"], prompt),
    }


def _best(cached: float | None, missed: float | None) -> float | None:
    return None if cached is None or missed is None else cached + (1 - cached) * missed


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def evaluations_of(ended: Mapping[str, Any] | None, status: Mapping[str, Any]) -> dict[str, Any]:
    """``evaluation`` or ``evaluations`` of what a run ``ended`` with; nothing if rows have changed since."""
    found = ended or {}
    same = all(found.get(name) == status.get(name) for name in ("finished", "errors"))
    return {name: found[name] for name in ("evaluation", "evaluations") if same and name in found}


def accuracy_of(figures: Mapping[str, Any]) -> float | None:
    """The accuracy among what a run ended with; a job of one's own may mean something else by the names."""
    evaluation = figures.get("evaluation")
    accuracy = evaluation.get("accuracy") if isinstance(evaluation, dict) else None
    return accuracy if isinstance(accuracy, int | float) else None
