"""Keys and values in fewer bits: packed so that one array holds them, their scales and their offsets.

What is rounded is what attention sees, also of the tokens of the step itself: it does not matter in which steps a text
is computed. Groups are of 64 numbers of a head, or 32 (64 is what mlx-lm's ``--kv-group-size`` is by default).
"""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

from runner.types import UserError

log = logging.getLogger("rowmill")

NOT = "windows, latent KV, recurrent states and heads of other widths than multiples of 32 are left as they are"


MOST_QUERIES = 8


def packs(k: mx.array, v: mx.array) -> bool:
    """Whether keys and values of these widths can be packed; what latent attention keeps differs in them."""
    return k.shape[-1] == v.shape[-1] and k.dtype == v.dtype and kv_group(k.shape[-1]) is not None


def kv_group(width: int) -> int | None:
    """How many numbers of a head share a scale; None: keys and values of this width cannot be packed."""
    return next((group for group in (64, 32) if width % group == 0), None)


def pack(a: mx.array, bits: int) -> mx.array:
    """Numbers [..., D] as [..., words] of 32 bits."""
    words, scales, offsets = mx.quantize(a, group_size=kv_group(a.shape[-1]), bits=bits)
    return mx.concatenate([words, mx.concatenate([scales, offsets], axis=-1).view(mx.uint32)], axis=-1)


def unpack(packed: mx.array, bits: int, width: int, dtype: mx.Dtype) -> mx.array:
    """The numbers [..., width], rounded."""
    words = width * bits // 32
    scales, offsets = mx.split(mx.contiguous(packed[..., words:]).view(dtype), 2, axis=-1)
    return mx.dequantize(packed[..., :words], scales, offsets, group_size=kv_group(width), bits=bits)


def multiplies(queries: int) -> bool:
    """Whether products of so many queries with the same packed numbers are faster than unpacking them first: measured
    on CPUs; as mlx-lm has it on Metal.
    """
    return queries <= MOST_QUERIES and (mx.default_device() == mx.cpu or bool(mx.metal.is_available()))


class Packed:
    """Keys or values [..., K, width] that are multiplied as they are packed."""

    def __init__(self, packed: mx.array, bits: int, width: int, dtype: mx.Dtype) -> None:
        words = width * bits // 32
        self.shape = (*packed.shape[:-1], width)
        self.dtype = dtype
        self._words = packed[..., :words]
        self._scales, self._offsets = mx.split(mx.contiguous(packed[..., words:]).view(dtype), 2, axis=-1)
        self._group, self._bits = kv_group(width), bits

    def scores(self, q: mx.array) -> mx.array:
        """Of queries [..., M, width] in float32: [..., M, K]."""
        return self._product(q, True)

    def sums(self, weights: mx.array) -> mx.array:
        """Weighted by [..., M, K]: [..., M, width]."""
        return self._product(weights, False)

    def _product(self, a: mx.array, transpose: bool) -> mx.array:
        return mx.quantized_matmul(
            a, self._words, self._scales, self._offsets, transpose, group_size=self._group, bits=self._bits
        )


class RoundedKV(KVCache):
    """mlx-lm's own cache with what a packed one would give back."""

    kv_bits = 8  # mlx-lm takes whatever has ``bits`` for a cache of its own kind
    rounds = False  # whether the latest update was rounded

    def update_and_fetch(self, k: mx.array, v: mx.array) -> Any:
        self.rounds = k is not v and packs(k, v)  # what chooses tokens gives its keys as values, and stays as it is
        if self.rounds:
            k, v = (unpack(pack(a, self.kv_bits), self.kv_bits, a.shape[-1], a.dtype) for a in (k, v))
        return super().update_and_fetch(k, v)


def caches(model: Any, bits: int | None) -> Any:
    """``make_prompt_cache``; with ``bits`` those of layers that keep all tokens round."""
    made = make_prompt_cache(model)
    return [_rounded(cache, bits) for cache in made] if bits else made


def _rounded(cache: Any, bits: int) -> Any:
    if type(cache) is CacheList:
        cache.caches = type(cache.caches)(_rounded(one, bits) for one in cache.caches)
    if type(cache) is not KVCache:
        return cache
    rounded = RoundedKV()
    rounded.kv_bits = bits
    return rounded


def tell(model: Any, bits: int) -> None:
    """Log which layers round, by a pass of one token. Raises UserError, exit code 3, if none does."""
    made = caches(model, bits)
    mx.eval(model(mx.array([[1]]), cache=made))
    each = [one for cache in made for one in (cache.caches if type(cache) is CacheList else (cache,))]
    rounding = sum(getattr(one, "rounds", False) for one in each)
    if not rounding:
        raise UserError("engine.kv_bits", f"no layer of this model can have it: {NOT}", value=bits, exit_code=3)
    full = f"; {len(each) - rounding} stay at full precision ({NOT})" if rounding < len(each) else ""
    log.info("KV caches of %d bits in %d layers%s", bits, rounding, full)
