"""Gemma 2, 3, 3n and 4."""

from __future__ import annotations

import math

import numpy as np

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings.common import Config, experts, layer_types, scaled, unscaled, window_period


def gemma2(file: GGUFFile, base: Config) -> Config:
    return {
        "attn_logit_softcapping": file.setting("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.setting("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _query_scale(base, layers_of_27b=46),
    }


def gemma3(file: GGUFFile, base: Config) -> Config:
    window = file.setting("attention.sliding_window", 0)
    period = window_period(file, 6) if window else 1
    base["rope_theta"] = file.setting("rope.freq_base", file.setting("rope.global.freq_base", 1e6))
    return {
        "query_pre_attn_scalar": _query_scale(base, layers_of_27b=62),
        "sliding_window": window or base["max_position_embeddings"],
        "sliding_window_pattern": period,
        "layer_types": layer_types(base, period),
        "rope_local_base_freq": file.setting("rope.freq_base_swa", file.setting("rope.local.freq_base", 1e4)),
        "rope_theta": base["rope_theta"],
        **scaled(file, base),
    }


def _query_scale(base: Config, layers_of_27b: int) -> int:
    """What queries are divided by the root of: the width of a head, but for the 27B models of Gemma 2 and 3."""
    wide = base["hidden_size"] // base["num_attention_heads"]
    return int(wide if base["num_hidden_layers"] == layers_of_27b else base["head_dim"])


def _windows(file: GGUFFile, base: Config) -> list[str]:
    """The kind of each layer's attention."""
    found = file.optional("attention.sliding_window_pattern")
    if not isinstance(found, list):
        return layer_types(base, int(found or 5))
    return ["sliding_attention" if one else "full_attention" for one in found]


def gemma3n(file: GGUFFile, base: Config) -> Config:
    """Gemma 3n; what the file does not say, all of its models have."""
    if file.setting("altup.num_inputs", 4) != 4:
        raise file.error("it has not 4 alternating inputs")
    text = {
        "model_type": "gemma3n_text",
        "num_kv_shared_layers": file.setting("attention.shared_kv_layers"),
        "vocab_size_per_layer_input": file.shape("per_layer_token_embd.weight")[0],
        "hidden_size_per_layer_input": file.setting("embedding_length_per_layer_input"),
        "sliding_window": file.setting("attention.sliding_window"),
        "rope_local_base_freq": file.setting("rope.freq_base_swa", 1e4),
        "final_logit_softcapping": file.setting("final_logit_softcapping", 30.0),
        "layer_types": _windows(file, base),
        "activation_sparsity_pattern": [_below(scale) for scale in file.need("gemma3n.activation_sparsity_scale")],
        "altup_num_inputs": 4,
        "altup_active_idx": file.setting("altup.active_idx", 0),
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "laurel_rank": file.layer_shape("laurel_l.weight")[0],
        **unscaled(file, base),
    }
    return {"text_config": base | text}


def _below(deviations: float) -> float:
    """The part of a normal distribution that lies below so many standard deviations from its mean."""
    return round(0.5 * (1 + math.erf(deviations / 2**0.5)), 6)


def gemma4(file: GGUFFile, base: Config) -> Config:
    """Gemma 4, whose layers with a window have heads of their own width and number."""
    kinds, layers = _windows(file, base), range(base["num_hidden_layers"])
    full = [at for at in layers if kinds[at] == "full_attention"]
    sliding = [at for at in layers if kinds[at] != "full_attention"]
    heads = _by_layer(file, "attention.head_count_kv", layers)
    widths = _by_layer(file, "feed_forward_length", layers)
    values, keys = file.layers_with("attn_v.weight"), file.layers_with("attn_k.weight")
    if (width := file.setting("attention.key_length_swa")) != file.setting("attention.value_length_swa", width):
        raise file.error("its keys and values differ in width")
    factors = np.asarray(file.tensors["rope_freqs.weight"].data).ravel() if "rope_freqs.weight" in file.tensors else [1]
    borrow = file.setting("attention.shared_kv_layers", 0)
    per_layer = file.setting("embedding_length_per_layer_input", 0)
    file.optional("rope.dimension_count_swa")
    own: Config = {
        "head_dim": width,
        "global_head_dim": file.setting("attention.key_length"),
        "num_key_value_heads": heads[sliding[0]] if sliding else heads[0],
        "num_global_key_value_heads": heads[full[0]] if full else None,
        "attention_k_eq_v": any(at in keys and at not in values for at in full if at < len(layers) - borrow),
        "num_kv_shared_layers": borrow,
        "use_double_wide_mlp": len(set(widths)) > 1,
        "hidden_size_per_layer_input": per_layer,
        "vocab_size_per_layer_input": file.shape("per_layer_token_embd.weight")[0] if per_layer else base["vocab_size"],
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": kinds,
        "final_logit_softcapping": file.setting("final_logit_softcapping", 30.0),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": float(np.mean(np.asarray(factors) < 1e29)),
                "rope_theta": file.setting("rope.freq_base", 1e6),
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": file.setting("rope.freq_base_swa", 1e4)},
        },
    }
    if file.optional("expert_count"):
        used = experts(file)
        own |= {"enable_moe_block": True, "num_experts": used["num_experts"]}
        own |= {"top_k_experts": used["num_experts_per_tok"]}
        own |= {"moe_intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1]}
    return own


def _by_layer(file: GGUFFile, name: str, layers: range) -> list[int]:
    found = file.optional(name)
    return found if isinstance(found, list) else [file.setting(name)] * len(layers)
