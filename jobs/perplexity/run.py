"""One variant's run: its windows scored in batches, each committed, as a session drives it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.perplexity.check import Check, self_check
from jobs.perplexity.conf import PerplexityRunConf
from jobs.perplexity.table import Variant
from jobs.perplexity.windows import Window
from runner.checkpoint.deaths import Death
from runner.checkpoint.records import Output, Record, Usage
from runner.checkpoint.store import Store
from runner.config.job import job_folders
from runner.custom.code import job_code
from runner.data.source import DataSource
from runner.data.stdin import keep_copy
from runner.engine.windows.engine import WindowEngine, peak, reset_peak, windows_at_once
from runner.fleet.handshake import handshake_of
from runner.fleet.start import open_fleet, spec_of
from runner.machine.device import wired
from runner.machine.facts import session_facts
from runner.night.guard import GuardedEngine
from runner.night.night import Night
from runner.results.perplexity import estimate
from runner.results.progress import FIRST_ROWS, Progress
from runner.results.run import Run
from runner.results.status import DOING
from runner.sequences import Engine, Generation, Sequence
from runner.session.runnable import resumed
from runner.signals import Stop
from runner.text.prompter import PromptConf
from runner.types import Completion, UserError

SCHEMA = pa.schema([("begin", pa.int64()), ("end", pa.int64()), ("tokens", pa.int32()), ("nll", pa.float64())])
SHARD_WINDOWS = 1000
# By how much a window's mean may differ from that of a pass by itself, in nats.
TOLERANCE = {"cpu": 1e-5, "metal": 1e-2, "cuda": 1e-2}


@dataclass(frozen=True)
class Asked:
    """A command line. ``sweep``: a variant for each combination of values; ``checked``: with a self-check."""

    overrides: list[str]
    config_dir: str | None = None
    sweep: bool = False
    checked: bool = False

    @property
    def options(self) -> list[str]:
        """The words before the overrides."""
        folder = ["--config-dir", self.config_dir] if self.config_dir else []
        return [*["-m"] * self.sweep, *["--self-check"] * self.checked, *folder]


@dataclass
class PerplexityRun:
    """A variant checked and tokenised; see ``Runnable``. ``tokens``: the text's ids [N]; ``bos``: those that each
    window begins with; ``method``: how it is measured, in words.

    ``config``: the configuration as plain values. ``new_name``: the run_name that resume=force chose, if it did.
    """

    asked: Asked
    conf: PerplexityRunConf
    config: dict[str, Any]
    name: str
    run_dir: Path
    new_name: str | None
    folder: Path
    model_config: dict[str, Any]
    device: Any
    source: DataSource
    tokens: np.ndarray
    windows: list[Window]
    bos: list[int]
    method: str
    checks: list[Check] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def command(self) -> list[str]:
        return ["perplexity", *self.asked.options, *self.asked.overrides]

    @property
    def overrides(self) -> list[str]:
        return self.asked.overrides

    def resuming(self, words: list[str]) -> list[str]:
        return resumed(words, self.new_name)

    @property
    def wants_report(self) -> bool:
        return self.conf.output.report

    def is_complete(self, store: Store) -> bool:
        is_checked = not self.asked.checked or bool(self.checks)
        return is_checked and store.totals().finished == len(self.windows)

    def outcome(self, store: Store) -> str:
        finished = store.totals().finished
        said = f"all {finished:,} windows are finished" if finished != 1 else "its window is finished"
        return said + store.seats.told()

    def figures(self, run: Run) -> dict[str, Any]:
        found = self.variant(run)
        return {"perplexity": {"variant": found.name, **found.estimate._asdict()}}

    def open_store(self, death: Death | None) -> Store:
        from runner.config.typed import as_yaml

        durability = self.conf.checkpoint.durability
        store = Store.open(
            self.run_dir,
            self._identity(),
            rows=len(self.windows),
            shard_rows=SHARD_WINDOWS,
            schema=SCHEMA,
            keep=pa.schema([]),
            kept=lambda start, stop: pa.table({}),
            durability=durability,
            provenance=self._provenance(),
            config=as_yaml(self.config),
            death=death,
            shared=self.conf.output.shared,
        )
        if self.source.spool is not None:
            keep_copy(self.source.spool, self.run_dir)
        return store

    def _identity(self) -> dict[str, Any]:
        from runner.models.tensors import weights_hash

        conf, own = self.conf, self.conf.dataset.own
        dataset = conf.dataset.identifying(asdict(conf.dataset)) | own
        reader = job_code(own, job_folders(self.asked.config_dir)) if own else None
        asked = {
            key: value
            for key, value in asdict(conf.perplexity).items()
            if key != "bos" and (key, value) != ("context", None)
        }
        return {
            "job": {
                "_target_": "jobs.perplexity",
                **asked,
                "stride": conf.perplexity.step,
                **({"bos": self.bos} if self.bos else {}),
            },
            "dataset": {**dataset, "fingerprint": self.source.fingerprint},
            "model": {
                "path": conf.model.path,
                "revision": conf.model.revision,
                **({"adapter": conf.model.adapter} if conf.model.adapter else {}),
                "weights": weights_hash(self.folder),
            },
            **({"engine": {"kv_bits": conf.engine.kv_bits}} if conf.engine.kv_bits else {}),
            "tokens": len(self.tokens),
            "keep": {},
            "made": True,  # its rows are windows, not the data set's rows
            "figures": "perplexity",  # what a report makes of them
            **({"reader": reader} if own else {}),
        }

    def _provenance(self) -> dict[str, Any]:
        conf = self.conf
        folder = {"config_dir": self.asked.config_dir} if conf.dataset.target else {}
        return {**session_facts(self.device), "engine": asdict(conf.engine), "dataset": conf.dataset.path, **folder}

    def work(self, store: Store, stop: Stop, night: Night) -> None:
        if self.device is not None:  # each seat of a fleet checks its own
            self._check_memory(store.deaths.budget_share)
        if not night.wait():
            raise KeyboardInterrupt
        store.note({DOING: "loading the model"})
        with wired(self.device):
            engine = self._engine(store, stop, night)
            try:
                if self.asked.checked:
                    self._check(engine)
                store.start(engine.gauge)
                with stop.gently(), Progress(len(self.windows), store) as progress:
                    progress.tell(FIRST_ROWS, quietly=True)
                    self._score(engine, store, stop, progress)
            finally:
                self.peak_bytes = peak(self.device)
                engine.close()
        if store.totals().finished < len(self.windows):
            raise KeyboardInterrupt

    def _check_memory(self, share: float) -> None:
        from runner.session.preflight import check

        conf = self.conf
        most = windows_at_once(conf.engine, self.device, conf.perplexity.window, share)
        planned = dataclasses.replace(conf.engine, batch_size=most)
        check(conf.model, self.folder, self.model_config, self.device, planned, [(conf.perplexity.window, 0)])

    def _engine(self, store: Store, stop: Stop, night: Night) -> Engine:
        """What scores windows, in this process or in others. None of them is ever given up."""
        conf, window, wait = self.conf, self.conf.perplexity.window, night.waiter(store.leave_out, store.record)
        if conf.fleet.kind != "none":
            spec = spec_of(conf.model, conf.engine, PromptConf(), conf.offline, conf.schedule.keep_awake)
            spec, ours = spec._replace(window=window), handshake_of(self.folder)
            given = (conf.fleet, spec, ours, store, wait, stop.is_asked)
            return open_fleet(*given, lambda doing: store.note({DOING: doing}), quarantines=False)
        place, share = (self.folder, self.model_config, self.device), store.deaths.budget_share
        reset_peak()
        return GuardedEngine(
            lambda: WindowEngine(*place, conf.engine, window, share, store.flight.beat),
            store.flight,
            store.deaths.alone(),
            wait=wait,
        )

    def _score(self, engine: Engine, store: Store, stop: Stop, progress: Progress) -> None:
        """Commit windows as they are scored: those as long as the first, the shorter one, those of two deaths."""
        rows = [row for span in store.unfinished() for row in span]
        store.forget((row, 0) for row in rows)  # of a shard that was lost
        alone = store.deaths.alone()
        rows.sort(key=lambda row: (row in alone, not self._is_whole(row)))
        left = deque(map(self._window, rows))
        while store.totals().finished < len(self.windows) and not stop.is_asked():
            engine.add(_alike(left, engine.room()))
            ended = [self._ended(one) for one in engine.step()]
            store.record((record for record, _ in ended if record.seat is not None), (output for _, output in ended))
            progress.update()

    def _window(self, row: int) -> Sequence:
        """A window as an engine sees it: what is scored is the one choice to go on from the rest."""
        begin, end, scored = self.windows[row]
        ids = [*self.bos, *self.tokens[begin:end].tolist()]
        return Sequence((row, 0), ids[:-scored], 0, choices=(tuple(ids[-scored:]),))

    def _ended(self, generation: Generation) -> tuple[Record, Output]:
        """What is kept of a window: which seat gave its answer, and its sum."""
        (row, number), (logprob,) = generation.key, generation.logprobs or (math.nan,)
        begin, end, scored = self.windows[row]
        columns = {"begin": begin, "end": end, "tokens": scored, "nll": -logprob}
        answer = Completion(finish_reason="choice", prompt_tokens=end - begin, logprobs=(logprob,))
        usage = Usage(prompt_tokens=end - begin)
        return Record(row, number, None, answer, generation.seat), Output(row, columns, usage=usage)

    def _is_whole(self, row: int) -> bool:
        """Whether a window is as long as the first; only the last can be shorter."""
        return row < len(self.windows) and self.windows[row].end - self.windows[row].begin == self.windows[0].end

    def _check(self, engine: Engine) -> None:
        """Raises UserError, exit code 3, where batches and single passes give other results."""
        scorer = engine.inner if isinstance(engine, GuardedEngine) else engine
        assert isinstance(scorer, WindowEngine)
        count = scorer.lanes
        rows = [row for row in range(scorer.batch_size) if self._is_whole(row)]
        batches = [self._ids(rows[at::count]) for at in range(min(count, len(rows)))]
        found = self_check(scorer.model, batches, scorer.streams, scorer.chunk)
        self.checks.append(found)
        if not found.mean <= TOLERANCE[self.device.kind]:
            differ = f"batches differ from single passes by {found.mean:.2g} nats a token"
            raise UserError(f"self-check: {differ}", exit_code=3)

    def _ids(self, rows: list[int]) -> np.ndarray:
        texts = (self.tokens[self.windows[row].begin : self.windows[row].end] for row in rows)
        return np.stack([np.concatenate([np.array(self.bos, np.int32), text]) for text in texts])

    def variant(self, run: Run | None = None) -> Variant:
        """What the finished run came to."""
        from runner.models.tensors import weight_bytes

        run = run or Run(self.run_dir)
        status = run.status
        table = pa.concat_tables(block.table for block in run.blocks(["nll", "tokens"]))
        nlls, scored = table.column("nll").to_pylist(), table.column("tokens").to_pylist()
        return Variant(
            name=self.name,
            path=str(self.run_dir),
            text=hashlib.sha256(self.tokens.tobytes() + repr(self.windows[:2]).encode()).hexdigest()[:16],
            method=self.method,
            nlls=nlls,
            scored=scored,
            estimate=estimate(nlls, scored),
            weight_bytes=weight_bytes(self.folder, self.model_config),
            tokens_per_s=status["prompt_tokens"] / status["active_s"] if status["active_s"] else None,
            peak_bytes=self.peak_bytes,
        )


def _alike(left: deque[Sequence], most: int) -> list[Sequence]:
    """So many of the next ones, all of one length: a batch with others would have to wait for them."""
    taken: list[Sequence] = []
    while left and len(taken) < most and (not taken or _length(left[0]) == _length(taken[0])):
        taken.append(left.popleft())
    return taken


def _length(window: Sequence) -> int:
    return len(window.tokens) + sum(map(len, window.choices or ()))
