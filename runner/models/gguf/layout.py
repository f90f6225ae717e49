"""Which tensor of a GGUF file is which parameter of mlx-lm's model, and what is to be done with its rows.

The model itself, made without weights, says which parameters there are and of what shapes; the ``gguf`` package says
what llama.cpp calls them. So a tensor that is missing, too many or of another shape ends the conversion.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from gguf import MODEL_ARCH_NAMES, ReaderTensor, get_tensor_name_map
from mlx.utils import tree_flatten

from runner.models.gguf.architectures import Architecture
from runner.models.gguf.blocks import Form, decode
from runner.models.gguf.file import GGUFFile
from runner.models.gguf.rotary import PRECOMPUTED
from runner.words import first_line

_BESIDE = ("v.", "mm.", "a.")  # what reads images and sounds, where a file has it beside the language model


@dataclass(frozen=True, eq=False)
class Slot:
    """A parameter without its last part (weight, bias), which is ``leaf``, and the tensor that it comes from.

    ``tensor`` None: zeros. ``heads``: of rows that llama.cpp has interleaved. ``offset``: to be taken off.
    """

    layer: str
    leaf: str
    shape: tuple[int, ...]
    tensor: ReaderTensor | None
    heads: int | None = None
    offset: float = 0.0

    def arrays(self, dtype: mx.Dtype, form: Form | None) -> dict[str, mx.array]:
        """The arrays of the parameter by their whole names."""
        if self.tensor is None:
            return {f"{self.layer}.{self.leaf}": mx.zeros(self.shape, dtype)}
        found = decode(self.tensor, mx.float32 if self.offset else dtype, form)
        if self.heads:
            found = {leaf: _halves_apart(array, self.heads) for leaf, array in found.items()}
        if self.offset:
            found = {leaf: (array - self.offset).astype(dtype) for leaf, array in found.items()}
        if self.leaf != "weight" or "scales" not in found:
            return {f"{self.layer}.{self.leaf}".strip("."): found["weight"].reshape(self.shape)}
        leading = self.shape[:-1]
        return {f"{self.layer}.{leaf}": array.reshape(*leading, -1) for leaf, array in found.items()}


def slots(file: GGUFFile, architecture: Architecture, config: dict[str, Any]) -> list[Slot]:
    """All parameters, in the order of their tensors in the file."""
    shapes = _parameters(file, config)
    names = _names(file, config)
    found, used = {}, set()
    for parameter, shape in shapes.items():
        layer, leaf = _split(parameter)
        name = f"{_tensor_name(file, names, layer)}.{leaf or 'weight'}"
        if layer == "lm_head" and name not in file.tensors:
            name = "token_embd.weight"
        tensor = file.tensors.get(name)
        if tensor is None and leaf != "bias":
            raise file.error(f"it lacks the tensor {name}")
        _check_shape(file, tensor, shape)
        used.add(name)
        rotated = architecture.interleaved and layer.endswith(("q_proj", "k_proj"))
        heads = config["num_attention_heads" if layer.endswith("q_proj") else "num_key_value_heads"]
        offset = architecture.norm_offset if parameter.endswith("norm.weight") else 0.0
        found[parameter] = Slot(layer, leaf, shape, tensor, heads if rotated else None, offset)
    for name in file.tensors.keys() - used:
        if name not in PRECOMPUTED and not name.startswith(_BESIDE):
            raise file.error(f"tensor {name} is not part of mlx-lm's {config['model_type']}")
    order = {name: at for at, name in enumerate(file.tensors)}
    return sorted(found.values(), key=lambda slot: order[slot.tensor.name] if slot.tensor else len(order))


def _parameters(file: GGUFFile, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's parameters by name; nothing is computed."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    try:
        model = module.Model(module.ModelArgs.from_dict(config))
    except Exception as error:  # whatever the model's own class meets in settings that it does not take
        raise file.error(f"mlx-lm's {config['model_type']} does not take its settings: {first_line(error)}") from error
    if config["tie_word_embeddings"] and hasattr(model, "sanitize"):
        model.sanitize({})  # some models learn from the weights that they have no head of their own
    return {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}


def _names(file: GGUFFile, config: dict[str, Any]) -> Any:
    known = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
    if file.architecture not in known:
        raise file.error(f"the gguf package that is installed does not know {file.architecture}; upgrade it")
    return get_tensor_name_map(known[file.architecture], config["num_hidden_layers"])


def _tensor_name(file: GGUFFile, names: Any, layer: str) -> str:
    """What llama.cpp calls a layer; mlx-lm has a name of its own for experts that are stacked."""
    spellings = (
        layer,
        layer.replace("switch_mlp", "experts"),
        layer.replace("block_sparse_moe.switch_mlp", "mlp.experts"),
    )
    if found := next(filter(None, map(names.get_name, spellings)), None):
        return str(found)
    raise file.error(f"llama.cpp has no name for {layer}")


def _split(parameter: str) -> tuple[str, str]:
    """The layer and the last part of the name; "" for what is a parameter by itself (attention sinks)."""
    layer, _, leaf = parameter.rpartition(".")
    return (layer, leaf) if leaf in ("weight", "bias") else (parameter, "")


def _check_shape(file: GGUFFile, tensor: ReaderTensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        return
    stored = tuple(int(n) for n in reversed(tensor.shape))
    if tuple(_without_ones(stored)) != tuple(_without_ones(shape)):
        raise file.error(f"tensor {tensor.name} has the shape {stored}, and its settings say {shape}")


def _without_ones(shape: tuple[int, ...]) -> Iterator[int]:
    return (n for n in shape if n != 1)


def _halves_apart(tensor: mx.array, heads: int) -> mx.array:
    """Undo llama.cpp's row order, which lays the two halves of each rotated pair side by side: (D/2, 2) -> (2, D/2)."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)
