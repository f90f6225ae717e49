"""What a conversion has lost: a short text's perplexity with its weights, and with the file's.

Each is one forward pass over the same 256 tokens in float32, a layer at a time: its weights are read, used, and let
go. The two differ in the tensors that were rounded, and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf import quants
from mlx.utils import tree_map, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.mla import MultiLinear, QuantizedMultiLinear
from mlx_lm.utils import dequantize_model, load_model

from runner.machine.sums import normaliser
from runner.models.gguf.blocks import Form
from runner.models.gguf.layout import Slot
from runner.models.gguf.reader import rows_of

TOKENS = 256
_MATRICES = (nn.Embedding, nn.Linear, nn.QuantizedEmbedding, nn.QuantizedLinear)
_ROWS = 8192  # of the head's matrix, dequantised at a time


class Perplexities(NamedTuple):
    """Of ``tokens`` tokens: under the ``converted`` model, and under the numbers of the ``file``."""

    converted: float
    file: float
    tokens: int

    @classmethod
    def of(cls, folder: Path, rounded: Iterable[Slot], ids: list[int]) -> Perplexities:
        """Measure them for the model in ``folder``, of whose tensors ``rounded`` are not what the file says."""
        tokens = ids[: TOKENS + 1]
        slots = {slot.layer: slot for slot in rounded}
        converted, file = (round(_perplexity(folder, replaced, tokens), 4) for replaced in ({}, slots))
        return cls(converted, file, len(tokens) - 1)

    def in_words(self) -> str:
        """For people."""
        more = self.converted / self.file - 1
        return (
            f"perplexity of a short text: {self.converted:.2f} converted, {self.file:.2f} by the file's own numbers "
            f"({more:+.1%}, {self.tokens} tokens)"
        )


def _perplexity(folder: Path, replaced: dict[str, Slot], ids: list[int]) -> float:
    model, _ = load_model(folder, lazy=True, trust_remote_code=False)
    model.set_dtype(mx.float32)
    layers, prefix = _layers(model)
    for at, layer in enumerate(layers):
        start = f"{prefix}.{at}."
        layers[at] = _Layer(layer, {name.removeprefix(start): one for name, one in replaced.items() if start in name})
    for name, module in model.named_modules():
        if isinstance(module, _MATRICES) and not name.startswith(f"{prefix}."):
            parent, _, leaf = name.rpartition(".")
            _put(model, parent, leaf, _Matrix(module, replaced.get(name)))
    cache = make_prompt_cache(model)
    logits = model(mx.array([ids[:-1]]), cache=cache)[0]
    losses = normaliser(logits) - mx.take_along_axis(logits, mx.array(ids[1:])[:, None], axis=-1)[:, 0]
    return math.exp(np.array(losses).mean(dtype=np.float64))


def _layers(model: nn.Module) -> tuple[list[Any], str]:
    """The list of the model's layers, and what it is called."""
    first = model.layers[0]
    for name, module in model.named_modules():
        for key, found in module.items():
            if isinstance(found, list) and found and found[0] is first:
                return found, f"{name}.{key}".strip(".")
    raise ValueError(f"{type(model).__module__} has no layers")


def _put(model: nn.Module, parent: str, leaf: str, value: Any) -> None:
    inner: Any = model
    for part in filter(None, parent.split(".")):
        inner = inner[int(part)] if part.isdigit() else inner[part]
    inner[int(leaf) if leaf.isdigit() else leaf] = value


def _dequantise(layer: nn.Module) -> None:
    """Let all matrices be plain numbers; mlx-lm's own function leaves those of latent keys and values as they are."""
    dequantize_model(layer)
    for name, module in layer.named_modules():
        if isinstance(module, QuantizedMultiLinear):
            plain = MultiLinear(1, 1, 1)
            options = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            plain.weight = mx.dequantize(module.weight, module.scales, module.get("biases"), **options)
            layer.update_modules(tree_unflatten([(name, plain)]))


class _Layer:
    """A layer of the model that has its weights only while it is called."""

    def __init__(self, layer: Any, replaced: dict[str, Slot]):
        self._layer, self._replaced = layer, replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *given: Any, **named: Any) -> mx.array:
        layer = self._layer
        _dequantise(layer)
        for name, slot in self._replaced.items():
            (weight,) = slot.arrays(mx.float32, Form(None)).values()
            layer.update(tree_unflatten([(f"{name}.weight", weight)]))
        out: mx.array = layer(*given, **named)
        mx.eval(out)
        layer.update(tree_map(lambda _: mx.array([]), layer.parameters()))
        mx.clear_cache()
        return out


class _Matrix:
    """An embedding, a head or another matrix outside of the layers: some rows at a time, from the model or the file."""

    def __init__(self, module: Any, slot: Slot | None):
        self._module, self._slot = module, slot
        self._tensor = slot.whole if slot else None

    def __call__(self, x: mx.array) -> mx.array:
        """The rows of ids, or the product with the matrix."""
        return self._rows(x) if mx.issubdtype(x.dtype, mx.integer) else self.as_linear(x)

    def as_linear(self, x: mx.array) -> mx.array:
        """The product with the matrix."""
        count = self._module.weight.shape[0]
        parts = []
        for start in range(0, count, _ROWS):
            parts.append(x @ self._rows(mx.arange(start, min(start + _ROWS, count))).T)
            mx.eval(parts[-1])
        return mx.concatenate(parts, axis=-1)

    def _rows(self, ids: mx.array) -> mx.array:
        if self._tensor is not None:
            stored = rows_of(self._tensor, np.array(ids).ravel())
            return mx.array(quants.dequantize(stored, self._tensor.tensor_type)).reshape(*ids.shape, -1)
        module = self._module
        if self._slot is not None:
            (whole,) = self._slot.arrays(mx.float32, Form(None)).values()
            return whole[ids]
        rows: mx.array = module.weight[ids]
        if "scales" not in module:
            return rows
        biases = module.biases[ids] if module.get("biases") is not None else None
        options = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        return mx.dequantize(rows, module.scales[ids], biases, **options).astype(mx.float32)
