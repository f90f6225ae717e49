"""Which keys a layer's tokens see, and where a sequence's own ones lie in its slot."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from runner.engine.kernels import MASKED, cpu

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
        if stored.max(initial=0) <= self.size:  # none has turned
            return np.where(place < stored, place, -1)
        turning, last = self.size - self.kept, stored - 1 - self.kept
        turned = last - (last - (place - self.kept)) % turning
        latest = np.where(turned < 0, -1, self.kept + turned)
        return np.where(place < self.kept, np.where(place < stored, place, -1), latest)


def added(allowed: Bools) -> Any:
    """What to add to scores, in float32: 0 where allowed, MASKED elsewhere."""
    return np.where(allowed, np.float32(0), np.float32(MASKED))


def additive(allowed: Bools) -> mx.array:
    """A mask of what is ``added``."""
    return mx.array(added(allowed))


@dataclass(frozen=True)
class View:
    """Which keys each token of a step sees in layers of one reach: indices and masks, made once a step."""

    decode_seen: Bools  # [slots, 1, 1, K], of the slots' KV
    decode_keys: int  # K
    fresh_mask: mx.array | None  # [R or 1, 1, n, n] over the step's own tokens
    old_slots: mx.array | None  # [R], sequences that prefill and have KV in their slot
    old_keys: int
    old_mask: mx.array | None  # [R, 1, n, K]
    written: tuple[Ints | None, Ints, Ints] | None  # tokens (None: all), slots, ring indices of KV to store

    @cached_property
    def decode_mask(self) -> mx.array:
        """[slots, 1, 1, K] over the slots' KV."""
        return additive(self.decode_seen)

    @cached_property
    def write(self) -> tuple[mx.array | None, mx.array, mx.array] | None:
        """``written``, as the device is told."""
        if self.written is None:
            return None
        token, slot, place = self.written
        return None if token is None else indices(token), indices(slot), indices(place)

    def but(self, **arrays: Any) -> View:
        """The same with others in the place of some of its arrays."""
        twin = copy.copy(self)
        vars(twin).update(arrays)
        return twin


def indices(values: Ints) -> mx.array:
    """What the device is told of integers, in int32."""
    return mx.array(values.astype(np.int32))


def positions(values: Ints) -> mx.array:
    """The same of where a step's tokens stand; on a CPU, with what they turn queries and keys by."""
    told = indices(values)
    return cpu.Positions.of(told) if mx.default_device() == mx.cpu else told
