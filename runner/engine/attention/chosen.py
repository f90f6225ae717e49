"""Sparse attention: a small layer beside each one chooses the keys that a token sees, by scores of its own.

DeepSeek-AI 2025 (DeepSeek-V3.2, the lightning indexer). The score of a key is the sum over the small layer's heads of
``weight * relu(query . key)``; a token sees the keys with the most of it. Its keys are stored like those of any layer,
and scored where they lie; one threshold a token then tells in each place which keys it sees.

Shapes as in ``prefix.py``; H and D are those of the small layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from runner.engine.attention.parts import score_bytes
from runner.engine.attention.prefix import LayerKV
from runner.engine.attention.reach import View
from runner.engine.attention.segments import Segment
from runner.engine.kernels import MASKED


class Choice(NamedTuple):
    """Of a step: queries [T, H, D], weights [T, H], and how many keys a token sees."""

    queries: mx.array
    weights: mx.array
    most: int


class Chooser(LayerKV):
    """The cache of a layer that may choose keys for the one before it; it has keys alone."""

    choice: Choice | None = None

    def choose(self, q: mx.array, weights: mx.array, k: mx.array, most: int) -> None:
        """Keep what the step's choice is made by: q [T, H, D], weights [T, H], k [T, 1, 1, D]."""
        self.choice, self.stored = Choice(q, weights, most), False
        self._new = k[:, :, 0], k[:, :, 0, :1]

    def chosen(self) -> Chosen | None:
        """Store the step's keys; the keys that its tokens see, None if all."""
        if self.choice is None or self._new is None:
            return None
        view = self.step.view(self.reach, self.shape[1])
        self._allocate(view, *self._new)
        self._store(view, *self._new)
        if int(self.step.at.max()) < self.choice.most:
            return None
        before = None if self._old is None else self._old[0][:, 0]
        return Chosen(self, self.choice, view, self._new[0][:, 0], before)

    def leave(self) -> None:
        super().leave()
        self.choice = None


