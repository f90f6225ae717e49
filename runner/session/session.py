"""One session of a run: everything is checked and opened, the loop works, the result is told."""

from __future__ import annotations

import logging
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.checkpoint.counts import SessionWork
from runner.checkpoint.deaths import Death
from runner.checkpoint.store import Store
from runner.config.load import Config
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
from runner.results.progress import Progress
from runner.sequences import Engine
from runner.session.finish import finish
from runner.session.identity import identity, provenance
from runner.session.preflight import check_memory
from runner.session.prepare import Prepared, prepare
from runner.session.runlog import run_log
from runner.signals import Stop
from runner.text.grammar import answer_grammars

log = logging.getLogger("rowmill")


def run_session(config: Config, stop: Stop, link: Link | None = None) -> dict[str, Any]:
    """Run or resume; see ``runner.run``. When ``stop`` is asked for, the step in flight is finished and committed.

    ``link``: the supervisor, if this is its worker.

    Raises UserError, and KeyboardInterrupt saying how to go on if the session was interrupted.
    """
    ready = prepare(config)
    conf = ready.config.conf
    night = Night(conf.schedule, conf.notify, ready.run_dir, stop, link.began if link else None)
    try:
        with open_store(ready, link.death if link else None) as store, run_log(ready.run_dir):
            _tell(ready, store, link)
            if is_complete(ready, store):
                log.info("all %d rows were finished before", store.totals().finished)
            else:
                with night.notifying(lambda: _outcome(ready, store), supervised=link is not None):
                    work(ready, store, stop, night)
            store.end_at(store.totals().finished)
            store.close("finished")
        return finish(ready, resume_command(ready), link)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what was computed is safe. To go on:\n{resume_command(ready)}") from None


def is_complete(ready: Prepared, store: Store) -> bool:
    """Whether all rows are finished, or no attempt is left to make more from."""
    finished = store.totals().finished
    spent = ready.attempts is not None and finished + store.rejected()[0] >= ready.attempts.most
    return finished == ready.rows or spent


def _outcome(ready: Prepared, store: Store) -> str:
    finished = store.totals().finished
    if finished == ready.rows:
        return f"all {finished:,} rows are finished" if finished != 1 else "its row is finished"
    return f"{finished:,} of {ready.rows:,} rows; attempts are spent"


def _tell(ready: Prepared, store: Store, link: Link | None) -> None:
    """Say what deaths of earlier sessions lead to, and to the supervisor where to look."""
    if store.died:
        log.warning("%s", store.died)
    if store.deaths.memory:
        log.warning(
            "memory ran out before: batches and KV caches take %.0f%% of their size", 100 * store.deaths.budget_share
        )
    if link:
        engine = ready.config.conf.engine
        link.report(
            run_dir=str(ready.run_dir.resolve()),
            session=store.flight.session,
            stall_s=60 * engine.stall_minutes,
            max_restarts=engine.max_restarts,
            resume=resume_command(ready),
            notify=vars(ready.config.conf.notify),
            overrides=_resuming(ready.config.overrides, ready),
        )


def open_store(ready: Prepared, death: Death | None = None) -> Store:
    """The run directory, leased; UserError if it belongs to another run. ``death``: see ``Store.open``."""
    conf = ready.config.conf
    store = Store.open(
        ready.run_dir,
        identity(ready),
        rows=ready.rows,
        shard_rows=conf.output.shard_rows,
        schema=ready.job.schema(),
        keep=ready.keep.schema(),
        kept=ready.keep.table,
        durability=conf.checkpoint.durability,
        provenance=provenance(ready),
        retry=conf.resume == "errors",
        config=OmegaConf.to_yaml(OmegaConf.create(ready.config.plain | {"date": ready.date})),
        death=death,
    )
    if ready.source.spool is not None:
        keep_copy(ready.source.spool, ready.run_dir, power=conf.checkpoint.durability == "power")
    return store


