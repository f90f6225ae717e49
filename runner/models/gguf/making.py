"""Of which rows of which tensors a parameter is made, where it is not one tensor as it is.

Facts of llama.cpp's converter (conversion/*.py): what it splits, joins, turns and reorders. Indices count the rows of a
tensor one expert or head after the other, and a vector's numbers as rows of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import ReaderTensor

from runner.models.gguf.blocks import Form, decode, form_of
from runner.models.gguf.file import GGUFFile
from runner.models.gguf.reader import ACTIVATION

Indices = npt.NDArray[np.int64]

# What llama.cpp calls parameters of a layer that the package's list of names does not have, by how mlx-lm's end.
CALLED = {
    ".e_score_correction_bias": "exp_probs_b.bias",
    ".expert_bias": "exp_probs_b.bias",
    ".gate.gate_proj.weight": "ffn_gate_inp.weight",
    ".dt_bias": "ssm_dt.bias",
    ".A_log": "ssm_a",
    ".D": "ssm_d",
    ".q_conv.conv.weight": "ssm_conv1d_q.weight",
    ".k_conv.conv.weight": "ssm_conv1d_k.weight",
    ".v_conv.conv.weight": "ssm_conv1d_v.weight",
    ".embed_q.weight": "attn_k_b.weight",
    ".unembed_out.weight": "attn_v_b.weight",
    ".pre_ff_layernorm.weight": "ffn_norm.weight",
    ".shared_mlp.input_linear.weight": "ffn_gate_shexp.weight",
    ".router.scale": "ffn_gate_inp.scale",
    ".router.per_expert_scale": "ffn_down_exps.scale",
    ".switch_glu.gate_proj.weight": "ffn_gate_exps.weight",
    ".switch_glu.up_proj.weight": "ffn_up_exps.weight",
    ".switch_glu.down_proj.weight": "ffn_down_exps.weight",
    ".switch_mlp.fc1.weight": "ffn_up_exps.weight",
    ".switch_mlp.fc2.weight": "ffn_down_exps.weight",
    ".self_attn.linear.weight": "attn_output.weight",
    **{
        f".attention.{of}.{leaf}": f"attn_qkv.{leaf}"
        for of in ("wqkv", "query_key_value")
        for leaf in ("weight", "bias")
    },
    **{f".mlp.act_fn.{name}": f"ffn_act.{name}" for name in ACTIVATION},
}


@dataclass(frozen=True, eq=False)
class Source:
    """A tensor, or some of its ``rows``. ``turned``: as so many matrices, each of which is to be turned."""

    tensor: ReaderTensor
    rows: Indices | None = None
    turned: int = 0

    def form(self, bits: int | None = None, group_size: int = 32) -> Form:
        """The form of what it gives: a matrix that is turned has groups of other numbers, and is rounded anew."""
        form = form_of(self.tensor, bits, group_size)
        if not self.turned or form.bits is None:
            return form
        width = self.numbers // int(self.tensor.shape[0]) // self.turned
        return Form(form.bits, form.group_size, exact=False) if width % form.group_size == 0 else Form(None)

    @property
    def is_whole(self) -> bool:
        """Whether it is the tensor as it is."""
        return self.rows is None and not self.turned

    @property
    def numbers(self) -> int:
        """How many it gives."""
        width = 1 if len(self.tensor.shape) == 1 else int(self.tensor.shape[0])
        return int(self.tensor.n_elements) if self.rows is None else len(self.rows) * width

    @property
    def bytes_read(self) -> int:
        """How many of the file's bytes it takes."""
        return int(self.tensor.n_bytes) * self.numbers // int(self.tensor.n_elements)

    def arrays(self, dtype: mx.Dtype, form: Form) -> dict[str, mx.array]:
        """The rows by the last part of their names, [R, W]; of a vector each number is a row."""
        found = decode(self.tensor, dtype, Form(None) if self.turned else form)
        vector = len(self.tensor.shape) == 1
        found = {leaf: array.reshape(-1, 1 if vector else array.shape[-1]) for leaf, array in found.items()}
        if self.rows is not None:
            found = {leaf: array[mx.array(self.rows)] for leaf, array in found.items()}
        if not self.turned:
            return found
        (plain,) = found.values()
        turned = mx.contiguous(plain.reshape(self.turned, -1, plain.shape[-1]).swapaxes(1, 2))
        turned = turned.reshape(-1, turned.shape[-1])
        if not form.bits:
            return {"weight": turned}
        arrays = mx.quantize(turned.astype(mx.float32), form.group_size, form.bits)
        return dict(zip(("weight", "scales", "biases"), arrays, strict=True))


