"""Exponentials and rotary positions for MLX's CPU backend.

MLX evaluates ``exp`` on x86 one element at a time (16 ns each, measured on an AMD EPYC core), which makes softmax and
SiLU cost more than the matrix products around them. The ones below are made of additions, multiplications and
conversions to integers, which compilers vectorise: 1.3 to 3 ns an element. What is compiled together is small: MLX cuts
what has more operations, and what then is computed in place is not vectorised.

``mx.fast.rope`` computes the same sines and cosines for the queries and the keys of each layer: here, once a step.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations

LOG2_E = 1.4426950408889634
# Adding 1.5 * 2**23 to a float32 rounds it to an integer.
ROUNDER = 12582912.0
EXPONENT = 8388608.0  # 2**23: the exponent of a float32 stands above 23 bits, and is 127 for 1
# Beside 1 as little as nothing; of less, products with values are denormal numbers, which take 20 times as long.
LEAST_POWER = -64
# 2**f on [-1/2, 1/2] interpolated at Chebyshev nodes, the highest power first: relative error 1.0e-7.
POWERS = (
    0.001339086336353527,
    0.009676031918255982,
    0.05550357114222094,
    0.2402210748530968,
    0.6931471880262273,
    1.0000000754548972,
)


def _whole(x: mx.array) -> mx.array:
    """2**n as the bits of a float32, for the integer n next to x, which is at most 127."""
    n = (x + ROUNDER) - ROUNDER
    return mx.maximum((n * EXPONENT + 127 * EXPONENT).astype(mx.int32), int((LEAST_POWER + 127) * EXPONENT))


def _rest(x: mx.array, whole: mx.array) -> mx.array:
    """2**x, given 2**n."""
    a, b, c, d, e, one = POWERS
    f = x - ((x + ROUNDER) - ROUNDER)
    square = f * f
    return ((one + e * f) + square * ((d + c * f) + square * (b + a * f))) * whole


def _exp2(x: mx.array) -> mx.array:
    """2**x for x <= 127; no less than 2**LEAST_POWER / 2."""
    return _compiled_rest(x, _compiled_whole(x).view(mx.float32))


def shifted_exp(x: mx.array, shift: mx.array) -> mx.array:
    """exp(x - shift), where x <= shift; never 0."""
    return _exp2(_shifted(x, shift))


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """gate * sigmoid(gate) * x."""
    return _gated(gate, x, _exp2(_fallen(gate, LOG2_E)))


def tanh(x: mx.array) -> mx.array:
    """To 1e-7."""
    return _signed(x, _exp2(_fallen(x, 2 * LOG2_E)))


_compiled_whole, _compiled_rest = mx.compile(_whole), mx.compile(_rest)
_shifted = mx.compile(lambda x, shift: (x - shift) * LOG2_E)
_fallen = mx.compile(lambda x, scale: mx.abs(x) * -scale)
_gated = mx.compile(lambda gate, x, power: (0.5 * (gate + mx.abs(gate)) - mx.abs(gate) * power / (1.0 + power)) * x)
_turned = mx.compile(lambda x, y, cosine, sine: [x * cosine - y * sine, x * sine + y * cosine])
_signed = mx.compile(lambda x, power: x * (1.0 - power) / ((1.0 + power) * (mx.abs(x) + 1e-30)))  # of 0: 0


class Positions(mx.array):
    """Of a step's tokens [T], with the cosines and sines of the angles by which they turn queries and keys.

    These are for a step alone, and each layer turns by what is in its own ``freqs``: a table is kept with them.
    """

    tables: dict[tuple[int, float | None, float, int], tuple[mx.array, mx.array, mx.array | None]]

    @classmethod
    def of(cls, values: mx.array) -> Positions:
        """Of integers [T]."""
        made = cls(values)
        made.tables = {}
        return made

    def table(self, half: int, base: float | None, scale: float, freqs: mx.array | None) -> tuple[mx.array, mx.array]:
        """[T, 1, 1, half] each, by MLX's own formula."""
        key = half, base, scale, id(freqs)
        if key not in self.tables:
            angles = self.astype(mx.float32)[:, None, None, None] * scale
            angles = angles * (_frequencies(half, base) if freqs is None else mx.reciprocal(freqs))
            self.tables[key] = mx.cos(angles), mx.sin(angles), freqs
        return self.tables[key][:2]


def _frequencies(half: int, base: float | None) -> mx.array:
    return mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(base or 1.0) / half))


def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: Any,
    freqs: mx.array | None = None,
    **named: Any,
) -> mx.array:
    """``mx.fast.rope``, of tokens in rows of their own [T, H, 1, D] at Positions."""
    ours = isinstance(offset, Positions) and x.ndim == 4 and x.shape[::2] == (offset.size, 1)
    if not ours or x.dtype != mx.float32 or named:
        plain: mx.array = _plain_rope(
            x, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs, **named
        )
        return plain
    half = dims // 2
    first, second = (slice(0, dims, 2), slice(1, dims, 2)) if traditional else (slice(half), slice(half, dims))
    turned = _turned(x[..., first], x[..., second], *offset.table(half, base, scale, freqs))
    if traditional:
        turned = [mx.stack(turned, axis=-1).reshape(*x.shape[:-1], dims)]
    return mx.concatenate([*turned, x[..., dims:]] if dims < x.shape[-1] else turned, axis=-1)


def hook() -> None:
    """Let gated activations of mlx-lm and rotary positions use these functions while the CPU is the default device."""
    if mx.default_device() != mx.cpu:
        return
    mx.fast.rope = rope  # type: ignore[assignment]
    for module in list(sys.modules.values()):
        if getattr(module, "swiglu", None) is _plain_swiglu:
            module.swiglu = _swiglu_f32  # type: ignore[attr-defined]


def _swiglu_f32(gate: mx.array, x: mx.array) -> mx.array:
    return swiglu(gate, x) if gate.dtype == mx.float32 else _plain_swiglu(gate, x)


_plain_swiglu = activations.swiglu
_plain_rope = mx.fast.rope
