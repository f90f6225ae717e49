"""Which way a checkpoint is quantised by its configuration; what it takes once loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from runner.types import UserError

WIDTHS = (2, 3, 4, 5, 6, 8)  # bits that MLX has
GROUPS = (128, 64, 32)  # and weights that share a scale
_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq"}
_MXFP4 = "mxfp4-pack-quantized"  # of compressed-tensors, which mlx-lm reads for the models that have it
_MLX_LMS = ("bitnet", "mxfp4", "mxfp8")
_OURS = ("gptq", "awq", "auto-round", "compressed-tensors", "fp8", "fbgemm_fp8", "bitsandbytes", "modelopt")
_PACKED = ("qweight", "weight_packed")
OF_INPUTS = (  # what would quantise what is computed, which is not done
    *("input_scale", "activation_scale", "output_scale", "input_global_scale", "q_scale", "k_scale", "v_scale"),
    *("input_zero_point", "output_zero_point", "q_zero_point", "k_zero_point", "v_zero_point"),
)
_BESIDE = [
    *("qzeros", "g_idx", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point", "weight_shape"),
    *("weight_g_idx", "weight_global_scale", "SCB", "weight_format", "absmax", "quant_map", "nested_absmax"),
    *("nested_quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4", *OF_INPUTS),
]


class Form(NamedTuple):
    """How MLX holds a matrix: bits a weight, and how many weights share a scale and a bias."""

    bits: int
    group_size: int = 32


def rounded(bits: float) -> Form:
    """For what MLX cannot hold as it is: the next more bits that it has."""
    return Form(next((width for width in WIDTHS if bits <= width), WIDTHS[-1]))


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a model's configuration says of weights that others have quantised; empty for others."""
    found = {} if "quantization" in config else config.get("quantization_config")
    return found if isinstance(found, dict) and "quant_method" in found else {}


