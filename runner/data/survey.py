"""The data set as a job's prelude sees it: samples that depend on the run's seed only."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from runner.data.source import DataSource
from runner.types import Row, UnreadableRow, UserError
from runner.words import count_of

log = logging.getLogger("rowmill")

NO_GOLD = "dataset.gold must name the column with the right labels"
CALIBRATION_ROWS = 2000  # at most: one number is fitted


@dataclass
class Survey:
    """The data set as a prelude sees it. Samples depend on the run's seed only.

    ``calibration_share`` (0 to 1) is ``calibrate.rows``, the share of the rows to calibrate on. ``tell`` says what the
    prelude is doing (``measuring the prior``) to those who wait for the first row.
    """

    source: DataSource
    seed: int
    calibration_share: float = 0.0
    tell: Callable[[str], None] = lambda doing: None

    def sample(self, count: int, purpose: str) -> dict[int, Row]:
        """At most ``count`` rows by position, drawn anew for each purpose; unreadable ones are left out."""
        rows = len(self.source)
        drawn = random.Random(f"{self.seed}/{purpose}").sample(range(rows), min(count, rows))
        found = {at: next(self.source.rows(at, at + 1)) for at in sorted(drawn)}
        return {at: row for at, row in found.items() if not isinstance(row, UnreadableRow)}

    @property
    def calibration_rows(self) -> int:
        """How many rows are drawn to calibrate on, with or without a gold label."""
        return min(CALIBRATION_ROWS, max(1, round(self.calibration_share * len(self.source))), len(self.source))

    def calibration(self, labels: Collection[str] = ()) -> dict[int, tuple[Row, str]]:
        """The rows to calibrate on, those without a gold label left out, with their gold labels; often none."""
        gold = self.source.conf.gold
        if not self.calibration_share:
            return {}
        if gold is None:
            raise UserError("calibrate.rows", NO_GOLD, value=self.calibration_share)
        rows = self.sample(self.calibration_rows, "calibrate")
        named = {at: self.source.gold_name(row[gold], labels) for at, row in rows.items()}
        known = {at: (rows[at], name) for at, name in named.items() if name is not None}
        if not known:
            log.warning("calibrate.rows: none of the %s drawn has a value in %s", count_of(len(rows), "row"), gold)
        return known
