"""``rowmill watch``: a run seen live from a second terminal, read from its checkpoint and nowhere else."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.results.run import Run
from runner.results.show import NOW_SECONDS
from runner.words import clock, count_of, duration, escaped, size, speed

EVERY_SECONDS = 1.0
_BLOCKS = " ▁▂▃▄▅▆▇█"
_CURVE = 60  # columns
_SHOWN = 8  # labels, kinds of errors


def watch(run_dir: Path, console: Console, read: Callable[[Path], dict[str, Any]] | None = None) -> None:
    """Show the run until it ends or the user interrupts; once if it is not running or the console is not a terminal.

    ``read``: what gives the figures, by default ``read_watch``.
    """
    read = read or read_watch
    seen = read(run_dir)
    if seen["state"] != "running" or not console.is_terminal:
        console.print(screen(run_dir, seen))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while seen["state"] == "running":
            live.update(screen(run_dir, seen), refresh=True)
            time.sleep(EVERY_SECONDS)
            seen = read(run_dir)
    console.print(screen(run_dir, seen))


def read_watch(run_dir: Path) -> dict[str, Any]:
    """The status with ``marks``, ``latest``, ``labels`` and ``kept`` (the input columns); see ``Run``.

    Changes nothing in the run's directory and holds no lock that the run could wait for. Raises UserError.
    """
    return watched(Run(run_dir))


def watched(run: Run) -> dict[str, Any]:
    """The same of a run or a chain that is open."""
    found = {"marks": run.marks, "latest": run.latest, "labels": run.label_counts}
    return {**run.status, **found, "kept": list(run.columns.kept)}


def screen(run_dir: Path, seen: dict[str, Any]) -> Group:
    """The whole screen; ``stages`` are lines on those of a chain."""
    side = Table.grid(expand=True, padding=(0, 1))
    side.add_row(_counts("labels", seen["labels"]), _counts("errors", seen["error_kinds"], "red"))
    lines = seen.get("lines")
    seats = [_seats(seen["seats"])] if seen["seats"] else []
    stages = [Panel(Text("\n".join(map(escaped, lines))), title="stages", title_align="left")] if lines else []
    return Group(
        _head(run_dir, seen), *stages, _course(seen["marks"]), *seats, side, _latest(seen["latest"], seen["kept"])
    )


def _head(run_dir: Path, seen: dict[str, Any]) -> Panel:
    finished, rows = seen["finished"], seen["rows"]
    now = pace_now(seen["marks"])
    facts = [
        f"{finished:,} of {count_of(rows, 'row')}",
        f"{speed(now)} now, {speed(seen['rows_per_s'])} overall",
        "" if seen["cached_share"] is None else f"{seen['cached_share']:.0%} cached",
        count_of(seen["errors"], "error"),
        count_of(seen["sessions"] - 1, "restart"),
    ]
    if seen["doing"]:
        facts.insert(0, escaped(seen["doing"]))
    left = rows - finished
    if left and seen["state"] == "running" and now:
        facts.insert(1, f"{duration(left / now)} left, until {clock(time.time() + left / now)}")
    title = Text(f" {escaped(Path(run_dir).resolve().name)}: {seen['state']} ", style="bold")
    lines = Table.grid(expand=True)
    lines.add_row(ProgressBar(total=max(1, rows), completed=finished))
    lines.add_row(Text(", ".join(fact for fact in facts if fact)))
    return Panel(lines, title=title, title_align="left")


def pace_now(marks: list[dict[str, Any]]) -> float:
    """Rows in a second over the last minute of the newest session."""
    if not marks:
        return 0.0
    last = marks[-1]
    recent = [m for m in marks if m["session"] == last["session"] and last["elapsed_s"] - m["elapsed_s"] <= NOW_SECONDS]
    seconds = last["elapsed_s"] - recent[0]["elapsed_s"]
    if seconds <= 0:  # the first mark of a session
        before = next((m["finished"] for m in reversed(marks) if m["session"] != last["session"]), 0)
        return float((last["finished"] - before) / last["elapsed_s"]) if last["elapsed_s"] else 0.0
    return float((last["finished"] - recent[0]["finished"]) / seconds)


def _course(marks: list[dict[str, Any]]) -> Panel:
    """Speed, slots and memory over the time at work, the newest value beside each curve."""
    table = Table.grid(padding=(0, 1))
    table.add_row("speed", Text(curve(_speeds(marks)), style="cyan"), speed(pace_now(marks)))
    slots = [mark for mark in marks if mark["slots"] is not None]
    if slots:
        full = slots[-1]["slots_total"] or 0
        used = curve([mark["slots"] for mark in slots], full)
        table.add_row("slots", Text(used, style="green"), f"{slots[-1]['slots']:,} of {full:,}")
    memory = [mark["memory_bytes"] for mark in marks if mark["memory_bytes"]]
    if memory:
        table.add_row("memory", Text(curve(memory), style="magenta"), size(memory[-1]))
    return Panel(table, title="over time", title_align="left")


def _seats(seats: list[dict[str, Any]]) -> Panel:
    """What each seat of a fleet has done and does, the newest session's first."""
    table = Table.grid(padding=(0, 1))
    for one in seats[:_SHOWN]:
        share = one["answers_share"]
        pace = f"{speed(one['rows_per_s'])}" if one.get("rows_per_s") and one.get("state") == "at work" else ""
        bar = Text("█" * max(1, round(16 * share)), style="cyan")
        state = Text(one.get("state", ""), style="" if one.get("state") == "at work" else "dim")
        table.add_row(Text(escaped(one["name"])[:30]), state, bar, f"{share:.0%}", pace)
    if len(seats) > _SHOWN:
        table.add_row(f"and {len(seats) - _SHOWN:,} more")
    return Panel(table, title="seats", title_align="left")


