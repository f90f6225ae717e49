"""The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.prompt import PromptConf
from runner.source import DatasetConf
from runner.types import Job, Sampling, UserError
from runner.where import did_you_mean


@dataclass
class ModelConf:
    """``path``: a folder, a ``.gguf`` file, a ``wheel:`` address or a hub id; ``revision`` pins a hub id."""

    path: str | None = None
    revision: str | None = None


@dataclass
class EngineConf:
    """How the model runs. Only ``max_tokens`` and the sampling keys change what comes out.

    ``backend``: auto, metal, cuda, cpu, or fake (no model: deterministic text from the prompt's hash). ``batch_size``:
    sequences at once (null: chosen for the device). ``prefill_tokens``: prompt tokens in one step (null: chosen).
    ``memory_gb``: for weights and KV caches together (null: what the device has). ``window``: rows read ahead and
    sorted. ``max_tokens``: of an answer; ``temperature`` 0 is greedy, ``top_k`` 0 and ``top_p`` 1 are off.
    """

    backend: str = "auto"
    batch_size: int | None = None
    prefill_tokens: int | None = None
    memory_gb: float | None = None
    window: int = 4096
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    reasoning_effort: str | None = None

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)


@dataclass
class OutputConf:
    """``dir`` holds run folders. ``keep``: input columns in the output (null: all but those named like one of ours).

    ``shard_rows``: rows in an Arrow file.
    """

    dir: str = "outputs"
    keep: list[str] | None = None
    shard_rows: int = 1000


@dataclass
class CheckpointConf:
    """``durability``: process (survives any death of the process) or power (also a power cut)."""

    durability: str = "process"


@dataclass
class RunConf:
    """A run. ``seed`` fixes all random draws. ``date`` is today for chat templates (null: the day the run began).

    ``run_name`` (null: the names of job and dataset) is the folder in ``output.dir``. ``resume``: auto, or force to
    start anew in a fresh directory. ``offline``: fetch nothing, use what is cached.
    """

    job: Any = None
    prompt: PromptConf = field(default_factory=PromptConf)
    dataset: DatasetConf = field(default_factory=DatasetConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    output: OutputConf = field(default_factory=OutputConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    run_name: str | None = None
    resume: str = "auto"
    seed: int = 0
    date: str | None = None
    offline: bool = False


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
    composed = _compose(list(overrides), config_dir, name)
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(f"{missing[0]} is not set: {_how_to_set(missing[0])}")
        plain = OmegaConf.to_container(composed, resolve=True)
        conf = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    plain = cast(dict[str, Any], plain)
    assert isinstance(conf, RunConf)
    _check(conf)
    return Config(conf, make_job(plain["job"], config_dir), plain, list(overrides), config_dir)


def _how_to_set(key: str) -> str:
    if key == "prompt.user":
        return "put a template over the row's columns in it, such as 'prompt.user=\"Summarise: {{ text }}\"'"
    return f"give {key}=... on the command line or in your configuration"


def _check(conf: RunConf) -> None:
    allowed = {
        "resume": ("auto", "force"),
        "checkpoint.durability": ("process", "power"),
        "engine.backend": ("auto", "metal", "cuda", "cpu", "fake"),
        "engine.reasoning_effort": (None, "low", "medium", "high"),
    }
    lowest = {
        "engine.batch_size": 1,
        "engine.prefill_tokens": 1,
        "engine.window": 1,
        "engine.max_tokens": 1,
        "engine.temperature": 0,
        "engine.top_k": 0,
        "engine.min_p": 0,
        "engine.top_p": 0,
        "engine.memory_gb": 0,
        "output.shard_rows": 1,
        "seed": 0,
    }
    for key, values in allowed.items():
        if (value := _at(conf, key)) not in values:
            raise UserError(f"{key}={value}: it can be {', '.join(str(v) for v in values if v)}")
    for key, least in lowest.items():
        if (value := _at(conf, key)) is not None and value < least:
            raise UserError(f"{key}={value}: it must be at least {least}")
    for key in ("engine.top_p", "engine.min_p"):
        if _at(conf, key) > 1:
            raise UserError(f"{key}={_at(conf, key)}: it is a probability, at most 1")
    if not conf.run_name or Path(conf.run_name).name != conf.run_name or conf.run_name in (".", ".."):
        raise UserError(f"run_name={conf.run_name}: it must be a folder name inside output.dir")


def _at(conf: Any, key: str) -> Any:
    for name in key.split("."):
        conf = getattr(conf, name)
    return conf


def make_job(node: Any, config_dir: str | None = None) -> Job:
    """The job that ``_target_`` names, given the other keys. UserError for a class or a key that does not exist."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError("job._target_ is not set: choose a job, such as job=label, or name your own class in it")
    target = str(node["_target_"])
    for folder in filter(None, [str(Path.cwd()), config_dir]):
        if folder not in sys.path:
            sys.path.append(folder)
    module_name, _, class_name = target.rpartition(".")
    try:
        job_class: Any = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"job._target_={target}: {error}") from error
    if not isinstance(job_class, type) or not dataclasses.is_dataclass(job_class):
        raise UserError(f"job._target_={target} is not a dataclass")
    names = [f.name for f in dataclasses.fields(job_class) if f.init]
    values = {key: value for key, value in node.items() if key != "_target_"}
    for key in values:
        if key not in names:
            raise UserError(f"job.{key} is not a key of {target}{did_you_mean(key, names)}")
    try:
        job = cast(Any, job_class)(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"job: {error}") from error
    if not isinstance(job, Job):
        raise UserError(f"job._target_={target} lacks steps(row) or schema()")
    return job


def _compose(overrides: list[str], config_dir: str | None, name: str) -> DictConfig:
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConf)
    searched = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        try:
            composed = cast(DictConfig, compose(name, overrides + searched, return_hydra_config=True))
            choices = composed.hydra.runtime.choices
            OmegaConf.set_struct(composed, False)
            del composed.hydra
            composed.run_name = composed.run_name or f"{choices.job}-{choices.dataset}".replace("/", "-")
            return composed
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error, overrides, searched, name)) from error


def _explain(error: Exception, overrides: list[str], searched: list[str], name: str) -> str:
    """Hydra's message as one line that names the key and what would be right."""
    text = str(error)
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        key = override[1].lstrip("+~")
        return f"{key} is not a configuration key{_valid_keys(key, overrides, searched, name)}"
    absent = re.search(r"Could not find '([^']+)/([^'/]+)'", text) or re.search(r"In .*: Could not .*'(.*)/(.*)'", text)
    options = [line.strip() for line in text.splitlines() if line.startswith("\t") and "=" not in line]
    if absent:
        return f"{absent[1]}={absent[2]}: there is no such configuration{did_you_mean(absent[2], options)}"
    return _first_line(error)


def _valid_keys(key: str, overrides: list[str], searched: list[str], name: str) -> str:
    groups = [o for o in overrides if "." not in o.split("=")[0]]
    try:
        node: Any = compose(name, groups + searched)
        for part in key.split(".")[:-1]:
            node = node[part]
        return did_you_mean(key.split(".")[-1], [str(k) for k in node if k != "_target_"])
    except (HydraException, OmegaConfBaseException, KeyError, TypeError, AttributeError):
        return ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), None)
    cause = error.__cause__
    if key is None and cause is not None and "full_key:" in str(cause):
        return _first_line(cause)
    return f"{key}: {lines[0]}" if key else lines[0] if lines else type(error).__name__
