"""A model's size, context length and identity from its configuration and files; nothing is loaded.

The layout of a file of weights is the safetensors format's.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.models.caches import Caches, recurrent_caches
from runner.models.quantised import methods

_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head")
_CONTEXT = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length", "n_ctx")
_HASHED_WHOLE_BYTES = 1 << 30
_BLOCKS, _BLOCK_BYTES = 256, 1 << 16
_LATENT = {"deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2", "kimi_k25", "mistral4"}
_EXPANDED = {"deepseek_v2", "youtu_llm"}
_WHOLE_EVERY = 4  # layer of a model that attends in chunks (Llama 4), as mlx-lm has it, keeps all tokens
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class KVShape:
    """The memory of a token: ``token_bytes`` in the layers that keep every token, ``sliding_bytes`` in those that keep
    only the last ``window`` tokens. ``state_bytes``: of a sequence, however long it is, in recurrent layers.
    """

    token_bytes: int
    sliding_bytes: int = 0
    window: int = 0
    state_bytes: int = 0

    def sequence_bytes(self, tokens: int, shared: int = 0) -> int:
        """The bytes of a sequence's own caches; ``shared`` of its tokens lie in a prefix that is stored once."""
        own = (tokens - shared) * self.token_bytes + min(tokens, self.window) * self.sliding_bytes
        return own + self.state_bytes


class Tensor(NamedTuple):
    """A tensor in a file of weights."""

    shape: tuple[int, ...]
    size_bytes: int


def kv_group(width: int) -> int | None:
    """How many numbers of a head share a scale where keys and values are held in fewer bits; None: they cannot be."""
    return next((group for group in (64, 32) if width % group == 0), None)


