"""Attention whose keys and values are mixed with those of the token before, as Baichuan M1's are."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from runner.engine.attention.hooks import SharedKV, call_by

_PARTS = ("W_pack", "o_proj", "rope", "conv_k", "conv_v")


def hook(layer: Any) -> bool:
    """Let such a layer's kind attend through caches of ours; all others go mlx-lm's way. Whether it is such a layer."""
    known = all(name in layer for name in _PARTS) and hasattr(layer, "_custom_convolution")
    if known:
        call_by(type(layer), _call)
    return known


def _call(plain: Any, layer: Any, x: mx.array, mask: Any = None, cache: Any = None) -> Any:
    if not cache or not isinstance(cache[1], SharedKV):
        return plain(layer, x, mask, cache)
    state, shared = cache
    T, _, D = x.shape
    q, k, v = mx.split(layer.W_pack(x), (D, D + layer.num_kv_heads * layer.head_dim), axis=-1)
    k, v = (a.reshape(T, 1, layer.num_kv_heads, layer.head_dim) for a in (k, v))
    mixed = state.through(partial(_mixed, layer), {"k": k, "v": v, "cache": state})
    q, k, v = (a.reshape(T, -1, 1, layer.head_dim) for a in (q, *mixed))
    q, k = (layer.rope(a, offset=shared.offset) for a in (q, k))
    out = shared.attention(q, *shared.update_and_fetch(k, v), layer.scale, None)
    return layer.o_proj(out.reshape(T, 1, D))


def _mixed(layer: Any, k: mx.array, v: mx.array, cache: ArraysCache, mask: Any = None) -> list[mx.array]:
    """[rows, tokens, N, D] each; the state is what both were in the last token. ``mask``: padding does not matter."""
    found = []
    for number, (a, weights) in enumerate(((k, layer.conv_k), (v, layer.conv_v))):
        a = a.swapaxes(1, 2)
        found.append(layer._custom_convolution(a, weights, state=cache[number]).swapaxes(1, 2))
        last = a[:, :, -1:] if cache.lengths is None else _last(a, cache.lengths)
        cache[number] = last
    return found


def _last(a: mx.array, lengths: mx.array) -> mx.array:
    """Of a [rows, N, tokens, D], the last token that counts in each row: [rows, N, 1, D]."""
    return mx.take_along_axis(a, (lengths - 1)[:, None, None, None], axis=2)
