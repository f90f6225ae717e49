"""A resident mlx-lm model whose attention runs over shared prefixes and slots."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache, make_prompt_cache

from runner.engine.attention import hooks
from runner.engine.attention.chosen import Chooser
from runner.engine.attention.head import Head
from runner.engine.attention.layout import Span, Step
from runner.engine.attention.prefix import LayerKV
from runner.engine.attention.reach import Ints, Reach, indices
from runner.engine.attention.recurrent import states
from runner.engine.attention.recurrent.runs import Plan
from runner.engine.attention.recurrent.states import LayerState
from runner.engine.attention.replay import Replay
from runner.engine.attention.segments import Segment
from runner.engine.kernels import cpu, packed
from runner.engine.sampling import normaliser
from runner.engine.trial import SHARED, STEPS, Trial

SPARED = 0.2  # of the layers, for which prompts are stored in a pass of their own
SINKS = 4  # first tokens that a bounded cache keeps, as in mlx-lm's make_prompt_cache


class UnsupportedModelError(Exception):
    """The model's layers cannot share prefixes: they keep other state than keys and values, or mask by themselves."""


class ResidentModel:
    """An mlx-lm model with caches of our own: ``layers`` of attention and recurrent ``states``. Raises
    UnsupportedModelError if a trial shows that it cannot have them.

    ``max_kv_size`` bounds the tokens that a row's attention sees: the first 4 and the latest. ``kv_bits``: of KV in
    layers that keep all tokens (None: as computed). ``token_bytes``: KV bytes of one token in all layers;
    ``state_bytes``: of all states behind one token. ``spares``: whether a token whose logits nobody asks for is spared
    many layers, as those behind the last one that stores keys attend to earlier ones' keys. Changes ``model`` in place:
    its output head computes the rows that ``forward`` asks for.

    Without a ``trial`` nothing is computed, whatever the size: the model tells what its layers take, and serves no run.
    Raises ValueError for a model that has to compute something to go on.
    """

    def __init__(
        self, model: Any, max_kv_size: int | None = None, kv_bits: int | None = None, trial: bool = True
    ) -> None:
        self.model = model
        self.kv_bits = kv_bits
        self._reaches = partial(_reach, max_kv_size=max_kv_size)
        if trial:
            self._own_layers(mx.array([[1]]))
        else:
            traced(self._own_layers, mx.array([[1]]))
        cpu.hook()
        hooks.hook(model)
        self._masks = bool(self.states) and states.hook(model)
        self.head = Head(model)  # shared with twins
        self._logits = mx.compile(self.head.logits)
        if trial:
            self._try()
        else:
            traced(self._measured, mx.ones((SHARED,), mx.int32))

    def forward(self, tokens: mx.array, step: Step, rows: Ints | list[int] | None) -> mx.array:
        """Run the step's tokens [T]; logits of tokens ``rows``: [len(rows), V], lazily (None: of none, [T, V])."""
        if rows is None:
            return self._forward(tokens, step, None)
        rows = np.array(rows, np.int64)
        # Steps with states are not recorded: which rows go together, and from where, is decided in Python.
        known = not self.states and all(layer.fused and layer.keys is not None for layer in self.layers)
        if known and not step.prefilling:
            logits = self._replay(tokens, step, rows)
            self.head.states = None  # they may be those of a recording
            return logits
        return self._forward(tokens, step, indices(rows))

    def score(self, logits: mx.array, first: int, rows: Ints, tokens: Ints, nbytes: int) -> tuple[mx.array, mx.array]:
        """The ``first`` logits that ``forward`` returned, and of those behind them: the log-probabilities of
        ``tokens[i]`` in row ``rows[i]`` (ascending), lazily, by ``nbytes`` of logits at a time.
        """
        states, self.head.states = self.head.states, None
        size = max(1, nbytes // (4 * logits.shape[-1]))
        if len(logits) <= size or states is None:
            return logits[:first], _edges(logits[first:], rows, tokens)
        found = []
        for start in range(0, len(logits) - first, size):
            among = slice(*np.searchsorted(rows, (start, start + size)))
            some = states[first + start : first + start + size]
            some = mx.pad(some, [(0, size - len(some)), (0, 0), (0, 0)])  # what is recorded has one shape
            found.append(_edges(self._logits(some), rows[among] - start, tokens[among]))
        return self.head.logits(states[:first]), mx.concatenate(found)

    def _forward(self, tokens: mx.array, step: Step, rows: mx.array | None) -> mx.array:
        for layer in self.layers:
            layer.step = step
        if self.states:
            plan = Plan(step, self._masks)
            for state in self.states:
                state.plan = plan
        self.head.rows, self.head.states = rows, None
        try:
            logits = self.model(tokens[:, None], cache=self.caches)
            if any(layer.unused for layer in self.layers):
                raise NotImplementedError("keys that nothing attends to")
            if self.head.rows is not None:  # a head that was not found computes all
                logits = logits[rows]
        finally:
            self.head.rows = None
            for layer in self.layers:
                layer.leave()
            for state in self.states:
                del state.plan
        return logits[:, 0]

    def twin(self) -> ResidentModel:
        """The same model with KV layers of its own, for another batch."""
        twin = copy.copy(self)
        twin._own_layers(mx.array([[1]]))
        twin._logits = mx.compile(self.head.logits)  # what is recorded runs on the stream that it was recorded on
        return twin

    def state(self) -> list[mx.array]:
        """The slots' arrays, to be evaluated with each step."""
        found = [a for layer in self.layers for a in (layer.keys, layer.values)]
        return [a for a in (*found, *(a for one in self.states for a in one.arrays)) if a is not None]

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for ``slots`` sequences of ``capacity`` own tokens in every layer; see ``LayerKV.resize``."""
        for layer in self._all:
            layer.resize(slots, capacity)

    def adopt(self, slots: mx.array, prefix: Segment) -> None:
        """Copy a prefix into slots; see ``LayerKV.adopt``."""
        for layer in self._all:
            layer.adopt(slots, prefix)

    def clear(self) -> None:
        """Give the memory of all slots back; segments keep theirs."""
        for layer in self._all:
            layer.clear()

    def trim(self, segment: Segment) -> None:
        """Drop what no layer needs of a finished segment, and evaluate it."""
        for layer in self._all:
            layer.trim(segment)
        mx.eval(segment.arrays)

    def slot_bytes(self, capacity: int) -> int:
        """Bytes of one slot of ``capacity`` tokens."""
        kv = sum(layer.reach.ring(capacity) * size for layer, size in zip(self.layers, self._layer_bytes, strict=True))
        return kv + (self.state_bytes if capacity else 0)

    def prefix_bytes(self, tokens: int, segments: int) -> int:
        """Bytes of some segments of so many tokens together."""
        return tokens * self.token_bytes + segments * self.state_bytes

    @property
    def kept_tokens(self) -> int:
        """How many own tokens of a sequence its slot holds before any is overwritten."""
        return min((layer.shape[1] for layer in self.layers), default=0)

    @property
    def token_bytes(self) -> int:
        """KV bytes of one token of a segment in all layers."""
        return sum(self._layer_bytes)

    @property
    def window_bytes(self) -> int:
        """Those of ``token_bytes`` in layers that see no more than the latest tokens."""
        return sum(size for layer, size in zip(self.layers, self._layer_bytes, strict=True) if layer.reach.window)

    @property
    def _all(self) -> list[LayerKV | LayerState]:
        return [*self.layers, *self.states]

    def _own_layers(self, tokens: mx.array) -> None:
        """``tokens`` [1, 1]: nothing of their pass is computed, but some layers have a cache and no attention."""
        self.layers: list[LayerKV] = []
        self.states: list[LayerState] = []
        caches = make_prompt_cache(self.model)
        self.model(tokens, cache=caches)
        self.caches = [self._layer(kv) for kv in caches]
        self._replay = Replay(self.layers, self._forward)

    def _layer(self, kv: Any) -> Any:
        """What stands in place of one of the model's own caches, some of which are many."""
        if type(kv) is CacheList:
            if [type(one) for one in kv.caches] == [KVCache, KVCache]:  # the second may choose for the first
                attending = self._layer(kv.caches[0])
                attending.chooser = Chooser(len(self.layers), self._reaches(kv.caches[1]))
                self.layers.append(attending.chooser)
                return attending, attending.chooser
            return tuple(map(self._layer, kv.caches))
        if type(kv) is ArraysCache:
            self.states.append(LayerState(len(self.states), len(kv.cache)))
            return self.states[-1]
        reach = self._reaches(kv)
        layer = LayerKV(len(self.layers), reach, None if reach.window else self.kv_bits)
        if kv.keys is not None:
            self.layers.append(layer)
        return layer

    def _try(self) -> None:
        """Compare ragged suffixes behind a shared prefix, and some steps after them, with the model's own caches.

        Some recurrent layers take masks and still mix padding into their states: once more without any padding then.
        """
        trial = Trial(self.model, partial(packed.caches, bits=self.kv_bits) if self.kv_bits else make_prompt_cache)
        while problem := self._problem(trial):
            if not self._masks:
                raise UnsupportedModelError(problem)
            self._masks = False

    def _problem(self, trial: Trial) -> str | None:
        try:
            return trial.problem(self._answers(trial))
        except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.clear()

    def _measured(self, tokens: mx.array) -> Segment:
        """A prefix, not yet computed; sets what its tokens take."""
        shared = Segment()
        self.forward(tokens, step := Step([Span(shared, None, 0, tokens.size)], building=shared), rows=None)
        self.spares = _behind(step.attended) >= SPARED
        self.state_bytes = sum(a.nbytes for state in shared.states.values() for a in state if a is not None)
        sizes = zip(shared.keys, shared.values, strict=True)
        self._layer_bytes = [(k.nbytes + v.nbytes) // tokens.size for k, v in sizes]
        return shared

    def _answers(self, trial: Trial) -> list[list[mx.array]]:
        """Logits of the trial's rows; the first one does not use the prefix."""
        first = trial.rows[0][:SHARED]
        shared = self._measured(mx.array(first))
        shared.tokens.extend(first)
        mx.eval(shared.arrays)
        prefixes = [None, *[shared] * (len(trial.rows) - 1)]
        own = [row[prefix.end if prefix else 0 :] for row, prefix in zip(trial.rows, prefixes, strict=True)]
        self.resize(len(own), max(map(len, own)))
        lengths = [len(row) - STEPS for row in own]
        got: list[list[mx.array]] = [[] for _ in own]
        for step in range(STEPS + 1):
            entries = [
                (Span(prefix, slot, length + step - 1, 1) if step else Span(prefix, slot, 0, length), slot)
                for slot, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True))
            ]
            spans, order = zip(*sorted(entries, key=lambda entry: entry[0].order), strict=True)
            new = [own[slot][span.stored : span.stored + span.new] for span, slot in zip(spans, order, strict=True)]
            ends = np.cumsum([len(tokens) for tokens in new]) - 1
            logits = self.forward(mx.array(list(itertools.chain(*new))), Step(list(spans)), rows=ends)
            mx.eval(logits, self.state())
            for slot, found in zip(order, logits, strict=True):
                got[slot].append(found)
        return got


