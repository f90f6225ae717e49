"""The tensors of a quantised checkpoint as matrices, packed for MLX and as plain numbers, lazily.

Levels follow each other without a gap from the lowest bit of 32-bit words, as in MLX, in GPTQ (along columns of its
transposed ``qweight``) and compressed-tensors; AWQ has eight columns a word in an order of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from runner.models.quantised.methods import OF_INPUTS, Form, bits_of, block_of, group_of, layout, rounded

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # in which place of a word each of eight columns is
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1; the highest bit is the sign
_USUAL_BLOCK = 128  # rows and columns that share a scale, where a configuration is silent
_PARTS = [
    *("qweight", "qzeros", "scales", "g_idx", "SCB", "weight_format", "weight_packed", "weight_shape"),
    *("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point", "weight_g_idx", "weight_global_scale"),
]

Arrays = dict[str, mx.array]


class Matrix(NamedTuple):
    """A matrix [rows, columns]: ``plain`` in float32, and for MLX, with scales and biases of a type, ``packed``: weight
    [rows, columns * bits / 32], scales and biases [rows, groups]; None where its columns make no groups. ``rounded``:
    the form that the latter is rounded to, None where it is exact.
    """

    plain: mx.array
    packed: Callable[[mx.Dtype], tuple[mx.array, mx.array, mx.array] | None]
    rounded: Form | None = None

    def error(self, dtype: mx.Dtype) -> float:
        """How far ``packed`` is from ``plain``: the root of the mean square, over that of the numbers themselves."""
        found = self.packed(dtype)
        if found is None or self.rounded is None:
            return 0.0
        held = mx.dequantize(*found, self.rounded.group_size, self.rounded.bits, dtype=mx.float32)
        return float(mx.sqrt(mx.square(held - self.plain).sum() / mx.maximum(mx.square(self.plain).sum(), 1e-30)))


def separate(tensors: Arrays, settings: dict[str, Any]) -> tuple[Arrays, dict[str, Matrix]]:
    """The tensors that are as they are in a plain checkpoint, and the quantised matrices by their layers' names.

    Raises ValueError, KeyError or TypeError for what is not as ``settings`` say.
    """
    layers: dict[str, Arrays] = defaultdict(dict)
    quantised = {name for name, array in tensors.items() if not mx.issubdtype(array.dtype, mx.inexact)}
    quantised |= {name for name in tensors if f"{name}.absmax" in tensors}  # of whatever type (bnb_4bit_quant_storage)
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if ".weight." in name:  # bitsandbytes'
            layer, _, leaf = name.partition(".weight.")
        if ".weight." in name or leaf in _PARTS or (leaf == "weight" and name in quantised):
            layers[layer][leaf] = array
    matrices = {layer: _matrix(parts, settings) for layer, parts in layers.items() if _is_quantised(parts)}
    used = {f"{layer}{dot}{leaf}" for layer in matrices for leaf in layers[layer] for dot in (".", ".weight.")}
    used |= {name for name in tensors if name.rpartition(".")[2] in OF_INPUTS}
    plain = {name: array for name, array in tensors.items() if name not in used}
    return plain, matrices


def _is_quantised(parts: Arrays) -> bool:
    return bool(parts.keys() & {"qweight", "weight_packed", "SCB"}) or ("weight" in parts and len(parts) > 1)


def _matrix(parts: Arrays, settings: dict[str, Any]) -> Matrix:
    if "qweight" in parts:
        return (_awq if layout(settings) == "awq" else _gptq)(parts, settings)
    if any(leaf.startswith("quant_state.") for leaf in parts):
        return _four_bits(parts)
    if "SCB" in parts:
        return _signed(parts["weight"], parts["SCB"][:, None] / 127, None)
    if "weight_global_scale" in parts:
        return _fp4(parts["weight_packed"], parts["weight_scale"], 1 / parts["weight_global_scale"])
    if "weight_scale_2" in parts:
        return _fp4(parts["weight"], parts["weight_scale"], parts["weight_scale_2"])
    if "weight_packed" in parts:
        return _compressed(parts, settings)
    scale = parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]
    if parts["weight"].dtype == mx.int8:
        return _signed(parts["weight"], scale, parts.get("weight_zero_point"))
    return _fp8(parts["weight"], scale, block_of(settings))


def _gptq(parts: Arrays, settings: dict[str, Any]) -> Matrix:
    """``qweight`` [columns * bits / 32, rows], zeros less one but in its second version; Frantar et al. 2022."""
    words, scales, order = parts["qweight"], parts["scales"].T, parts.get("g_idx")
    bits = bits_of(settings) if order is None else 32 * words.shape[0] // order.shape[0]
    middle = settings["quant_method"] == "auto-round"
    zeros = None if middle or "qzeros" not in parts else _levels(parts["qzeros"], bits).T
    if zeros is not None and settings.get("checkpoint_format") != "gptq_v2":
        zeros = (zeros + 1) % (1 << bits)
    return _affine(mx.contiguous(words.T).view(mx.uint32), scales, zeros, bits, order)


def _awq(parts: Arrays, settings: dict[str, Any]) -> Matrix:
    """``qweight`` [columns, rows / 8], of four bits; Lin et al. 2023."""
    if bits_of(settings) != 4:
        raise ValueError(f"AWQ has 4 bits, and not {bits_of(settings)}")
    zeros = _awq_levels(parts["qzeros"]).T if "qzeros" in parts else None
    return _affine(_words(_awq_levels(parts["qweight"]).T), parts["scales"].T, zeros, 4)


def _awq_levels(words: mx.array) -> mx.array:
    shifts = 4 * mx.array(_AWQ_ORDER, mx.uint32)
    return ((words.view(mx.uint32)[..., None] >> shifts) & 15).reshape(words.shape[0], -1)


def _compressed(parts: Arrays, settings: dict[str, Any]) -> Matrix:
    """compressed-tensors' pack-quantized: ``weight_packed`` [rows, columns * bits / 32], zeros packed along rows."""
    words = parts["weight_packed"]
    bits = 32 * words.shape[1] // int(np.array(parts["weight_shape"])[1])
    zeros = parts.get("weight_zero_point")
    if zeros is not None:
        zeros = _levels(mx.contiguous(zeros.T), bits).T
    return _affine(words.view(mx.uint32), parts["weight_scale"], zeros, bits, parts.get("weight_g_idx"))


