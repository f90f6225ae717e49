"""Sizes measured in turns, and which of them is faster beyond what the turns differ by."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TypeVar

from jobs.tune.found import Found

log = logging.getLogger("rowmill")

TURNS = 3
NEAR = 0.97  # of the best rate: the first size that reaches it counts as the best,
FAR = 0.9  # and below this, larger ones are not tried, and none has another turn
MOST_SECONDS = 75.0  # for the first turns, after which no larger one is tried

Size = TypeVar("Size")


def in_turns(
    found: Found, section: str, sizes: Sequence[int], usual: int, rate: Callable[[int], float | None]
) -> int | None:
    """All sizes once, then those that may be the best again, in turns with the usual one: what ``best`` makes of it."""
    began, tried = time.perf_counter(), list[int]()
    for size in sizes:
        if time.perf_counter() - began > MOST_SECONDS:
            log.info("  larger ones are not tried: this machine takes too long")
            break
        try:
            measured = found.turn(section, str(size), 0, partial(rate, size))
        except RuntimeError as error:  # of MLX, which has no memory left
            log.info("  %d: %s", size, str(error).splitlines()[0])
            break
        log.info("  %d: %s", size, "too many for the memory" if measured is None else f"{measured:,.0f} tokens/s")
        if measured is None:
            break
        tried.append(size)
        if measured < FAR * max(found.rates(section, tried)):
            break
    again = contenders(found, section, tried, usual)
    for turn in range(1, TURNS if len(again) > 1 else 1):
        for size in again:
            found.turn(section, str(size), turn, partial(rate, size))
    if usual not in tried and tried and tried[-1] < usual:
        return None  # it might be faster still
    return best({size: found.measured[section][str(size)] for size in again}, usual)


def contenders(found: Found, section: str, tried: list[int], usual: int) -> list[int]:
    """What may be the best after one turn, and the usual one."""
    rates = found.rates(section, tried)
    return [size for size, rate in zip(tried, rates, strict=True) if rate >= FAR * max(rates) or size == usual]


def best(turns: Mapping[Size, Sequence[float]], usual: Size, gain: float = 1 / NEAR) -> Size | None:
    """The first size that is nearly as fast as the fastest; None (as usual) unless it is faster than the ``usual`` one
    in each turn, and by ``gain``.
    """
    rates = {size: median(some) for size, some in turns.items()}
    chosen = next((size for size, rate in rates.items() if rate >= NEAR * max(rates.values())), None)
    if chosen is None or chosen == usual or usual not in turns:
        return None if chosen == usual else chosen
    always = all(one > other for one, other in zip(turns[chosen], turns[usual], strict=True))
    return chosen if always and rates[chosen] > gain * rates[usual] else None
