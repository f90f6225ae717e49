"""Quantised matrices in the names and shapes of mlx-lm's models.

mlx-lm's models know the names of plain checkpoints: they stack experts and split or rename matrices in ``sanitize``.
What that does to a matrix's rows it does to the rows of its packed levels, scales and biases, too: each of the three is
sent through it as if it were the matrix. A matrix whose columns are touched does not fit afterwards, and becomes plain.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from runner.models.quantised.matrices import Arrays, separate
from runner.models.quantised.methods import Form

log = logging.getLogger("rowmill")

ANY = {"group_size": 32, "bits": 4}  # mlx-lm takes those of each matrix from its shapes
_MEASURED = 8  # matrices of a form whose rounding is measured

Sanitize = Callable[[Arrays], Arrays]


def classes(settings: dict[str, Any], packed: bool) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """For ``mlx_lm.utils.load_model``: models that read a checkpoint with these settings, ``packed`` or as float32."""
    from mlx_lm.utils import _get_classes

    def find(config: dict[str, Any]) -> tuple[Any, Any]:
        model_class, arguments = _get_classes(config)

        def build(given: Any) -> Any:
            model = model_class(given)
            own: Sanitize = getattr(model, "sanitize", dict)
            model.sanitize = lambda tensors: _named(own, tensors, settings, packed)
            return model

        return build, arguments

    return find


def _named(own: Sanitize, tensors: Arrays, settings: dict[str, Any], packed: bool) -> Arrays:
    plain, matrices = separate(tensors, settings)
    dtype = _dtype(plain) if packed else mx.float32
    whole = own(plain | {f"{layer}.weight": one.plain.astype(dtype) for layer, one in matrices.items()})
    if not packed:
        return whole
    parts = {layer: found for layer, one in matrices.items() if (found := one.packed(dtype)) is not None}
    rounded = defaultdict(list)
    for layer in parts:
        if form := matrices[layer].rounded:
            rounded[form].append(layer)
    for form, layers in rounded.items():
        _tell(form, layers, tensors, settings, dtype)
    named = []
    for part in range(3):
        sent = {f"{layer}.weight": one.plain for layer, one in matrices.items() if layer not in parts}
        named.append(own(plain | sent | {f"{layer}.weight": found[part] for layer, found in parts.items()}))
    result: Arrays = {}
    for name, array in whole.items():
        weight, scales, biases = (found.get(name) for found in named)
        if weight is None or scales is None or biases is None or not _fits(array, weight, scales):
            result[name] = array
            continue
        layer = name.removesuffix("weight")
        result |= {name: weight, f"{layer}scales": scales, f"{layer}biases": biases}
    return result


def _tell(form: Form, layers: list[str], tensors: Arrays, settings: dict[str, Any], dtype: mx.Dtype) -> None:
    """Say what is rounded to a form, and how far some of these matrices are from the checkpoint's numbers then.

    They are separated once more, so that no plain numbers stay in memory.
    """
    errors = []
    for layer in layers[:: -(-len(layers) // _MEASURED)]:
        own = {name: array for name, array in tensors.items() if name.startswith(f"{layer}.")}
        errors += [one.error(dtype) for one in separate(own, settings)[1].values()]
    mean = (sum(error * error for error in errors) / len(errors)) ** 0.5
    log.info(
        "matrices quantised by %s: %s rounded to %d bits in groups of %d, %.1f%% from the checkpoint's numbers",
        settings["quant_method"],
        f"{len(layers):,}",
        form.bits,
        form.group_size,
        100 * mean,
    )


def _fits(whole: mx.array, weight: mx.array, scales: mx.array) -> bool:
    """Whether these are packed levels and scales of what is ``whole`` when it is plain."""
    rows = whole.shape[:-1]
    return weight.dtype == mx.uint32 and weight.shape[:-1] == rows == scales.shape[:-1] and weight.shape != whole.shape


def _dtype(plain: Arrays) -> mx.Dtype:
    """The type of the checkpoint's embedding, or of another matrix that is plain."""
    kinds = [array.dtype for name, array in sorted(plain.items(), key=lambda one: "embed" not in one[0])]
    return next((kind for kind in kinds if kind in (mx.float16, mx.bfloat16)), mx.bfloat16)