def open_engine(ready: Prepared, share: float) -> Engine:
    """Load the weights; ``share`` of the usual batch size and KV memory is used.

    UserError, exit code 3, if the model cannot run here.
    """
    conf = ready.config.conf.engine
    if ready.folder is None:
        from runner.engine.fake import FakeEngine

        stopped = stop_at(ready.prompter) if ready.prompter.stop else None
        return FakeEngine(conf.batch_size, stopped, share)
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
    deaths = store.deaths
    check_memory(ready)
    if not night.wait():
        raise KeyboardInterrupt
    wait = night.waiter(store.leave_out)
    most = Budget.of(conf.engine, ready.device).watermark if ready.device else math.inf
    engine = GuardedEngine(
        lambda: open_engine(ready, deaths.budget_share), store.flight, deaths.alone(), deaths.quarantined(), wait, most
    )
    store.start(engine.gauge)
    grammars = answer_grammars(ready.prompter.channels, ready.prompter.answer_prefix)
    grammar = grammars(ready.structure.body) if ready.structure is not None else None
    defaults = Defaults(conf.engine.max_tokens, conf.engine.sampling(), conf.seed, grammar, grammars)
    plan = Plan(engine.costs)
    window = conf.engine.window
    if ready.attempts is None:
        feed: Feed = RowFeed(ready.source, store, limit)
    else:
        feed = AttemptFeed(ready.attempts, store, limit)
    loop = Loop(ready.job, feed, ready.prompter, engine, store, defaults, window, stop.is_asked, plan)
    survey = Survey(ready.source, conf.seed, conf.calibrate.rows)
    began = time.perf_counter()
    try:
        with wired(ready.device), stop.gently(), Progress(ready.rows, store) as progress:

            def step() -> None:
                progress.update()
                tick()

            tick()
            if begin(ready.hooks.surveys, survey, loop, step):
                loop.work(step)
    finally:
        _note_work(engine, loop, time.perf_counter() - began)
        engine.close()
    if is_complete(ready, store):
        return
    if stop.is_asked():
        raise KeyboardInterrupt
    if limit is None:
        raise RuntimeError(f"the loop ended after {store.totals().finished} of {ready.rows} rows")


def _note_work(engine: GuardedEngine, loop: Loop, seconds: float) -> None:
    """Keep what the session's engine did beside what the planner saw that could be shared."""
    if engine.work.slots:
        plan = loop.plan
        planned = {"prompt": plan.taken, "shareable": plan.shareable, "served": plan.served}
        work = SessionWork(**vars(engine.work), **planned, loop_s=seconds)
        chosen = {"snapshot_cost": plan.costs.snapshot, "level_cost": plan.costs.level, "batch_size": engine.batch_size}
        loop.store.note(work, chosen)
        log.debug("%s, chosen: %s", work, chosen)


def resume_command(ready: Prepared) -> str:
    """The exact command line that goes on with this run, from the same folder."""
    config = ready.config
    program, *typed = sys.argv
    if Path(program).name == "rowmill" and typed[:1] == ["run"]:
        program = "rowmill" if _is_on_path(program) else program
    else:
        program, typed = "rowmill", ["run", *(["--config-dir", config.config_dir] if config.config_dir else [])]
        typed += config.overrides
    return shlex.join([program, *_resuming(typed, ready)])


def _resuming(words: list[str], ready: Prepared) -> list[str]:
    """The words of a command line that began this run, changed so that they go on with it."""
    words = [word for word in words if not re.match(r"\+{0,2}resume=", word)]
    if ready.run_dir.name == ready.config.run_name:
        return words
    return [word for word in words if not re.match(r"\+{0,2}run_name=", word)] + [f"run_name={ready.run_dir.name}"]


def _is_on_path(program: str) -> bool:
    found = shutil.which("rowmill")
    return found is not None and Path(program).exists() and Path(found).samefile(program)
