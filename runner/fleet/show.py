"""``rowmill fleet``: who computed a run, and how they are doing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.checkpoint.database import open_reader
from runner.checkpoint.lease import holder
from runner.checkpoint.seats import read_seats
from runner.words import count_of, escaped, speed

_VERSIONS = {"rowmill": "rowmill", "mlx": "mlx", "mlx_lm": "mlx-lm"}


def read_fleet(run_dir: Path) -> list[dict[str, Any]]:
    """The seats of a run in all of its sessions, those at work first; see ``read_seats``. Raises UserError."""
    with open_reader(run_dir) as connection:
        return seats_of(connection, holder(run_dir) is not None)


def seats_of(connection: sqlite3.Connection, is_running: bool, *, counted: bool = True) -> list[dict[str, Any]]:
    """``read_fleet`` for a run that is open."""
    seats = read_seats(connection, counted=counted)
    for seat in seats:
        if seat.get("state") == "at work" and not (is_running and seat["is_latest"]):
            seat["state"] = "ended"  # its session was killed
    return sorted(seats, key=lambda seat: (seat.get("state") != "at work", -seat["session"], seat["seat"]))


def show_fleet(seats: list[dict[str, Any]], console: Console) -> None:
    """A line for each seat, and why some are not at work."""
    if not seats:
        console.print("no fleet computed this run: it was one process, or no seat has joined yet (rowmill help fleet)")
        return
    alone = {seat.get("stage"): seat["run_answers"] for seat in seats}
    for seat in seats:
        alone[seat.get("stage")] -= seat["answers"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    stages = any("stage" in seat for seat in seats)
    for name in ("stage",) * stages + ("seat", "device", "state", "answers", "share", "rows", "backlog", "deaths"):
        is_text = name in ("stage", "seat", "device", "state")
        table.add_column(
            name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text, min_width=len(name)
        )
    for seat in seats:
        pace, left_s = seat.get("rows_per_s"), seat.get("backlog_s")
        is_at_work = seat.get("state") == "at work"
        table.add_row(
            *([Text(escaped(seat["stage"]))] if stages else []),
            Text(escaped(seat["name"])),
            Text(escaped(seat.get("device") or "")),
            seat.get("state", ""),
            f"{seat['answers']:,}",
            f"{seat['answers_share']:.0%}",
            speed(pace).replace(" rows/", "/") if pace else "",
            f"{seat['backlog']:,} ({left_s or 0:,.1f} s)" if is_at_work and "backlog" in seat else "",
            str(seat.get("deaths") or ""),
        )
    console.print(table)
    if answers := sum(alone.values()):
        console.print(f"{count_of(answers, 'answer')} came without a fleet", highlight=False)
    versions = {", ".join(f"{_VERSIONS[name]} {seat[name]}" for name in _VERSIONS if seat.get(name)) for seat in seats}
    for one in sorted(versions - {""}):
        console.print(one, highlight=False)
    for seat in seats:
        if seat.get("why"):
            state = "was left out" if seat["state"] == "left out" else "died"
            console.print(f"{escaped(seat['name'])} {state}: {escaped(seat['why'])}", markup=False, highlight=False)
