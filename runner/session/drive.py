"""One session of any run: leased, logged, worked on by schedule, ended, its figures and report written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from runner.checkpoint.deaths import Death
from runner.checkpoint.store import Store
from runner.night.link import Link
from runner.night.night import Night
from runner.session.finish import finish
from runner.session.runlog import run_log
from runner.session.runnable import Runnable, resume_command
from runner.signals import Stop

log = logging.getLogger("rowmill")


def drive(
    run: Runnable, stop: Stop, link: Link | None = None, *, is_last: bool = True, night: Night | None = None
) -> dict[str, Any]:
    """Begin the run or go on with it, to its end; its figures and ``path``.

    When ``stop`` is asked for, the step in flight is finished and committed. ``link``: the supervisor, if this is its
    worker, which goes on to other runs unless this ``is_last``. ``night``: that of the chain which the run is a stage
    of, and which tells the user how all of it ends.

    Raises UserError, and KeyboardInterrupt saying how to go on if the session was interrupted.
    """
    conf, is_stage = run.conf, night is not None
    night = night or Night(conf.schedule, conf.notify, run.run_dir, stop, link.began if link else None)
    try:
        with run.open_store(_death(run, link)) as store, run_log(run.run_dir):
            _tell(run, store, link, night)
            if run.is_complete(store):
                finished = store.totals().finished
                log.info("%s finished before", f"all {finished:,} rows were" if finished != 1 else "its row was")
            else:
                notices = night.notifying(lambda: run.outcome(store), supervised=link is not None)
                with contextlib.nullcontext() if is_stage else notices, _noting_signals(stop):
                    run.work(store, stop, night)
            store.end_at(store.totals().finished)
            store.close("finished")
        return finish(run, link, is_last=is_last)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what was computed is safe. To go on:\n{resume_command(run)}") from None


@contextlib.contextmanager
def _noting_signals(stop: Stop) -> Iterator[None]:
    """Let ``run.log`` say which signal ended the session."""
    try:
        yield
    except KeyboardInterrupt:
        log.debug("interrupted by %s", stop.by or "the schedule")
        raise


def _death(run: Runnable, link: Link | None) -> Death | None:
    """How the worker before this one died, if it was at work on this run."""
    death = link.death if link else None
    return death if death and death.run_dir == str(run.run_dir.resolve()) else None


def _tell(run: Runnable, store: Store, link: Link | None, night: Night) -> None:
    """Say what deaths of earlier sessions lead to, and to the supervisor where to look."""
    if store.died:
        log.warning("%s", store.died)
    has_model = run.conf.fleet.kind == "none"  # in this process
    if store.deaths.memory and has_model:
        share = 100 * store.deaths.budget_share
        log.warning("memory ran out before: batches and KV caches take %.0f%% of their size", share)
    if link:
        link.report(
            run_dir=str(run.run_dir.resolve()),
            folder=str(night.run_dir.resolve()),
            session=store.flight.session,
            has_model=has_model,
            stall_s=60 * run.conf.engine.stall_minutes,
            max_restarts=run.conf.engine.max_restarts,
            resume=resume_command(run),
            notify=vars(run.conf.notify),
            overrides=run.resuming(run.overrides),
        )
