"""The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.code import targets
from runner.compose import Composer
from runner.dataset_conf import DatasetConf
from runner.kept import loadable
from runner.keys import check_keys, key
from runner.night.notify import NotifyConf, check_notify
from runner.night.schedule import ScheduleConf, check_schedule
from runner.own_class import find_class, import_class_module, make
from runner.prompt import PromptConf
from runner.structure import StructureConf
from runner.types import Job, Sampling, UserError


@dataclass
class ModelConf:
    """``path``: a folder, a ``.gguf`` file, a ``wheel:`` address or a hub id; ``revision`` pins a hub id.

    ``base``, ``bits`` and ``group_size`` are what ``rowmill convert`` makes it from and how; without a ``path``, a run
    takes what convert has made.
    """

    path: str | None = None
    revision: str | None = None
    base: str | None = None
    bits: int | None = key(None, among=(2, 3, 4, 5, 6, 8))
    group_size: int | None = key(None, among=(32, 64, 128))


@dataclass
class EngineConf:
    """How the model runs. Only ``max_tokens``, ``max_kv_size`` and the sampling keys change what comes out.

    ``backend``: auto, metal, cuda, cpu, or fake (no model: deterministic text from the prompt's hash). ``batch_size``:
    sequences at once (null: chosen for the device). ``prefill_tokens``: prompt tokens in one step (null: chosen).
    ``memory_gb``: for weights and KV caches together (null: what the device has). ``max_kv_size``: the tokens of a row
    that its attention sees, the first 4 and the latest ones (null: all). ``window``: rows read ahead and
    sorted; prompts share what they have in common with others among these (some 40 kB of memory for each 1,000 tokens).
    ``max_tokens``: of an answer; ``temperature`` 0 is greedy, ``top_k`` 0 and ``top_p`` 1 are off.
    ``stall_minutes`` without a step, and the model's process is started again; it ends with exit code 3 when it has
    died more than ``max_restarts`` times in a row without an answer in between.
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
    """``dir`` holds run folders. ``keep``: input columns in the output (null: all but those named like one of ours).

    ``shard_rows``: rows in an Arrow file. ``report``: write ``report.html`` when all rows are finished (null: unless
    the engine is the fake one). Answers are made to follow ``schema`` (JSON Schema in YAML, or a .json or .yaml file),
    ``regex`` or ``choices``; ``raw`` keeps their text beside the columns made of it. ``reasoning`` keeps what the model
    thought before it answered, in a column of that name.
    """

    dir: str = "outputs"
    keep: list[str] | None = None
    shard_rows: int = key(1000, least=1)
    report: bool | None = None
    raw: bool = False
    reasoning: bool = False


@dataclass
class CalibrateConf:
    """``rows``: the share of the rows, with gold, that the temperature of the confidences is fitted on; 0: none."""

    rows: float = key(0.0, least=0, most=0.9)


@dataclass
class CheckpointConf:
    """``durability``: process (survives any death of the process) or power (also a power cut)."""

    durability: str = key("process", among=("process", "power"))


@dataclass
class RunConf:
    """A run. ``seed`` fixes all random draws. ``date`` is today for chat templates (null: the day the run began).

    ``run_name`` (null: the names of job and dataset) is the folder in ``output.dir``. ``resume``: auto, errors to
    try rows in error once more, or force to start anew in a fresh directory. ``offline``: fetch nothing, use what is
    cached.
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


def make_job(node: Any, config_dir: str | None = None, modules: Sequence[str] = ()) -> Job:
    """The job that ``_target_`` names, given the other keys. UserError for a class or a key that does not exist.

    The class may be one of ours, lie in a file of the user's folders, or in one of the installed ``modules``.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise UserError("job._target_ is not set: choose a job, such as job=label, or name your own class in it")
    target, folders = node["_target_"], job_folders(config_dir)
    for where, name in targets(node):
        import_class_module(where, name, folders, modules)
    values = {key: value for key, value in node.items() if key != "_target_"}
    job = make("job", find_class("job", target, "steps"), target, values)
    if not isinstance(job, Job):
        raise UserError(f"job._target_={target}: the class lacks steps(row) or schema()")
    _check_schema(job, target)
    return job


def job_folders(config_dir: str | None) -> list[str]:
    """Where modules of a user's own jobs are looked for, after installed ones."""
    return [str(Path.cwd()), *([str(Path(config_dir).resolve())] if config_dir else [])]


def _check_schema(job: Job, target: str) -> None:
    where = f"job._target_={target} ({getattr(sys.modules.get(type(job).__module__), '__file__', None)})"
    try:
        schema = job.schema()
        list(getattr(job, "variables", dict)())
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise UserError(f"{where}: schema() or variables() fails: {type(error).__name__}: {error}") from error
    if not isinstance(schema, pa.Schema):
        raise UserError(
            f"{where}: schema() returns {schema!r:.80}, not a pyarrow.Schema such as "
            'pa.schema([("topic", pa.string())])'
        )
    for column in schema:
        if not loadable(column.type):
            raise UserError(f"{where}: column {column.name!r} has type {column.type}, which `datasets` cannot load")
