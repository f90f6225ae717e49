"""How mlx-lm's layers come to attend through caches of our own, whatever they do with what a cache gives them.

A layer updates its cache and computes with all keys and values that it gets back. A SharedKV gives back what it was
updated with, as ``Fetched``: wherever these arrays end up in attention, of this layer or of later ones, the cache they
come from computes it. What layers compute by hand instead is recognised by its form.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
import numpy as np
from mlx_lm.models import base, mla

Kind = TypeVar("Kind", bound=mx.array)


class SharedKV:
    """A layer's cache that attends by itself. ``masks``: whether its layer's own masks may be left out."""

    step: Any
    reach: Any
    masks = False
    start_position = 0  # of a chunked cache: the first token that it has
    fetched: tuple[Fetched, Fetched] | None = None

    @property
    def offset(self) -> mx.array:
        """The positions [T] of the step's tokens."""
        positions: mx.array = self.step.positions
        return positions

    def make_mask(self, *_: Any, window_size: int | None = None, **__: Any) -> None:
        """None: ``attention`` masks by itself. Raises NotImplementedError for a window smaller than the cache's."""
        if window_size and window_size < (self.reach.window or window_size + 1):
            raise NotImplementedError(f"a window of {window_size} tokens that its cache does not know")

    def maybe_trim_front(self) -> None:
        """Nothing: slots keep no more than is seen."""

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[Fetched, Fetched]:
        """[T, N, 1, D] each, as they came: ``attention`` stores them."""
        self.fetched = found = Fetched.of(k, self), Fetched.of(v, self)
        return found

    def keys_and_values(self) -> tuple[Fetched, Fetched]:
        """For another layer, what the latest update gave; as long as if all were there, for those who count them."""
        assert self.fetched is not None
        k, v = (Whole.of(a, self) for a in self.fetched)
        return k, v

    def choose(self, q: mx.array, weights: mx.array, k: mx.array, most: int) -> None:
        """See ``Chooser``."""
        raise NotImplementedError

    def attention(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, sinks: mx.array | None, cap: float | None = None
    ) -> mx.array:
        """See ``LayerKV``."""
        raise NotImplementedError


class Fetched(mx.array):
    """Keys or values [T, N, 1, D] of a step that stand for all that ``cache`` holds."""

    cache: SharedKV

    @classmethod
    def of(cls, a: mx.array, cache: SharedKV) -> Any:
        """The same array, with the cache that it comes from."""
        made = _same(cls, a)
        made.cache = cache
        return made

    def swapaxes(self, axis1: int, axis2: int, *, stream: Any = None) -> mx.array:
        """Turned, for a product with queries."""
        turned = _same(_Turned, super().swapaxes(axis1, axis2, stream=stream))
        turned.keys = self
        return turned


class Whole(Fetched):
    """The same, with the shape of all of them: the last of the step's tokens are behind its offset."""

    @property
    def shape(self) -> Any:
        """The number of keys is an array, one for each token."""
        T, N, _, D = super().shape
        return T, N, self.cache.offset + 1, D


class _Turned(mx.array):
    """Fetched keys with their last axes swapped."""

    keys: Fetched

    def __rmatmul__(self, queries: mx.array) -> mx.array:
        product = _same(Scores, mx.matmul(queries, self))
        product.queries, product.keys = queries, self.keys
        return product


class Scores(mx.array):
    """Products of queries and fetched keys: latent attention has some that it adds to its others as a mask."""

    queries: mx.array
    keys: Fetched


def _same(kind: type[Kind], a: mx.array) -> Kind:
    """An array of another kind with the same memory."""
    made = kind(a)
    made[:] = a  # what was made of it would be copied
    return made


def hook(model: nn.Module) -> None:
    """Let a model's layers, and all model modules that are loaded, attend through a SharedKV if their cache is one; all
    other caches go mlx-lm's way.
    """
    for module in list(sys.modules.values()):
        if getattr(module, "scaled_dot_product_attention", None) is _plain_attention:
            module.scaled_dot_product_attention = _attention  # type: ignore[attr-defined]
    for kind in {type(module) for module in model.modules()}:
        _with_shared_kv(sys.modules[kind.__module__])
    for module in model.modules():
        if all(name in module for name in ("wq_b", "wk", "k_norm", "weights_proj")) and hasattr(module, "index_topk"):
            _choose_instead(type(module))
        if _soft_capped(module):
            _call_instead(type(module), _attend_capped)
        elif hasattr(module, "turned"):
            _call_instead(type(module), _attend_turned, lambda layer: hasattr(layer, "turned"))
        elif isinstance(module, mla.MultiLinear | mla.QuantizedMultiLinear):
            _project_by_head(type(module))


_plain_attention = base.scaled_dot_product_attention


def _attention(queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None) -> Any:
    shared = keys.cache if isinstance(keys, Fetched) else cache
    if not isinstance(shared, SharedKV):
        return _plain_attention(queries, keys, values, cache, scale, mask, sinks=sinks)
    if not isinstance(mask, Scores):
        if mask is not None and not shared.masks:
            raise NotImplementedError("a mask of the layer's own")
        return shared.attention(queries, keys, values, scale, sinks)
    if values is not keys:
        raise NotImplementedError("scores for other keys than those that are values, too")
    both = mx.concatenate([queries * scale, mask.queries], axis=-1)
    return shared.attention(both, keys, mask.keys, 1.0, sinks)


def _soft_capped(module: nn.Module) -> bool:
    """Whether it is attention that computes its scores by hand, as it caps them."""
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "rope")
    numbers = ("n_heads", "n_kv_heads", "scale")
    known = all(name in module for name in parts) and all(hasattr(module, name) for name in numbers)
    return known and bool(getattr(module, "attn_logit_softcapping", None))


