"""What many architectures have in common: rotary positions, biases, experts and layers with a window."""

from __future__ import annotations

from typing import Any

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings.rotary import rope_scaling

Config = dict[str, Any]


def biases(file: GGUFFile) -> Config:
    found = {"attention_bias": ("attn_q.bias", "attn_output.bias"), "mlp_bias": ("ffn_up.bias", "ffn_down.bias")}
    return {key: True for key, names in found.items() if file.has(*names)}


def scaled(file: GGUFFile, base: Config) -> Config:
    found = rope_scaling(file, base["head_dim"], base["rope_theta"])
    return {"rope_scaling": found} if found else {}


def unscaled(file: GGUFFile, base: Config) -> Config:
    """Nothing; UserError for rotary positions that are stretched, which mlx-lm's model does not know."""
    if rope_scaling(file, base["head_dim"], base["rope_theta"]):
        raise file.error("its rotary positions are stretched, which mlx-lm's model does not know")
    return {}


def window_period(file: GGUFFile, usual: int) -> int:
    """Every how many layers one attends to all tokens; UserError for a pattern that is not so."""
    found = file.optional("attention.sliding_window_pattern")
    if not isinstance(found, list):
        return int(found or usual)
    period = found.index(False) + 1 if False in found else 0
    if not period or found != [(at + 1) % period != 0 for at in range(len(found))]:
        raise file.error("its layers with a sliding window follow no simple pattern")
    return period


def layer_types(base: Config, period: int) -> list[str]:
    """The kind of each layer's attention: every ``period``-th attends to all tokens."""
    layers = range(1, base["num_hidden_layers"] + 1)
    return ["sliding_attention" if at % period else "full_attention" for at in layers]


def windowed(file: GGUFFile, base: Config, usual: int) -> Config:
    """Layers with a window, of which every so many, as a file says or as is ``usual``, attend to all tokens."""
    period = window_period(file, usual)
    return {"sliding_window": file.setting("attention.sliding_window"), "layer_types": layer_types(base, period)}


def rotated(file: GGUFFile, base: Config) -> float:
    """The part of each head that is rotated."""
    return float(file.setting("rope.dimension_count", base["head_dim"]) / base["head_dim"])


def with_images(file: GGUFFile, base: Config) -> Config:
    """Of a model that also reads images: in a text, positions count in one dimension alone."""
    for name in ("rope.dimension_sections", "n_deepstack_layers"):
        file.optional(name)  # of images alone
    return scaled(file, base)


def experts(file: GGUFFile, count: str = "num_experts") -> Config:
    return {count: file.setting("expert_count"), "num_experts_per_tok": file.setting("expert_used_count")}
