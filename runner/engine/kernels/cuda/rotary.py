"""A CUDA kernel that makes queries, keys and values of one product, turned by their positions.

By MLX's operations that is two launches, which take 25 us each for 256 tokens of gpt-oss on an H200, and two to four
that copy what the launches before and behind them need in a row.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gpt_oss, llama, qwen2
from mlx_lm.models.rope_utils import Llama3RoPE, YarnRoPE

from runner.engine.kernels.cuda import CheckedKernels, checked
from runner.engine.kernels.cuda.nvrtc import Kernel

SOURCE = Path(__file__).with_suffix(".cu")
THREADS, BLOCKS = 256, 2  # of a block, for a token
HEAD_SIZES = (16, 32, 64, 128, 256)
PLAIN = (llama.Attention, qwen2.Attention, gpt_oss.AttentionBlock)  # nothing between the product and the turn


@cache
def kernel(dtype: mx.Dtype, head_size: int, heads: int, kv_heads: int) -> Rotary | None:
    """For heads of this size; None where there is none: on other devices, too."""
    if head_size not in HEAD_SIZES or dtype not in (mx.bfloat16, mx.float16) or not mx.cuda.is_available():
        return None
    return checked(Rotary(head_size, heads, kv_heads), "rotary position embeddings", dtype)


class Rotary(CheckedKernels):
    """Queries, keys and values of ``heads`` and ``kv_heads`` of a size."""

    def __init__(self, head_size: int, heads: int, kv_heads: int) -> None:
        self.sizes = head_size, heads, kv_heads
        self._turn = Kernel(
            ["product", "positions", "frequencies"],
            ["q", "k", "v"],
            "rowmill::turn<T, D, H, N>(product, positions, frequencies, q, k, v);",
            SOURCE.read_text(),
        )

    def __call__(self, product: mx.array, positions: mx.array, frequencies: mx.array) -> list[mx.array]:
        """product [T, 1, (H + 2 N) D] of a step's tokens at ``positions`` [T], by ``frequencies`` [D / 2], the angles
        of one position: q [T, H, 1, D], k and v [T, N, 1, D].
        """
        (D, H, N), T = self.sizes, positions.size
        return self._turn(
            inputs=[product, positions, frequencies],
            template=[("T", product.dtype), ("D", D), ("H", H), ("N", N)],
            grid=(T * THREADS, BLOCKS, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(T, H, 1, D), (T, N, 1, D), (T, N, 1, D)],
            output_dtypes=[product.dtype] * 3,
        )

    def _error(self, dtype: mx.Dtype) -> float:
        D, H, N = self.sizes
        positions = mx.array([0, 1, 700, 5000], mx.int32)
        product = mx.random.normal((4, 1, (H + 2 * N) * D), key=mx.random.key(0)).astype(dtype)
        rope = nn.RoPE(D, base=150_000.0)
        got = self(product, positions, frequencies(rope))
        return max(float(mx.abs(a - b).max()) for a, b in zip(got, apart(product, positions, rope, H, N), strict=True))


def apart(product: mx.array, positions: mx.array, rope: Any, heads: int, kv_heads: int) -> list[mx.array]:
    """The same by MLX's operations."""
    T = positions.size
    q, k, v = mx.split(product.reshape(T, heads + 2 * kv_heads, 1, -1), [heads, heads + kv_heads], axis=1)
    return [rope(q, offset=positions), rope(k, offset=positions), v]


class Turned:
    """Queries, keys and values of an attention layer whose projections are one: what ``Rotary`` is given for it."""

    def __init__(self, linear: nn.Linear, rotary: Rotary, rope: Any) -> None:
        self.linear, self.rotary, self.frequencies = linear, rotary, frequencies(rope)

    def __call__(self, x: mx.array, positions: mx.array) -> list[mx.array]:
        """x [T, 1, C] -> q [T, H, 1, D], k and v [T, N, 1, D]."""
        return self.rotary(self.linear(x), positions, self.frequencies)


def turned(attention: Any, linear: nn.Linear, ends: list[int]) -> Turned | None:
    """For a layer whose queries, keys and values are ``linear``, cut at ``ends``; None if MLX is to turn them."""
    if type(attention) not in PLAIN or not _is_plain(attention.rope):
        return None
    size = int(attention.rope.dims)
    rows = linear.weight.shape[0]
    if ends[1] - ends[0] != rows - ends[1] or any(end % size for end in (*ends, rows)):
        return None
    rotary = kernel(linear.weight.dtype, size, ends[0] // size, (rows - ends[1]) // size)
    return Turned(linear, rotary, attention.rope) if rotary is not None else None


def _is_plain(rope: Any) -> bool:
    """Whether it turns whole heads, by angles that grow with the position alone."""
    known = type(rope) in (nn.RoPE, Llama3RoPE) or (type(rope) is YarnRoPE and rope.mscale == 1.0)
    return known and not rope.traditional


def frequencies(rope: Any) -> mx.array:
    """The angles [dims / 2] by which a position turns each pair of numbers."""
    if type(rope) is nn.RoPE:
        return rope.scale * mx.power(rope.base, -mx.arange(0, rope.dims, 2, dtype=mx.float32) / rope.dims)
    return 1 / rope._freqs.astype(mx.float32)
