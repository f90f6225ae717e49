"""The progress of a working run: a tqdm bar on a terminal or in a notebook, a line per minute elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

from tqdm.auto import tqdm

from runner.checkpoint.counts import Totals
from runner.checkpoint.store import Store
from runner.results.show import NOW_SECONDS
from runner.results.status import DOING
from runner.words import clock, count_of, duration, escaped, speed

log = logging.getLogger("rowmill")

REFRESH_SECONDS = 0.2
LINE_SECONDS = 60.0
PACE_SECONDS = 600.0  # over which the time left is estimated: long prompts come in stretches
FIRST_ROWS = "computing the first rows"
WARM_SECONDS = 30.0  # of a session, during which the speed of the earlier ones says more
_BAR = 12  # columns


class Point(NamedTuple):
    """A moment of this session: seconds, finished rows, tokens read and written."""

    at: float
    rows: int
    tokens: int


class Progress:
    """The bar: rows, time left and when that will be, rows/s now and over all sessions, errors, tokens/s, cached share.

    The rows of earlier sessions count in the bar and in the overall speed, never in the speed of now.
    """

    def __init__(self, rows: int, store: Store, terminal: bool | None = None) -> None:
        self.rows = rows
        self.store = store
        self.doing = ""
        self.points: deque[Point] = deque([self._point(store.totals())])
        self.first = store.totals().finished
        self.began = self.shown = self.logged = time.perf_counter()
        self.terminal = (sys.stderr.isatty() or in_notebook()) if terminal is None else terminal
        sized = self.terminal and columns() > 0  # a terminal without a size would have bars of no width
        fixed = not sized and not in_notebook()  # a notebook's bar is as wide as its cell
        self.bar = tqdm(
            total=rows,
            initial=store.totals().finished,
            bar_format=f"{{percentage:3.0f}}%|{{bar{'' if in_notebook() else f':{_BAR}'}}}| {{desc}}",
            desc=self.text(_width()),
            dynamic_ncols=sized,
            ncols=100 if fixed else None,
            nrows=20 if fixed else None,
            disable=not self.terminal,
        )

    def tell(self, doing: str, *, quietly: bool = False) -> None:
        """Say what the session does while it has finished no row: at once in the bar and to ``status``.

        Where there is no bar that is a line, unless it is to be said ``quietly``.
        """
        self.doing = escaped(doing)
        self.store.note({DOING: doing or None})
        if self.terminal:
            self.show()
        if doing:
            log.log(logging.DEBUG if self.terminal or quietly else logging.INFO, "%s", self.doing)

    def update(self) -> None:
        """Show the latest totals if it is time to."""
        if self.doing and self.store.totals().finished > self.first:
            self.tell("", quietly=True)
        if time.perf_counter() - self.shown >= (REFRESH_SECONDS if self.terminal else LINE_SECONDS):
            self.show()

    def show(self) -> None:
        """Show the latest totals; ``run.log`` has a line per minute even where there is a bar."""
        totals = self.store.totals()
        self._remember(totals)
        self.shown = self.points[-1].at
        if not self.terminal:
            log.info("%s", self.text())
            return
        self.bar.n = totals.finished
        self.bar.set_description_str(self.text(_width()), refresh=False)
        self.bar.refresh()
        if self.shown - self.logged >= LINE_SECONDS:
            self.logged = self.shown
            log.debug("%s", self.text())

    def text(self, width: int | None = None) -> str:
        """The figures, the most important ones first; those that do not fit into ``width`` columns are left out."""
        text = ""
        for part in self._parts(self.store.totals()):
            longer = f"{text}, {part}" if text else part
            if width is not None and text and len(longer) > width:
                break
            text = longer
        return text

    def _parts(self, totals: Totals) -> list[str]:
        left = self.rows - totals.finished
        now, active = self._pace(NOW_SECONDS), self.store.active_s()
        overall = totals.finished / active if active else 0.0
        warm = time.perf_counter() - self.began >= WARM_SECONDS or not self.first
        pace = self._pace(PACE_SECONDS).rows if warm else overall
        seconds = left / pace if pace else 0.0
        return [
            *([self.doing] if self.doing else []),
            f"{totals.finished:,} of {count_of(self.rows, 'row')}",
            *([f"{duration(seconds)} left ({clock(time.time() + seconds)})"] if seconds else []),
            f"{speed(now.rows)} ({_beside(now.rows, overall)} overall)",
            count_of(totals.errors, "error"),
            f"{now.tokens:,.0f} tokens/s",
            f"{totals.cached_share or 0.0:.0%} cached",
        ]

    def _pace(self, seconds: float) -> Pace:
        """Rows and tokens in a second, over the last ``seconds`` of this session, or since the last but one point."""
        end, latest = self._point(self.store.totals()), max(0, len(self.points) - 2)
        recent = next((i for i, point in enumerate(self.points) if end.at - point.at <= seconds), latest)
        start = self.points[min(recent, latest)]
        span = max(1e-9, end.at - start.at)
        return Pace((end.rows - start.rows) / span, (end.tokens - start.tokens) / span)

    def _remember(self, totals: Totals) -> None:
        point = self._point(totals)
        if len(self.points) > 1 and point.at - self.points[-2].at < 1.0:
            self.points.pop()
        self.points.append(point)
        while len(self.points) > 1 and point.at - self.points[1].at >= PACE_SECONDS:
            self.points.popleft()

    def _point(self, totals: Totals) -> Point:
        return Point(time.perf_counter(), totals.finished, totals.prompt_tokens + totals.completion_tokens)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.doing = ""
        self.show()
        self.bar.close()


def _beside(now: float, overall: float) -> str:
    """The overall speed, its unit left out if it is that of now."""
    number, unit = speed(overall).split(" ")
    return number if unit == speed(now).split(" ")[1] else f"{number} {unit}"


class Pace(NamedTuple):
    """What is done in a second."""

    rows: float
    tokens: float


def in_notebook() -> bool:
    """Whether this process is the kernel of a Jupyter notebook, which has no terminal but shows bars."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def columns() -> int:
    """How many columns the terminal has; 0 if it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0


def _width() -> int:
    return (columns() or 100) - _BAR - len("100%|| ") - 1