def traced(work: Callable[[mx.array], Any], tokens: mx.array) -> None:
    """Call ``work`` with tokens of which nothing can be computed, whatever the size: ValueError where it tries to."""

    def trace(given: mx.array) -> mx.array:
        work(given)
        return given

    mx.compile(trace)(tokens)


def _behind(attended: list[int]) -> float:
    """What share of the attention comes behind the last layer that stores keys."""
    return 1 - (attended.index(max(attended)) + 1) / len(attended) if attended else 0.0


def _edges(logits: mx.array, rows: Ints, tokens: Ints) -> mx.array:
    """The log-probabilities of tokens in rows of logits [R, V]."""
    logits, row = logits.astype(mx.float32), mx.array(rows)
    return logits[row, mx.array(tokens)] - normaliser(logits)[row]


def _reach(kv: Any, max_kv_size: int | None) -> Reach:
    """What the layer sees; ``max_kv_size`` bounds layers that would see all tokens, as mlx-lm's rotating cache does."""
    if type(kv) is KVCache:
        return Reach(max_kv_size - SINKS, SINKS) if max_kv_size else Reach()
    if type(kv) is RotatingKVCache and kv.keep == 0:
        return Reach(int(kv.max_size))
    if type(kv) is ChunkedKVCache:
        return Reach(int(kv.chunk_size), aligned=True)
    raise UnsupportedModelError(f"{type(kv).__name__} layers")
