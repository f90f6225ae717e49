"""The batch size that a device is fastest with, found while it works."""

from __future__ import annotations

from statistics import median

STEPS = 12  # measured at each size
WARM_UP = 4  # of them, not counted: new slots are made, kernels are compiled
GAIN = 1.05  # in tokens/s, for which a batch is doubled


class Growth:
    """Doubles ``size`` while that makes more tokens a second, up to ``most``; goes back when it does not."""

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.most = most
        self.found = size >= most
        self.rates: dict[int, float] = {}  # tokens/s by batch size
        self._seen: list[float] = []

    def saw(self, tokens: int, seconds: float) -> None:
        """A step that decoded ``tokens``, one a sequence, and did nothing else."""
        if self.found or tokens < 0.9 * self.size:
            return
        self._seen.append(tokens / seconds)
        if len(self._seen) == STEPS:
            self._decide(median(self._seen[WARM_UP:]))
            self._seen.clear()

    def _decide(self, rate: float) -> None:
        best = max(self.rates, key=lambda size: self.rates[size], default=None)
        self.rates[self.size] = rate
        if best is not None and rate < GAIN * self.rates[best]:
            self.size, self.found = best, True
        elif 2 * self.size <= self.most:
            self.size *= 2
        else:
            self.found = True
