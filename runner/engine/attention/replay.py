"""Decode steps like those before: ``mx.compile`` runs them again without going through the layers in Python.

Where a GPU has kernels of our own, its layers take less time than Python takes to ask for them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import mlx.core as mx
import numpy as np

from runner.engine.attention.layout import Step
from runner.engine.attention.prefix import LayerKV
from runner.engine.attention.reach import Bools, Ints, Reach, View, added, indices
from runner.engine.attention.segments import Segment

OFTEN = 3  # times that a form of step is met before it is recorded, which takes as long as some steps
MOST_FORMS = 64  # recorded at a time,
MOST_MET = 4096  # and counted

# For a run of tokens behind a segment and a kind of layer, which of its keys they see (None: all).
Seen = list[tuple[tuple[Segment, int, int, Reach], Bools | None]]


class Replay:
    """Decode steps over ``layers``, by ``forward(tokens, step, rows)``, which goes through the model.

    A step's *form* is all that Python branches on: sizes, and which tokens stand behind which prefixes. What it is
    computed with goes in as arrays, the slots' KV comes out again.
    """

    def __init__(self, layers: list[LayerKV], forward: Callable[[mx.array, Step, mx.array], mx.array]) -> None:
        self.layers = layers
        self._forward = forward
        self._step: Step
        self._inputs: list[Any]
        self._forget()

    def __call__(self, tokens: mx.array, step: Step, rows: Ints) -> mx.array:
        """What ``forward`` returns, recorded when steps of the same form have come often."""
        kinds = self._kinds()
        seen = list(_seen(step, kinds))
        form = repr((tokens.size, rows.size, *_form(step, kinds, seen)))
        self._met[form] += 1
        if self._met[form] <= OFTEN:
            return self._forward(tokens, step, indices(rows))
        self._forms.add(form)
        if len(self._forms) > MOST_FORMS or len(self._met) > MOST_MET:
            self._forget()
        self._step, self._inputs = step, [rows.astype(np.int32), *_inputs(step, kinds, seen)]
        stored = [(layer.keys, layer.values) for layer in self.layers]
        try:
            logits, stored = self._recorded(tokens, _joined(self._inputs), _prefixes(step), stored, form)
        finally:  # recording left its own in their place
            del self._step, self._inputs
            for layer, (keys, values) in zip(self.layers, stored, strict=True):
                layer.keys, layer.values = keys, values
        result: mx.array = logits
        return result

    def _kinds(self) -> list[LayerKV]:
        """One layer of each kind: what it sees, and how many own tokens it keeps."""
        return list({(layer.reach, layer.shape): layer for layer in self.layers}.values())

    def _forget(self) -> None:
        self._met: Counter[str] = Counter()
        self._forms: set[str] = set()
        self._recorded: Any = mx.compile(self._record)

    def _record(
        self,
        tokens: mx.array,
        joined: mx.array,
        prefixes: list[mx.array],
        stored: list[tuple[mx.array, mx.array]],
        form: str,
    ) -> Any:
        """Runs only when ``mx.compile`` meets a form for the first time."""
        kinds = self._kinds()
        for layer, (keys, values) in zip(self.layers, stored, strict=True):
            layer.keys, layer.values = keys, values
        tokens, rows, *arrays = _split(tokens, joined, self._inputs)
        twin = _with_arrays(self._step, kinds, iter(arrays), iter(prefixes))
        logits = self._forward(tokens, twin, rows)
        return logits, [(layer.keys, layer.values) for layer in self.layers]


def _form(step: Step, kinds: list[LayerKV], seen: Seen) -> Iterator[Any]:
    segments = _segments(step)
    yield [len(segment.tokens) for segment in segments]
    yield [[(segments.index(segment) if segment else None, a, b) for segment, a, b in runs] for runs in step.levels]
    yield [(step.beyond(*place), some is None) for place, some in seen]
    yield [(layer.reach, layer.shape, _view(step, layer)[1].decode_keys) for layer in kinds]


def _inputs(step: Step, kinds: list[LayerKV], seen: Seen) -> Iterator[Any]:
    """What the host tells a decode step, in int32 or float32."""
    yield from (step.at.astype(np.int32), step.slot.astype(np.int32))
    for layer in kinds:
        _, view, place = _view(step, layer)
        yield from (added(view.decode_seen), place.astype(np.int32))
    yield from (added(some) for _, some in seen if some is not None)


def _joined(inputs: list[Any]) -> mx.array:
    return mx.array(np.concatenate([one.reshape(-1).view(np.int32) for one in inputs]))


def _split(tokens: mx.array, joined: mx.array, inputs: list[Any]) -> Iterator[mx.array]:
    """``tokens``, and what was ``joined`` as arrays like ``inputs``, of 4-byte numbers, in memory of the device's own.

    The host's memory comes over page by page, which takes a GPU 0.1 ms each time, and again when the host has written
    to the same page for the next step.
    """
    own = mx.concatenate([tokens, joined])
    start, *parts = mx.split(own, list(accumulate([tokens.size, *(one.size for one in inputs[:-1])])))
    yield start
    for part, one in zip(parts, inputs, strict=True):
        yield part.view(mx.float32 if one.dtype == np.float32 else mx.int32).reshape(one.shape)


def _prefixes(step: Step) -> list[mx.array]:
    return [array for segment in _segments(step) for array in (*segment.keys, *segment.values)]


def _with_arrays(step: Step, kinds: list[LayerKV], arrays: Iterator[mx.array], prefixes: Iterator[mx.array]) -> Step:
    """The step with others in the place of its ``_inputs`` and ``_prefixes``."""
    twin = copy.copy(step)
    twin.positions, twin.slot_of_token = next(arrays), next(arrays)
    twin.views = {}
    for layer in kinds:
        kind, view, _ = _view(step, layer)
        mask, place = next(arrays), next(arrays)
        twin.views[kind] = view.but(decode_mask=mask, write=(None, twin.slot_of_token, place))
    twins = {segment: copy.copy(segment) for segment in _segments(step)}
    for segment, other in twins.items():
        other.keys, other.values = ([next(prefixes) for _ in stored] for stored in (segment.keys, segment.values))
    twin.levels = [[(segment and twins[segment], a, b) for segment, a, b in runs] for runs in step.levels]
    masks = [(place, None if some is None else next(arrays)) for place, some in _seen(step, kinds)]
    twin.masks = {(twins[segment], a, reach): mask for (segment, a, _, reach), mask in masks}
    return twin


def _view(step: Step, layer: LayerKV) -> tuple[tuple[Reach, int], View, Ints]:
    """How a step names a layer's view, the view, and where the layer stores the step's tokens."""
    view = step.view(layer.reach, layer.shape[1])
    assert view.written is not None
    return (layer.reach, layer.shape[1]), view, view.written[2]


def _segments(step: Step) -> list[Segment]:
    return list(dict.fromkeys(segment for runs in step.levels for segment, _, _ in runs if segment))


def _seen(step: Step, kinds: list[LayerKV]) -> Iterator[tuple[tuple[Segment, int, int, Reach], Bools | None]]:
    for runs in step.levels:
        for segment, a, b in runs:
            for layer in kinds:
                if segment is not None:
                    keys = segment.keys[layer.index].shape[1]
                    yield (segment, a, b, layer.reach), step.level_seen(segment, a, b, layer.reach, keys)
