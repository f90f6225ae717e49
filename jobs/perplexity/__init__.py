"""The command ``perplexity``: from overrides to windows in a checkpoint to a table of variants.

It cuts a text into windows, commits each batch of them, resumes, and writes one table of all variants with standard
errors and the differences from the first, as text, Markdown and JSON. ``--self-check`` compares a batch with forward
passes one by one.

    rowmill perplexity -m model=gpt_oss_20b_q8g64,gpt_oss_20b_q6g32 dataset=text dataset.path=book.txt

Modules:
table    The perplexities of several variants side by side, as text, Markdown and JSON.
windows  The command ``perplexity``: how surprised a model is by a text, window by window.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from omegaconf import OmegaConf

from jobs.benchmark import OutputDirConf
from jobs.perplexity.table import Variant, as_json, as_markdown, as_text
from jobs.perplexity.windows import (
    Check,
    PerplexityConf,
    Window,
    chunk_tokens,
    estimate,
    losses,
    read_tokens,
    self_check,
    text_column,
    windows,
)
from runner.checkpoint.conf import CheckpointConf
from runner.checkpoint.lease import fresh_dir
from runner.checkpoint.records import Output, Usage
from runner.checkpoint.store import Store
from runner.config.compose import Composer
from runner.config.job import job_folders
from runner.config.quoting import combinations
from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.disk import disk_errors
from runner.engine.budget import Budget
from runner.engine.conf import EngineConf
from runner.keys import check_keys, key
from runner.machine.facts import session_facts
from runner.models.recipes import ModelConf, model_path
from runner.results.progress import Progress
from runner.results.run import Run
from runner.sequences import Gauge
from runner.signals import Stop
from runner.types import UserError

log = logging.getLogger("rowmill")

SCHEMA = pa.schema([("begin", pa.int64()), ("end", pa.int64()), ("tokens", pa.int32()), ("nll", pa.float64())])
SHARD_WINDOWS = 1000
# By how much a window's mean may differ from that of a pass by itself, in nats.
TOLERANCE = {"cpu": 1e-4, "metal": 1e-2, "cuda": 1e-2}


@dataclass
class PerplexityRunConf:
    """The groups of ``rowmill perplexity``; see ``RunConf`` for the keys without a group."""

    perplexity: PerplexityConf = field(default_factory=PerplexityConf)
    dataset: DatasetConf = field(default_factory=DatasetConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    output: OutputDirConf = field(default_factory=OutputDirConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    run_name: str | None = None
    resume: str = key("auto", among=("auto", "force"))
    offline: bool = False


@dataclass
class Ready:
    """An evaluation checked and tokenised, its weights not yet loaded. ``tokens``: the text's ids [N]."""

    conf: PerplexityRunConf
    name: str
    run_dir: Path
    folder: Path
    model_config: dict[str, Any]
    device: Any
    fingerprint: str
    tokens: np.ndarray
    windows: list[Window]
    checks: list[Check] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def text(self) -> str:
        """Names the tokens and how they are cut."""
        return hashlib.sha256(self.tokens.tobytes() + repr(self.windows[:2]).encode()).hexdigest()[:16]

    def is_whole(self, row: int) -> bool:
        """Whether a window is as long as the first; only the last can be shorter."""
        return row < len(self.windows) and self.windows[row].end - self.windows[row].begin == self.windows[0].end

    @property
    def sequences(self) -> int:
        """Windows in a batch."""
        conf = self.conf
        return conf.engine.batch_size or max(1, self.budget.prefill_tokens // conf.perplexity.window)

    @property
    def budget(self) -> Budget:
        return Budget.of(self.conf.engine, self.device)


def run_perplexities(
    overrides: Sequence[str], config_dir: str | None, sweep: bool, checked: bool, stop: Stop
) -> tuple[list[Variant], list[Check], dict[str, Path]]:
    """Evaluate, or go on; with ``sweep`` one variant for each combination of values. Tables by kind of file.

    Raises UserError, and KeyboardInterrupt when ``stop`` was asked for.
    """
    asked = combinations(overrides) if sweep else [(list(overrides), [])]
    all_ready = [prepare(words, config_dir, differing) for words, differing in asked]
    variants = [evaluate(ready, stop, checked) for ready in all_ready]
    checks = [check for ready in all_ready for check in ready.checks]
    return variants, checks, _write_tables(Path(all_ready[-1].conf.output.dir), variants)


def prepare(overrides: Sequence[str], config_dir: str | None, differing: Sequence[str] = ()) -> Ready:
    """Check everything that can be checked before weights load; ``differing`` overrides go into the name."""
    typed, choices = Composer(PerplexityRunConf, "perplexity", config_dir).typed(overrides)
    conf = cast(PerplexityRunConf, typed)
    check_keys(conf)
    if conf.engine.backend == "fake":
        raise UserError("perplexity needs a model: engine.backend=fake has none")
    from runner.engine import weights
    from runner.machine import device
    from runner.models import resolve
    from runner.models.tensors import context_length

    source = open_source(conf.dataset, conf.offline, folders=job_folders(config_dir))
    column = text_column(source, conf.perplexity.column)
    folder = resolve.resolve(model_path(conf.model), conf.model.revision, conf.offline)
    found = device.set_up(conf.engine.backend)
    config = resolve.read_config(folder)
    tokenizer = weights.load_tokenizer(folder, config)
    from runner.text.vocabulary import as_vocabulary

    end = tokenizer.eos_token_id
    if end is None and conf.perplexity.separator is None:
        raise UserError("this model has no end token: give perplexity.separator=..., such as a line break")
    tokens = read_tokens(source, column, as_vocabulary(tokenizer), end, conf.perplexity)
    cut = windows(len(tokens), conf.perplexity.window, conf.perplexity.stride)
    _check_context(conf, context_length(config))
    log.info("%s: %s tokens in %s windows", source.describe(), f"{len(tokens):,}", f"{len(cut):,}")
    name, run_dir = _names(conf, choices, any(word.startswith("model.path=") for word in overrides), differing)
    return Ready(conf, name, run_dir, folder, config, found, source.fingerprint, tokens, cut)


def _check_context(conf: PerplexityRunConf, context: int | None) -> None:
    if context is not None and conf.perplexity.window > context:
        raise UserError("perplexity.window", f"the model's context has {context} tokens", value=conf.perplexity.window)


def _names(
    conf: PerplexityRunConf, choices: dict[str, str], typed_path: bool, differing: Sequence[str]
) -> tuple[str, Path]:
    """What to call the variant, and its run directory."""
    model = Path(str(conf.model.path).partition("#")[0]).name if typed_path else choices["model"]
    others = [word for word in differing if not word.startswith(("model=", "model.path="))]
    name = " ".join([model, *others])
    default = "-".join(["perplexity", model, choices["dataset"], *others])
    run_name = conf.run_name or re.sub(r"[^\w.=-]+", "-", default)
    if Path(run_name).name != run_name or run_name in (".", ".."):
        raise UserError("run_name", "it must be a folder name inside output.dir", value=run_name)
    if conf.run_name and differing:
        run_name += re.sub(r"[^\w.=-]+", "-", "-" + "-".join(word.partition("=")[2] for word in differing))
    run_dir = Path(conf.output.dir) / run_name
    return name, fresh_dir(run_dir) if conf.resume == "force" else run_dir


def evaluate(ready: Ready, stop: Stop, checked: bool = False) -> Variant:
    """Compute the windows that are left, each committed with its batch; the variant's figures."""
    from runner.models.tensors import weight_bytes

    with _open_store(ready) as store:
        if checked or store.totals().finished < len(ready.windows):
            _work(ready, store, stop, checked)
        else:
            log.info("%s: all %d windows were finished before", ready.name, len(ready.windows))
        store.close("finished")
    run = Run(ready.run_dir)
    status = run.status
    table = pa.concat_tables(block.table for block in run.blocks(["nll", "tokens"]))
    nlls, scored = table.column("nll").to_pylist(), table.column("tokens").to_pylist()
    return Variant(
        name=ready.name,
        path=str(ready.run_dir),
        text=ready.text,
        nlls=nlls,
        scored=scored,
        estimate=estimate(nlls, scored),
        weight_bytes=weight_bytes(ready.folder, ready.model_config),
        tokens_per_s=status["prompt_tokens"] / status["active_s"] if status["active_s"] else None,
        peak_bytes=ready.peak_bytes,
    )


def _open_store(ready: Ready) -> Store:
    from runner.models.tensors import weights_hash

    conf = ready.conf
    model = {"path": conf.model.path, "revision": conf.model.revision, "weights": weights_hash(ready.folder)}
    identity = {
        "job": {"_target_": "jobs.perplexity", **asdict(conf.perplexity)},
        "dataset": {**asdict(conf.dataset), "fingerprint": ready.fingerprint},
        "model": model,
        "tokens": len(ready.tokens),
        "keep": {},
        "made": True,  # its rows are windows, not the data set's rows
    }
    return Store.open(
        ready.run_dir,
        identity,
        rows=len(ready.windows),
        shard_rows=SHARD_WINDOWS,
        schema=SCHEMA,
        keep=pa.schema([]),
        kept=lambda start, stop: pa.table({}),
        durability=conf.checkpoint.durability,
        provenance=session_facts(ready.device) | {"engine": asdict(conf.engine), "dataset": conf.dataset.path},
        config=OmegaConf.to_yaml(OmegaConf.structured(conf)),
    )


def _work(ready: Ready, store: Store, stop: Stop, checked: bool) -> None:
    """Compute until every window is finished; KeyboardInterrupt if ``stop`` was asked for before."""
    import mlx.core as mx

    from runner.engine import weights
    from runner.engine.kernels import cpu
    from runner.machine.device import cpu_streams, wired
    from runner.session.preflight import check

    conf, kind = ready.conf, ready.device.kind
    streams = cpu_streams() if kind == "cpu" else 1
    planned = dataclasses.replace(conf.engine, batch_size=ready.sequences * streams)
    check(conf.model, ready.folder, ready.model_config, ready.device, planned, [(conf.perplexity.window, 0)])
    mx.reset_peak_memory()
    with wired(ready.device):
        model, _ = weights.load(ready.folder, ready.device, ready.budget.limit)
        cpu.hook()
        lanes = [
            mx.default_stream(mx.default_device()),
            *(mx.new_stream(mx.default_device()) for _ in range(1, streams)),
        ]
        chunk = chunk_tokens(kind, ready.model_config, ready.sequences * streams)
        if checked:
            _check(ready, model, lanes, chunk)
        store.start(lambda: Gauge(memory_bytes=int(mx.get_active_memory())))
        with stop.gently(), Progress(len(ready.windows), store) as progress:
            for group in _groups(ready, store, streams):
                _compute(ready, store, group, losses(model, [_ids(ready, rows) for rows in group], lanes, chunk))
                progress.update()
                if stop.is_asked():
                    break
        ready.peak_bytes = int(mx.get_peak_memory())
        del model
        mx.clear_cache()
    if store.totals().finished < len(ready.windows):
        raise KeyboardInterrupt("interrupted; what was computed is safe: run the same command again to resume")


def _groups(ready: Ready, store: Store, streams: int) -> Iterator[list[list[int]]]:
    """Unfinished windows of equal length by batch, and as many batches as there are streams."""
    left = [index for span in store.unfinished() for index in span]
    size = ready.sequences
    for rows in ([row for row in left if ready.is_whole(row)], [row for row in left if not ready.is_whole(row)]):
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        for at in range(0, len(batches), streams):
            yield batches[at : at + streams]


def _ids(ready: Ready, rows: list[int]) -> np.ndarray:
    return np.stack([ready.tokens[ready.windows[row].begin : ready.windows[row].end] for row in rows])


def _compute(ready: Ready, store: Store, group: list[list[int]], found: list[np.ndarray]) -> None:
    """Commit a group's windows: sums of their scored tokens, in double precision."""
    outputs = []
    for rows, batch in zip(group, found, strict=True):
        for row, values in zip(rows, batch, strict=True):
            begin, end, scored = ready.windows[row]
            nll = float(values[-scored:].sum(dtype=np.float64))
            columns = {"begin": begin, "end": end, "tokens": scored, "nll": nll}
            outputs.append(Output(row, columns, usage=Usage(prompt_tokens=end - begin)))
    store.finish(outputs)


def _check(ready: Ready, model: Any, lanes: list[Any], chunk: int) -> None:
    """Raises UserError, exit code 3, where batches and single passes give other results."""
    rows = [row for row in range(ready.sequences * len(lanes)) if ready.is_whole(row)]
    batches = [_ids(ready, rows[at :: len(lanes)]) for at in range(min(len(lanes), len(rows)))]
    found = self_check(model, batches, lanes, chunk)
    ready.checks.append(found)
    if not found.mean <= TOLERANCE[ready.device.kind]:
        raise UserError(f"self-check: batches differ from single passes by {found.mean:.2g} nats a token", exit_code=3)


def _write_tables(folder: Path, variants: list[Variant]) -> dict[str, Path]:
    written = {}
    with disk_errors(folder):
        for ending, text in (("txt", as_text), ("md", as_markdown), ("json", as_json)):
            written[ending] = folder / f"perplexity.{ending}"
            written[ending].write_text(text(variants) + "\n", encoding="utf-8")
    return written