def _signed(weight: mx.array, scales: mx.array, zeros: mx.array | None) -> Matrix:
    """Bytes from -128 on, as levels from 0 on."""
    words = (mx.contiguous(weight).view(mx.uint8) ^ 128).view(mx.uint32)
    zeros = zeros if zeros is None else zeros.astype(mx.float32).reshape(scales.shape) + 128
    return _affine(words, scales, zeros, 8)


def _affine(
    words: mx.array, scales: mx.array, zeros: mx.array | None, bits: int, order: mx.array | None = None
) -> Matrix:
    """Of packed levels [rows, words], scales and zeros [rows, groups]. ``order``: each column's group."""
    columns = 32 * words.shape[1] // bits
    scales = scales.reshape(-1, scales.shape[-1]).astype(mx.float32)
    scales = mx.broadcast_to(scales, (words.shape[0], scales.shape[1]))
    zeros = mx.full(scales.shape, 1 << (bits - 1)) if zeros is None else zeros.astype(mx.float32)
    each = columns // scales.shape[1]
    straight = np.arange(columns) // each
    groups = straight if order is None or (np.array(order) < 0).any() else np.array(order)
    at = mx.array(groups.astype(np.int32))
    plain = (_levels(words, bits) - zeros[:, at]) * scales[:, at]
    size = group_of(each)
    if size is None or not np.array_equal(groups, straight):
        return _rounded(plain, bits + 0.5)

    def packed(dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
        held = scales.astype(dtype)
        biases = (-zeros * held.astype(mx.float32)).astype(dtype)
        return words, mx.repeat(held, each // size, axis=1), mx.repeat(biases, each // size, axis=1)

    return Matrix(plain, packed)


def _rounded(plain: mx.array, bits: float) -> Matrix:
    form = rounded(bits)

    def packed(dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array] | None:
        if plain.shape[1] % form.group_size:
            return None
        weight, scales, biases = mx.quantize(plain, form.group_size, form.bits)
        return weight, scales.astype(dtype), biases.astype(dtype)

    return Matrix(plain, packed, form)


def _fp8(weight: mx.array, scale: mx.array, block: list[int] | None) -> Matrix:
    """E4M3, with a scale for all, for each row, or for each block."""
    number = scale.astype(mx.float32)
    number = mx.power(2.0, number - 127) if scale.dtype == mx.uint8 else number  # E8M0
    number = number.reshape(-1, 1) if number.ndim < 2 else number
    for axis, size in enumerate(weight.shape):
        count = number.shape[axis]
        each = 1 if count == size else block[axis] if block else _USUAL_BLOCK
        if count > 1 and -(-size // each) != count:
            raise ValueError(f"a weight of {tuple(weight.shape)} has scales of {tuple(scale.shape)}")
        number = number if count == 1 else mx.repeat(number, each, axis=axis)[(slice(None),) * axis + (slice(size),)]
    return _rounded(mx.from_fp8(weight, mx.float32) * number, 8)


def _fp4(weight: mx.array, scale: mx.array, whole: mx.array) -> Matrix:
    """NVFP4: two of E2M1 a byte, the lower half first, a scale in E4M3 for 16 and one for all."""
    table = mx.array([*_FP4, *(-number for number in _FP4)])
    levels = mx.stack([weight & 15, weight >> 4], axis=-1).reshape(weight.shape[0], -1)
    scales = mx.from_fp8(scale, mx.float32) * whole.astype(mx.float32)
    return _rounded(table[levels] * mx.repeat(scales, levels.shape[1] // scales.shape[1], axis=1), 4.5)


def _four_bits(parts: Arrays) -> Matrix:
    """bitsandbytes' NF4 and FP4: two a byte, the higher half first, places in a table; blocks have scales that may be
    bytes themselves, places in a second one. Dettmers et al. 2023.
    """
    state = next(array for leaf, array in parts.items() if leaf.startswith("quant_state."))
    told = json.loads(bytes(np.array(state).tobytes()))
    scales = parts["absmax"]
    if "nested_absmax" in parts:
        each = mx.repeat(parts["nested_absmax"], told["nested_blocksize"])[: scales.shape[0]]
        scales = parts["nested_quant_map"][scales] * each + told["nested_offset"]
    held = mx.contiguous(parts["weight"]).reshape(-1).view(mx.uint8)
    values = parts["quant_map"][mx.stack([held >> 4, held & 15], axis=-1).reshape(-1)]
    rows, columns = told["shape"]
    spread = mx.repeat(scales, told["blocksize"])[: rows * columns]
    return _rounded((values[: rows * columns] * spread).reshape(rows, columns), 4.5)


def _levels(words: mx.array, bits: int) -> mx.array:
    """Levels [rows, columns], as float32, of packed ones [rows, columns * bits / 32]."""
    words = words.view(mx.uint32)
    rows, columns = words.shape[0], 32 * words.shape[1] // bits
    if columns % 32:
        shifts = bits * mx.arange(32 // bits, dtype=mx.uint32)
        return ((words[..., None] >> shifts) & ((1 << bits) - 1)).reshape(rows, -1).astype(mx.float32)
    ones = mx.ones((rows, columns // 32))
    return mx.dequantize(words, ones, mx.zeros_like(ones), 32, bits)


def _words(levels: mx.array) -> mx.array:
    """Levels [rows, columns] of four bits, packed."""
    eights = levels.astype(mx.uint32).reshape(levels.shape[0], -1, 8)
    return (eights << (4 * mx.arange(8, dtype=mx.uint32))).sum(axis=-1).astype(mx.uint32)
