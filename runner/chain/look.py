"""A chain as people see it: the stage at work, and a line for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.chain.cascade import cascade_lines
from runner.chain.folder import Chain
from runner.chain.plan import is_chain, read_plan
from runner.checkpoint.database import DATABASE
from runner.fleet.show import read_fleet
from runner.results.watch import read_watch, watched
from runner.words import aligned, duration, speed


def read_stage(folder: Path) -> dict[str, Any]:
    """What ``rowmill watch`` shows: of a chain at work its stage, with the state of the whole, else all of it."""
    if not is_chain(folder):
        return read_watch(folder)
    chain = Chain(folder)
    status = chain.status
    current = read_watch(chain.current.path)
    lines = [text for _, text in chain_lines(status)]
    if status["state"] != "running":
        begun = {"sessions": status["sessions"] - len(chain.parts) + 1}  # each stage has its first
        return {**watched(chain), **begun, "kept": current["kept"], "lines": lines}
    return {**current, **{name: status[name] for name in ("state", "doing", "pid")}, "lines": lines}


def read_seats(folder: Path) -> list[dict[str, Any]]:
    """What ``rowmill fleet`` shows: of a chain the seats of each ``stage`` that has begun."""
    if not is_chain(folder):
        return read_fleet(folder)
    begun = [name for name in read_plan(folder).names if (folder / name / DATABASE).exists()]
    return [{"stage": name, **seat} for name in begun for seat in read_fleet(folder / name)]


def chain_lines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for each stage, and what there is to say of a cascade; none for a run."""
    stages = figures.get("stages")
    if not isinstance(stages, list):
        return []
    found = figures.get("cascade")
    table = aligned([_cells(one) for one in stages], left=(0, 1))
    cascade = [f"{name}: {text}" for name, text in cascade_lines(found)] if isinstance(found, dict) else []
    return [*_under("stages", table), *_under("cascade", cascade)]


def _under(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return list(zip([name, *[""] * len(texts)], texts, strict=False))


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    if "finished" not in one:
        return (one["name"], one["state"], "no rows" if one["rows"] == 0 else "", "", "", "")
    rows = f"{one['finished']:,} of {one['rows']:,}"
    errors = f"{one['errors']:,} errors" if one["errors"] != 1 else "1 error"
    return (one["name"], one["state"], rows, errors, speed(one["rows_per_s"]), duration(one["active_s"]))