def _speeds(marks: list[dict[str, Any]]) -> list[float]:
    """Rows in a second between neighbouring marks."""
    points = [(0.0, 0), *((mark["active_s"], mark["finished"]) for mark in marks)]
    pairs = itertools.pairwise(points)
    return [(rows - before) / (at - since) for (since, before), (at, rows) in pairs if at > since]


def curve(values: list[float], top: float = 0.0) -> str:
    """A curve of a line's height, of at most _CURVE columns; ``top`` is the value of a full block."""
    if not values:
        return ""
    step = -(-len(values) // _CURVE)
    means = [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]
    highest = max(top, *means, 1e-9)
    return "".join(_BLOCKS[round(max(0.0, mean) / highest * (len(_BLOCKS) - 1))] for mean in means)


def _counts(title: str, counts: dict[str, int], style: str = "cyan") -> Panel:
    table = Table.grid(padding=(0, 1))
    whole, most = sum(counts.values()), max(counts.values(), default=0)
    for name, count in list(counts.items())[:_SHOWN]:
        bar = Text("█" * max(1, round(16 * count / most)), style=style)
        table.add_row(Text(escaped(name)[:30]), bar, f"{count:,} ({count / whole:.0%})")
    if len(counts) > _SHOWN:
        table.add_row(f"and {len(counts) - _SHOWN:,} more")
    if not counts:
        table.add_row(Text("none", style="dim"))
    return Panel(table, title=title, title_align="left")


def _latest(rows: list[tuple[int, str | None, dict[str, Any]]], kept: list[str]) -> Panel:
    """What the input says and what was made of it, side by side."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(justify="right", style="dim")
    if any(name in kept for *_, columns in rows for name in columns):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for row, error, columns in rows:
        made = {name: value for name, value in columns.items() if name not in kept}
        given = [Text(_line(columns[name])) for name in columns if name in kept] or [Text()]
        said = Text(_line(error), style="red") if error is not None else _row_text(made)
        table.add_row(f"{row:,}", *(given if len(table.columns) > 2 else []), said)
    return Panel(table, title="latest rows", title_align="left")


def _row_text(columns: dict[str, Any]) -> Text:
    text = Text()
    for name, value in columns.items():
        if isinstance(value, dict) or value is None:  # the likes of probabilities
            continue
        shown = f"{value:.3f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        text.append(f"{_line(name)}: ", style="dim").append(f"{_line(shown)}  ")
    return text


def _line(text: str) -> str:
    """A text in one line, its control characters written out."""
    return escaped(" ".join(text[:400].split()))