def _attend_capped(layer: Any, x: mx.array, cache: SharedKV) -> mx.array:
    B, L, _ = x.shape
    q, k, v = (
        project(x).reshape(B, L, heads, -1)
        for project, heads in (
            (layer.q_proj, layer.n_heads),
            (layer.k_proj, layer.n_kv_heads),
            (layer.v_proj, layer.n_kv_heads),
        )
    )
    if "q_norm" in layer:
        q, k = layer.q_norm(q), layer.k_norm(k)
    q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))
    q, k = (layer.rope(a, offset=cache.offset) for a in (q, k))
    out = cache.attention(q, *cache.update_and_fetch(k, v), layer.scale, None, cap=layer.attn_logit_softcapping)
    out = out.transpose(0, 2, 1, 3).reshape(B, L, -1)
    done: mx.array = layer.o_proj(out)
    return done


def _attend_turned(layer: Any, x: mx.array, cache: SharedKV) -> mx.array:
    """By queries and keys that ``kernels.cuda.rotary`` has turned."""
    B, L, _ = x.shape
    q, k, v = layer.turned(x, cache.offset)
    scale = layer.sm_scale if hasattr(layer, "sm_scale") else layer.scale
    out = cache.attention(q, *cache.update_and_fetch(k, v), scale, layer.get("sinks"))
    done: mx.array = layer.o_proj(out.reshape(B, L, -1))  # T of one token each
    return done


def _call_instead(
    kind: Any, instead: Callable[[Any, mx.array, SharedKV], mx.array], which: Callable[[Any], bool] = lambda _: True
) -> None:
    """Let those modules of a kind go another way whose cache is a SharedKV."""

    def call(plain: Any, self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> Any:
        return instead(self, x, cache) if isinstance(cache, SharedKV) and which(self) else plain(self, x, mask, cache)

    call_by(kind, call)


def call_by(kind: Any, call: Callable[..., Any]) -> None:
    """Let modules of a kind be called by ``call``, once; it is given their own ``__call__`` first."""
    plain = kind.__call__
    if getattr(plain, "hooked", False):
        return

    @functools.wraps(plain)
    def called(self: Any, *given: Any, **named: Any) -> Any:
        return call(plain, self, *given, **named)

    called.hooked = True  # type: ignore[attr-defined]
    kind.__call__ = called


def _choose_instead(kind: Any) -> None:
    """Let a layer that chooses the keys of another tell its cache how, where that is one of ours."""

    def call(plain: Any, self: Any, x: mx.array, qr: mx.array, mask: Any, cache: Any = None) -> Any:
        if not isinstance(cache, SharedKV):
            return plain(self, x, qr, mask, cache)
        q = self.wq_b(qr).reshape(*x.shape[:2], self.n_heads, self.head_dim).swapaxes(1, 2)
        k = self.k_norm(self.wk(x))[:, None]
        q, k = (self.rope(a, offset=cache.offset) for a in (q, k))
        weights = self.weights_proj(x) * (self.n_heads**-0.5 * self.softmax_scale)
        cache.choose(q[:, :, 0], weights[:, 0], k, self.index_topk)
        return None

    call_by(kind, call)


def _project_by_head(kind: Any) -> None:
    """One matrix product for each head, where many rows of one token would have one for each row and head."""

    def call(plain: Any, self: Any, x: mx.array, transpose: bool = True) -> mx.array:
        if x.ndim < 4 or x.shape[2] > 1:
            single: mx.array = plain(self, x, transpose)
            return single
        by_head: mx.array = plain(self, x.transpose(2, 1, 0, 3), transpose)
        return by_head.transpose(2, 1, 0, 3)

    call_by(kind, call)


def _with_shared_kv(module: Any) -> None:
    """Let a module of mlx-lm count from and to positions that are arrays, as a SharedKV's are, and attend through one
    where it asks MLX's own attention.
    """
    if getattr(module, "mx", None) is mx and module.__name__.startswith(mlx_lm.models.__name__):
        fast = _changed(mx.fast, scaled_dot_product_attention=_fast_attention)
        module.mx = _changed(mx, arange=_arange, fast=fast, depends=_depends)
        if getattr(module, "np", None) is np:
            module.np = _changed(np, arange=_positions)


def _changed(module: Any, **others: Any) -> types.ModuleType:
    made = types.ModuleType(module.__name__)
    made.__dict__.update(vars(module), **others)
    return made


def _fast_attention(q: mx.array, k: mx.array, v: mx.array, **named: Any) -> mx.array:
    if not isinstance(k, Fetched):
        plain: mx.array = mx.fast.scaled_dot_product_attention(q, k, v, **named)
        return plain
    shared: mx.array = _attention(q, k, v, None, named["scale"], named.get("mask"), named.get("sinks"))
    return shared


def _depends(inputs: Any, dependencies: Any) -> Any:
    """``mx.depends``, which takes no caches that are still empty."""
    return inputs if inputs is None else mx.depends(inputs, [one for one in dependencies if one is not None])


def _arange(*bounds: Any, **named: Any) -> mx.array:
    """``mx.arange``, and for positions [T] of the tokens of a step those themselves: [T, 1, 1]."""
    positions = [bound for bound in bounds if isinstance(bound, mx.array) and bound.ndim]
    return positions[0].reshape(-1, 1, 1) if positions else mx.arange(*bounds, **named)


def _positions(*bounds: Any, **named: Any) -> Any:
    """``np.arange``, and for positions [T] of the tokens of a step those themselves: [T, 1], what is embedded."""
    positions = [bound for bound in bounds if isinstance(bound, mx.array) and bound.ndim]
    return positions[0].reshape(-1, 1) if positions else np.arange(*bounds, **named)
