"""A model's size, context length and identity from its configuration and files; nothing is loaded.

The layout of a file of weights is the safetensors format's.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.models.quantised import methods

_CONTEXT = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length", "n_ctx")
_HASHED_WHOLE_BYTES = 1 << 30
_BLOCKS, _BLOCK_BYTES = 256, 1 << 16


class Tensor(NamedTuple):
    """A tensor in a file of weights."""

    shape: tuple[int, ...]
    size_bytes: int


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
