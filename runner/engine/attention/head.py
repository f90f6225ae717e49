"""The output head, for the rows of interest alone, and log-probabilities without all of their logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache


class _Rows(nn.Module):
    """A model's own projection, for what ``pick`` makes of its input."""

    def __init__(self, head: nn.Module, pick: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self.head = head
        self.pick = pick

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.pick(x))


class Head:
    """What stands in place of a model's projection to logits, and knows what went into it.

    ``rows``: which of a pass's tokens to compute, None for all. ``states`` [len(rows), 1, D], lazily: what the
    projection was given for them in the latest pass; None if the model has none that was found.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: mx.array | None = None
        self.states: mx.array | None = None
        self._instead: mx.array | None = None
        self._wrap()

    def _wrap(self) -> None:
        for owner in (self.model, getattr(self.model, "language_model", None)):
            head = getattr(owner, "lm_head", None)
            if owner is not None and isinstance(head, nn.Module):  # of an engine before this one, perhaps
                head = head.head if isinstance(head, _Rows) else head
                owner.lm_head = _Rows(head, self._pick)
                return
        for module in self.model.modules():
            if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):  # which of several projects is not known
                self._wrap_tied(module)

    def _wrap_tied(self, embedding: Any) -> None:
        project = embedding.as_linear
        embedding.as_linear = lambda x: project(self._pick(x))

    def _pick(self, x: mx.array) -> mx.array:
        if self._instead is not None:
            return self._instead
        if self.rows is None:
            return x
        self.states, self.rows = x[self.rows], None
        return self.states

    def logits(self, states: mx.array) -> mx.array:
        """The logits [R, V] of some ``states``, with all that the model does to logits, such as scaling and capping.

        The model goes through a token for it, lazily: nothing of that is computed, as no logits come of it.
        """
        self._instead = states
        try:
            logits: mx.array = self.model(mx.zeros((1, 1), mx.int32), cache=make_prompt_cache(self.model))
        finally:
            self._instead = None
        return logits[:, 0]
