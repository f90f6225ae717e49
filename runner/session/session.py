"""A job's run: its store and engine opened, the loop at work, its figures."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.counts import SessionWork
from runner.checkpoint.deaths import Death
from runner.checkpoint.shards.layout import as_recorded
from runner.checkpoint.store import Store
from runner.config.conf import RunConf
from runner.config.load import Config
from runner.config.typed import as_yaml
from runner.data.source import DataSource
from runner.data.stdin import keep_copy
from runner.data.survey import Survey
from runner.engine.budget import Budget
from runner.engine.open import stop_at
from runner.loop.feed import AttemptFeed, Feed, RowFeed
from runner.loop.loop import Loop
from runner.loop.plan import Plan
from runner.loop.prelude import begin
from runner.loop.requests import Defaults
from runner.machine.device import wired
from runner.night.guard import GuardedEngine
from runner.night.link import Link
from runner.night.night import Night
from runner.results.progress import FIRST_ROWS, Progress
from runner.results.run import Run
from runner.results.status import DOING
from runner.runs.answers import Answers
from runner.sequences import Engine
from runner.session.drive import drive
from runner.session.identity import growth, identity, provenance, scope
from runner.session.preflight import check_memory
from runner.session.prepare import Prepared, job_columns_before, prepare
from runner.session.runnable import resumed
from runner.signals import Stop
from runner.text.grammar import answer_grammars, free_grammar

log = logging.getLogger("rowmill")

HOLD_S = 0.5  # as old as what is seen of a run's rows may be
SELDOM = (50_000, 10, 10)  # objects, then times, after which garbage is collected


def run_session(config: Config, stop: Stop, link: Link | None = None) -> dict[str, Any]:
    """Run or resume what a configuration describes; see ``runner.run`` and ``drive``."""
    return drive(JobRun(prepare(config)), stop, link)


@dataclass
class JobRun:
    """A job's run, as a session drives it; see ``Runnable``."""

    ready: Prepared

    @property
    def conf(self) -> RunConf:
        return self.ready.config.conf

    @property
    def run_dir(self) -> Path:
        return self.ready.run_dir

    @property
    def source(self) -> DataSource:
        return self.ready.source

    @property
    def command(self) -> list[str]:
        folder = self.ready.config.config_dir
        return ["run", *(["--config-dir", folder] if folder else []), *self.overrides]

    @property
    def overrides(self) -> list[str]:
        return self.ready.config.overrides

    def resuming(self, words: list[str]) -> list[str]:
        name = self.run_dir.name
        return resumed(words, None if name == self.ready.config.run_name else name)

    def open_store(self, death: Death | None) -> Store:
        return open_store(self.ready, death)

    def is_complete(self, store: Store) -> bool:
        return is_complete(self.ready, store)

    def outcome(self, store: Store) -> str:
        finished, rows = store.totals().finished, self.ready.rows
        who = store.seats.told()
        if finished == rows:
            return (f"all {finished:,} rows are finished" if finished != 1 else "its row is finished") + who
        return f"{finished:,} of {rows:,} rows{who}; attempts are spent"

    def work(self, store: Store, stop: Stop, night: Night) -> None:
        work(self.ready, store, stop, night)

    @property
    def wants_report(self) -> bool:
        wanted = self.conf.output.report
        return self.ready.folder is not None if wanted is None else wanted

    def figures(self, run: Run) -> dict[str, Any]:
        """What the job says of its rows."""
        hook = self.ready.hooks.figures
        return dict(hook.figures(run, self.source)) if hook is not None else {}


def is_complete(ready: Prepared, store: Store) -> bool:
    """Whether all rows are finished, or no attempt is left to make more from."""
    finished = store.totals().finished
    spent = ready.attempts is not None and finished + store.rejections().attempts >= ready.attempts.most
    return finished == ready.rows or spent


def open_store(ready: Prepared, death: Death | None = None) -> Store:
    """The run directory, leased; UserError if it belongs to another run. ``death``: see ``Store.open``."""
    conf, spool = ready.config.conf, ready.source.spool
    store = Store.open(
        ready.run_dir,
        identity(ready),
        rows=ready.rows,
        shard_rows=conf.output.shard_rows,
        schema=as_recorded(ready.job.schema(), job_columns_before(ready.run_dir)),
        keep=ready.keep.schema(),
        kept=ready.keep.table,
        durability=conf.checkpoint.durability,
        provenance=provenance(ready),
        retry=conf.resume == "errors",
        config=as_yaml(ready.config.plain | {"date": ready.date}),
        death=death,
        shared=conf.output.shared,
        growth=growth(ready),
        hold_s=HOLD_S,
    )
    if spool is not None:
        keep_copy(spool, ready.run_dir)
    return store


