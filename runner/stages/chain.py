"""A chain: its stages' runs begun or gone on with, one after the other, and what came of them put together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.chain.cascade import cascade_figures, threshold_of
from runner.chain.folder import Chain
from runner.chain.plan import Plan, is_chain
from runner.checkpoint.database import DATABASE
from runner.checkpoint.deaths import Death
from runner.checkpoint.lease import Lease, fresh_dir
from runner.checkpoint.shards.layout import shard_file
from runner.checkpoint.store import Store
from runner.config.load import Config
from runner.data.where import NoRowsError
from runner.disk import write_dataset, write_stream
from runner.disk.errors import disk_errors
from runner.engine.weights import keeping
from runner.night.link import Link
from runner.night.night import Night
from runner.results.evaluate import evaluate_run
from runner.results.run import DATASET, Run
from runner.session.drive import drive
from runner.session.finish import Report, conclude
from runner.session.prepare import Prepared, prepare
from runner.session.runlog import run_log
from runner.session.runnable import resume_command, resumed
from runner.session.session import JobRun
from runner.signals import Stop
from runner.stages.check import afresh, check, extending, limited, placed, reading
from runner.stages.conf import ChainConf, named
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")


def run_chain(conf: ChainConf, stop: Stop, link: Link | None = None, *, is_last: bool = True) -> dict[str, Any]:
    """Run or resume a chain; its figures and ``path``. The same arguments and exceptions as ``drive`` has."""
    folder = conf.folder
    if conf.conf.resume == "force":
        with disk_errors(folder):
            folder = fresh_dir(folder)
        log.info("resume=force: starting over in %s", folder)
    plan, readies = check(conf, folder)
    return Session(conf, folder, plan, readies[0], stop, link, is_last).run()


@dataclass
class StageRun(JobRun):
    """A stage's run; its command line is that of its chain."""

    chain: ChainConf
    folder: Path
    opened: Callable[[], None] = lambda: None  # called when the run is known to be this one

    @property
    def command(self) -> list[str]:
        folder = ["--config-dir", self.chain.config_dir] if self.chain.config_dir else []
        return ["run", *folder, *self.chain.overrides]

    @property
    def overrides(self) -> list[str]:
        return list(self.chain.overrides)

    def resuming(self, words: list[str]) -> list[str]:
        name = self.folder.name
        return resumed(words, None if name == self.chain.common.run_name else name)

    def open_store(self, death: Death | None) -> Store:
        store = super().open_store(death)
        try:
            self.opened()
        except BaseException:
            store.close("failed")
            raise
        return store

    def work(self, store: Store, stop: Stop, night: Night) -> None:
        """As that of any run; what the chain has published is out of date from here on."""
        retract(self.folder)
        super().work(store, stop, night)

    @property
    def wants_report(self) -> bool:
        return False  # there is one for the chain


