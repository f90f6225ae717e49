"""The command ``benchmark``: from overrides to measurements on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.benchmark import BenchmarkConf, Measurement, benchmark, to_json
from runner import models
from runner.compose import Composer
from runner.config import EngineConf, ModelConf
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


def run_benchmark(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[Measurement], Path]:
    """Measure, and write ``benchmark.json`` into ``output.dir``. Raises UserError."""
    composed, _ = Composer(BenchmarkRunConf, "benchmark", config_dir).compose(overrides)
    try:
        conf = cast(BenchmarkRunConf, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    if conf.engine.backend == "fake" or not conf.model.path:
        raise UserError("benchmark needs a model: model=NAME or model.path=..., and a backend other than fake")
    folder = models.resolve(conf.model.path, conf.model.revision, conf.offline)
    measured = benchmark(conf.benchmark, folder, asdict(conf.engine))
    path = Path(conf.output.dir) / "benchmark.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(measured) + "\n")
    return measured, path