class Making(NamedTuple):
    """The ``rows`` of all sources and the ``columns`` in the model's order, None as they are; ``undo``: what is to be
    done with the numbers.
    """

    sources: tuple[Source, ...] = ()
    rows: Indices | None = None
    columns: Indices | None = None
    undo: Callable[[mx.array], mx.array] | None = None


def making_of(
    file: GGUFFile, name: str, parameter: str, shape: tuple[int, ...], config: dict[str, Any], tiled: bool
) -> Making:
    """How ``parameter`` is made; no sources if the file has none. ``name``: what its tensor is called."""
    block = re.match(r"(blk\.\d+\.)?", name)
    tensor = _Tensors(file, block[0] if block else "")
    end = parameter.rpartition("layers.")[2].partition(".")[2] or parameter
    of_kind = re.sub(r"\.\d+(\.\w+)$", r"\1", end)  # of several of one kind each has its number
    for ending, make in _MADE.items():
        if of_kind.endswith(ending) and (found := make(tensor, name, shape, config)):
            return found
    undo = (lambda array: mx.log(-array)) if end.endswith(".A_log") else None
    if name not in file.tensors:
        return Making()
    making = Making((Source(file.tensors[name]),), undo=undo)
    return _untiled(making, end.removeprefix("linear_attn."), config) if tiled and "linear_attn." in end else making


class _Tensors:
    """The tensors of one layer."""

    def __init__(self, file: GGUFFile, block: str):
        self._file, self._block = file, block

    def __call__(self, *names: str) -> list[ReaderTensor] | None:
        """Those of these names, if all are there."""
        found = [self._file.tensors.get(f"{self._block}{name}") for name in names]
        return [one for one in found if one is not None] if None not in found else None


