"""What is measured and chosen, kept as it comes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("rowmill")


@dataclass
class Found:
    """``measured``: values by section and name; ``chosen`` by them. ``keep`` is called with both after each value."""

    measured: dict[str, dict[str, Any]]
    chosen: dict[str, Any]
    quick: bool
    keep: Callable[[Mapping[str, Any]], None]
    complete: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any], quick: bool, keep: Callable[[Mapping[str, Any]], None]) -> Found:
        """What an interrupted command left, or nothing; of a damaged record nothing."""
        found = cls({}, {}, quick, keep)
        if not record.get("complete", True) and record.get("quick") == quick:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                measured = {name: dict(values) for name, values in dict(record["measured"]).items()}
                found.measured, found.chosen = measured, dict(record["chosen"])
                log.info("going on after an interruption")
        return found

    def once(self, section: str, name: str, measure: Callable[[], Any], says: Callable[[Any], str]) -> Any:
        """What ``measure`` returns, unless it is known."""
        values = self.measured.setdefault(section, {})
        if name not in values:
            values[name] = measure()
            self.save()
        log.info("  %s: %s", name, says(values[name]))
        return values[name]

    def turn(self, section: str, name: str, turn: int, measure: Callable[[], float | None]) -> float | None:
        """What ``measure`` returns for one of several turns, unless it is known; None: that there is no room for it."""
        values = self.measured.setdefault(section, {})
        turns = values.get(name, [])
        if turns is not None and turn >= len(turns):
            measured = measure()
            values[name] = turns = None if measured is None else [*turns, measured]
            self.save()
        return None if turns is None else float(turns[turn])

    def rates(self, section: str, sizes: Iterable[int]) -> list[float]:
        """Of the first turn."""
        return [self.measured[section][str(size)][0] for size in sizes]

    def choose(self, **values: Any) -> None:
        """For later runs."""
        self.chosen.update(values)
        self.save()

    def save(self) -> None:
        """Keep all that is known so far."""
        record = {"measured": self.measured, "chosen": self.chosen, "quick": self.quick, "complete": self.complete}
        self.keep(record)
