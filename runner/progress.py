"""What a run shows while it works: a tqdm bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType

from tqdm.auto import tqdm

from runner.show import duration
from runner.store import Store

log = logging.getLogger("rowmill")

REFRESH_SECONDS = 0.2
LINE_SECONDS = 60.0


class Progress:
    """Finished rows, tokens/s, share of prompt tokens from cache, errors, ETA; speed and ETA are this session's."""

    def __init__(self, rows: int, store: Store, terminal: bool | None = None) -> None:
        self.rows = rows
        self.store = store
        self.first = store.totals()
        self.began = self.shown = time.perf_counter()
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        sized = self.terminal and _columns() > 0  # a terminal without a size would have bars of no width
        self.bar = tqdm(
            total=rows,
            initial=self.first.finished,
            unit=" rows",
            dynamic_ncols=sized,
            ncols=None if sized else 100,
            nrows=None if sized else 20,
            smoothing=0,
            disable=not self.terminal,
        )

    def update(self) -> None:
        """Show the latest totals if it is time to."""
        if time.perf_counter() - self.shown >= (REFRESH_SECONDS if self.terminal else LINE_SECONDS):
            self.show()

    def show(self) -> None:
        """Show the latest totals."""
        self.shown = time.perf_counter()
        if not self.terminal:
            log.info("%s", self.line())
            return
        self.bar.set_postfix_str(self.speed(), refresh=False)
        self.bar.update(self.store.totals().finished - self.bar.n)
        self.bar.refresh()

    def speed(self) -> str:
        """What the bar says beside the rows."""
        totals = self.store.totals()
        tokens = totals.prompt_tokens + totals.completion_tokens
        tokens -= self.first.prompt_tokens + self.first.completion_tokens
        cached = totals.cached_tokens / totals.prompt_tokens if totals.prompt_tokens else 0.0
        speed = tokens / max(1e-9, time.perf_counter() - self.began)
        return f"{speed:,.0f} tokens/s, {cached:.0%} cached, {totals.errors:,} errors"

    def line(self) -> str:
        """The bar in words."""
        finished = self.store.totals().finished
        pace = (finished - self.first.finished) / max(1e-9, time.perf_counter() - self.began)
        left = f", {duration((self.rows - finished) / pace)} left" if pace and finished < self.rows else ""
        return f"{finished:,} of {self.rows:,} rows, {pace:,.1f} rows/s, {self.speed()}{left}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.show()
        self.bar.close()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0
