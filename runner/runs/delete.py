"""``rowmill delete``: the files of a run removed, and nothing else."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from runner.chain.plan import FILE, is_chain, read_plan
from runner.checkpoint.database import DATABASE, IDENTITY
from runner.checkpoint.lease import LOCK, Lease
from runner.data.stdin import COPY
from runner.results.run import FIGURES
from runner.types import UserError
from runner.words import count_of

OURS = (
    "run.*",
    "data-*.arrow",
    "state.json",
    "dataset_info.json",
    IDENTITY,
    "config.yaml",
    "report.html",
    COPY,
    FIGURES,
    FILE,
    "*.tmp",
)


def delete_run(run_dir: Path) -> None:
    """Remove a run directory, or a chain with its stages.

    UserError if it is none, is a link, is at work, or holds files of others.
    """
    try:
        _delete(run_dir)
    except OSError as error:
        raise UserError(f"{run_dir} cannot be deleted: {error.strerror} ({error.filename})") from error


def check_deletable(run_dir: Path) -> None:
    """UserError for what ``delete_run`` refuses, whether the run is at work or not."""
    stages = _stages(run_dir)
    for folder in (run_dir, *stages):
        _check(folder, [stage.name for stage in stages if folder == run_dir])


def _delete(run_dir: Path) -> None:
    check_deletable(run_dir)
    stages = _stages(run_dir)
    lease = Lease(run_dir)
    try:
        for folder in stages:
            _delete(folder)
        for path in sorted(run_dir.iterdir(), key=lambda path: path.name in (DATABASE, IDENTITY, FILE, LOCK)):
            path.unlink(missing_ok=True)
        run_dir.rmdir()
    finally:
        lease.release()


def _stages(run_dir: Path) -> list[Path]:
    names = read_plan(run_dir).names if is_chain(run_dir) and not run_dir.is_symlink() else []
    return [run_dir / name for name in names if (run_dir / name).exists()]


def _check(run_dir: Path, stages: list[str]) -> None:
    if run_dir.is_symlink():
        raise UserError(f"{run_dir} is a link to {run_dir.resolve()}: delete that")
    if not any((run_dir / name).is_file() for name in (DATABASE, IDENTITY, FILE)):
        raise UserError(f"{run_dir} is not a run directory: it has no {DATABASE}")
    others = [path.name for path in run_dir.iterdir() if not any(fnmatch(path.name, name) for name in (*OURS, *stages))]
    if others:
        more = f" and {count_of(len(others) - 1, 'other')}" if len(others) > 1 else ""
        raise UserError(f"{run_dir} holds {min(others)}{more}, which the run did not write: move that first")
