"""The tensors of a GGUF file as MLX holds them: exact where it has such blocks, else at the file's bits.

The ``gguf`` package, kept beside llama.cpp itself, says what the numbers are; MLX's own reader gives every second group
of a Q4_K block the scale of its neighbour, and is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, ReaderTensor, quants
from gguf import GGMLQuantizationType as Kind

from runner.models.gguf.reader import UnknownBlocksError, rows_of
from runner.models.quantised.methods import rounded

GROUP_SIZE = 32
_CHUNK = 1 << 22  # weights decoded at a time
_PLAIN = (Kind.F32, Kind.F16, Kind.BF16, Kind.F64)

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
    Kind.MXFP4: np.dtype([("exponent", "u1"), ("low", "u1", 16)]),
}
# Blocks of one scale, their last two bytes, and of weights that are it, nothing or its opposite.
_TERNARY = (Kind.TQ1_0, Kind.TQ2_0)


class WrongBlocksError(Exception):
    """Blocks that this module and the ``gguf`` package read as different numbers."""


class Form(NamedTuple):
    """How MLX holds a tensor: bits a weight (None: plain numbers), group size, mode. ``exact``: none is rounded."""

    bits: int | None
    group_size: int = GROUP_SIZE
    mode: str = "affine"
    exact: bool = True


def form_of(tensor: ReaderTensor, bits: int | None = None, group_size: int = GROUP_SIZE) -> Form:
    """The form of a tensor: the file's own blocks or bits, or those asked for."""
    kind, width = tensor.tensor_type, int(tensor.shape[0])
    own = _own_form(kind)
    if bits is None or len(tensor.shape) < 2 or width % group_size or "ffn_gate_inp" in tensor.name:
        return own if own.exact or width % GROUP_SIZE == 0 else Form(None)
    same = own.exact and (own.bits, own.group_size, own.mode) == (bits, group_size, "affine")
    return own if same else Form(bits, group_size, exact=False)


def _own_form(kind: Kind) -> Form:
    """Of a type: what is not a block of MLX's gets as many bits as the type takes, or the next more that MLX has."""
    if kind in _PLAIN:
        return Form(None)
    if kind == Kind.MXFP4:
        return Form(4, mode="mxfp4")
    if kind in _TERNARY:
        return Form(2)
    if kind in _LAYOUTS:
        parts = _LAYOUTS[kind].names or ()
        return Form(8 if "levels" in parts else 5 if "high" in parts else 4)
    weights, size = GGML_QUANT_SIZES[kind]
    return Form(rounded(8 * size / weights).bits, exact=False)


def joined_form(forms: Sequence[Form]) -> Form:
    """The form of one parameter whose rows come from tensors of these forms: plain numbers if any of them are."""
    if any(form.bits is None for form in forms):
        return Form(None)
    if len({form[:3] for form in forms}) == 1:
        return forms[0]._replace(exact=all(form.exact for form in forms))
    widest = max(forms, key=lambda form: form.bits or 0)
    return Form(widest.bits, widest.group_size, exact=all(form.exact and form.mode == "affine" for form in forms))


def check_decodable(tensors: Iterable[ReaderTensor]) -> None:
    """Raises UnknownBlocksError for a type of blocks that the ``gguf`` package cannot decode."""
    for kind, tensor in {tensor.tensor_type: tensor for tensor in tensors}.items():
        try:
            if kind != Kind.F64:
                quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            told = f"tensor {tensor.name} has blocks of type {kind.name}, which the gguf package does not decode"
            raise UnknownBlocksError(told) from error


def decode(tensor: ReaderTensor, dtype: mx.Dtype, form: Form | None = None) -> dict[str, mx.array]:
    """The tensor's arrays by the last part of their names: weight, and scales and biases if it is quantised.

    Plain numbers are rounded to ``dtype``. Raises NotImplementedError for a type that the ``gguf`` package cannot
    decode, WrongBlocksError if the two readings differ.
    """
    form, kind = form or form_of(tensor), tensor.tensor_type
    parts = []
    for rows in _chunks(tensor):
        if form.exact and form.bits:
            parts.append(_quantised(rows, kind, form.bits))
            continue
        plain = mx.array(rows.astype(np.float32) if kind == Kind.F64 else quants.dequantize(rows, kind))
        if form.bits:
            arrays = mx.quantize(plain, form.group_size, form.bits)
            parts.append(dict(zip(("weight", "scales", "biases"), arrays, strict=True)))
        else:
            parts.append({"weight": plain.astype(dtype)})
        mx.eval(parts[-1])
    leading = [int(n) for n in reversed(tensor.shape)][:-1]
    joined = {leaf: _joined([part[leaf] for part in parts]).reshape(*leading, -1) for leaf in parts[0]}
    if form.exact and form.bits:
        _check(tensor, joined, form)
    return joined


