"""Which tensor of a GGUF file is which parameter of mlx-lm's model, and the arrays that it becomes.

The model itself, made without weights, says which parameters there are and of what shapes; the ``gguf`` package says
what llama.cpp calls them. So a tensor that is missing, too many or of another shape ends the conversion.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import MODEL_ARCH_NAMES, ReaderTensor, get_tensor_name_map
from mlx.utils import tree_flatten

from runner.models.gguf.architectures import Architecture
from runner.models.gguf.blocks import Form, joined_form
from runner.models.gguf.file import GGUFFile
from runner.models.gguf.making import CALLED, Indices, Making, Source, halves_apart, making_of
from runner.models.gguf.settings.rotary import PRECOMPUTED
from runner.words import first_line

_BESIDE = ("v.", "mm.", "a.")  # what reads images and sounds, where a file has it beside the language model


@dataclass(frozen=True, eq=False)
class Slot:
    """A parameter without its last part (weight, bias), which is ``leaf``, and how it is made; of no sources: zeros.

    ``quantisable``: whether mlx-lm's model may have it in blocks.
    """

    layer: str
    leaf: str
    shape: tuple[int, ...]
    making: Making
    quantisable: bool

    @property
    def tensors(self) -> list[ReaderTensor]:
        """The tensors that it comes from."""
        return [source.tensor for source in self.making.sources]

    @property
    def whole(self) -> ReaderTensor | None:
        """The tensor that it is, row by row; None where it is made of others."""
        plain = len(self.making.sources) == 1 and self.making == Making(self.making.sources)
        return self.tensors[0] if plain and self.making.sources[0].is_whole else None

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file it takes."""
        return sum(source.bytes_read for source in self.making.sources)

    def form(self, bits: int | None, group_size: int) -> Form:
        """How MLX holds it: by the file's own blocks or bits, or those asked for."""
        if not self.making.sources or not self.quantisable or self.leaf != "weight":
            return Form(None)
        form = joined_form([source.form(bits, group_size) for source in self.making.sources])
        columns = self.making.columns
        return Form(None) if form.bits and columns is not None and _blocks(columns, form) is None else form

    def arrays(self, dtype: mx.Dtype, form: Form) -> dict[str, mx.array]:
        """The arrays of the parameter by their whole names."""
        name = f"{self.layer}.{self.leaf}".strip(".")
        sources, rows, columns, undo = self.making
        if not sources:
            return {name: mx.zeros(self.shape, dtype)}
        working = mx.float32 if undo else dtype
        parts = [source.arrays(working, self._form_in(source, form)) for source in sources]
        found = {
            leaf: mx.concatenate([part[leaf] for part in parts]) if parts[1:] else parts[0][leaf] for leaf in parts[0]
        }
        if rows is not None:
            found = {leaf: array[mx.array(rows)] for leaf, array in found.items()}
        if columns is not None:
            found = {leaf: _in_order(array, columns, form) for leaf, array in found.items()}
        if undo:
            found = {leaf: undo(array).astype(dtype) for leaf, array in found.items()}
        if "scales" not in found:
            return {name: found["weight"].reshape(self.shape)}
        leading = self.shape[:-1]
        return {f"{self.layer}.{leaf}": array.reshape(*leading, -1) for leaf, array in found.items()}

    def _form_in(self, source: Source, form: Form) -> Form:
        """The form that one of several tensors is decoded in: its own levels stay, in more bits if need be."""
        if not form.bits or len(self.making.sources) == 1:
            return form
        own = source.form()
        stays = own.exact and own[1:3] == form[1:3] and 0 < (own.bits or 0) <= form.bits
        return form._replace(exact=stays)


def slots(file: GGUFFile, architecture: Architecture, config: dict[str, Any]) -> list[Slot]:
    """All parameters, in the order of their tensors in the file."""
    shapes, quantisable = _parameters(file, config)
    names = _names(file, config)
    inner = config.get("text_config", config)
    found: dict[str, Slot] = {}
    for parameter, shape in shapes.items():
        layer, leaf = _split(parameter)
        original = architecture.original(parameter.replace("language_model.", ""))
        name = _tensor_name(file, names, original)
        if name == "output.weight" and name not in file.tensors:
            name = "token_embd.weight"
        if name not in file.tensors and (bare := name.removesuffix(".weight")) in file.tensors:
            name = bare  # as Falcon-H1's files have one of their norms
        making = making_of(file, name, original, shape, inner, architecture.tiled)
        if not making.sources and not name.endswith(".bias"):
            raise file.error(f"it lacks the tensor {name}")
        _check_shape(file, making, shape)
        if architecture.interleaved and layer.endswith(("q_proj", "k_proj")):
            making = making._replace(rows=halves_apart(shape[0], config["head_dim"]))
        if architecture.norm_offset and parameter.endswith("norm.weight"):
            making = making._replace(undo=partial(_less, architecture.norm_offset))
        found[parameter] = Slot(layer, leaf, shape, making, layer in quantisable)
    used = {tensor.name for slot in found.values() for tensor in slot.tensors}
    for name in file.tensors.keys() - used:
        if name not in PRECOMPUTED and not name.startswith(_BESIDE) and not _idle(file, name, inner):
            raise file.error(f"tensor {name} is not part of mlx-lm's {config['model_type']}")
    order = {name: at for at, name in enumerate(file.tensors)}
    return sorted(found.values(), key=lambda slot: order[slot.tensors[0].name] if slot.tensors else len(order))


