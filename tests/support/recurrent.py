"""Models with recurrent or convolutional layers, of any width, with random weights."""

from importlib import import_module

from tests.support.tiny import VOCAB, scaled

ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "decoder_sparse_step": 1,
    "rms_norm_eps": 1e-5,
}
CONV = {"norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "full_attn_idxs": [1, 3]}
MAMBA = {"use_conv_bias": True, "use_bias": False, "conv_kernel": 4, "n_groups": 2, "layer_norm_epsilon": 1e-5}
LATENT = {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
BAILING = {
    "moe_intermediate_size": 32,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "first_k_dense_replace": 1,
    "layer_group_size": 2,
    "group_norm_size": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
}


def delta(D):
    return {"linear_key_head_dim": D // 4, "linear_value_head_dim": D // 4, "head_dim": D // 4}


def qwen3_next(D):
    return {
        **ATTENTION,
        **EXPERTS,
        **DELTA,
        **delta(D),
        "shared_expert_intermediate_size": D,
        "mlp_only_layers": [],
        "moe_intermediate_size": D,
    }


def qwen3_5(D):
    shapes = ATTENTION | DELTA | delta(D) | {"vocab_size": VOCAB, "num_hidden_layers": 4}
    return {"text_config": shapes | {"hidden_size": D, "intermediate_size": 2 * D}}


def qwen3_5_moe(D):
    text = qwen3_5(D)["text_config"]
    return {"text_config": text | EXPERTS | {"shared_expert_intermediate_size": D, "moe_intermediate_size": D}}


def lfm2(D):
    return {
        **ATTENTION,
        **CONV,
        "block_dim": D,
        "block_ff_dim": 2 * D,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
    }


def lfm2_moe(D):
    return {
        **ATTENTION,
        **EXPERTS,
        **CONV,
        "moe_intermediate_size": D,
        "norm_topk_prob": True,
        "use_expert_bias": True,
        "num_dense_layers": 1,
    }


def kimi_linear(D):
    layers = {"kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": 4, "head_dim": D // 4}
    return {
        **ATTENTION,
        **EXPERTS,
        **LATENT,
        "head_dim": D // 4,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "model_max_length": 512,
        "linear_attn_config": layers | {"short_conv_kernel_size": 4},
        "moe_intermediate_size": D,
        "num_experts_per_token": 2,
    }


def nemotron_h(D):
    return {
        **ATTENTION,
        **MAMBA,
        "attention_bias": False,
        "head_dim": D // 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": D // 4,
        "mamba_proj_bias": False,
        "ssm_state_size": 16,
        "mlp_bias": False,
        "hybrid_override_pattern": ["M", "*", "M", "-"],
    }


def granitemoehybrid(D):
    return ATTENTION | {
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 0.3,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "rms_norm_eps": 1e-5,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": D,
        "mamba_n_heads": 4,
        "mamba_d_head": D // 4,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 2,
        "mamba_conv_bias": True,
    }


def falcon_h1(D):
    return ATTENTION | {
        "head_dim": D // 4,
        "mamba_d_head": D // 4,
        "mamba_d_ssm": D,
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }


def jamba(D):
    return {
        **ATTENTION,
        **EXPERTS,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }


def rwkv7(D):
    ranks = dict.fromkeys(("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim"), 8)
    return ranks | {"norm_eps": 1e-5, "head_dim": D // 4}


def recurrent_gemma(D):
    return ATTENTION | {
        "attention_bias": False,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_window_size": 8,
        "block_types": ["recurrent", "recurrent", "attention"],
    }


def bailing_moe_linear(D):
    return ATTENTION | EXPERTS | BAILING


def bailing_hybrid(D):
    return ATTENTION | EXPERTS | BAILING | LATENT | {"head_dim": D // 4}


def bailing_moe_v3(D):
    return {
        **ATTENTION,
        **EXPERTS,
        **BAILING,
        **LATENT,
        "head_dim": D // 4,
        "q_lora_rank": None,
        "moe_shared_expert_intermediate_size": D,
        "norm_topk_prob": None,
        "group_norm_size": None,
    }


def mamba(D):
    return MAMBA | {"state_size": 8, "time_step_rank": 4}


def mamba2(D):
    return MAMBA | {
        "num_heads": 4,
        "head_dim": D // 4,
        "state_size": 16,
        "tie_word_embeddings": False,
        "time_step_limit": (0.001, 100.0),
        "time_step_rank": 4,
    }


def plamo2(D):
    return ATTENTION | {
        "hidden_size_per_head": D // 4,
        "mamba_d_state": 16,
        "mamba_num_heads": 4,
        "mamba_step": 2,
        "tie_word_embeddings": False,
    }


def olmo_hybrid(D):
    return {
        **ATTENTION,
        **DELTA,
        **delta(D),
        "linear_allow_neg_eigval": True,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    }


def baichuan_m1(D):
    windows = {"sliding_window": 8, "sliding_window_layers": [1, 3], "conv_window": 2}
    return {**ATTENTION, **windows, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}


FAMILIES = [qwen3_next, qwen3_5, qwen3_5_moe, lfm2, lfm2_moe, kimi_linear, nemotron_h, granitemoehybrid, falcon_h1]
FAMILIES += [jamba, rwkv7, recurrent_gemma, bailing_moe_linear, bailing_hybrid, bailing_moe_v3, mamba, mamba2, plamo2]
FAMILIES += [olmo_hybrid, baichuan_m1]


def configuration(family, width=32):
    """What the config.json of such a model would hold."""
    args = {"model_type": family.__name__, "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 2 * width}
    return {
        name: value for name, value in (args | {"num_hidden_layers": 4} | family(width)).items() if value is not None
    }


def recurrent(family, width=32, seed=0):
    """A model of one of ``FAMILIES``."""
    module = import_module(f"mlx_lm.models.{family.__name__}")
    known = module.ModelArgs.__dataclass_fields__
    args = module.ModelArgs(**{name: value for name, value in configuration(family, width).items() if name in known})
    return scaled(module.Model(args), seed, gain=1.5)
