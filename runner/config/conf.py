"""The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.checkpoint.conf import CheckpointConf
from runner.config.compose import Composer, open_schema
from runner.config.job import make_job
from runner.data.conf import DatasetConf
from runner.engine.conf import EngineConf
from runner.keys import check_keys, key
from runner.models.recipes import ModelConf
from runner.night.notify import NotifyConf, check_notify
from runner.night.schedule import ScheduleConf, check_schedule
from runner.text.prompter import PromptConf
from runner.text.structure import StructureConf
from runner.types import Job, UserError


@dataclass
class OutputConf(StructureConf):
    """What goes into the output, and where.

    An answer can be held to a structure with one of ``schema``, ``regex`` and ``choices``: decoding is constrained
    token by token, so every finished row parses and validates. Each property of a schema becomes a typed column.

    Attributes:
        dir: The folder that holds run folders.
        keep: The input columns to copy into the output. null: all whose names are not taken by the job's own columns.
        shard_rows: The number of rows in an Arrow file.
        report: Whether to write ``report.html`` once all rows are finished. null: unless the engine is the fake one.
        raw: Keep the text of a structured answer beside the columns made from it.
        reasoning: Keep what the model thought before it answered, in the column ``reasoning``.
    """

    dir: str = "outputs"
    keep: list[str] | None = None
    shard_rows: int = key(1000, least=1)
    report: bool | None = None
    raw: bool = False
    reasoning: bool = False


@dataclass
class CalibrateConf:
    """Whether the confidences of labels are calibrated.

    Attributes:
        rows: The fraction of the rows with gold labels that the temperature of the confidences is fitted to; the
            effect is measured on the rest. 0: no calibration.
    """

    rows: float = key(0.0, least=0, most=0.9)


@dataclass
class RunConf:
    """The keys that belong to no group.

    Attributes:
        run_name: The name of the run's folder in ``output.dir``. null: made from the names of the job and the data
            set.
        resume: auto continues what is there; errors also tries rows with an error again; force starts over in a fresh
            folder and deletes nothing.
        seed: Determines all random draws.
        date: What chat templates take for today, such as 2026-01-31. null: the day the run began.
        offline: Fetch nothing; use only what is in the caches.
        modules: Installed Python modules, apart from rowmill's own, whose classes may be used as jobs and filters.
    """

    job: Any = None
    prompt: PromptConf = field(default_factory=PromptConf)
    dataset: DatasetConf = field(default_factory=DatasetConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    output: OutputConf = field(default_factory=OutputConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    notify: NotifyConf = field(default_factory=NotifyConf)
    calibrate: CalibrateConf = field(default_factory=CalibrateConf)
    run_name: str | None = None
    resume: str = key("auto", among=("auto", "errors", "force"))
    seed: int = key(0, least=0)
    date: str | None = None
    offline: bool = False
    modules: list[str] = field(default_factory=list)


@dataclass
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


def load_config(overrides: Sequence[str], config_dir: str | None = None, name: str = "run") -> Config:
    """Compose ``conf/run.yaml`` with overrides as typed; UserError naming the key and what would be valid."""
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    composer = Composer(RunConf, name, config_dir)
    composed, choices = composer.compose(overrides)
    composed.run_name = composed.run_name or f"{choices['job']}-{choices['dataset']}".replace("/", "-")
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(f"{missing[0]} is not set: {_how_to_set(missing[0], choices)}")
        plain = OmegaConf.to_container(composed, resolve=True)
        conf = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        at = getattr(error, "full_key", None)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{at}: {reason}" if at else reason) from error
    plain = cast(dict[str, Any], plain)
    assert isinstance(conf, RunConf)
    _check(conf)
    try:
        job = make_job(plain["job"], config_dir, conf.modules)
    except UserError as error:
        own = composer.own_file("job", choices["job"])
        raise UserError(f"{error}; the job is {own}" if own else str(error)) from error
    return Config(conf, job, plain, list(overrides), config_dir)


def recorded_config(plain: dict[str, Any], config_dir: str | None = None) -> Config:
    """The configuration of an earlier run from what was kept of it. UserError where that does not fit any more."""
    try:
        composed = OmegaConf.merge(open_schema(RunConf), plain)
        conf = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(f"the run was made by another version: {str(error).splitlines()[0]}") from error
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
        raise UserError(f"date={conf.date}: it must be a day like 2026-01-31, or null for the day the run began")
    if not conf.run_name or Path(conf.run_name).name != conf.run_name or conf.run_name in (".", ".."):
        raise UserError(f"run_name={conf.run_name}: it must be a folder name inside output.dir")


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