def told_beside(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The same from where else checkpoints say it: for the language model alone, or in a file of its own."""
    if found := (config.get("text_config") or {}).get("quantization_config"):
        return found if isinstance(found, dict) else {}
    for name, method in _FILES.items():
        try:
            read = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(read, dict):
            return {"quant_method": method} | (read.get("quantization") or read)
    return {}


def is_ours(folder: Path, config: dict[str, Any]) -> bool:
    """Whether this package reads the checkpoint's matrices. Raises UserError, exit code 3, where nobody here does."""
    settings = settings_of(config)
    method = settings.get("quant_method")
    tiles = settings.get("scale_fmt") == "ue8m0" and list(settings.get("weight_block_size") or ()) == [32, 32]
    if method is None or method in _MLX_LMS or (method == "fp8" and tiles) or settings.get("format") == _MXFP4:
        return False
    unknown = method not in _OURS
    if method == "awq" and settings.get("version", "gemm").lower() != "gemm":
        method, unknown = f"awq in the layout {settings['version']}", True
    if method == "auto-round" and not _packing(settings):
        method, unknown = f"auto-round in the layout {settings.get('packing_format')}", True
    if _turns(settings):
        method, unknown = f"{method} with matrices that turn what is computed (transform_config)", True
    if unknown:
        way = "take the model that it was made from, which `rowmill convert` quantises, or a GGUF file of it"
        raise UserError(f"{folder}: it is quantised by {method}, which is not read; {way}", exit_code=3)
    return True


def _turns(settings: dict[str, Any]) -> bool:
    """Whether compressed-tensors multiplies what is computed, and not weights alone, by further matrices."""
    schemes = ((settings.get("transform_config") or {}).get("config_groups") or {}).values()
    places = [str(one.get("location")) for scheme in schemes for one in scheme.get("apply") or ()]
    return not all(place.startswith("weight_") for place in places)


def layout(settings: dict[str, Any]) -> str:
    """Whose layout ``qweight`` has: gptq or awq."""
    method = settings["quant_method"]
    return _packing(settings) if method == "auto-round" else method


def _packing(settings: dict[str, Any]) -> str:
    """AutoRound's own packing is GPTQ's, but for zeros that are not in the middle."""
    packing = str(settings.get("packing_format", ""))
    return "awq" if "awq" in packing else "gptq" if "gptq" in packing and settings.get("sym", True) else ""


def bits_of(settings: dict[str, Any]) -> int:
    """Of a packed level."""
    return int(settings.get("bits") or _of_groups(settings, "num_bits") or 4)


def block_of(settings: dict[str, Any]) -> list[int] | None:
    """Rows and columns of a block that shares a scale; None: the configuration does not say."""
    found: list[int] | None = settings.get("weight_block_size") or _of_groups(settings, "block_structure")
    return found


def _of_groups(settings: dict[str, Any], name: str) -> Any:
    """What compressed-tensors says of weights."""
    groups = [one.get("weights") or {} for one in (settings.get("config_groups") or {}).values()]
    return next((one[name] for one in groups if one.get(name)), None)


def group_of(each: int) -> int | None:
    """The most weights that share a scale in MLX where ``each`` of a row do; None: it has no such groups."""
    return next((size for size in GROUPS if each % size == 0), None)


def _form(name: str, tensors: dict[str, Any], settings: dict[str, Any]) -> Form | None:
    """How MLX will hold the matrix in a tensor of this name; None if it is none of a quantised matrix."""
    layer, _, leaf = name.rpartition(".")
    beside = {one: tensors[f"{layer}.{one}"] for one in (*_BESIDE, "scales") if f"{layer}.{one}" in tensors}
    four = leaf == "weight" and (f"{name}.absmax" in tensors or "weight_scale_2" in beside)
    if four or (leaf == "weight_packed" and "weight_global_scale" in beside):
        return rounded(4.5)
    if leaf == "weight":
        if not beside.keys() & {"weight_scale", "weight_scale_inv", "SCB"}:
            return None
        if "SCB" not in beside and settings.get("format") != "int-quantized":
            return rounded(8)
        groups = beside["weight_scale"].shape[-1] if "weight_scale" in beside else 1
        return Form(8, group_of(tensors[name].shape[-1] // groups) or 32)
    if leaf not in _PACKED:
        return None
    bits, shape = bits_of(settings), tensors[name].shape
    scales = beside.get("scales" if leaf == "qweight" else "weight_scale")
    if leaf == "qweight":
        columns = shape[0] if layout(settings) == "awq" else shape[0] * 32 // bits
        groups = scales.shape[0] if scales else 1
    else:
        columns, groups = shape[1] * 32 // bits, scales.shape[-1] if scales else 1
    mixed = settings.get("desc_act") and groups > 1
    size = None if mixed else group_of(columns // groups)
    return Form(bits, size) if size else rounded(bits + 0.5)


def count(name: str, tensors: dict[str, Any], settings: dict[str, Any]) -> int | None:
    """How many weights the tensor of this name packs; 0: it belongs to one that does, None: it packs none.

    ``tensors``: all of the checkpoint by name, with ``shape`` and ``size_bytes``.
    """
    layer, _, leaf = name.rpartition(".")
    if leaf in _PACKED:
        return int(tensors[name].size_bytes * 8 // bits_of(settings))
    if settings["quant_method"] == "mxfp4" and leaf.endswith(("_blocks", "_scales")):  # gpt-oss's experts
        return int(tensors[name].size_bytes * 2) if leaf.endswith("_blocks") else 0
    if leaf == "weight" and (f"{name}.absmax" in tensors or f"{layer}.weight_scale_2" in tensors):
        return int(tensors[name].size_bytes * 2)
    return 0 if leaf in _BESIDE or (leaf == "scales" and f"{layer}.qweight" in tensors) else None


def loaded_bytes(name: str, tensors: dict[str, Any], settings: dict[str, Any]) -> int:
    """What the tensor's weights take once they are MLX's, scales and biases of 16 bits included."""
    held = count(name, tensors, settings)
    form = _form(name, tensors, settings)
    if form is None:
        return 0 if held == 0 else int(tensors[name].size_bytes)
    values = held if held is not None else int(tensors[name].size_bytes)
    return values * form.bits // 8 + 4 * values // form.group_size