def kv_shape(config: dict[str, Any], kind: str, bits: int | None = None) -> KVShape | None:
    """From a model's config.json, for a device (cpu, metal, cuda); None where it does not say so in a known way.

    ``bits``: of keys and values in layers that keep every token.
    """
    table = {**config, **(config.get("text_config") or {})}
    if recurrent := recurrent_caches(config, _value_bytes(table, kind)):
        return _recurrent(recurrent, _value_bytes(table, kind), bits)
    layers, heads = _first(table, _LAYERS), _first(table, _KV_HEADS)
    queries = _first(table, _KV_HEADS[2:])
    width = table.get("head_dim") or (table["hidden_size"] // queries if queries and "hidden_size" in table else None)
    if layers and "kv_lora_rank" in table:
        return _latent(table, layers, _value_bytes(table, kind), bits)
    if not (layers and heads and width):
        return None
    own = layers - int(table.get("num_kv_shared_layers") or 0)  # the last ones attend to the KV of these
    number_bytes, chunk = _value_bytes(table, kind), int(table.get("attention_chunk_size") or 0)
    window = chunk or int(table.get("sliding_window") or 0)
    types = (table.get("layer_types") or [])[:own]
    every = int(table.get("full_attention_interval") or 0)
    linear = types.count("linear_attention") if types else layers - layers // every if every else 0
    own -= linear + types.count("conv")  # a state, whatever the length
    sliding = types.count("sliding_attention") if window else 0
    sliding = layers - layers // _WHOLE_EVERY if chunk else sliding
    wide = int(table.get("global_head_dim") or width), int(table.get("num_global_key_value_heads") or heads)
    all_bytes = (own - sliding) * 2 * wide[1] * _head_bytes(wide[0], number_bytes, bits)
    return KVShape(all_bytes, sliding * 2 * heads * width * number_bytes, window)


def _recurrent(caches: Caches, number_bytes: int, bits: int | None) -> KVShape:
    packed = bits if len(caches.kept) == 1 else None  # latent keys and values are of two widths
    heads = {width: size // (width * number_bytes) for width, size in caches.kept.items()}
    kept = sum(count * _head_bytes(width, number_bytes, packed) for width, count in heads.items())
    return KVShape(kept, caches.sliding, caches.window, caches.states)


def _latent(table: dict[str, Any], layers: int, number_bytes: int, bits: int | None) -> KVShape | None:
    """Of latent attention (DeepSeek-AI 2024) in mlx-lm: some of its models store the keys and values of all heads."""
    kind = table.get("model_type")
    if kind in _EXPANDED:
        rope, nope = table["qk_rope_head_dim"], table["qk_nope_head_dim"]
        head = sum(_head_bytes(width, number_bytes, bits) for width in (rope + nope, table["v_head_dim"]))
        return KVShape(layers * table["num_attention_heads"] * head)
    if kind not in _LATENT:
        return None
    chooser = table["index_head_dim"] + 1 if "index_topk" in table else 0  # keys of its own, and no values
    return KVShape(layers * (table["kv_lora_rank"] + table["qk_rope_head_dim"] + chooser) * number_bytes)


def _head_bytes(width: int, number_bytes: int, bits: int | None) -> int:
    group = kv_group(width) if bits else None
    return width * number_bytes if not bits or not group else width * bits // 8 + 2 * width // group * number_bytes


def weight_bytes(folder: Path, config: dict[str, Any], kind: str | None = None) -> int | None:
    """What the weights take once loaded on a device: as stored, or on a CPU as float32; None if they are unreadable.

    Without a ``kind`` of device: as stored. Raises UserError, exit code 3, for weights that nothing here reads.
    """
    try:
        tensors = read_tensors(folder)
    except (OSError, ValueError, KeyError, struct.error):
        return None
    if not tensors:
        return None
    if kind is not None and kind != "cpu" and methods.is_ours(folder, config):
        return sum(methods.loaded_bytes(name, tensors, methods.settings_of(config)) for name in tensors)
    if kind != "cpu":
        return sum(tensor.size_bytes for tensor in tensors.values())
    return 4 * sum(weight_count(name, tensors, config) for name in tensors)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in a folder's safetensors by name. Raises OSError, ValueError, KeyError or struct.error."""
    headers = [_header(file) for file in sorted(folder.glob("model*.safetensors"))]
    return {name: tensor for header in headers for name, tensor in header.items()}


def weight_count(name: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> int:
    """How many numbers a tensor stands for once it is dequantised; 0 for the scales that go into another."""
    layer, _, last = name.rpartition(".")
    settings = methods.settings_of(config)
    if settings and (held := methods.count(name, tensors, settings)) is not None:
        return held
    scales = tensors.get(f"{layer}.scales")
    if scales is None:
        return math.prod(tensors[name].shape)
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    own = quantization.get(layer)
    group = (own if isinstance(own, dict) else quantization).get("group_size", 64)
    if last == "weight":
        return math.prod(scales.shape) * int(group)
    return 0 if last in ("scales", "biases") else math.prod(tensors[name].shape)


def known_tokens(config: dict[str, Any]) -> int | None:
    """How many different tokens the model has; None if its configuration does not say so."""
    size = (config.get("text_config") or config).get("vocab_size")
    return size if isinstance(size, int) else None


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model was made for; None if its configuration does not say."""
    for table in (config, config.get("text_config") or {}):
        for key in _CONTEXT:
            if isinstance(table.get(key), int):
                return int(table[key])
    return None


def weights_hash(folder: Path) -> str:
    """A fingerprint of a model's configuration, tokenizer, weights and adapter, wherever they lie and whenever made.

    Files up to 1 GiB count whole; of larger ones the size, the first block (which holds the tensors' names, types
    and shapes) and 255 more blocks of 64 KiB spread evenly, so that 20 GB take well under a second.
    """
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "adapter/*")
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern)}, key=lambda p: p.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE_BYTES:
            while block := file.read(1 << 22):
                yield block
            return
        for i in range(_BLOCKS):
            file.seek(i * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            yield file.read(_BLOCK_BYTES)


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two files of safetensors hold the same ones, in whatever order. Raises OSError or ValueError."""
    (start, tensors), (other_start, others) = map(_entries, (first, second))
    if tensors.keys() != others.keys():
        return False
    bytes_, other_bytes = (np.memmap(file, np.uint8, "r") for file in (first, second))
    for name, entry in tensors.items():
        (begin, end), (other_begin, other_end) = entry["data_offsets"], others[name]["data_offsets"]
        alike = all(entry[key] == others[name][key] for key in ("dtype", "shape"))
        own, other = (
            bytes_[start + begin : start + end],
            other_bytes[other_start + other_begin : other_start + other_end],
        )
        if not alike or not np.array_equal(own, other):
            return False
    return True


def _header(file: Path) -> dict[str, Tensor]:
    return {
        name: Tensor(tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in _entries(file)[1].items()
    }


def _entries(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begin, and the tensors' types, shapes and places: JSON after its length in 8 bytes."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > file.stat().st_size:
            raise ValueError(f"{file} is not a safetensors file")
        header = json.loads(opened.read(size))
    return 8 + size, {name: entry for name, entry in header.items() if name != "__metadata__"}


def _value_bytes(table: dict[str, Any], kind: str) -> int:
    dtype = str(table.get("torch_dtype") or table.get("dtype") or "bfloat16")
    return 4 if kind == "cpu" or dtype == "float32" else 2


def _first(table: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(table[name]) for name in names if isinstance(table.get(name), int)), None)