def _idle(file: GGUFFile, name: str, config: dict[str, Any]) -> bool:
    """Whether a tensor is of a layer that predicts further tokens, or of keys that a layer has from an earlier one, or
    an embedding's copy for a model that has it only once.
    """
    if name == "output.weight" and config["tie_word_embeddings"]:
        return True
    if (of_layer := re.match(r"blk\.(\d+)\.(.*)", name)) is None:
        return False
    at, layers = int(of_layer[1]), config["num_hidden_layers"]
    borrows = at >= layers - config.get("num_kv_shared_layers", 0)
    predicts = layers <= at < file.setting("block_count")
    return predicts or (borrows and of_layer[2].startswith(("attn_k", "attn_v")))


def _parameters(file: GGUFFile, config: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The shapes of the model's parameters by name, and its layers that can be quantised; nothing is computed."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    try:
        model = module.Model(module.ModelArgs.from_dict(config))
    except Exception as error:  # whatever the model's own class meets in settings that it does not take
        raise file.error(f"mlx-lm's {config['model_type']} does not take its settings: {first_line(error)}") from error
    if config["tie_word_embeddings"] and hasattr(model, "sanitize"):
        # Some models learn from the weights that they have no head of their own.
        model.sanitize({name: one for name, one in tree_flatten(model.parameters()) if not name.startswith("lm_head.")})
    quantisable = {name for name, module in model.named_modules() if hasattr(module, "to_quantized")}
    return {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}, quantisable


def _names(file: GGUFFile, config: dict[str, Any]) -> Any:
    known = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
    if file.architecture not in known:
        raise file.error(f"the gguf package that is installed does not know {file.architecture}; upgrade it")
    return get_tensor_name_map(known[file.architecture], config["num_hidden_layers"])


def _tensor_name(file: GGUFFile, names: Any, parameter: str) -> str:
    """What llama.cpp calls a parameter; mlx-lm has names of its own for some."""
    if of_layer := re.search(r"layers\.(\d+)(\..+)", parameter):
        ending = next((ending for ending in CALLED if of_layer[2].endswith(ending)), None)
        if ending:
            return f"blk.{of_layer[1]}.{CALLED[ending]}"
    layer, leaf = _split(parameter)
    stem, _, number = layer.rpartition(".")
    spellings = (
        layer,
        layer.replace("switch_mlp", "experts"),
        layer.replace("block_sparse_moe.switch_mlp", "mlp.experts"),
    )
    if found := next(filter(None, map(names.get_name, spellings)), None):
        return f"{found}.{leaf or 'weight'}"
    if number.isdigit() and (found := names.get_name(stem.removesuffix(".norms"))):
        return f"{found}.{number}.{leaf}"
    raise file.error(f"llama.cpp has no name for {layer}")


def _split(parameter: str) -> tuple[str, str]:
    """The layer and the last part of the name; "" for what is a parameter by itself (attention sinks)."""
    layer, _, leaf = parameter.rpartition(".")
    return (layer, leaf) if leaf in ("weight", "bias") else (parameter, "")


def _check_shape(file: GGUFFile, making: Making, shape: tuple[int, ...]) -> None:
    for source in making.sources[:1]:
        stored = tuple(int(n) for n in reversed(source.tensor.shape))
        if source.is_whole and len(making.sources) == 1:
            right = tuple(_without_ones(stored)) == tuple(_without_ones(shape))
            right |= len(shape) == 1 and math.prod(stored) == shape[0]  # of a vector, in groups
        else:
            right = sum(one.numbers for one in making.sources) == math.prod(shape)
        if not right:
            raise file.error(f"tensor {source.tensor.name} has the shape {stored}, and its settings say {shape}")


def _without_ones(shape: tuple[int, ...]) -> Iterator[int]:
    return (n for n in shape if n != 1)


def _less(offset: float, array: mx.array) -> mx.array:
    return array - offset


def _blocks(columns: Indices, form: Form) -> Indices | None:
    """The order of whole groups of columns; None where groups do not stay together."""
    if len(columns) % form.group_size:
        return None
    groups = columns.reshape(-1, form.group_size)
    whole = (groups == groups[:, :1] + np.arange(form.group_size)).all() and (groups[:, 0] % form.group_size == 0).all()
    return groups[:, 0] // form.group_size if whole else None


def _in_order(array: mx.array, columns: Indices, form: Form) -> mx.array:
    """The columns of plain numbers, packed levels or their groups' scales [R, ...] in the order of ``columns``."""
    blocks = _blocks(columns, form) if form.bits else columns
    assert blocks is not None  # or else it has no blocks
    order = mx.array(blocks)
    return array.reshape(len(array), len(order), -1)[:, order].reshape(len(array), -1)
