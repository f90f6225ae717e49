"""How a GGUF file stretches its rotary positions, as ``rope_scaling`` in config.json has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.models.gguf.file import GGUFFile

# Llama 3's own: a GGUF file holds only the factors that follow from them, and that of the lowest frequencies.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_FACTORS = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
PRECOMPUTED = (_FACTORS, _LONG, _SHORT)  # tensors that become part of the configuration


def rope_scaling(file: GGUFFile, width: int, theta: float) -> dict[str, Any] | None:
    """None for positions as they are; UserError for a way that mlx-lm does not know."""
    kind = file.setting("rope.scaling.type", "linear")
    factor = file.setting("rope.scaling.factor", file.setting("rope.scale_linear", 1.0)) or 1.0
    if _FACTORS in file.tensors:
        if kind != "none" and factor != 1.0:
            raise file.error("its rotary positions are stretched in two ways")
        return _llama3(file, width, theta)
    if _LONG in file.tensors:
        return _longrope(file)
    if kind == "yarn":
        return _yarn(file, factor)
    if kind not in ("none", "linear"):
        raise file.error(f"rotary positions scaled by {kind} are not supported")
    return None if factor == 1.0 or kind == "none" else {"rope_type": "linear", "type": "linear", "factor": factor}


def _yarn(file: GGUFFile, factor: float) -> dict[str, Any]:
    if any((file.optional(f"rope.scaling.{name}attn_factor") or 1.0) != 1.0 for name in ("", "yarn_")):
        raise file.error("its rotary positions have an attention factor of their own")
    betas = {name: file.optional(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
    return {
        "rope_type": "yarn",
        "type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.setting(
            "rope.scaling.original_context_length", file.setting("context_length")
        ),
        **{name: value for name, value in betas.items() if value is not None},
    }


def _longrope(file: GGUFFile) -> dict[str, Any]:
    length = file.setting("context_length")
    original = file.setting("rope.scaling.original_context_length", length)
    # What mlx-lm's models make of the two lengths.
    factor = math.sqrt(1 + math.log(max(1.0, length / original)) / math.log(original))
    if not math.isclose(file.setting("rope.scaling.attn_factor", factor), factor, rel_tol=1e-3):
        raise file.error("its rotary positions have an attention factor of their own")
    return {
        "rope_type": "longrope",
        "type": "longrope",
        # mlx-lm's models take these for all texts; of a model without longer ones, the short ones are right.
        "long_factor": _values(file, _LONG if length > original else _SHORT).tolist(),
        "short_factor": _values(file, _SHORT).tolist(),
        "original_max_position_embeddings": original,
    }


def _llama3(file: GGUFFile, width: int, theta: float) -> dict[str, Any] | None:
    found = _values(file, _FACTORS)
    factor = float(found.max())
    if factor == 1.0 and found.min() == 1.0:
        return None
    scaling = {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    if len(found) != width // 2 or not np.allclose(found, _llama3_factors(scaling, width, theta), rtol=1e-3):
        raise file.error("the factors of its rotary positions are not those of Llama 3")
    return scaling


def _llama3_factors(scaling: dict[str, Any], width: int, theta: float) -> npt.NDArray[np.float64]:
    lengths = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    blend = np.clip((scaling["original_max_position_embeddings"] / lengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - blend) / factor + blend))


def _values(file: GGUFFile, name: str) -> npt.NDArray[np.float32]:
    return np.asarray(file.tensors[name].data, np.float32).ravel()
