"""What each architecture's settings in a GGUF file are called in mlx-lm's config.json.

Each function takes the file and what all architectures have, and returns what this one has of its own.
"""

from __future__ import annotations

from typing import Any

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.rotary import rope_scaling

Config = dict[str, Any]


def _biases(file: GGUFFile) -> Config:
    found = {"attention_bias": ("attn_q.bias", "attn_output.bias"), "mlp_bias": ("ffn_up.bias", "ffn_down.bias")}
    return {key: True for key, names in found.items() if file.has(*names)}


def scaled(file: GGUFFile, base: Config) -> Config:
    return {"rope_scaling": rope_scaling(file, base["head_dim"], base["rope_theta"])}


def llama(file: GGUFFile, base: Config) -> Config:
    return {**_biases(file), **scaled(file, base)}


def _experts(file: GGUFFile, count: str = "num_experts") -> Config:
    return {count: file.setting("expert_count"), "num_experts_per_tok": file.setting("expert_used_count")}


def mixtral(file: GGUFFile, base: Config) -> Config:
    return {**_experts(file, "num_local_experts"), **scaled(file, base)}


def ministral(file: GGUFFile, base: Config) -> Config:
    scaling = rope_scaling(file, base["head_dim"], base["rope_theta"]) or {"rope_type": "default"}
    # llama.cpp's rotation cancels the factor that both of these give.
    scaling |= {key: file.setting("rope.scaling.yarn_log_multiplier", 0.0) for key in ("mscale", "mscale_all_dim")}
    original = file.setting("rope.scaling.original_context_length", base["max_position_embeddings"])
    own = {
        "rope_theta": base["rope_theta"],
        "llama_4_scaling_beta": file.setting("attention.temperature_scale"),
        "original_max_position_embeddings": original,
    }
    return {"rope_parameters": scaling | own}


def qwen2_moe(file: GGUFFile, base: Config) -> Config:
    widths = {
        "moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1],
        "shared_expert_intermediate_size": file.shape("blk.0.ffn_gate_shexp.weight")[0],
    }
    return {**_experts(file), **widths, **scaled(file, base)}