def halves_apart(rows: int, width: int) -> Indices:
    """Undo llama.cpp's order of the rows of heads, which lays the two halves of each rotated pair side by side:
    (D/2, 2) -> (2, D/2). ``width``: of a head, D.
    """
    return np.arange(rows).reshape(rows // width, width // 2, 2).swapaxes(1, 2).ravel()


_FUSED = "ffn_gate_up_exps.weight"


def _half(at: int) -> Callable[..., Making | None]:
    """Gates or ups of experts that a file has in one tensor: a half of each expert's rows."""

    def make(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
        found = None if tensors(f"ffn_{('gate', 'up')[at]}_exps.weight") else tensors(_FUSED)
        if not found:
            return None
        rows = np.arange(int(np.prod(found[0].shape[1:]))).reshape(shape[0], 2, -1)[:, at].ravel()
        return Making((Source(found[0], rows),))

    return make


def _third(at: int) -> Callable[..., Making | None]:
    """Queries, keys or values that a file has in one tensor, in this order."""

    def make(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
        leaf = name.rpartition(".")[2]
        found = None if tensors(f"attn_{'qkv'[at]}.{leaf}") else tensors(f"attn_qkv.{leaf}")
        if not found:
            return None
        total = int(found[0].shape[-1])
        start = (0, total - 2 * shape[0], total - shape[0])[at]
        return Making((Source(found[0], np.arange(start, start + shape[0])),))

    return make


def _joined(*names: str) -> Callable[..., Making | None]:
    """The rows of several tensors, one after the other."""

    def make(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
        found = tensors(*names)
        return Making(tuple(map(Source, found))) if found else None

    return make


def _grouped(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
    """Qwen3-Next's: queries, keys, values and gates of one group of heads after those of another."""
    found = tensors("attn_qkv.weight", "attn_gate.weight")
    if not found:
        return None
    groups = config["linear_num_key_heads"]
    keys = groups * config["linear_key_head_dim"]
    parts = np.split(np.arange(shape[0]), [keys, 2 * keys, 2 * keys + (shape[0] - 2 * keys) // 2])
    return Making(tuple(map(Source, found)), np.concatenate([one.reshape(groups, -1) for one in parts], axis=1).ravel())


def _keys_and_values(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
    """Each head's keys and values out of their latent form, whose keys llama.cpp turns."""
    found = tensors("attn_k_b.weight", "attn_v_b.weight")
    if not found:
        return None
    heads, keys = config["num_attention_heads"], config["qk_nope_head_dim"]
    every = np.arange(shape[0])
    parts = [one.reshape(heads, -1) for one in np.split(every, [heads * keys])]
    return Making((Source(found[0], turned=heads), Source(found[1])), np.concatenate(parts, axis=1).ravel())


def _latent(of_keys: bool) -> Callable[..., Making | None]:
    """Keys or values out of their latent form in a file until 2025, which has them together and the keys not turned."""

    def make(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
        found = None if tensors("attn_k_b.weight") else tensors("attn_kv_b.weight")
        if not found:
            return None
        heads, keys = config["num_attention_heads"], config["qk_nope_head_dim"]
        rows = np.arange(int(found[0].shape[-1])).reshape(heads, -1)
        rows = rows[:, :keys] if of_keys else rows[:, keys:]
        return Making((Source(found[0], rows.ravel(), turned=heads if of_keys else 0),))

    return make


def _one_of(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
    """One of several matrices or vectors in one tensor. Its number is behind the tensor's name."""
    stem, _, number = name.removesuffix(".weight").rpartition(".")
    found = tensors(f"{stem.rpartition('.')[2]}.weight")
    rows = shape[0] if len(shape) > 1 else 1
    return Making((Source(found[0], np.arange(rows) + int(number) * rows),)) if found else None


def _joined_heads(tensors: _Tensors, name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Making | None:
    """Queries, keys and values in one matrix, in the order of the model."""
    leaf, heads, width = name.rpartition(".")[2], config["num_attention_heads"], config["head_dim"]
    if config["model_type"] == "gpt_neox" and (found := tensors(f"attn_qkv.{leaf}")):
        # A head's after those of another; llama.cpp has all queries first.
        return Making((Source(found[0]),), np.arange(shape[0]).reshape(3, heads, width).swapaxes(0, 1).ravel())
    if not (found := tensors(*(f"attn_{part}.{leaf}" for part in "qkv"))):
        return None
    groups = config["num_key_value_heads"]
    queries, keys = (halves_apart(count * width, width) for count in (heads, groups))
    parts = [queries, len(queries) + keys, len(queries) + len(keys) + np.arange(len(keys))]
    if config["model_type"] == "internlm2":  # those of heads that share keys after those of others
        parts = [np.concatenate([part.reshape(groups, -1) for part in parts], axis=1).ravel()]
    return Making(tuple(map(Source, found)), np.concatenate(parts))


# By how the names of parameters end.
_MADE = {
    "linear_attn.in_proj_qkvz.weight": _grouped,
    ".kv_b_proj.weight": _keys_and_values,
    ".embed_q.weight": _latent(of_keys=True),
    ".unembed_out.weight": _latent(of_keys=False),
    "shared_mlp.input_linear.weight": _joined("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    **{f".{stack}.gate_proj.weight": _half(0) for stack in ("switch_mlp", "switch_glu", "experts")},
    **{f".{stack}.up_proj.weight": _half(1) for stack in ("switch_mlp", "switch_glu", "experts")},
    **{f"{part}.weight": _one_of for part in ("projections", "layernorm.norms")},
    **{f"attention.{of}.{leaf}": _joined_heads for of in ("query_key_value", "wqkv") for leaf in ("weight", "bias")},
    **{f"self_attn.{part}_proj.{leaf}": _third(at) for at, part in enumerate("qkv") for leaf in ("weight", "bias")},
}


def _untiled(making: Making, end: str, config: dict[str, Any]) -> Making:
    """Qwen 3.5's: llama.cpp lays the first head of values of each group before the second ones."""
    groups, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    keys, width = groups * config["linear_key_head_dim"], config["linear_value_head_dim"]
    if groups == heads or end == "norm.weight":
        return making

    def order(width: int) -> Indices:
        return np.arange(heads * width).reshape(-1, groups, width).swapaxes(0, 1).ravel()

    if end == "out_proj.weight":
        return making._replace(columns=order(width))
    if end in ("in_proj_qkv.weight", "conv1d.weight"):
        return making._replace(rows=np.concatenate([np.arange(2 * keys), 2 * keys + order(width)]))
    return making._replace(rows=order(width if end == "in_proj_z.weight" else 1))
