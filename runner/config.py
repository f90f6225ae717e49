"""The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.compose import Composer
from runner.dataset_conf import DatasetConf
from runner.job import make_job
from runner.keys import check_keys, key
from runner.night.notify import NotifyConf, check_notify
from runner.night.schedule import ScheduleConf, check_schedule
from runner.prompt import PromptConf
from runner.structure import StructureConf
from runner.types import Job, Sampling, UserError


@dataclass
class ModelConf:
    """Which model runs.

    Attributes:
        path: A folder, a ``.gguf`` file, a hub id, or a file in a wheel (``wheel:NAME==VERSION/path/in/wheel``).
            Without one, a run uses what ``rowmill convert`` has made from the keys below.
        revision: The commit, tag or branch of a hub id.
        base: The model that ``rowmill convert`` starts from.
        bits: The bits per weight that it converts to.
        group_size: The number of weights that share a scale.
    """

    path: str | None = None
    revision: str | None = None
    base: str | None = None
    bits: int | None = key(None, among=(2, 3, 4, 5, 6, 8))
    group_size: int | None = key(None, among=(32, 64, 128))


@dataclass
class EngineConf:
    """How the model runs.

    Only ``max_tokens``, ``max_kv_size``, ``reasoning_effort`` and the sampling keys (``temperature``, ``top_p``,
    ``top_k``, ``min_p``) change what is written; all other keys may differ when a run is resumed. Nothing here needs
    tuning: the batch grows for as long as that yields more tokens per second, and whether a prefix is worth sharing is
    measured once for each model and machine.

    Attributes:
        backend: The device; auto takes the best one available. fake needs no model and answers with text made from the
            prompt's hash, to try out a configuration in a second.
        batch_size: The number of sequences computed together. null: found while the run is at work.
        prefill_tokens: The number of prompt tokens in one step. null: chosen for the device.
        memory_gb: The memory for weights and KV caches together. null: what the device has to give.
        max_kv_size: The number of tokens of a row that attention sees: the first 4 and the latest ones. null: all.
        window: The number of rows read ahead. Their prompts are sorted and share what they have in common, at a cost
            of 12 to 16 kB of memory for every 1,000 tokens.
        max_tokens: The length limit of an answer.
        temperature: 0 always takes the likeliest token.
        top_p: Draw only from the likeliest tokens that together have this probability. 1: off.
        top_k: Draw only from this many of the likeliest tokens. 0: off.
        min_p: Leave out tokens less likely than this fraction of the likeliest. 0: off.
        reasoning_effort: How long a model such as gpt-oss thinks before it answers.
        stall_minutes: If no step finishes for this long, the model's process is restarted.
        max_restarts: After more than this many deaths in a row without an answer in between, the run ends with exit
            code 3.
    """

    backend: str = key("auto", among=("auto", "metal", "cuda", "cpu", "fake"))
    batch_size: int | None = key(None, least=1)
    prefill_tokens: int | None = key(None, least=1)
    memory_gb: float | None = key(None, least=0)
    max_kv_size: int | None = key(None, least=8)
    window: int = key(16384, least=1)
    max_tokens: int = key(256, least=1)
    temperature: float = key(0.0, least=0)
    top_p: float = key(1.0, least=0, most=1)
    top_k: int = key(0, least=0)
    min_p: float = key(0.0, least=0, most=1)
    reasoning_effort: str | None = key(None, among=("low", "medium", "high"))
    stall_minutes: float = key(15.0, least=0)
    max_restarts: int = key(5, least=0)

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)


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
class CheckpointConf:
    """How safely answers are stored.

    Attributes:
        durability: process survives any death of the process; power also survives a power cut, because every commit
            waits for the disk. After a power cut with process, the last commits may have to be computed again.
    """

    durability: str = key("process", among=("process", "power"))


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
        composed = OmegaConf.merge(OmegaConf.structured(RunConf), plain)
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
