"""The ``gguf`` package's reader, to which files in Ollama's own layout of gpt-oss look like llama.cpp's.

Ollama converted gpt-oss before llama.cpp knew it, and its library still has these files: other names, queries, keys and
values in one tensor, the experts' gates and ups row by row in another, and MXFP4 blocks under a number that ggml had
given up. They stay as they lie on the disk until they are read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, ReaderField, ReaderTensor

OLLAMAS, NAME = "gptoss", "gpt-oss"
ACTIVATION = ("alpha_p", "alpha_n", "beta", "eps")  # numbers of Apertus' activation, which are trained
_EXPERT = re.compile(r"(?P<layer>blk\.\d+\.ffn_(?:gate|up|down))\.(?P<number>\d+)\.weight")
_MXFP4 = 4  # Ollama's number of it
_CALLED = {"attn_out": "attn_output", "ffn_norm": "post_attention_norm"}
# Types of blocks that ggml has had for some time and given up, by their numbers.
_GIVEN_UP = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}
_GIVEN_UP |= {36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}
_NUMBERS = 256  # of types; what is above is damage
# What a file leaves unsaid: positions are stretched by YaRN, words are cut as gpt-4o's.
_SAID = {f"{NAME}.rope.scaling.type": "yarn", "tokenizer.ggml.pre": "gpt-4o"}


class UnknownBlocksError(Exception):
    """Blocks of a type that cannot be decoded."""


class PairedTensor(ReaderTensor):  # type: ignore[misc]
    """MXFP4 blocks whose bytes hold two neighbours each, not one of either half."""


class StackedTensor(ReaderTensor):  # type: ignore[misc]
    """Those of experts that a file has by themselves, in their order: ``data`` is a list."""


class Reader(GGUFReader):  # type: ignore[misc]
    """The package's own, which also reads Ollama's MXFP4."""

    tensors: list[ReaderTensor]

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> npt.NDArray[Any]:
        """Numbers of the file; ValueError where it is shorter, of which the package says nothing."""
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError(f"it ends after {len(self.data):,} bytes, where more should follow")
        found: npt.NDArray[Any] = super()._get(offset, dtype, count, override_order)
        return found

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        name = self.fields.get("general.architecture")
        is_ollamas = name is not None and name.contents() == OLLAMAS
        paired = {field.name for field in fields if is_ollamas and field.parts[4][0] == _MXFP4}
        for field in fields:
            if field.name in paired:
                field.parts[4] = np.array([GGMLQuantizationType.MXFP4], np.uint32)
            number = int(field.parts[4][0])
            if number < _NUMBERS and number not in set(GGMLQuantizationType):
                since = f"which is no type of ggml's any more ({_GIVEN_UP.get(number)})"
                new = "which the gguf package that is installed does not know"
                raise UnknownBlocksError(
                    f"tensor {field.name} has blocks of type {number}, {since if number in _GIVEN_UP else new}"
                )
        super()._build_tensors(start_offs, fields)
        self.tensors = [PairedTensor(*one) if one.name in paired else one for one in self.tensors]


def rows_of(tensor: ReaderTensor, at: slice | list[int] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Some of a tensor's rows, those of all experts one after the other, as ggml has them."""
    if isinstance(tensor, StackedTensor):
        return _of_experts(tensor, np.arange(int(np.prod(tensor.shape[1:])))[at])
    stored: npt.NDArray[Any] = tensor.data.reshape(-1, tensor.data.shape[-1])[at]
    if not isinstance(tensor, PairedTensor):
        return stored
    blocks = stored.reshape(len(stored), -1, 17)
    halves = blocks[..., 1:].reshape(*blocks.shape[:2], 2, 8)
    first, second = halves[..., 0, :], halves[..., 1, :]
    bytes_of = np.stack([first & 15 | second << 4, first >> 4 | second & 0xF0], axis=-1)
    return np.concatenate([blocks[..., :1], bytes_of.reshape(*blocks.shape[:2], 16)], axis=-1).reshape(stored.shape)


