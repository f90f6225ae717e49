"""Decode steps like those before: ``mx.compile`` runs them again without going through the layers in Python.

Where a GPU has kernels of our own, its layers take less time than Python takes to ask for them.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from runner.engine.attention.layout import Segment, Step, View
from runner.engine.attention.prefix import LayerKV
from runner.engine.attention.reach import Reach

OFTEN = 3  # times that a form of step is met before it is recorded, which takes as long as some steps
MOST_FORMS = 64  # recorded at a time,
MOST_MET = 4096  # and counted


class Replay:
    """Decode steps over ``layers``, by ``forward(tokens, step, rows)``, which goes through the model.

    A step's *form* is all that Python branches on: sizes, and which tokens stand behind which prefixes. What it is
    computed with goes in as arrays, the slots' KV comes out again.
    """

    def __init__(self, layers: list[LayerKV], forward: Callable[[mx.array, Step, mx.array], mx.array]) -> None:
        self.layers = layers
        self._forward = forward
        self._step: Step
        self._forget()

    def __call__(self, tokens: mx.array, step: Step, rows: mx.array) -> mx.array:
        """What ``forward`` returns, recorded when steps of the same form have come often."""
        kinds = self._kinds()
        form = repr((tokens.size, rows.size, *_form(step, kinds)))
        self._met[form] += 1
        if self._met[form] <= OFTEN:
            return self._forward(tokens, step, rows)
        self._forms.add(form)
        if len(self._forms) > MOST_FORMS or len(self._met) > MOST_MET:
            self._forget()
        self._step = step
        stored = [(layer.keys, layer.values) for layer in self.layers]
        try:
            logits, stored = self._recorded(
                tokens, [rows.astype(mx.int32), *_arrays(step, kinds)], _prefixes(step), stored, form
            )
        finally:  # recording left its own in their place
            del self._step
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
        arrays: list[mx.array],
        prefixes: list[mx.array],
        stored: list[tuple[mx.array, mx.array]],
        form: str,
    ) -> Any:
        """Runs only when ``mx.compile`` meets a form for the first time."""
        kinds = self._kinds()
        for layer, (keys, values) in zip(self.layers, stored, strict=True):
            layer.keys, layer.values = keys, values
        rows, *others = _copied(arrays)
        logits = self._forward(tokens, _with_arrays(self._step, kinds, iter(others), iter(prefixes)), rows)
        return logits, [(layer.keys, layer.values) for layer in self.layers]


def _form(step: Step, kinds: list[LayerKV]) -> Iterator[Any]:
    segments = _segments(step)
    yield [len(segment.tokens) for segment in segments]
    yield [[(segments.index(segment) if segment else None, a, b) for segment, a, b in runs] for runs in step.levels]
    yield [(step.beyond(*place), mask is None) for place, mask in _masks(step, kinds)]
    yield [(layer.reach, layer.shape, _view(step, layer)[1].decode_keys) for layer in kinds]


def _arrays(step: Step, kinds: list[LayerKV]) -> Iterator[mx.array]:
    """What the host tells a decode step, in int32 or float32."""
    yield from (step.positions, step.slot_of_token)
    for layer in kinds:
        _, view, place = _view(step, layer)
        yield from (view.decode_mask, place)
    yield from (mask for _, mask in _masks(step, kinds) if mask is not None)


def _prefixes(step: Step) -> list[mx.array]:
    return [array for segment in _segments(step) for array in (*segment.keys, *segment.values)]


def _copied(arrays: list[mx.array]) -> list[mx.array]:
    """Arrays of 4-byte numbers in memory of the device's own. Where they are, the host writes to the same pages for the
    next step; each page that came back to it has to be fetched anew, which takes the device 0.1 ms.
    """
    whole = mx.concatenate([array.reshape(-1).view(mx.int32) for array in arrays])
    parts = mx.split(whole, list(itertools.accumulate(array.size for array in arrays[:-1])))
    return [part.view(array.dtype).reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _with_arrays(step: Step, kinds: list[LayerKV], arrays: Iterator[mx.array], prefixes: Iterator[mx.array]) -> Step:
    """The step with others in the place of its ``_arrays`` and ``_prefixes``."""
    twin = copy.copy(step)
    twin.positions, twin.slot_of_token = next(arrays), next(arrays)
    twin.views = {}
    for layer in kinds:
        kind, view, _ = _view(step, layer)
        seen, place = next(arrays), next(arrays)
        twin.views[kind] = dataclasses.replace(view, decode_mask=seen, write=(None, twin.slot_of_token, place))
    twins = {segment: copy.copy(segment) for segment in _segments(step)}
    for segment, other in twins.items():
        other.keys, other.values = ([next(prefixes) for _ in stored] for stored in (segment.keys, segment.values))
    twin.levels = [[(segment and twins[segment], a, b) for segment, a, b in runs] for runs in step.levels]
    twin.masks = {}
    for (segment, a, _, reach), mask in _masks(step, kinds):
        if mask is not None:
            twin.masks[twins[segment], a, reach] = next(arrays)
    return twin


def _view(step: Step, layer: LayerKV) -> tuple[tuple[Reach, int], View, mx.array]:
    """How a step names a layer's view, the view, and where the layer stores the step's tokens."""
    view = step.view(layer.reach, layer.shape[1])
    assert view.write is not None
    return (layer.reach, layer.shape[1]), view, view.write[2]


def _segments(step: Step) -> list[Segment]:
    return list(dict.fromkeys(segment for runs in step.levels for segment, _, _ in runs if segment))


def _masks(step: Step, kinds: list[LayerKV]) -> Iterator[tuple[tuple[Segment, int, int, Reach], mx.array | None]]:
    """For each run of tokens behind a segment, and each kind of layer: which of its keys they see."""
    for runs in step.levels:
        for segment, a, b in runs:
            for layer in kinds:
                if segment is not None:
                    keys = segment.keys[layer.index].shape[1]
                    yield (segment, a, b, layer.reach), step.level_mask(segment, a, b, layer.reach, keys)
