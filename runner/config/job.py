"""The job that the configuration names by ``_target_``, made and checked before anything is loaded for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.config.conf import RunConf
from runner.config.hooks import NamesVariables, check_hooks
from runner.config.typed import keys
from runner.custom.classes import as_taken, find_class, import_class_module, make
from runner.custom.code import targets
from runner.data.kept import loadable
from runner.types import Job, UserError


def make_job(node: Any, config_dir: str | None = None, modules: Sequence[str] = ()) -> Job:
    """The job that ``_target_`` names, given the other keys. UserError for a class or a key that does not exist.

    The class may be one of ours, lie in a file of the user's folders, or in one of the installed ``modules``.
    """
    target, found = _class(node, config_dir, modules)
    values = {key: value for key, value in node.items() if key != "_target_"}
    job = make("job", found, target, values, [one for one in keys(RunConf) if one != "job"])
    if not isinstance(job, Job):
        raise UserError("job._target_", "the class lacks steps(row) or schema()", value=target)
    check_hooks(job, f"job._target_={target}")
    _check_schema(job, target)
    return job


def typed_job(node: Any, config_dir: str | None = None, modules: Sequence[str] = ()) -> dict[str, Any]:
    """The job's keys as its class takes them: a text that looks like a number is what was typed."""
    return as_taken(_class(node, config_dir, modules)[1], node)


def _class(node: Any, config_dir: str | None, modules: Sequence[str]) -> tuple[str, type]:
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise UserError("job._target_", "is not set: choose a job, such as job=label, or name your own class in it")
    for where, name in targets(node):
        import_class_module(where, name, job_folders(config_dir), modules)
    return node["_target_"], find_class("job", node["_target_"], "steps")


def job_folders(config_dir: str | None) -> list[str]:
    """Where modules of a user's own jobs are looked for, after installed ones."""
    return [str(Path.cwd()), *([str(Path(config_dir).resolve())] if config_dir else [])]


def _check_schema(job: Job, target: str) -> None:
    where = f"job._target_={target} ({getattr(sys.modules.get(type(job).__module__), '__file__', None)})"
    try:
        schema = job.schema()
        list(job.variables() if isinstance(job, NamesVariables) else ())
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise UserError(where, f"schema() or variables() fails: {type(error).__name__}: {error}") from error
    if not isinstance(schema, pa.Schema):
        raise UserError(
            f"{where}: schema() returns {schema!r:.80}, not a pyarrow.Schema such as "
            'pa.schema([("topic", pa.string())])'
        )
    for column in schema:
        if not loadable(column.type):
            raise UserError(where, f"column {column.name!r} has type {column.type}, which `datasets` cannot load")