def _of_experts(tensor: StackedTensor, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    each = int(tensor.shape[1])
    found = [tensor.data[expert][rows[rows // each == expert] % each] for expert in np.unique(rows // each)]
    return np.concatenate(found)


def stacked(tensors: dict[str, ReaderTensor]) -> dict[str, ReaderTensor]:
    """The same tensors, experts that a file has by themselves (as until April 2024) in one of each kind."""
    single: dict[str, dict[int, ReaderTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if one := _EXPERT.fullmatch(name):
            single[f"{one['layer']}_exps.weight"][int(one["number"])] = tensor
    found = {name: tensor for name, tensor in tensors.items() if not _EXPERT.fullmatch(name)}
    for name, parts in single.items():
        experts = [parts[number] for number in sorted(parts)]
        if len({(one.tensor_type, tuple(one.shape)) for one in experts}) > 1 or max(parts) >= len(parts):
            return tensors  # told as tensors that are missing
        first, count = experts[0], len(experts)
        shape = np.array([*first.shape, count])
        sizes = {"n_elements": first.n_elements * count, "n_bytes": first.n_bytes * count}
        whole = first._replace(name=name, shape=shape, data=[one.data for one in experts], **sizes)
        found[name] = StackedTensor(*whole)
    return found


def activations(values: dict[str, Any]) -> Iterator[ReaderTensor]:
    """The numbers of each layer's activation, which a file has among its settings."""
    for name in ACTIVATION:
        listed = values.get(f"xielu.{name}")
        for at, value in enumerate(listed if isinstance(listed, list) else []):
            data = np.array([value], np.float32)
            shape = np.array([1], np.uint64)
            yield ReaderTensor(f"blk.{at}.ffn_act.{name}", GGMLQuantizationType.F32, shape, 1, 4, 0, data, None)


def as_llama_cpp(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of a file in Ollama's layout as llama.cpp's."""
    keys = {re.sub(f"^{OLLAMAS}\\.", f"{NAME}.", key): value for key, value in values.items()}
    unsaid = {key: value for key, value in _SAID.items() if keys.get(key, "default") == "default"}
    return keys | unsaid | {"general.architecture": NAME}


def parts_of(tensors: Iterable[ReaderTensor], heads: int, shared: int) -> dict[str, ReaderTensor]:
    """The tensors of a file in Ollama's layout as llama.cpp's, by name. ``heads``: of queries, and ``shared`` ones."""
    return {one.name: one for tensor in tensors for one in _parts(tensor, heads, shared)}


def _parts(tensor: ReaderTensor, heads: int, shared: int) -> Iterator[ReaderTensor]:
    name = re.sub(r"\.(\w+)\b", lambda found: f".{_CALLED.get(found[1], found[1])}", tensor.name)
    name = f"{name}.weight" if name.endswith("attn_sinks") else name
    if "attn_qkv" in name:
        width = int(tensor.shape[-1]) // (heads + 2 * shared)
        ends = np.cumsum([0, heads * width, shared * width, shared * width]).tolist()
        for part, start, end in zip("qkv", ends, ends[1:], strict=False):
            yield _rows(tensor, name.replace("attn_qkv", f"attn_{part}"), slice(start, end))
    elif "ffn_gate_up_exps" in name:
        for at, part in enumerate(("gate", "up")):
            yield _rows(tensor, name.replace("gate_up", part), slice(at, None, 2))
    else:
        yield tensor._replace(name=name)


def _rows(tensor: ReaderTensor, name: str, rows: slice) -> ReaderTensor:
    """Rows of a matrix or of each expert's; of biases, their numbers."""
    is_bias = name.endswith(".bias")
    shape = [int(n) for n in tensor.shape]
    axis = 0 if is_bias else 1
    data = tensor.data
    if is_bias:
        data = data.reshape(*reversed(shape), -1)  # a number may take several bytes
    at = (..., rows, slice(None))
    shape[axis] = len(range(shape[axis])[rows])
    data = data[at].reshape(*reversed(shape[1:]), -1) if is_bias else data[at]
    share = shape[axis] / int(tensor.shape[axis])
    sizes = {"n_elements": round(tensor.n_elements * share), "n_bytes": round(tensor.n_bytes * share)}
    return tensor._replace(name=name, shape=np.array(shape), data=data, **sizes)
