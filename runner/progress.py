"""What a run shows while it works: one tqdm bar."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm.auto import tqdm

from runner.store import Store

REFRESH_SECONDS = 0.2


class Progress:
    """A bar of finished rows; speed and ETA are those of this session."""

    def __init__(self, rows: int, store: Store) -> None:
        self.store = store
        self.first = store.totals()
        self.began = self.shown = time.perf_counter()
        self.bar = tqdm(total=rows, initial=self.first.finished, unit="row", dynamic_ncols=True, smoothing=0)

    def update(self) -> None:
        """Show the latest totals, a few times a second at most."""
        if time.perf_counter() - self.shown >= REFRESH_SECONDS:
            self.show()

    def show(self) -> None:
        """Show the latest totals."""
        totals = self.store.totals()
        self.shown = time.perf_counter()
        tokens = totals.prompt_tokens + totals.completion_tokens
        tokens -= self.first.prompt_tokens + self.first.completion_tokens
        cached = totals.cached_tokens / totals.prompt_tokens if totals.prompt_tokens else 0.0
        speed = tokens / max(1e-9, self.shown - self.began)
        self.bar.set_postfix_str(f"{speed:,.0f} tok/s, {cached:.0%} cached, {totals.errors} errors", refresh=False)
        self.bar.update(totals.finished - self.bar.n)
        self.bar.refresh()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.show()
        self.bar.close()
