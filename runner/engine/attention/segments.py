"""Segments: the keys and values of a prefix that many sequences share, built once by steps that append to it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx


@dataclass(eq=False)
class Segment:
    """KV of ``tokens``, which stand at positions [start, end) behind the tokens of ``parent``.

    ``keys[layer]`` and ``values[layer]`` are [N, K, D]; a sliding-window layer keeps only its last ``window - 1`` keys.
    ``states[layer]`` are the arrays [1, ...] that a recurrent layer keeps behind its last token. A segment is built by
    steps that append to it.
    """

    parent: Segment | None = None
    tokens: list[int] = field(default_factory=list)
    keys: list[mx.array] = field(default_factory=list)
    values: list[mx.array] = field(default_factory=list)
    states: dict[int, list[mx.array | None]] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """The position of its first token."""
        return self.parent.end if self.parent else 0

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds in all layers, its parents' left out."""
        return sum(a.nbytes for a in self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        """All that it holds."""
        return [a for a in itertools.chain(self.keys, self.values, *self.states.values()) if a is not None]

    @cached_property
    def ids(self) -> list[int]:
        """Sorts segments so that those with the same parents are neighbours."""
        return [*(self.parent.ids if self.parent else []), id(self)]

    def chain(self) -> list[Segment]:
        """The segments from the first token up to this one, leaving out empty ones."""
        return [*(self.parent.chain() if self.parent else []), *([self] if self.tokens else [])]

    def append(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Take keys and values [N, n, D] of one layer, of tokens behind those that it has."""
        for stored, new in ((self.keys, keys), (self.values, values)):
            if layer < len(stored):
                stored[layer] = mx.concatenate([stored[layer], new], axis=1)
            else:
                stored.append(new)

    def trim(self, layer: int, last: int | None) -> None:
        """Drop all but the last keys of a layer; None: keep all. They lie in a row then, as a device's own kernels read
        them.
        """
        for stored in (self.keys, self.values):
            first = 0 if last is None else max(0, stored[layer].shape[1] - last)
            stored[layer] = mx.contiguous(stored[layer][:, first:])
