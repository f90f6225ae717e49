"""Architectures with experts, and those that keep keys and values in latent form."""

from __future__ import annotations

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings.common import (
    Config,
    experts,
    layer_types,
    rotated,
    scaled,
    unscaled,
    windowed,
    with_images,
)
from runner.models.gguf.settings.rotary import rope_scaling


def mixtral(file: GGUFFile, base: Config) -> Config:
    return {**experts(file, "num_local_experts"), **scaled(file, base)}


def qwen2_moe(file: GGUFFile, base: Config) -> Config:
    widths = {
        "moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1],
        "shared_expert_intermediate_size": file.shape("blk.0.ffn_gate_shexp.weight")[0],
    }
    return {**experts(file), **widths, **scaled(file, base)}


def qwen3_moe(file: GGUFFile, base: Config) -> Config:
    own = {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    widths = {"moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1]}
    return {**experts(file), **widths, **own, **scaled(file, base)}


def gpt_oss(file: GGUFFile, base: Config) -> Config:
    return {
        "intermediate_size": file.shape("blk.0.ffn_down_exps.weight")[2],
        **experts(file, "num_local_experts"),
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": layer_types(base, 2),
        **scaled(file, base),
    }


def qwen3_vl_moe(file: GGUFFile, base: Config) -> Config:
    return with_images(file, base) | qwen3_moe(file, base)


def olmoe(file: GGUFFile, base: Config) -> Config:
    return {**experts(file), "norm_topk_prob": False, **scaled(file, base)}


def gate(file: GGUFFile, default: str, *known: str) -> str:
    """How scores of experts are made of their logits; UserError for a way that is not among those ``known``."""
    number = file.optional("expert_gating_func")
    found = {None: default, 0: default, 1: "softmax", 2: "sigmoid"}.get(number, f"function {number}")
    if found not in known:
        raise file.error(f"its experts are chosen by {found}, which mlx-lm's model does not do")
    return found


def routed(file: GGUFFile) -> Config:
    """Experts beside shared ones, as DeepSeek's configurations name them."""
    if not file.optional("expert_count"):
        return {"first_k_dense_replace": file.setting("block_count")}
    width = file.layer_shape("ffn_down_exps.weight")[-1]
    shared = file.layer_shape("ffn_down_shexp.weight")[-1] if file.has("ffn_down_shexp.weight") else 0
    return {
        **experts(file, "n_routed_experts"),
        "n_shared_experts": shared // width or None,
        "moe_intermediate_size": width,
        "first_k_dense_replace": int(file.setting("leading_dense_block_count", 0)),
        "norm_topk_prob": file.setting("expert_weights_norm", False),
        "routed_scaling_factor": file.setting("expert_weights_scale", 1.0) or 1.0,
        **groups(file),
    }


def renamed(found: Config) -> Config:
    """The same as most others' configurations name them."""
    counts = {"num_experts": found["n_routed_experts"], "num_shared_experts": found["n_shared_experts"] or 0}
    return counts | {key: value for key, value in found.items() if key not in ("n_routed_experts", "n_shared_experts")}


def groups(file: GGUFFile) -> Config:
    """Groups of experts, some of which are chosen first."""
    counts = {"n_group": "expert_group_count", "topk_group": "expert_group_used_count"}
    return {key: file.setting(name, 1) or 1 for key, name in counts.items()}


def latent(file: GGUFFile) -> Config:
    """Keys and values in latent form. Their widths are those of the heads, or as files until 2025 have them."""
    turned = file.setting("rope.dimension_count")
    keys, values = (
        file.setting(f"attention.{name}_length_mla", file.optional(f"attention.{name}_length") or 0)
        for name in ("key", "value")
    )
    for name in ("head_count_kv", "key_length", "value_length"):
        file.optional(f"attention.{name}")  # those of the latent form, which is one head
    return {
        "kv_lora_rank": file.setting("attention.kv_lora_rank"),
        "q_lora_rank": file.optional("attention.q_lora_rank"),
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": keys - turned,
        "v_head_dim": values,
    }


def _deepseek(file: GGUFFile, base: Config) -> Config:
    if file.optional("attention.temperature_scale"):
        raise file.error("it scales attention by position")
    found = latent(file)
    scaling = rope_scaling(file, found["qk_rope_head_dim"], base["rope_theta"])
    if scaling:
        # llama.cpp's rotation cancels what both of these give; the file has a tenth.
        scale = round(10 * file.setting("rope.scaling.yarn_log_multiplier", 0.0), 6)
        scaling |= {"mscale": scale, "mscale_all_dim": scale}
    return {**found, **routed(file), "num_key_value_heads": base["num_attention_heads"], "rope_scaling": scaling}


def deepseek2(file: GGUFFile, base: Config) -> Config:
    """DeepSeek V2, which has no bias of experts and always positions by YaRN."""
    own = _deepseek(file, base)
    if own.get("norm_topk_prob"):
        raise file.error("it normalises the scores of its experts, which mlx-lm's deepseek_v2 does not do")
    method = "group_limited_greedy" if own.get("n_group", 1) > 1 else "greedy"
    unstretched = {"factor": 1.0, "original_max_position_embeddings": base["max_position_embeddings"]}
    return own | {"topk_method": method, "rope_scaling": own["rope_scaling"] or unstretched}


def deepseek3(file: GGUFFile, base: Config) -> Config:
    """DeepSeek V3, Kimi K2 and GLM 4.7 Flash."""
    return _deepseek(file, base)


def glm4_moe(file: GGUFFile, base: Config) -> Config:
    gate(file, "sigmoid", "sigmoid")
    return {
        **routed(file),
        "use_qk_norm": file.has("attn_q_norm.weight"),
        "attention_bias": file.has("attn_q.bias"),
        "partial_rotary_factor": rotated(file, base),
        "rope_scaling": {},
        **unscaled(file, base),
    }


def minimax(file: GGUFFile, base: Config) -> Config:
    """MiniMax M2."""
    gate(file, "sigmoid", "sigmoid")
    return {
        **experts(file, "num_local_experts"),
        "intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1],
        "shared_intermediate_size": 0,
        "rotary_dim": file.setting("rope.dimension_count", base["head_dim"]),
        "use_qk_norm": file.has("attn_q_norm.weight"),
        **unscaled(file, base),
    }


def dots1(file: GGUFFile, base: Config) -> Config:
    gate(file, "sigmoid", "sigmoid")
    return {**routed(file), **scaled(file, base)}


def bailing(file: GGUFFile, base: Config) -> Config:
    """Ling and Ring 1 and 2.0."""
    return {
        **renamed(routed(file)),
        "score_function": gate(file, "sigmoid" if file.has("exp_probs_b.bias") else "softmax", "sigmoid", "softmax"),
        "moe_router_enable_expert_bias": file.has("exp_probs_b.bias"),
        "use_qk_norm": file.has("attn_q_norm.weight"),
        "use_qkv_bias": file.has("attn_qkv.bias"),
        "partial_rotary_factor": rotated(file, base),
        **scaled(file, base),
    }


def llama4(file: GGUFFile, base: Config) -> Config:
    """Llama 4, whose chunks and scales of attention llama.cpp knows by its name."""
    own = {
        "model_type": "llama4_text",
        **experts(file, "num_local_experts"),
        "intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1],
        "intermediate_size_mlp": base["intermediate_size"],
        "interleave_moe_layer_step": file.setting("interleave_moe_layer_step"),
        "attention_chunk_size": 8192,
        "attention_bias": file.has("attn_q.bias"),
        "use_qk_norm": file.setting("expert_count") != 128,
        "rope_scaling": rope_scaling(file, base["head_dim"], base["rope_theta"]),
    }
    if file.optional("attention.sliding_window") == 0:
        raise file.error("all of its layers attend to all tokens, which mlx-lm's llama4 does not do")
    return {"text_config": base | own}


def phimoe(file: GGUFFile, base: Config) -> Config:
    """Phi-3.5-MoE, and those of its like whose positions are not stretched."""
    found = rope_scaling(file, base["head_dim"], base["rope_theta"])
    if found:
        # Those of its configuration, which a file does not have.
        found |= {"long_mscale": 1.243163121016122, "short_mscale": 1.243163121016122}
    original = (found or {}).get("original_max_position_embeddings", base["max_position_embeddings"])
    own = {"original_max_position_embeddings": original, "rope_scaling": found}
    return {**experts(file, "num_local_experts"), **own}


def afmoe(file: GGUFFile, base: Config) -> Config:
    """Trinity: the layers with a window are rotated, and embeddings are scaled."""
    gate(file, "sigmoid", "sigmoid")
    found = renamed(routed(file))
    return {
        **experts(file),
        "moe_intermediate_size": found["moe_intermediate_size"],
        "num_shared_experts": found["num_shared_experts"],
        "num_dense_layers": found["first_k_dense_replace"],
        "route_norm": found["norm_topk_prob"],
        "route_scale": found["routed_scaling_factor"],
        "n_group": found["n_group"],
        "topk_group": found["topk_group"],
        **windowed(file, base, 4),
        "mup_enabled": True,
        **scaled(file, base),
    }


def exaone_moe(file: GGUFFile, base: Config) -> Config:
    """K-EXAONE."""
    gate(file, "sigmoid", "sigmoid")
    found, layers = routed(file), range(base["num_hidden_layers"])
    return {
        **renamed(found),
        "is_moe_layer": [at >= found["first_k_dense_replace"] for at in layers],
        **windowed(file, base, 4),
        **scaled(file, base),
    }


def deepseek(file: GGUFFile, base: Config) -> Config:
    """DeepSeek MoE, the first."""
    found = routed(file)
    if found.get("norm_topk_prob") or found.get("routed_scaling_factor", 1.0) != 1.0:
        raise file.error("it scales or normalises the scores of its experts, which mlx-lm's deepseek does not do")
    return {**found, "attention_bias": file.has("attn_q.bias"), **unscaled(file, base)}


def minicpm3(file: GGUFFile, base: Config) -> Config:
    """MiniCPM 3; what the file does not say, all of its models have."""
    if base["tie_word_embeddings"]:
        raise file.error("it has no head of its own, and mlx-lm's minicpm3 does not scale what goes into the embedding")
    found, original = latent(file), {"original_max_position_embeddings": base["max_position_embeddings"]}
    scaling = rope_scaling(file, found["qk_rope_head_dim"], base["rope_theta"]) or {}
    own = {"dim_model_base": 256, "scale_depth": 1.4, "scale_emb": 12}
    return {**found, **own, "rope_scaling": {**scaling, **original}}
