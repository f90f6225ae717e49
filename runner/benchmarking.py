"""The command ``benchmark``: from overrides to measurements on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.benchmark import BenchmarkConf, Measurement, benchmark, to_json
from jobs.card import Card, card
from runner import device, models
from runner.compose import Composer
from runner.config import EngineConf, ModelConf
from runner.preflight import check
from runner.recipes import model_path
from runner.types import UserError


@dataclass
class OutputDirConf:
    """``dir``: where ``benchmark.json`` goes."""

    dir: str = "outputs"


@dataclass
class BenchmarkRunConf:
    """The groups of ``rowmill benchmark``."""

    benchmark: BenchmarkConf = field(default_factory=BenchmarkConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    output: OutputDirConf = field(default_factory=OutputDirConf)
    offline: bool = False


def run_benchmark(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[Measurement] | Card, Path]:
    """Measure, and write ``benchmark.json`` (or ``card.json``) into ``output.dir``. Raises UserError."""
    composed, _ = Composer(BenchmarkRunConf, "benchmark", config_dir).compose(overrides)
    try:
        conf = cast(BenchmarkRunConf, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    if conf.engine.backend == "fake":
        raise UserError("benchmark needs a model: engine.backend=fake has none")
    folder = models.resolve(model_path(conf.model), conf.model.revision, conf.offline)
    _check_memory(conf, folder)
    if conf.benchmark.workload == "card":
        return _run_card(conf, folder)
    measured = benchmark(conf.benchmark, folder, asdict(conf.engine))
    path = Path(conf.output.dir) / "benchmark.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(measured) + "\n")
    return measured, path


def _run_card(conf: BenchmarkRunConf, folder: Path) -> tuple[Card, Path]:
    asked = conf.benchmark
    if asked.response < 2:
        raise UserError(f"benchmark.response={asked.response}: it must be at least 2")
    sizes = {"streams": [*(asked.batch_sizes or (1, None))], "prompt": asked.suffix, "response": asked.response}
    name = Path(conf.model.path or folder).name
    task = {"model": str(folder), "name": name, "engine": asdict(conf.engine), "seed": asked.seed, **sizes}
    measured = card(task)
    path = Path(conf.output.dir) / "card.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(measured), indent=1) + "\n")
    return measured, path


def _check_memory(conf: BenchmarkRunConf, folder: Path) -> None:
    """Raises UserError, exit code 3, for what cannot fit."""
    asked, environment = conf.benchmark, dict(os.environ)
    row = asked.suffix + (asked.response if asked.workload == "card" else asked.prefix + asked.output)
    shared = asked.prefix if asked.workload in ("shared", "documents") else 0
    found = device.prepare(conf.engine.backend)
    os.environ.clear()
    os.environ.update(environment)  # the engines' own processes choose their threads
    lengths = [(row, shared)] * max(asked.n, 1)
    check(conf.model, folder, models.read_config(folder), found, conf.engine, lengths)
