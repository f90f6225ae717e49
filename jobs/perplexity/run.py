"""One variant's run: its windows scored in batches, each committed, as a session drives it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.perplexity.conf import PerplexityRunConf
from jobs.perplexity.scorer import Scorer, lanes
from jobs.perplexity.table import Variant
from jobs.perplexity.windows import Check, Window
from runner.checkpoint.deaths import Death
from runner.checkpoint.records import Output, Usage
from runner.checkpoint.store import Store
from runner.config.job import job_folders
from runner.custom.code import job_code
from runner.data.source import DataSource
from runner.data.stdin import keep_copy
from runner.engine.budget import Budget
from runner.machine.device import wired
from runner.machine.facts import session_facts
from runner.night.night import Night
from runner.results.perplexity import estimate
from runner.results.progress import FIRST_ROWS, Progress
from runner.results.run import Run
from runner.results.status import DOING
from runner.session.runnable import resumed
from runner.signals import Stop
from runner.types import UserError

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
        return f"all {finished:,} windows are finished" if finished != 1 else "its window is finished"

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
        asked = {key: value for key, value in asdict(conf.perplexity).items() if key != "bos"}
        return {
            "job": {"_target_": "jobs.perplexity", **asked, **({"bos": self.bos} if self.bos else {})},
            "dataset": {**dataset, "fingerprint": self.source.fingerprint},
            "model": {
                "path": conf.model.path,
                "revision": conf.model.revision,
                **({"adapter": conf.model.adapter} if conf.model.adapter else {}),
                "weights": weights_hash(self.folder),
            },
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
        from runner.session.preflight import check

        conf, share = self.conf, store.deaths.budget_share
        batch, most = self._batch(share), self._batch(share) * lanes(self.device)
        planned = dataclasses.replace(conf.engine, batch_size=most)
        check(conf.model, self.folder, self.model_config, self.device, planned, [(conf.perplexity.window, 0)])
        if not night.wait():
            raise KeyboardInterrupt
        wait, flight = night.waiter(store.leave_out), store.flight
        flight.work(True)  # loading may hang, too
        budget = Budget.of(conf.engine, self.device, share)
        store.note({DOING: "loading the model"})
        with wired(self.device), Scorer(self.folder, self.model_config, self.device, budget, most) as scorer:
            if self.asked.checked:
                self._check(scorer, batch)
            store.start(scorer.gauge)
            with stop.gently(), Progress(len(self.windows), store) as progress:
                progress.tell(FIRST_ROWS, quietly=True)
                for group in self._groups(store, batch):
                    if stop.is_asked() or not wait(flight.beat, scorer.release):
                        break
                    self._score(scorer, store, group)
                    progress.update()
            self.peak_bytes = scorer.peak_bytes
        flight.work(False)
        if store.totals().finished < len(self.windows):
            raise KeyboardInterrupt

    def _batch(self, share: float) -> int:
        """Windows in a batch, where ``share`` of the usual memory is left."""
        conf = self.conf
        usual = conf.engine.batch_size or Budget.of(conf.engine, self.device).prefill_tokens // conf.perplexity.window
        return max(1, int(share * usual))

    def _groups(self, store: Store, size: int) -> Iterator[list[list[int]]]:
        """Unfinished windows of equal length by batch, and as many batches as go side by side.

        Windows that were at work at several deaths come last, one by one.
        """
        alone = store.deaths.alone()
        left = [row for span in store.unfinished() for row in span]
        whole = [row for row in left if self._is_whole(row) and row not in alone]
        rest = [row for row in left if not self._is_whole(row) and row not in alone]
        for rows in (whole, rest):
            batches = [rows[at : at + size] for at in range(0, len(rows), size)]
            for at in range(0, len(batches), lanes(self.device)):
                yield batches[at : at + lanes(self.device)]
        for row in left:
            if row in alone:
                yield [[row]]

    def _is_whole(self, row: int) -> bool:
        """Whether a window is as long as the first; only the last can be shorter."""
        return row < len(self.windows) and self.windows[row].end - self.windows[row].begin == self.windows[0].end

    def _score(self, scorer: Scorer, store: Store, group: list[list[int]]) -> None:
        """Commit a group's windows: sums of their scored tokens, in double precision. What is at work is on disk."""
        scorer.load()
        store.flight.beat(rows={row for rows in group for row in rows})
        found = scorer.losses([self._ids(rows) for rows in group], store.flight.beat)
        outputs = []
        for rows, batch in zip(group, found, strict=True):
            for row, values in zip(rows, batch, strict=True):
                begin, end, scored = self.windows[row]
                nll = float(values[-scored:].sum(dtype=np.float64))
                columns = {"begin": begin, "end": end, "tokens": scored, "nll": nll}
                outputs.append(Output(row, columns, usage=Usage(prompt_tokens=end - begin)))
        store.finish(outputs)
        store.flight.beat(len(outputs), ())

    def _ids(self, rows: list[int]) -> np.ndarray:
        texts = (self.tokens[self.windows[row].begin : self.windows[row].end] for row in rows)
        return np.stack([np.concatenate([np.array(self.bos, np.int32), text]) for text in texts])

    def _check(self, scorer: Scorer, size: int) -> None:
        """Raises UserError, exit code 3, where batches and single passes give other results."""
        count = lanes(self.device)
        rows = [row for row in range(size * count) if self._is_whole(row)]
        found = scorer.check([self._ids(rows[at::count]) for at in range(min(count, len(rows)))])
        self.checks.append(found)
        if not found.mean <= TOLERANCE[self.device.kind]:
            differ = f"batches differ from single passes by {found.mean:.2g} nats a token"
            raise UserError(f"self-check: {differ}", exit_code=3)

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