def open_engine(ready: Prepared, share: float) -> Engine:
    """Load the weights; ``share`` of the usual batch size and KV memory is used.

    UserError, exit code 3, if the model cannot run here.
    """
    conf = ready.config.conf.engine
    if ready.folder is None:
        from runner.engine.fake import FakeEngine

        return FakeEngine(conf.batch_size, stop_at(ready.prompter), share)
    from runner.engine.open import open_engine as open_mlx_engine

    return open_mlx_engine(ready.folder, ready.device, conf, ready.prompter, share)


def work(
    ready: Prepared,
    store: Store,
    stop: Stop,
    night: Night,
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """The loop until all rows are finished, or ``limit`` of them; KeyboardInterrupt if ``stop`` was asked for before.

    ``tick`` is called when the model is loaded and after each step.
    """
    conf = ready.config.conf
    check_memory(ready)
    if not night.wait():
        raise KeyboardInterrupt
    store.note({DOING: "loading the model"})
    engine = _engine(ready, store, stop, night)
    store.start(engine.gauge)
    others = Answers(scope(ready)) if conf.cache else None
    loop = _loop(ready, store, stop, engine, limit, others)
    began = time.perf_counter()
    try:
        with wired(ready.device), stop.gently(), collecting_seldom(), Progress(ready.rows, store) as progress:

            def step() -> None:
                progress.update()
                tick()

            tick()
            progress.tell("asking before the first row", quietly=True)
            survey = Survey(ready.source, conf.seed, conf.calibrate.rows, progress.tell)
            if begin(ready.hooks.surveys, survey, loop, step):
                progress.tell(FIRST_ROWS, quietly=True)
                loop.work(step)
    finally:
        _note_work(engine, loop, time.perf_counter() - began)
        engine.close()
        if others:
            others.close()
    if is_complete(ready, store):
        return
    if stop.is_asked():
        raise KeyboardInterrupt
    if limit is None:
        raise RuntimeError(f"the loop ended after {store.totals().finished} of {ready.rows} rows")


def _loop(ready: Prepared, store: Store, stop: Stop, engine: Engine, limit: int | None, others: Answers | None) -> Loop:
    """The loop over the run's rows, or attempts, that are not finished."""
    feed, defaults, plan = _feed(ready, store, limit), _defaults(ready), Plan(engine.costs)
    window = ready.config.conf.engine.window
    return Loop(ready.job, feed, ready.prompter, engine, store, defaults, window, stop.is_asked, others, plan)


def _feed(ready: Prepared, store: Store, limit: int | None) -> Feed:
    """Where rows come from: the data set, or attempts to make them."""
    if ready.attempts is None:
        return RowFeed(ready.source, store, limit)
    return AttemptFeed(ready.attempts, store, limit)


def _defaults(ready: Prepared) -> Defaults:
    """What holds for requests that do not say otherwise."""
    conf, channels = ready.config.conf, ready.prompter.channels
    grammars = answer_grammars(channels, ready.prompter.answer_prefix)
    free = free_grammar(channels, ready.prompter.stop)
    grammar = free if ready.structure is None else grammars(ready.structure.body)
    sampling = conf.engine.sampling()
    return Defaults(conf.engine.max_tokens, sampling, conf.seed, grammar, grammars, ready.context, ready.known_tokens)


@contextlib.contextmanager
def collecting_seldom() -> Iterator[None]:
    """Let Python look for cyclic garbage less often: a row leaves none, and a window of them is a lot to look through.

    A tenth of the processor time of rows that a model has little to do for went into that.
    """
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _engine(ready: Prepared, store: Store, stop: Stop, night: Night) -> Engine:
    """What computes, in this process or in others."""
    conf, deaths = ready.config.conf, store.deaths
    wait = night.waiter(store.leave_out, store.record)  # which stages what it holds
    if conf.fleet.kind != "none":
        from runner.fleet.handshake import handshake_of
        from runner.fleet.start import open_fleet, spec_of

        spec = spec_of(conf.model, conf.engine, conf.prompt, conf.offline, conf.schedule.keep_awake)
        ours = handshake_of(ready.folder, ready.weights)
        fleet = open_fleet(conf.fleet, spec, ours, store, wait, stop.is_asked, lambda doing: store.note({DOING: doing}))
        night.machine.helpers = fleet.membership.pids_here
        return fleet
    most = Budget.of(conf.engine, ready.device).watermark if ready.device else math.inf
    return GuardedEngine(
        lambda: open_engine(ready, deaths.budget_share), store.flight, deaths.alone(), deaths.quarantined(), wait, most
    )


def _note_work(engine: Engine, loop: Loop, seconds: float) -> None:
    """Keep what the session's engine did beside what the planner saw that could be shared."""
    if engine.work.slots:
        plan = loop.plan
        planned = {"prompt": plan.taken, "shareable": plan.shareable, "served": plan.served}
        work = SessionWork(**vars(engine.work), **planned, thoughts_ended=loop.thoughts_ended, loop_s=seconds)
        chosen = {"snapshot_cost": plan.costs.snapshot, "level_cost": plan.costs.level, "batch_size": engine.batch_size}
        loop.store.note({**work.to_json(), **chosen})
        log.debug("%s, chosen: %s", work, chosen)
