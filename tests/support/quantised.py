"""Checkpoints that others' tools quantise, written from the facts of their formats: of each matrix the tensors, and
the numbers that these stand for.
"""

import json

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from tests.support.tiny import tiny_folder


def pack(levels, bits):
    """Levels [rows, columns] as 32-bit words without a gap, the lowest bits first."""
    flags = (levels.astype(np.uint8)[..., None] >> np.arange(bits)) & 1
    return np.packbits(flags.reshape(len(levels), -1), axis=1, bitorder="little").view(np.int32)


def grid(weight, bits, size, symmetric):
    """Levels [rows, columns], scales and zeros [rows, groups]."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, size if size > 0 else columns)
    top = (1 << bits) - 1
    if symmetric:
        scales = np.abs(groups).max(-1) / (1 << (bits - 1))
        zeros = np.full(scales.shape, 1 << (bits - 1))
    else:
        low, high = groups.min(-1), groups.max(-1)
        scales = (high - low) / top
        zeros = np.clip(np.round(-low / scales), 1, top)
    scales = scales.astype(np.float16)
    levels = np.clip(np.round(groups / scales[..., None].astype(np.float32)) + zeros[..., None], 0, top)
    return levels.reshape(rows, columns).astype(np.uint8), scales, zeros.astype(np.uint8)


def numbers(levels, scales, zeros, order=None):
    groups = np.arange(levels.shape[1]) // (levels.shape[1] // scales.shape[1]) if order is None else order
    return (levels.astype(np.float32) - zeros[:, groups]) * scales.astype(np.float32)[:, groups]


def gptq(weight, bits=4, size=32, symmetric=False, ordered=False, version="gptq", index=True):
    levels, scales, zeros = grid(weight, bits, size, symmetric)
    columns = weight.shape[1]
    groups = np.arange(columns) // (columns // scales.shape[1])
    if ordered:
        groups = np.random.default_rng(1).permutation(groups)
    stored = zeros - (version == "gptq")
    tensors = {
        "qweight": pack(levels, bits).T.copy(),
        "qzeros": pack(stored.T, bits),
        "scales": scales.T.copy(),
        **({"g_idx": groups.astype(np.int32)} if index else {}),
    }
    return tensors, numbers(levels, scales, zeros, groups)


def awq(weight, size=32):
    levels, scales, zeros = grid(weight, 4, size, False)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def packed(by_column):
        eights = by_column.reshape(len(by_column), -1, 8)[..., order]
        return pack(eights.reshape(len(by_column), -1), 4)

    tensors = {"qweight": packed(levels.T), "qzeros": packed(zeros.T), "scales": scales.T.copy()}
    return tensors, numbers(levels, scales, zeros)


def compressed(weight, bits=4, size=32, symmetric=True):
    levels, scales, zeros = grid(weight, bits, size, symmetric)
    tensors = {
        "weight_packed": pack(levels, bits),
        "weight_scale": scales,
        "weight_shape": np.array(weight.shape),
        **({} if symmetric else {"weight_zero_point": pack(zeros.T, bits).T.copy()}),
    }
    return tensors, numbers(levels, scales, zeros)


def signed_bytes(weight, name="weight_scale", more=()):
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    held = np.round(weight / scales).astype(np.int8)
    tensors = {"weight": held, name: scales if name == "weight_scale" else scales[:, 0] * 127}
    tensors |= {one: np.int8(0) if "zero" in one else np.float32(1) for one in more}
    return tensors | ({} if name == "weight_scale" else {"weight_format": np.uint8(0)}), held * scales


def fp8(weight, block, name="weight_scale_inv", more=()):
    """``block``: its shape; all of a matrix: one scale."""
    rows, columns = (min(*pair) for pair in zip(block, weight.shape, strict=True))
    counts = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
    scales = np.random.default_rng(2).uniform(0.01, 0.02, counts).astype(np.float32)
    spread = scales.repeat(rows, 0)[: weight.shape[0]].repeat(columns, 1)[:, : weight.shape[1]]
    held = mx.to_fp8(mx.array(weight / spread))
    plain = np.array(mx.from_fp8(held, mx.float32)) * spread
    return {"weight": np.array(held), name: scales, **{one: np.float32(1) for one in more}}, plain


def nf4(weight, nested=True, storage="uint8"):
    table = np.linspace(-1, 1, 16).astype(np.float32) ** 3
    blocks = weight.reshape(-1, 64)
    scales = np.abs(blocks).max(1)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
    tensors = {"quant_map": table, "absmax": scales}
    if nested:
        second = np.linspace(-1, 1, 256).astype(np.float32)
        offset = float(scales.mean())
        each = np.abs(scales - offset).reshape(-1, 8).max(1)
        places = np.abs(((scales - offset) / each.repeat(8))[:, None] - second).argmin(1).astype(np.uint8)
        tensors = tensors | {"absmax": places, "nested_absmax": each, "nested_quant_map": second}
        state |= {"nested_blocksize": 8, "nested_dtype": "float32", "nested_offset": offset}
        scales = second[places] * each.repeat(8) + np.float32(offset)
    places = np.abs((blocks / scales[:, None])[..., None] - table).argmin(-1).reshape(-1, 2)
    tensors["quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    held = {"weight": (places[:, 0] << 4 | places[:, 1]).astype(np.uint8).view(storage)[:, None]}
    plain = (table[places].reshape(-1, 64) * scales[:, None]).reshape(weight.shape)
    return held | {f"weight.{leaf}": array for leaf, array in tensors.items()}, plain


def nvfp4(weight, modelopt=False):
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    whole = np.float32(0.05)
    blocks = weight.reshape(len(weight), -1, 16)
    held = mx.to_fp8(mx.array(np.abs(blocks).max(-1) / 6 / whole))
    scales = np.array(mx.from_fp8(held, mx.float32)) * whole
    places = np.abs((blocks / scales[..., None])[..., None] - table).argmin(-1).reshape(len(weight), -1, 2)
    packed = (places[..., 0] | places[..., 1] << 4).astype(np.uint8)
    plain = (table[places].reshape(blocks.shape) * scales[..., None]).reshape(weight.shape)
    if modelopt:
        return {"weight": packed, "weight_scale": np.array(held), "weight_scale_2": whole}, plain
    return {"weight_packed": packed, "weight_scale": np.array(held), "weight_global_scale": 1 / whole[None]}, plain


CONFIGS = {
    gptq: {"quant_method": "gptq", "bits": 4, "group_size": 32},
    awq: {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
    compressed: {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    signed_bytes: {"quant_method": "compressed-tensors", "format": "int-quantized"},
    fp8: {"quant_method": "fp8"},
    nf4: {"quant_method": "bitsandbytes", "load_in_4bit": True},
    nvfp4: {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
}


def quantised_folders(folder, writer, settings=None, family="llama", expand=None, **options):
    """Two model folders in ``folder``: ``quantised`` as the writer has it, and ``plain`` with the numbers that these
    tensors stand for, in float32. ``expand``: mlx-lm's tensors by name to those of the hub's.
    """
    shape = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 64, "num_key_value_heads": 1}
    shape |= {"tie_word_embeddings": False, "torch_dtype": "float16"}
    quantised = tiny_folder(folder / "quantised", family=family, **shape | options.pop("shape", {}))
    plain = folder / "plain"
    plain.mkdir()
    tensors = {name: array.astype(mx.float16) for name, array in mx.load(str(quantised / "model.safetensors")).items()}
    stored, numbers_of = {}, {}
    for name, array in (expand(tensors) if expand else tensors).items():
        if array.ndim < 2 or "embed" in name or "lm_head" in name or "gate.weight" in name:
            stored[name] = numbers_of[name] = array
            continue
        parts, values = writer(np.array(array.astype(mx.float32)), **options)
        layer = name.removesuffix(".weight")
        stored |= {f"{layer}.{leaf}": mx.array(part) for leaf, part in parts.items()}
        numbers_of[name] = mx.array(values.astype(np.float32))
    mx.save_safetensors(str(quantised / "model.safetensors"), stored)
    mx.save_safetensors(str(plain / "model.safetensors"), numbers_of)
    config = json.loads((quantised / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config))
    config["quantization_config"] = CONFIGS[writer] | (settings or {})
    (quantised / "config.json").write_text(json.dumps(config))
    return quantised, plain


def flat(model):
    return {name: np.array(array.astype(mx.float32)) for name, array in tree_flatten(model.parameters())}
