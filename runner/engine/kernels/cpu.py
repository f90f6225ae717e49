"""Exponentials for MLX's CPU backend.

MLX evaluates ``exp`` on x86 one element at a time (16 ns each, measured on an AMD EPYC core), which makes softmax and
SiLU cost more than the matrix products around them. The ones below are made of additions, multiplications and integer
shifts, which compilers vectorise: 3 ns an element.
"""

from __future__ import annotations

import sys

import mlx.core as mx
from mlx_lm.models import activations

LOG2_E = 1.4426950408889634
# Adding 1.5 * 2**23 to a float32 rounds it to an integer, which then stands in the low bits of the sum.
ROUNDER = 12582912.0
# Beside 1 as little as nothing; of less, products with values are denormal numbers, which take 20 times as long.
LEAST_POWER = -64.0
# 2**f on [-1/2, 1/2] interpolated at Chebyshev nodes, the highest power first: relative error 1.0e-7.
POWERS = (
    0.001339086336353527,
    0.009676031918255982,
    0.05550357114222094,
    0.2402210748530968,
    0.6931471880262273,
    1.0000000754548972,
)


def _exp2(x: mx.array) -> mx.array:
    """2**x for x in [-126, 127]."""
    shifted = x + ROUNDER
    fraction = x - (shifted - ROUNDER)
    power = mx.array(POWERS[0], mx.float32)
    for coefficient in POWERS[1:]:
        power = power * fraction + coefficient
    return (power.view(mx.int32) + (shifted.view(mx.int32) << 23)).view(mx.float32)


def _shifted_exp(x: mx.array, shift: mx.array) -> mx.array:
    return _exp2(mx.maximum((x - shift) * LOG2_E, LEAST_POWER))


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate * x / (1.0 + _exp2(mx.clip(gate * -LOG2_E, -126.0, 126.0)))


def _tanh(x: mx.array) -> mx.array:
    return 1.0 - 2.0 / (1.0 + _exp2(mx.clip(x * (2.0 * LOG2_E), -126.0, 126.0)))


shifted_exp = mx.compile(_shifted_exp)  # exp(x - shift), where x <= shift; never 0
swiglu = mx.compile(_swiglu)
tanh = mx.compile(_tanh)  # to 1e-7


def hook() -> None:
    """Let mlx-lm's gated activations use these functions while the CPU is the default device."""
    if mx.default_device() != mx.cpu:
        return
    for module in list(sys.modules.values()):
        if getattr(module, "swiglu", None) is _plain_swiglu:
            module.swiglu = _swiglu_f32  # type: ignore[attr-defined]


def _swiglu_f32(gate: mx.array, x: mx.array) -> mx.array:
    return swiglu(gate, x) if gate.dtype == mx.float32 else _plain_swiglu(gate, x)


_plain_swiglu = activations.swiglu
