"""Which keys a layer's tokens see, and where a sequence's own ones lie in its slot."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Reach(NamedTuple):
    """Which keys the tokens of a layer see: the last ``window`` (None: all), their own included, and the first ``keep``
    of all (attention sinks, as in a rotating cache: Xiao et al. 2023). If it is ``aligned``, the text is cut into
    chunks of ``window`` tokens, and they see those of their own chunk up to themselves.
    """

    window: int | None = None
    keep: int = 0
    aligned: bool = False

    def ring(self, capacity: int) -> int:
        """How many own tokens a slot keeps of ``capacity``."""
        return min(capacity, self.window + self.keep) if self.window else capacity

    def sees(self, query: Ints, key: Ints) -> Bools:
        """Whether tokens at positions ``query`` see those at ``key``; the two broadcast."""
        distance = query - key
        seen = distance >= 0
        if self.window and self.aligned:
            return seen & (query // self.window == key // self.window)
        return seen & ((distance < self.window) | (key < self.keep)) if self.window else seen

    def sees_all(self, query: int, key: int) -> bool:
        """Whether a token at position ``query`` sees all from ``key`` up to itself."""
        if self.window is None:
            return True
        return query // self.window == key // self.window if self.aligned else query - key < self.window

    def beyond(self, query: int, key: int) -> bool:
        """Whether no token from position ``query`` on sees one up to ``key``, the first kept ones left out."""
        if self.window is None:
            return False
        return query // self.window > key // self.window if self.aligned else query - key >= self.window


class Ring(NamedTuple):
    """Where a sequence's own tokens lie in its slot: the first ``kept`` for good, the others in turn. Arrays have an
    element a sequence, or are [sequences, 1].
    """

    size: int
    kept: Ints

    @classmethod
    def of(cls, reach: Reach, size: int, base: Ints) -> Ring:
        """For sequences whose own tokens begin at positions ``base``."""
        return cls(size, np.clip(reach.keep - base, 0, size - 1) if reach.window else np.zeros_like(base))

    def place(self, own: Ints) -> Ints:
        """Where own tokens number ``own`` are stored."""
        return np.where(own < self.kept, own, self.kept + (own - self.kept) % (self.size - self.kept))

    def latest(self, place: Ints, stored: Ints) -> Ints:
        """The own token that lies in each place when ``stored`` were stored; negative: none yet."""
        turning, last = self.size - self.kept, stored - 1 - self.kept
        turned = last - (last - (place - self.kept)) % turning
        latest = np.where(turned < 0, -1, self.kept + turned)
        return np.where(place < self.kept, np.where(place < stored, place, -1), latest)
