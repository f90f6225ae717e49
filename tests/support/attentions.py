"""Tiny random models of families with other attention: latent keys, shared ones, capped scores, chunks, none."""

import importlib

from tests.support.tiny import VOCAB, scaled

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
}
EXPERTS = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}
YARN = {
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "type": "yarn",
    "rope_type": "yarn",
}
LAYERS = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
WIDE = {"ffn_mult": 1.0}
BLOCKS = [
    {"attention": {"replace_with_linear": True}, "ffn": WIDE},
    {"attention": {"n_heads_in_group": 2}, "ffn": {"no_op": True}},
    {"attention": {"no_op": True}, "ffn": WIDE},
    {"attention": {"n_heads_in_group": 4}, "ffn": {"replace_with_linear": True}},
]
DEEPSEEK = LATENT | EXPERTS | {"rope_scaling": YARN}

# What each family's configuration has beside SIZES.
FAMILIES = {
    "afm7": {"hidden_dim": 32, "num_layers": 4, "num_kv_reuse_layers": 2, "num_heads": 4, "num_kv_heads": 2},
    "deepseek_v2": DEEPSEEK | {"topk_method": "group_limited_greedy"},
    "deepseek_v3": DEEPSEEK,
    "deepseek_v32": DEEPSEEK | {"index_topk": 12, "index_n_heads": 16, "index_head_dim": 8, "num_experts_per_tok": 1},
    "gear": LAYERS | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8.0},
    "gemma2": {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8.0},
    "gemma3n": {
        "text_config": LAYERS
        | {
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "altup_num_inputs": 2,
            "altup_coef_clip": 120.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 8,
            "final_logit_softcapping": 30.0,
            "rope_local_base_freq": 10000.0,
            "activation_sparsity_pattern": [0.5, 0.0] * 2,
        }
    },
    "gemma4_text": LAYERS
    | {
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 16,
        "rope_parameters": {name: {"rope_theta": 10000.0} for name in LAYERS["layer_types"][:2]},
    },
    "glm4_moe_lite": DEEPSEEK,
    "llama4": {
        "text_config": {
            "num_hidden_layers": 4,
            "attention_chunk_size": 8,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 48,
            "num_experts_per_tok": 1,
            "num_local_experts": 4,
            "rope_scaling": None,
            "use_qk_norm": True,
            "floor_scale": 16,
        }
    },
    "minicpm3": LATENT
    | {
        "dim_model_base": 32,
        "scale_depth": 1.4,
        "scale_emb": 1.0,
        "rope_scaling": {"original_max_position_embeddings": 512, "short_factor": [1.0] * 2, "long_factor": [1.0] * 2},
    },
    "nemotron-nas": {"num_hidden_layers": 4, "block_configs": BLOCKS},
    "mistral4": DEEPSEEK | {"rope_parameters": YARN | {"llama_4_scaling_beta": 0.5, "rope_theta": 10000.0}},
}


def tiny(family, **others):
    """A model of a family in float32, with some ``others`` in its configuration."""
    module = importlib.import_module(f"mlx_lm.models.{family}")
    own = FAMILIES[family]
    text = own.get("text_config")
    config = {"model_type": family, **SIZES, **own, **others}
    if text is not None:
        config = {"model_type": family, "text_config": {"model_type": family, **SIZES, **text, **others}}
    return scaled(module.Model(module.ModelArgs.from_dict(config)), seed=0, gain=2.0)