def qwen3_moe(file: GGUFFile, base: Config) -> Config:
    own = {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    widths = {"moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1]}
    return {**_experts(file), **widths, **own, **scaled(file, base)}


def gemma2(file: GGUFFile, base: Config) -> Config:
    return {
        "attn_logit_softcapping": file.setting("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.setting("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _query_scale(base, layers_of_27b=46),
    }


def gemma3(file: GGUFFile, base: Config) -> Config:
    layers = base["num_hidden_layers"]
    window = file.setting("attention.sliding_window", 0)
    period = _period(file, 6) if window else 1
    sliding = ["full_attention" if (at + 1) % period == 0 else "sliding_attention" for at in range(layers)]
    base["rope_theta"] = file.setting("rope.freq_base", file.setting("rope.global.freq_base", 1e6))
    return {
        "query_pre_attn_scalar": _query_scale(base, layers_of_27b=62),
        "sliding_window": window or base["max_position_embeddings"],
        "sliding_window_pattern": period,
        "layer_types": sliding,
        "rope_local_base_freq": file.setting("rope.freq_base_swa", file.setting("rope.local.freq_base", 1e4)),
        "rope_theta": base["rope_theta"],
        **scaled(file, base),
    }


def _query_scale(base: Config, layers_of_27b: int) -> int:
    """What queries are divided by the root of: the width of a head, but for the 27B models of Gemma 2 and 3."""
    wide = base["hidden_size"] // base["num_attention_heads"]
    return int(wide if base["num_hidden_layers"] == layers_of_27b else base["head_dim"])


def _period(file: GGUFFile, usual: int) -> int:
    """Every how many layers one attends to all tokens; UserError for a pattern that is not so."""
    found = file.optional("attention.sliding_window_pattern")
    if not isinstance(found, list):
        return int(found or usual)
    period = found.index(False) + 1 if False in found else 0
    if not period or found != [(at + 1) % period != 0 for at in range(len(found))]:
        raise file.error("its layers with a sliding window follow no simple pattern")
    return period


def phi3(file: GGUFFile, base: Config) -> Config:
    scaling = rope_scaling(file, base["head_dim"], base["rope_theta"])
    original = file.setting("rope.scaling.original_context_length", base["max_position_embeddings"])
    return {
        "intermediate_size": file.shape("blk.0.ffn_down.weight")[1],
        "partial_rotary_factor": file.setting("rope.dimension_count", base["head_dim"]) / base["head_dim"],
        "original_max_position_embeddings": original,
        "rope_scaling": scaling,
    }


def gpt_oss(file: GGUFFile, base: Config) -> Config:
    layers = ["full_attention" if at % 2 else "sliding_attention" for at in range(base["num_hidden_layers"])]
    return {
        "intermediate_size": file.shape("blk.0.ffn_down_exps.weight")[2],
        **_experts(file, "num_local_experts"),
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": layers,
        **scaled(file, base),
    }


def granite(file: GGUFFile, base: Config) -> Config:
    if not file.setting("rope.scaling.finetuned", True):
        raise file.error("it rotates no positions")
    return {
        "logits_scaling": file.setting("logit_scale"),
        "attention_multiplier": file.setting("attention.scale", base["head_dim"] ** -0.5),
        "embedding_multiplier": file.setting("embedding_scale", 1.0),
        "residual_multiplier": file.setting("residual_scale", 1.0),
        "attention_bias": False,
        "mlp_bias": False,
        **_biases(file),
        **scaled(file, base),
        **(_experts(file, "num_local_experts") if file.optional("expert_count") else {}),
    }


def olmo3(file: GGUFFile, base: Config) -> Config:
    period = _period(file, 4)
    layers = range(base["num_hidden_layers"])
    return {
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": ["full_attention" if (at + 1) % period == 0 else "sliding_attention" for at in layers],
        **scaled(file, base),
    }


def unscaled(file: GGUFFile, base: Config) -> Config:
    """Nothing; UserError for rotary positions that are stretched, which mlx-lm's model does not know."""
    if rope_scaling(file, base["head_dim"], base["rope_theta"]):
        raise file.error("its rotary positions are stretched, which mlx-lm's model does not know")
    return {}


def _rotated(file: GGUFFile, base: Config) -> float:
    """The part of each head that is rotated."""
    return float(file.setting("rope.dimension_count", base["head_dim"]) / base["head_dim"])


def with_images(file: GGUFFile, base: Config) -> Config:
    """Of a model that also reads images: in a text, positions count in one dimension alone."""
    for name in ("rope.dimension_sections", "n_deepstack_layers"):
        file.optional(name)  # of images alone
    return scaled(file, base)


def qwen3_vl_moe(file: GGUFFile, base: Config) -> Config:
    return with_images(file, base) | qwen3_moe(file, base)


def olmoe(file: GGUFFile, base: Config) -> Config:
    return {**_experts(file), "norm_topk_prob": False, **scaled(file, base)}


def cohere(file: GGUFFile, base: Config) -> Config:
    """Command R."""
    return {
        "layer_norm_eps": base["rms_norm_eps"],
        "logit_scale": file.setting("logit_scale"),
        "use_qk_norm": file.has("attn_q_norm.weight"),
        **unscaled(file, base),
    }


def cohere2(file: GGUFFile, base: Config) -> Config:
    """Command R7B and its like."""
    window = {"sliding_window": file.setting("attention.sliding_window"), "sliding_window_pattern": _period(file, 4)}
    return {**cohere(file, base), **window}


def exaone(file: GGUFFile, base: Config) -> Config:
    own = {"num_layers": base["num_hidden_layers"], "layer_norm_epsilon": base["rms_norm_eps"]}
    return {**own, **scaled(file, base)}


def exaone4(file: GGUFFile, base: Config) -> Config:
    window = file.setting("attention.sliding_window", 0)
    return {
        "sliding_window": window,
        "sliding_window_pattern": "L" * (_period(file, 4) - 1) + "G" if window else "",
        "rope_scaling": rope_scaling(file, base["head_dim"], base["rope_theta"]) or {"rope_type": "default"},
    }


def ernie(file: GGUFFile, base: Config) -> Config:
    return {"use_bias": file.has("attn_q.bias", "attn_output.bias", "ffn_up.bias"), **unscaled(file, base)}


def glm4(file: GGUFFile, base: Config) -> Config:
    own = {"attention_bias": file.has("attn_q.bias"), "partial_rotary_factor": _rotated(file, base)}
    return {**own, **unscaled(file, base)}


def hunyuan(file: GGUFFile, base: Config) -> Config:
    """Its stretched positions are part of the base frequency already."""
    return {"use_qk_norm": file.has("attn_q_norm.weight"), **_biases(file), **unscaled(file, base)}


def lfm2(file: GGUFFile, base: Config) -> Config:
    """LFM2, most of whose layers are short convolutions, which have no keys."""
    layers = range(base["num_hidden_layers"])
    attends = [f"blk.{at}.attn_k.weight" in file.tensors for at in layers]
    return {
        "norm_eps": base["rms_norm_eps"],
        "conv_bias": False,
        "conv_L_cache": file.setting("shortconv.l_cache"),
        "block_dim": base["hidden_size"],
        "block_ff_dim": base["intermediate_size"],
        "block_multiple_of": 1,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention" if one else "conv" for one in attends],
        **unscaled(file, base),
    }


def minicpm(file: GGUFFile, base: Config) -> Config:
    return {
        "scale_emb": file.setting("embedding_scale"),
        "scale_depth": file.setting("residual_scale") * base["num_hidden_layers"] ** 0.5,
        "dim_model_base": base["hidden_size"] / file.setting("logit_scale"),
        **scaled(file, base),
    }


def nemotron(file: GGUFFile, base: Config) -> Config:
    own = {"norm_eps": base["rms_norm_eps"], "hidden_act": "relu2", "partial_rotary_factor": _rotated(file, base)}
    return {**own, **_biases(file), **scaled(file, base)}


def starcoder2(file: GGUFFile, base: Config) -> Config:
    return {"norm_epsilon": base["rms_norm_eps"], **unscaled(file, base)}