def _chunks(tensor: ReaderTensor) -> Iterator[npt.NDArray[Any]]:
    """Some of the tensor's rows at a time, those of all experts one after the other, as they are stored."""
    total = int(np.prod(tensor.shape[1:]))
    rows = max(1, _CHUNK // int(tensor.shape[0]))
    for start in range(0, total, rows):
        yield rows_of(tensor, slice(start, start + rows))


def _joined(arrays: list[mx.array]) -> mx.array:
    whole = mx.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    mx.eval(whole)
    return whole


def _quantised(rows: npt.NDArray[np.uint8], kind: Kind, held: int) -> dict[str, mx.array]:
    """Rows [R, bytes] as MLX's quantised weight of ``held`` bits, the type's or more, scales and biases."""
    if kind in _TERNARY:
        return _ternary(rows, kind, held)
    blocks = np.ascontiguousarray(rows).view(_LAYOUTS[kind])
    parts = blocks.dtype.names or ()
    levels = _levels(blocks)
    bits = 8 if "levels" in parts else 5 if "high" in parts else 4
    weight = mx.array(_packed(levels.reshape(len(rows), -1), held))
    if "exponent" in parts:
        return {"weight": weight, "scales": mx.array(np.ascontiguousarray(blocks["exponent"]))}
    scales = blocks["d"].astype(np.float32)[..., None]
    biases = blocks["m"].astype(np.float32)[..., None] if "m" in parts else -scales * 2 ** (bits - 1)
    if "scales" in parts:
        own_scales, own_minima = quants.Q4_K.get_scale_min(blocks["scales"].reshape(-1, 12))
        shape = (*blocks.shape, -1)
        scales, biases = scales * own_scales.reshape(shape), -biases * own_minima.reshape(shape)
    return {
        "weight": weight,
        "scales": mx.array(scales.reshape(len(rows), -1)),
        "biases": mx.array(biases.reshape(len(rows), -1)),
    }


def _ternary(rows: npt.NDArray[np.uint8], kind: Kind, held: int) -> dict[str, mx.array]:
    """As ``_quantised``: level 0 is the scale's opposite, 1 nothing, 2 the scale."""
    weights, size = GGML_QUANT_SIZES[kind]
    blocks = rows.reshape(len(rows), -1, size)
    found = np.ascontiguousarray(blocks[..., -2:]).view("<f2").astype(np.float32)  # [R, blocks, 1]
    plain = quants.dequantize(rows, kind).reshape(*blocks.shape[:2], weights)
    levels = (1 + np.sign(plain) * np.sign(found)).astype(np.uint8)
    scales = mx.array(np.repeat(found[..., 0], weights // GROUP_SIZE, axis=-1))
    return {"weight": mx.array(_packed(levels.reshape(len(rows), -1), held)), "scales": scales, "biases": -scales}


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


def _check(tensor: ReaderTensor, arrays: dict[str, mx.array], form: Form) -> None:
    total = int(np.prod(tensor.shape[1:]))
    sample = sorted({0, total // 2, total - 1})
    rows = {leaf: array.reshape(total, -1)[mx.array(sample)] for leaf, array in arrays.items()}
    parts = (rows["weight"], rows["scales"], rows.get("biases"))
    got = np.array(mx.dequantize(*parts, form.group_size, form.bits, form.mode).astype(mx.float32))
    want = quants.dequantize(rows_of(tensor, sample), tensor.tensor_type)
    if not np.allclose(got, want, rtol=1e-5, atol=1e-6 * float(np.abs(want).max())):
        raise WrongBlocksError(f"{tensor.name} ({tensor.tensor_type.name}) is read in two ways")
