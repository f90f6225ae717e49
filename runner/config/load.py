"""From words on the command line to a checked configuration and its job."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.compose import Composer, refused
from runner.config.conf import RunConf
from runner.config.file import expanded, key_of
from runner.config.job import make_job, typed_job
from runner.config.typed import as_object, as_plain, from_plain
from runner.keys import check_keys
from runner.night.notify import check_notify
from runner.night.schedule import check_schedule
from runner.types import Job, UserError
from runner.words import first_line


@dataclass(frozen=True)
class Config:
    """A composed run: typed ``conf``, its ``job``, and the same as plain values for identity and records."""

    conf: RunConf
    job: Job
    plain: dict[str, Any]
    overrides: list[str]
    config_dir: str | None

    @property
    def run_name(self) -> str:
        return str(self.conf.run_name)


def load_config(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """Compose ``conf/run.yaml`` with overrides as typed; UserError naming the key and what would be valid.

    Among the overrides may be files of them, see ``runner.config.file``.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    composer = Composer(RunConf, "run", config_dir)
    words = expanded(overrides)
    if any(key_of(word).partition(".")[0] == "stages" for word in words):
        raise UserError("stages", "only `rowmill run` and `rowmill preview` take a chain, and not with -m")
    composed, choices = composer.compose(words)
    composed.run_name = composed.run_name or f"{choices['job']}-{choices['dataset']}".replace("/", "-")
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(missing[0], f"is not set: {_how_to_set(missing[0], choices)}")
        plain, conf = as_plain(composed), as_object(composed)
    except OmegaConfBaseException as error:
        raise refused(error, RunConf) from error
    assert isinstance(conf, RunConf)
    _check(conf)
    try:
        plain["job"] = typed_job(plain["job"], config_dir, conf.modules)
        job = make_job(plain["job"], config_dir, conf.modules)
    except UserError as error:
        own = composer.own_file("job", choices["job"])
        raise error.adding(f"; the job is {own}" if own else "") from error
    return Config(conf, job, plain, list(overrides), config_dir)


def recorded_config(plain: dict[str, Any], config_dir: str | None = None) -> Config:
    """The configuration of an earlier run from what was kept of it. UserError where that does not fit any more."""
    try:
        conf = as_object(from_plain(plain, RunConf))
    except OmegaConfBaseException as error:
        raise UserError(f"the run was made by another version: {first_line(error)}") from error
    assert isinstance(conf, RunConf)
    return Config(conf, make_job(plain["job"], config_dir), plain, [], config_dir)


def _how_to_set(name: str, choices: dict[str, str]) -> str:
    if name != "prompt.user":
        return f"give {name}=... on the command line or in your configuration"
    return (
        "put a template over the row's columns in it, such as 'prompt.user=\"Summarise: {{ text }}\"', "
        f"or in prompt/{choices['job']}.yaml of your --config-dir"
    )


def _check(conf: RunConf) -> None:
    check_keys(conf)
    check_schedule(conf.schedule)
    check_notify(conf.notify)
    if conf.date is not None and not _is_date(conf.date):
        raise UserError("date", "it must be a day like 2026-01-31, or null for the day the run began", value=conf.date)
    check_run_name(conf.run_name)


def check_run_name(name: str | None) -> None:
    """UserError unless it is the name of one folder."""
    if not name or Path(name).name != name or name in (".", ".."):
        raise UserError("run_name", "it must be a folder name inside output.dir", value=name)


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