class Chosen:
    """The keys that a step's tokens see. ``view``: with masks that hide the others.

    ``new``: keys [T, D] of the step; ``old``: those [R, K, D] that prefilling sequences had before it.
    """

    def __init__(self, chooser: Chooser, choice: Choice, view: View, new: mx.array, old: mx.array | None) -> None:
        self._chooser, self._choice, self._step = chooser, choice, chooser.step
        self._levels: dict[tuple[int, int], mx.array] = {}
        levels = [self._level(level) for level in self._step.levels]
        found = [self._decoding(view, levels)] if self._step.decoding else []
        found += [self._prefilling(view, levels, new, old)] if self._step.prefilling else []
        self._least = mx.concatenate([least for least, _ in found])
        self.view = view.but(**{name: mask for _, masks in found for name, mask in masks.items()})

    def _decoding(self, view: View, levels: list[mx.array]) -> tuple[mx.array, dict[str, Any]]:
        """The thresholds of decoding tokens, and the mask over their slots."""
        step, scores = self._step, self._of_slots(view)
        own = scores[:, 0] if step.in_slot_order else scores[step.slot_of_token, 0]
        least = _threshold([*(level[: len(own)] for level in levels), own], self._choice.most)
        in_slots = least if step.in_slot_order else least[step.token_of_slot]
        return least, {"decode_mask": view.decode_mask + _hiding(scores, in_slots[:, None])[:, None]}

    def _prefilling(
        self, view: View, levels: list[mx.array], new: mx.array, old: mx.array | None
    ) -> tuple[mx.array, dict[str, Any]]:
        """The thresholds of prefilling tokens, and the masks over the new keys and the old ones."""
        decoding, rows = len(self._step.decoding), self._of_prompts(view, new, old)
        own = [self._tokens(scores) for scores in rows.values()]
        least = _threshold([*(level[decoding:] for level in levels), *own], self._choice.most)
        of_rows = self._step.rows(mx.concatenate([mx.zeros((decoding, 1)), least]))
        return least, {name: _hiding(scores, of_rows)[:, None] for name, scores in rows.items()}

    def level_mask(self, segment: Segment, start: int, end: int, *_: Any) -> mx.array:
        """[end - start, K]: which of a segment's keys tokens [start, end) see."""
        return _hiding(self._levels[id(segment), start], self._least[start:end])

    def _level(self, runs: Sequence[tuple[Segment | None, int, int]]) -> mx.array:
        """Scores [T, K] of all segments at one depth, padded."""
        step, reach, index = self._step, self._chooser.reach, self._chooser.index
        found = []
        for segment, a, b in runs:
            if segment is None:
                found.append(mx.full((b - a, 1), MASKED))
                continue
            k = segment.keys[index][0]
            mask = step.level_mask(segment, a, b, reach, len(k))
            scores = _scores(self._choice.queries[a:b], self._choice.weights[a:b], k)
            self._levels[id(segment), a] = scores if mask is None else scores + mask
            found.append(self._levels[id(segment), a])
        widest = max(scores.shape[1] for scores in found)
        padded = [
            mx.pad(scores, [(0, 0), (0, widest - scores.shape[1])], constant_values=mx.array(MASKED))
            for scores in found
        ]
        return padded[0] if len(padded) == 1 else mx.concatenate(padded)

    def _of_slots(self, view: View) -> mx.array:
        """Scores [slots, 1, K] of decoding sequences' own keys."""
        step, stored = self._step, self._chooser.keys
        assert stored is not None
        at = slice(len(step.decoding)) if step.in_slot_order else step.token_of_slot
        q, w = self._choice.queries[at], self._choice.weights[at]
        keys = stored[: step.slots, 0, : view.decode_keys]
        return _scores(q[:, None], w[:, None], keys) + view.decode_mask[:, 0]

    def _of_prompts(self, view: View, new: mx.array, old: mx.array | None) -> dict[str, mx.array]:
        """Scores [R, n, K] of prefilling sequences' own keys: of this step, and of steps before."""
        q, w, k = (self._step.rows(a) for a in (self._choice.queries, self._choice.weights, new))
        found = {"fresh_mask": (k, view.fresh_mask)}
        if old is not None:
            found["old_mask"] = (old, view.old_mask)
        scores = {name: (_scores(q, w, keys), mask) for name, (keys, mask) in found.items()}
        return {name: one if mask is None else one + mask[:, 0] for name, (one, mask) in scores.items()}

    def _tokens(self, rows: mx.array) -> mx.array:
        """Of rows [R, n, K], those of the prefilling tokens in their order."""
        flat = rows.reshape(-1, rows.shape[-1])
        return flat if self._step.dense else flat[self._step.scatter]


def _scores(q: mx.array, w: mx.array, k: mx.array) -> mx.array:
    """Of q [..., M, H, D] and w [..., M, H] for keys [..., K, D]: [..., M, K], by some tokens at a time."""
    *leading, M, H, D = q.shape
    q, w, k = (a.astype(mx.float32) for a in (q, w, k))
    size = max(1, score_bytes() // (4 * H * k.shape[-2] * max(1, leading[0] if leading else 1)))
    found = []
    for a in range(0, M, size):
        some, weights = q[..., a : a + size, :, :], w[..., a : a + size, :, None]
        products = some.reshape(*leading, -1, D) @ k.swapaxes(-1, -2)
        products = mx.maximum(products, 0).reshape(*leading, -1, H, k.shape[-2])
        found.append((products * weights).sum(axis=-2))
    return found[0] if len(found) == 1 else mx.concatenate(found, axis=-2)


def _threshold(columns: list[mx.array], most: int) -> mx.array:
    """The least score [T, 1] of the ``most`` best ones of each token; below all where there are no more."""
    scores = mx.concatenate(columns, axis=-1)
    if scores.shape[-1] <= most:
        return mx.full((len(scores), 1), 4 * MASKED)
    return -mx.partition(-scores, most - 1, axis=-1)[:, most - 1 : most]


def _hiding(scores: mx.array, least: mx.array) -> mx.array:
    """A mask to add: of keys with scores below the least."""
    return mx.where((scores >= least) & (scores > MASKED / 2), 0.0, MASKED)
