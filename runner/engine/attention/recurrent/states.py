"""Recurrent layers: a state in each slot and behind each shared prefix, copied for whoever goes on from it.

Which module of a model reads a layer's state is found out on a token. Such modules are given runs of a sequence's
tokens, with the states before them; everything else of the model sees each token as a row of its own.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from runner.engine.attention.recurrent import convolved, delta
from runner.engine.attention.recurrent.runs import Chunk, Course, Plan, Wave
from runner.engine.attention.segments import Segment

State = list[mx.array | None]  # arrays [rows, ...] that a layer keeps; None: nothing yet
_hooked: set[type[nn.Module]] = set()


class Rows(ArraysCache):
    """The cache of one call of a recurrent module: states of its rows. ``written``: which of them it changed."""

    def __init__(self, state: State) -> None:
        super().__init__(len(state))
        self.cache = list(state)
        self.written: set[int] = set()

    def __setitem__(self, index: int, value: mx.array) -> None:
        self.written.add(index)
        self.cache[index] = value


class LayerState:
    """The cache of one recurrent layer, which keeps ``size`` arrays: in ``arrays`` [slots, ...] those of all slots."""

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self.size = size
        self.slots = 0
        self.arrays: State = [None] * size
        self.plan: Plan

    def __getitem__(self, index: int) -> mx.array:
        raise NotImplementedError("a state is read where none was read before")

    def make_mask(self, *_: Any, **__: Any) -> None:
        """None: nothing is padded."""
        return

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for ``slots`` sequences; their states stay, unless no sequence has tokens of its own."""
        if not capacity:
            self.clear()
        elif slots != self.slots:
            pad = max(0, slots - self.slots)
            self.arrays = [
                None if a is None else mx.contiguous(mx.pad(a[:slots], [(0, pad)] + [(0, 0)] * (a.ndim - 1)))
                for a in self.arrays
            ]
        self.slots = slots

    def clear(self) -> None:
        """Give the slots' memory back."""
        self.arrays = [None] * self.size

    def adopt(self, slots: mx.array, prefix: Segment) -> None:
        """Copy the state behind a prefix into slots."""
        for number, a in enumerate(state_of(prefix, self.index)):
            if a is not None:
                self._put(number, a, slots)

    def trim(self, segment: Segment) -> None:
        """Let go of what the arrays of a finished segment were cut from."""
        segment.states[self.index] = [None if a is None else mx.contiguous(a) for a in segment.states[self.index]]

    def through(self, call: Callable[..., Any], given: dict[str, Any]) -> Any:
        """A module's call with the step's tokens, in runs."""
        found = [one for course in self.plan.courses for one in self._course(course, call, given)]
        flat = [[array for _, array in tree_flatten(one)] for one in found]
        whole = iter([self._in_order(list(pieces)) for pieces in zip(*flat, strict=True)])
        return tree_map(lambda _: next(whole), found[0])

    def _in_order(self, pieces: list[mx.array]) -> mx.array:
        """What came of some runs, [tokens, 1, ...] each, as the step has its tokens."""
        whole = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)
        return whole if self.plan.place is None else whole[self.plan.place]

    def _course(self, course: Course, call: Callable[..., Any], given: dict[str, Any]) -> Iterator[Any]:
        state = self._beginning(course)
        for wave in course.waves:
            if wave.start is not None:
                state = _cut(state, wave.start)
            written: set[int] = set()
            ends: list[State] = []
            for chunk, rows in zip(wave.chunks, [*(chunk.rows for chunk in wave.chunks[1:]), 0], strict=True):
                cache = Rows(state)
                yield _tokens(call(**self._given(given, cache, chunk)), chunk)
                written |= cache.written
                ends.append(_cut(cache.cache, slice(rows, None)) if rows else cache.cache)
                state = _cut(cache.cache, slice(rows))
            state = ends[0] if len(ends) == 1 else [_joined(list(some)) for some in zip(*ends[::-1], strict=True)]
            self._keep(wave, state, written)
            if self.plan.building is not None:
                behind = self.plan.building.states.setdefault(self.index, [None] * self.size)
                for number in written:
                    behind[number] = state[number]

    def _given(self, given: dict[str, Any], cache: Rows, chunk: Chunk) -> dict[str, Any]:
        """A module's arguments for a chunk."""
        found = {name: _for_chunk(one, cache, chunk, self.plan) for name, one in given.items()}
        if chunk.padded and self.plan.masks:
            cache.lengths = mx.array(chunk.lengths)  # a copy: it is counted down
            found["mask"] = chunk.mask
        return found

    def _beginning(self, course: Course) -> State:
        if not course.order:
            return [None] * self.size
        behind = [state_of(segment, self.index) for segment in course.segments]
        whole: State = []
        for number, own in enumerate(self.arrays):
            parts = [one[number] for one in behind]
            if course.slots:
                parts.insert(0, None if own is None else _picked(own, course.slots))
            whole.append(_joined(parts))
        return [None if a is None else _picked(a, course.order) for a in whole]

    def _keep(self, wave: Wave, state: State, written: set[int]) -> None:
        for number in written:
            a = state[number]
            if a is None or not wave.keeps:
                continue
            if wave.in_slot_order and wave.keeps == self.slots:
                self.arrays[number] = mx.contiguous(a)
            else:
                self._put(number, a if wave.all_kept else a[wave.kept], wave.slots)

    def _put(self, number: int, a: mx.array, slots: mx.array) -> None:
        stored = self.arrays[number]
        if stored is None:
            stored = mx.zeros((self.slots, *a.shape[1:]), a.dtype)
        if stored.shape[1:] != a.shape[1:] or stored.dtype != a.dtype:
            raise NotImplementedError(f"states of {a.shape[1:]} after such of {stored.shape[1:]}")
        stored[slots] = a
        self.arrays[number] = stored


