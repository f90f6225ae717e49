"""The tensors of a GGUF file as MLX holds them: in groups of 32 where that is exact, as plain numbers otherwise.

The ``gguf`` package, kept beside llama.cpp itself, says what the numbers are; MLX's own reader gives every second group
of a Q4_K block the scale of its neighbour, and is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf import ReaderTensor, quants

GROUP_SIZE = 32
_CHUNK = 1 << 24  # weights decoded at a time

# Blocks whose weights are ``scale * level + bias`` in groups of 32 (ggml-common.h). ``low``: four bits of each level,
# of half a group and of the other half, or of a group and of the next; ``high``: the fifth bits; ``levels``: all eight.
_LAYOUTS = {
    Kind.Q4_0: np.dtype([("d", "<f2"), ("low", "u1", 16)]),
    Kind.Q4_1: np.dtype([("d", "<f2"), ("m", "<f2"), ("low", "u1", 16)]),
    Kind.Q5_0: np.dtype([("d", "<f2"), ("high", "u1", 4), ("low", "u1", 16)]),
    Kind.Q5_1: np.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("low", "u1", 16)]),
    Kind.Q8_0: np.dtype([("d", "<f2"), ("levels", "u1", 32)]),
    Kind.Q4_K: np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("low", "u1", 128)]),
    Kind.Q5_K: np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("high", "u1", 32), ("low", "u1", 128)]),
}


class WrongBlocksError(Exception):
    """Blocks that this module and the ``gguf`` package read as different numbers."""


def stays_quantised(tensor: ReaderTensor) -> bool:
    """Whether the tensor becomes a quantised one of MLX, without any rounding."""
    return tensor.tensor_type in _LAYOUTS


def decode(tensor: ReaderTensor, dtype: mx.Dtype) -> dict[str, mx.array]:
    """The tensor's arrays by the last part of their names: weight, and scales and biases if it stays quantised.

    Numbers that are not quantised are rounded to ``dtype``. Raises NotImplementedError for a type that the ``gguf``
    package cannot read, WrongBlocksError if a sample of what stays quantised is not what it reads.
    """
    if not stays_quantised(tensor):
        plain = [mx.array(quants.dequantize(rows, tensor.tensor_type)).astype(dtype) for rows in _chunks(tensor)]
        return {"weight": _joined(plain)}
    parts = [_quantised(rows, tensor.tensor_type) for rows in _chunks(tensor)]
    arrays = {leaf: _joined([part[leaf] for part in parts]) for leaf in ("weight", "scales", "biases")}
    _check(tensor, arrays)
    return arrays


def _chunks(tensor: ReaderTensor) -> Iterator[npt.NDArray[Any]]:
    """Some of the tensor's rows at a time, as they are stored."""
    rows = max(1, _CHUNK // int(tensor.shape[0]))
    for start in range(0, len(tensor.data), rows if tensor.data.ndim > 1 else len(tensor.data)):
        yield tensor.data[start : start + rows] if tensor.data.ndim > 1 else tensor.data


def _joined(arrays: list[mx.array]) -> mx.array:
    whole = mx.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    mx.eval(whole)
    return whole


def _quantised(rows: npt.NDArray[np.uint8], kind: Kind) -> dict[str, mx.array]:
    """Rows [R, bytes] as MLX's quantised weight, scales and biases."""
    blocks = np.ascontiguousarray(rows).view(_LAYOUTS[kind])
    parts = blocks.dtype.names or ()
    levels = _levels(blocks)
    bits = 8 if "levels" in parts else 5 if "high" in parts else 4
    scales = blocks["d"].astype(np.float32)[..., None]
    biases = blocks["m"].astype(np.float32)[..., None] if "m" in parts else -scales * 2 ** (bits - 1)
    if "scales" in parts:
        own_scales, own_minima = quants.Q4_K.get_scale_min(blocks["scales"].reshape(-1, 12))
        shape = (*blocks.shape, -1)
        scales, biases = scales * own_scales.reshape(shape), -biases * own_minima.reshape(shape)
    return {
        "weight": mx.array(_packed(levels.reshape(len(rows), -1), bits)),
        "scales": mx.array(scales.reshape(len(rows), -1)),
        "biases": mx.array(biases.reshape(len(rows), -1)),
    }


def _levels(blocks: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Each weight's level, in the order of the weights: [R, blocks, weights of a block]."""
    parts = blocks.dtype.names or ()
    if "levels" in parts:
        return np.asarray(blocks["levels"] ^ 0x80)  # from signed bytes
    low = blocks["low"]
    halves = low.reshape(*blocks.shape, -1, 1, min(GROUP_SIZE, low.shape[-1]))
    levels = np.concatenate([halves & 15, halves >> 4], axis=-2).reshape(*blocks.shape, -1)
    if "high" not in parts:
        return np.asarray(levels)
    # In a block of several groups, a byte has a bit of each of them.
    high, axis = (blocks["high"][..., None, :], -2) if "scales" in parts else (blocks["high"], -1)
    return np.asarray(levels | np.unpackbits(high, axis=axis, bitorder="little").reshape(levels.shape) << 4)


def _packed(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint32]:
    """Levels [R, W] one after the other in ``bits`` bits each, the lowest first: [R, W * bits / 32]."""
    eights = levels.reshape(len(levels), -1, 8).astype(np.uint64)
    words = (eights << (np.arange(8, dtype=np.uint64) * np.uint64(bits))).sum(axis=-1, dtype=np.uint64)
    held = words.astype("<u8")[..., None].view(np.uint8)[..., :bits]  # eight levels fill as many bytes
    return np.ascontiguousarray(held).reshape(len(levels), -1).view("<u4")


def _check(tensor: ReaderTensor, arrays: dict[str, mx.array]) -> None:
    sample = sorted({0, len(tensor.data) // 2, len(tensor.data) - 1})
    bits = arrays["weight"].shape[1] * 32 // (arrays["scales"].shape[1] * GROUP_SIZE)
    weight, scales, biases = (arrays[leaf][mx.array(sample)] for leaf in ("weight", "scales", "biases"))
    got = np.array(mx.dequantize(weight, scales, biases, group_size=GROUP_SIZE, bits=bits))
    want = quants.dequantize(tensor.data[sample], tensor.tensor_type)
    if not np.allclose(got, want, rtol=1e-5, atol=1e-6 * float(np.abs(want).max())):
        raise WrongBlocksError(f"{tensor.name} ({tensor.tensor_type.name}) is read in two ways")
