"""``rowmill runs``: all runs of a folder in one table."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from runner.chain.folder import open_folder, parts_of
from runner.chain.plan import is_chain
from runner.checkpoint.database import DATABASE, IDENTITY
from runner.console import say
from runner.disk.errors import disk_errors
from runner.results.run import Run
from runner.results.status import accuracy_of, evaluations_of
from runner.types import UserError
from runner.words import age, aligned, count_of, escaped, first_line, size, speed

COLUMNS = ("name", "job", "model", "state", "rows", "errors", "speed", "age", "size", "accuracy")
LEFT = range(4)  # those that are no numbers

log = logging.getLogger("rowmill")


class Summary(TypedDict):
    """A run of the table. All but ``name`` and ``bytes`` are None where ``problem`` says why it cannot be read.

    ``age_s``: seconds since it began, ``bytes``: of all its files, ``accuracy``: where it ended with one.
    """

    name: str
    job: str | None
    model: str | None
    state: str | None
    rows: int | None
    finished: int | None
    errors: int | None
    rows_per_s: float | None
    age_s: float | None
    bytes: int
    accuracy: float | None
    problem: str | None


def list_runs(folder: Path, sort: str = "name") -> list[Summary]:
    """The runs in ``folder`` and in folders inside of it, sorted by one of ``COLUMNS``.

    Of numbers the largest come first, of ages the youngest; runs without a value come last. UserError if there is no
    such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name one that holds runs, such as outputs")
    found = sorted((summary(path, folder) for path in run_dirs(folder)), key=lambda one: one["name"])
    field = {"rows": "finished", "speed": "rows_per_s", "age": "age_s", "size": "bytes"}.get(sort, sort)
    return sorted(found, key=lambda one: _place(one.get(field), largest_first=sort != "age"))


def _place(value: Any, *, largest_first: bool) -> tuple[bool, Any]:
    numeric = isinstance(value, int | float)
    return value is None, (-value if numeric and largest_first else value) if value is not None else 0


def run_dirs(folder: Path) -> Iterator[Path]:
    """The run directories in a folder, itself among them, without looking for others inside of one.

    What may not be read is told, and left out.
    """
    try:
        with disk_errors(folder, "read"):
            is_run = (folder / DATABASE).is_file() or (folder / IDENTITY).is_file() or is_chain(folder)
            inside = [] if is_run else [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except UserError as error:
        log.warning("%s", error)
        return
    if is_run:
        yield folder
    for path in inside:
        if not path.name.startswith("."):
            yield from run_dirs(path)


def summary(run_dir: Path, folder: Path) -> Summary:
    """What the table says of a run, whatever state it is in."""
    name = str(run_dir.relative_to(folder)) if run_dir != folder else run_dir.resolve().name
    total = sum(map(_bytes, run_dir.rglob("*")))
    found: dict[str, Any] = {**dict.fromkeys(Summary.__annotations__), "name": name, "bytes": total}
    try:
        found |= _figures(open_folder(run_dir))
    except UserError as error:
        found["problem"] = first_line(error)
    return cast(Summary, found)


def _bytes(path: Path) -> int:
    """A file's size; 0 for anything else, and for one that a run at work has just removed."""
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.stat().st_size
    return 0


def _figures(run: Run) -> dict[str, Any]:
    status = run.status
    shared = ("state", "rows", "finished", "errors", "rows_per_s")
    since = time.time() - status["started"] if status["started"] else None
    found = {name: status.get(name) for name in shared}
    for name, find in (("job", _job), ("model", _model)):
        different = dict.fromkeys(filter(None, map(find, parts_of(run))))
        found[name] = " > ".join(different) or None
    accuracy = accuracy_of(evaluations_of(run.figures, status))  # None if rows have changed since it ended
    return found | {"age_s": since, "accuracy": accuracy}


def _job(run: Run) -> str | None:
    """``label`` for ``jobs.label.Label``; a class of one's own by its whole name."""
    target = str((run.identity.get("job") or {}).get("_target_") or "")
    _, ours, rest = target.partition("jobs.")
    return (rest.split(".")[0] if ours else target) or None


def _model(run: Run) -> str | None:
    """The end of the model's path, and of its adapter's; ``fake`` for the engine that needs no model."""
    if run.identity.get("model", {}).get("backend") == "fake":
        return "fake"
    conf = run.config.get("model") or {}
    paths = (str(path or "").partition("#")[0] for path in (conf.get("path") or conf.get("base"), conf.get("adapter")))
    return "+".join(path.rstrip("/").rpartition("/")[2] for path in paths if path) or None


def show_runs(found: Sequence[Summary]) -> None:
    """Print the table; where a terminal is too narrow for it, the models' names are cut."""
    rows = [list(COLUMNS), *map(cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = shutil.get_terminal_size((1000, 24)).columns - sum(widths) - 2 * len(widths)
    model = COLUMNS.index("model")
    most = max(10, widths[model] + room)
    for row in rows:
        row[model] = shortened(row[model], most)
    say("\n".join(aligned(rows, LEFT)))


def shortened(text: str, width: int) -> str:
    """Its beginning and its end, where it is longer than ``width``: models differ at both."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}…{text[len(text) - (width - 1 - width // 2) :]}"


def cells(one: Summary) -> list[str]:
    """The texts of a run's line, in the order of ``COLUMNS``."""
    name = escaped(one["name"]).replace("\n", "\\n")
    if one["problem"] is not None:
        return [name, "", "", "damaged", "", "", "", "", size(one["bytes"]), ""]
    rows, finished = one["rows"] or 0, one["finished"] or 0
    return [
        *(name, escaped(one["job"] or ""), escaped(one["model"] or ""), one["state"] or ""),
        f"{finished:,}" if finished == rows else f"{finished:,} of {rows:,}",
        f"{one['errors'] or 0:,}",
        speed(one["rows_per_s"], "") if one["rows_per_s"] else "",
        age(one["age_s"]) if one["age_s"] is not None else "",
        size(one["bytes"]),
        f"{one['accuracy']:.3f}" if one["accuracy"] is not None else "",
    ]


def in_words(one: Summary) -> str:
    """A run in one line, as the question shows it before it is deleted."""
    if one["problem"] is not None:
        return f"{one['problem']}; {size(one['bytes'])}"
    rows, errors = count_of(one["finished"] or 0, "finished row"), count_of(one["errors"] or 0, "error")
    return f"{one['state']}: {rows}, {errors}, {size(one['bytes'])}"