@dataclass
class Session:
    """One session of a chain. ``first``: its first stage, ready."""

    conf: ChainConf
    folder: Path
    plan: Plan
    first: Prepared
    stop: Stop
    link: Link | None
    is_last: bool

    def run(self) -> dict[str, Any]:
        common, link = self.conf.conf, self.link
        with disk_errors(self.folder):
            self.folder.mkdir(0o777 if common.output.shared else 0o700, parents=True, exist_ok=True)
        if not is_chain(self.folder) and (self.folder / DATABASE).is_file():
            raise UserError(f"{self.folder} belongs to a run that is no chain: choose another run_name")
        lease = Lease(self.folder)
        self.night = Night(common.schedule, common.notify, self.folder, self.stop, link.began if link else None)
        try:
            self.before = before = self._done()
            notices = self.night.notifying(self._outcome, supervised=link is not None)
            with run_log(self.folder), keeping(), contextlib.nullcontext() if before else notices:
                if is_chain(self.folder):
                    self.plan.check(self.folder)
                else:
                    self.plan.write(self.folder)
                for at in range(len(self.plan.stages)):
                    self._stage(at)
                chain = Chain(self.folder)
                if chain.state != before:
                    publish(chain, common.output.shard_rows)
        except KeyboardInterrupt as stopped:
            if stopped.args:
                raise
            again = resume_command(self._stage_run(self.first))
            raise KeyboardInterrupt(f"interrupted; what was computed is safe. To go on:\n{again}") from None
        finally:
            lease.release()
        return self._finish()

    def _done(self) -> str | None:
        """The state of a chain that is finished already, else None."""
        if not is_chain(self.folder) or not (self.folder / DATASET).is_file():
            return None
        chain = Chain(self.folder)
        same = chain.plan.names == self.plan.names and chain.is_complete
        return chain.state if same and chain.first.status["rows"] == self.first.rows else None

    def _outcome(self) -> str:
        status = Chain(self.folder).status
        return f"{count_of(status['finished'], 'row')} through {count_of(len(self.plan.stages), 'stage')}"

    def _stage_run(self, ready: Prepared) -> StageRun:
        return StageRun(ready, self.conf, self.folder)

    def _stage(self, at: int) -> None:
        stage, count = self.plan.stages[at], len(self.plan.stages)
        if count > 1:
            log.info("stage %d of %d: %s", at + 1, count, stage.name)
        if self.stop.is_asked():
            raise KeyboardInterrupt
        if at == 0:
            named(stage, lambda: self._drive(self.first, self._accepted))
            return
        named(stage, lambda: self._later(at))

    def _accepted(self) -> None:
        """The first stage is that of the chain in the folder, which may have more stages or rows now."""
        self.plan.write(self.folder)
        if self.before is None:
            retract(self.folder)

    def _drive(self, ready: Prepared, opened: Callable[[], None] = lambda: None) -> None:
        drive(replace(self._stage_run(ready), opened=opened), self.stop, self.link, is_last=False, night=self.night)

    def _later(self, at: int) -> None:
        if self.plan.sample:
            self._cascade(at, self.plan.sample[0])
            return
        try:
            self._resume(self._config(at))
        except NoRowsError:
            log.info("%s has nothing to answer: no row of %s is left", self.plan.names[at], self.plan.names[at - 1])
            self.plan = self.plan.without_rows(at)
            self.plan.write(self.folder)

    def _cascade(self, at: int, sample: int) -> None:
        """The sample first, then the rows that the threshold leaves to the large model."""
        chain, config = Chain(self.folder), self._config(at)
        first = limited(config, min(sample, chain.first.status["finished"]))
        large = chain.runs[at]
        if large is None or (large.identity["dataset"].get("limit") or 0) <= sample or _has_changed(prepare(first)):
            self._resume(first)
        chosen = threshold_of(Chain(self.folder))
        log.info("threshold %s: %s", chosen["threshold"], count_of(chosen["asked"], "row"))
        self._resume(limited(self._config(at), chosen["asked"]))

    def _resume(self, config: Config) -> None:
        """Begin a later stage or go on with it, also if the rows of the one before are others by now."""
        ready = prepare(config)
        if config.conf.resume == "extend" or not _has_changed(ready):
            self._drive(ready)
            return
        log.info("the rows before it have changed since it began: what is known of them stays")
        self._drive(prepare(extending(afresh(config))))
        if config.conf.resume == "errors":
            self._drive(prepare(afresh(config)))

    def _config(self, at: int) -> Config:
        stage = self.conf.stages[at]
        config = afresh(stage.config)
        plan = self.plan.upto(self.plan.names[at - 1])
        return reading(self.conf, stage, plan, placed(config, self.folder), self.folder, self.first.date)

    def _finish(self) -> dict[str, Any]:
        """The chain's figures and its report; nothing in here may fail it."""
        chain, resume = Chain(self.folder), resume_command(self._stage_run(self.first))
        report = Report(None) if JobRun(self.first).wants_report else None
        return conclude(chain, lambda: dict(_figures(chain)), report, resume, self.link, is_last=self.is_last)


def _has_changed(ready: Prepared) -> bool:
    """Whether a stage that has begun has not the rows any more that it began with, whatever its limit is now."""
    if not (ready.run_dir / DATABASE).is_file():
        return False
    begun, source = Run(ready.run_dir).identity, ready.source
    return bool(source.fingerprint_of(begun["rows"]) != begun["dataset"]["fingerprint"])


def _figures(chain: Chain) -> Iterator[tuple[str, Any]]:
    if chain.is_cascade and chain.runs[-1] is not None:
        yield "cascade", cascade_figures(chain)
    if chain.plan.gold is not None and "label" in chain.columns.job:
        yield "evaluation", evaluate_run(chain)


def retract(folder: Path) -> None:
    """Take back what a chain has published, until it is finished again."""
    with disk_errors(folder):
        (folder / DATASET).unlink(missing_ok=True)


def publish(chain: Chain, shard_rows: int) -> None:
    """Write the rows of a finished chain into its folder, for ``datasets.load_from_disk``."""
    files = []
    retract(chain.path)
    with disk_errors(chain.path):
        for shard, table in enumerate(_shards(chain, shard_rows)):
            written = write_stream(chain.path / shard_file(shard), table.schema, [table])
            files.append((shard_file(shard), written.sha256))
        for old in set(chain.path.glob("data-*.arrow")) - {chain.path / name for name, _ in files}:
            old.unlink()
        write_dataset(chain.path, files, synced=True)


def _shards(chain: Chain, rows: int) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for _, table in chain.blocks():
        held.append(table)
        while sum(map(len, held)) >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            held = [whole.slice(rows)] if len(whole) > rows else []
    if held:
        yield pa.concat_tables(held)
