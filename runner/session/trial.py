"""A trial: some rows of a run computed by its real model, kept by it, and what they foretell of the rest."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from runner.checkpoint.counts import Totals
from runner.night.night import Night
from runner.night.schedule import ScheduleConf
from runner.session.prepare import Prepared
from runner.session.runlog import run_log
from runner.session.session import open_store, work
from runner.signals import Stop


class Moment(NamedTuple):
    """How far a trial was, and when (seconds)."""

    at: float
    totals: Totals


class Trial(NamedTuple):
    """The moments of a trial, the first one before it (the model loaded), and how many rows are left then."""

    moments: list[Moment]
    left: int


def run_trial(ready: Prepared, rows: int, stop: Stop) -> Trial:
    """Compute the run's next ``rows`` rows now, whatever its schedule.

    Raises UserError like the run, KeyboardInterrupt if it was interrupted.
    """
    night = Night(ScheduleConf(), ready.config.conf.notify, ready.run_dir, stop, None)
    moments: list[Moment] = []
    with open_store(ready) as store, run_log(ready.run_dir):
        if store.totals().finished < ready.rows:
            work(ready, store, stop, night, rows, lambda: moments.append(Moment(time.perf_counter(), store.totals())))
        left = ready.rows - store.totals().finished
        store.close("trial")
    return Trial(moments, left)


def foretell(trial: Trial, tokens: Sequence[int]) -> dict[str, Any] | None:
    """What the trial foretells: ``seconds`` for the rows ``left`` and their 95% margin ``margin_s`` (None: not known).

    ``tokens``: how many prompt tokens each of some rows of the whole data set has to have computed; time is taken to
    grow with them and with the tokens generated. The margin is that of a ratio estimate by the jackknife (Tukey 1958)
    over the moments at which rows were finished, of which the first, in which prefixes are computed, is left out where
    there are four. With less than three of them it is what so many rows' tokens vary. None without a finished row.
    """
    if not trial.moments or trial.moments[-1].totals.finished == trial.moments[0].totals.finished:
        return None
    first, last = trial.moments[0], trial.moments[-1]
    steps = _steps(trial.moments)
    counted = steps[1:] if len(steps) > 3 else steps
    rows = last.totals.finished - first.totals.finished
    seconds = (
        sum(took for took, _ in counted)
        / sum(count for _, count in counted)
        * _ratio(first, last, statistics.fmean(tokens))
    )
    margin = _margin(counted) if len(counted) > 2 else _spread(tokens, rows)
    return {
        "rows_per_s": 1 / seconds if seconds else math.inf,
        "left": trial.left,
        "seconds": trial.left * seconds,
        "margin_s": None if margin is None else trial.left * seconds * margin,
        "trial_rows": rows,
        "trial_s": last.at - first.at,
    }


def _steps(moments: list[Moment]) -> list[tuple[float, int]]:
    """Seconds and rows between the moments at which rows were finished."""
    steps = []
    since = moments[0]
    for moment in moments[1:]:
        if moment.totals.finished > since.totals.finished:
            steps.append((moment.at - since.at, moment.totals.finished - since.totals.finished))
            since = moment
    return steps


def _ratio(first: Moment, last: Moment, row_tokens: float) -> float:
    """How much more work a row of the whole is than one of the trial."""
    before, after = first.totals, last.totals
    generated = after.completion_tokens - before.completion_tokens
    prompt, cached = after.prompt_tokens - before.prompt_tokens, after.cached_tokens - before.cached_tokens
    done = prompt - cached + generated
    return (row_tokens * (after.finished - before.finished) + generated) / done if done else 1.0


def _margin(steps: list[tuple[float, int]]) -> float:
    """The half width of the 95% interval of seconds a row, as a share of it; at least three steps."""
    seconds, rows = (sum(column) for column in zip(*steps, strict=True))
    without = [(seconds - took) / (rows - count) for took, count in steps]
    mean, n = statistics.fmean(without), len(steps)
    error = math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))
    return float(_student(n - 1) * error / (seconds / rows))


def _spread(tokens: Sequence[int], rows: int) -> float | None:
    """The half width of the 95% interval of a mean over ``rows`` rows, as a share of it."""
    if rows < 3 or not any(tokens):
        return None
    return _student(rows - 1) * statistics.pstdev(tokens) / statistics.fmean(tokens) / math.sqrt(rows)


def _student(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t."""
    from scipy.stats import t  # late: a second that only trials need

    return float(t.ppf(0.975, freedom))