def state_of(prefix: Segment | None, index: int) -> State:
    """A layer's state behind a prefix."""
    while prefix is not None and index not in prefix.states:
        prefix = prefix.parent
    assert prefix is not None
    return prefix.states[index]


def _readers(model: Any) -> dict[type[nn.Module], nn.Module]:
    """A model's modules that read or write recurrent states, the innermost ones at work then: one of each class."""
    found: dict[type[nn.Module], nn.Module] = {}

    class Watched(ArraysCache):
        def __getitem__(self, index: int) -> Any:
            _note(found, sys._getframe(1))
            return super().__getitem__(index)

        def __setitem__(self, index: int, value: Any) -> None:
            _note(found, sys._getframe(1))
            super().__setitem__(index, value)

    def watched(kv: Any) -> Any:
        if type(kv) is CacheList:
            return CacheList(*map(watched, kv.caches))
        return Watched(len(kv.cache)) if type(kv) is ArraysCache else kv

    model(mx.array([[1]]), cache=[watched(kv) for kv in make_prompt_cache(model)])
    return found


def hook(model: Any) -> bool:
    """Send calls of a model's recurrent modules that have a LayerState through it; all others go mlx-lm's way. Whether
    they take masks.
    """
    delta.hook()
    kinds = _readers(model)
    for kind, layer in kinds.items():
        if not convolved.hook(layer):
            _hook(kind)
    return all("mask" in inspect.signature(kind.__call__).parameters for kind in kinds)


def _hook(kind: type[nn.Module]) -> None:
    if kind in _hooked:
        return
    _hooked.add(kind)
    plain = kind.__call__
    parameters = inspect.signature(plain)

    @functools.wraps(plain)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for one in (*args, *kwargs.values()):
            if isinstance(one, LayerState):
                given = parameters.bind(self, *args, **kwargs).arguments
                return one.through(functools.partial(plain, given.pop("self")), given)
        return plain(self, *args, **kwargs)

    kind.__call__ = call


def _note(found: dict[type[nn.Module], nn.Module], frame: Any) -> None:
    """Add the module that is at work in a frame."""
    while not (frame.f_code.co_name == "__call__" and isinstance(frame.f_locals.get("self"), nn.Module)):
        frame = frame.f_back
    layer = frame.f_locals["self"]
    found.setdefault(type(layer), layer)


def _for_chunk(one: Any, cache: Rows, chunk: Chunk, plan: Plan) -> Any:
    if isinstance(one, LayerState):
        return cache
    return chunk.take(one) if isinstance(one, mx.array) and plan.tells(one) else one


def _tokens(result: Any, chunk: Chunk) -> Any:
    """What a module returned for a chunk, its tokens in a row: [tokens, 1, ...]."""

    def flat(a: Any) -> mx.array:
        if not isinstance(a, mx.array) or a.shape[:2] != (chunk.rows, chunk.length):
            raise NotImplementedError(f"what comes of {chunk.rows} rows of {chunk.length} tokens has another shape")
        return chunk.give(a)

    return tree_map(flat, result)


def _picked(a: mx.array, rows: list[int]) -> mx.array:
    return a if rows == list(range(len(a))) else a[mx.array(rows)]


def _cut(state: State, at: slice | mx.array) -> State:
    return [None if a is None else a[at] for a in state]


def _joined(parts: list[mx.array | None]) -> mx.array | None:
    """One after the other, all of them or none."""
    if len(parts) == 1:
        return parts[0]
    some = [a for a in parts if a is not None]
    if some and len(some) < len(parts):
        raise NotImplementedError("some states are there and others are not")
    return mx.concatenate(some) if some else None
