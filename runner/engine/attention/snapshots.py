"""Snapshots: the KV of shared prefixes, computed once, held while anyone may come back to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from runner.engine.attention.layout import Span, Step
from runner.engine.attention.resident import ResidentModel
from runner.engine.attention.segments import Segment
from runner.sequences import Sequence


class Snapshots:
    """A stack of segments. As sequences come sorted, only those on the latest sequence's path are worth keeping, beside
    those that sequences in the batch stand on.
    """

    def __init__(self, model: ResidentModel, streams: list[Any], chunk: int) -> None:
        """Prefixes are computed ``chunk`` tokens a stream at a time."""
        self.model = model
        self.streams = streams
        self.chunk = chunk
        self.segments: dict[tuple[Segment | None, tuple[int, ...]], Segment] = {}
        self.held: dict[int, tuple[Segment, int]] = {}  # by row, for its later requests: until so many have joined
        self.joined = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the KV that all segments hold."""
        return sum(segment.nbytes for segment in self.segments.values())

    def path(self, sequence: Sequence) -> list[Segment]:
        """The segments that hold the sequence's prefix as far as it is computed."""
        found: list[Segment] = []
        for boundary in sequence.boundaries:
            parent = found[-1] if found else None
            tokens = tuple(sequence.tokens[parent.end if parent else 0 : boundary])
            if (parent, tokens) not in self.segments:
                break
            found.append(self.segments[parent, tokens])
        return found

    def missing_bytes(self, sequence: Sequence) -> int:
        """Bytes of what is still to be computed of the sequence's prefix."""
        path = self.path(sequence)
        tokens = sequence.shared_tokens - (path[-1].end if path else 0)
        return self.model.prefix_bytes(tokens, len(sequence.boundaries) - len(path))

    def prefix(self, sequence: Sequence) -> tuple[Segment | None, int]:
        """The sequence's whole prefix, computed now if need be, and how many of its tokens were there before."""
        path = self.path(sequence)
        prefix = path[-1] if path else None
        cached = prefix.end if prefix else 0
        for boundary in sequence.boundaries[len(path) :]:
            prefix = self._build(prefix, sequence.tokens[prefix.end if prefix else 0 : boundary])
        return prefix, cached

    def hold(self, sequence: Sequence, prefix: Segment | None, most: int) -> None:
        """Keep what later requests of its row share with a sequence, until ``most`` others have joined."""
        held = [one for one in (prefix.chain() if prefix else ()) if one.end <= sequence.ahead]
        if held:
            self.held[sequence.key[0]] = held[-1], self.joined + most

    def join(self, sequence: Sequence) -> None:
        """A sequence has joined; with the last ones of its row nothing more is held for that."""
        self.joined += 1
        if not sequence.ahead:
            self.held.pop(sequence.key[0], None)
        self.held = {row: one for row, one in self.held.items() if one[1] >= self.joined}

    def keep(self, sequence: Sequence, used: Iterable[Segment | None]) -> None:
        """Drop all segments but those on the paths of the sequence and of ``used``, and those that are held."""
        prefixes = [*used, *(segment for segment, _ in self.held.values())]
        kept = {one for prefix in prefixes if prefix for one in prefix.chain()} | set(self.path(sequence))
        self.segments = {key: segment for key, segment in self.segments.items() if segment in kept}

    def clear(self) -> None:
        self.segments.clear()
        self.held.clear()

    def _build(self, parent: Segment | None, tokens: list[int]) -> Segment:
        segment = Segment(parent)
        for number, start in enumerate(range(0, len(tokens), self.chunk), 1):
            chunk = tokens[start : start + self.chunk]
            step = Step([Span(segment, None, 0, len(chunk))], building=segment)
            with mx.stream(self.streams[number % len(self.streams)]):
                self.model.forward(mx.array(chunk), step, rows=None)
            segment.tokens.extend(chunk)
            if number % len(self.streams) == 0:  # a chunk follows the one before it layer by layer
                mx.eval(segment.arrays)
        self.model.trim(segment)
        self.segments[parent, tuple(tokens)] = segment
        return segment
