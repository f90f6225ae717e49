"""Tiny random models of families whose layers keep or see other things than all keys."""

from mlx_lm.models import deepseek_v41, gemma3_text, internlm2, internlm3, llama4, mamba, nemotron_h

from tests.support.tiny import VOCAB, scaled

CONTEXT = 64


def tiny_mamba():
    args = {
        "model_type": "mamba",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "state_size": 8,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    }
    return scaled(mamba.Model(mamba.ModelArgs(**args)), seed=0, gain=1.5)


def tiny_llama4():
    """Its caches, which forget chunk by chunk, cannot be put into a batch."""
    text = {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 8,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 48,
        "intermediate_size_mlp": 48,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000,
        "use_qk_norm": True,
        "vocab_size": VOCAB,
    }
    return scaled(llama4.Model(llama4.ModelArgs(text_config=text, model_type="llama4")), seed=0, gain=2.0)


def tiny_nemotron_h():
    """Its state-space layers forget the state of rows that are padded while their prompts are computed."""
    args = {
        "model_type": "nemotron_h",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "attention_bias": False,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "conv_kernel": 4,
        "n_groups": 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "hybrid_override_pattern": ["M", "*", "M", "-"],
    }
    known = {name: value for name, value in args.items() if name in nemotron_h.ModelArgs.__dataclass_fields__}
    return scaled(nemotron_h.Model(nemotron_h.ModelArgs(**known)), seed=0, gain=1.5)


def tiny_gemma3():
    """Every second layer sees the last 8 tokens only."""
    args = {
        "model_type": "gemma3_text",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 8,
        "max_position_embeddings": 512,
    }
    return scaled(gemma3_text.Model(gemma3_text.ModelArgs(**args)), seed=0, gain=2.0)


def tiny_internlm(module, key):
    """Rotary positions that stretch with the text once it is longer than ``CONTEXT``."""
    args = {
        "model_type": module.__name__.rpartition(".")[2],
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": CONTEXT,
        "rope_scaling": {key: "dynamic", "factor": 2.0},
        "rope_theta": 10000.0,
        "bias": False,
    }
    known = {name: value for name, value in args.items() if name in module.ModelArgs.__dataclass_fields__}
    return scaled(module.Model(module.ModelArgs(**known)), seed=0, gain=1.5)


def tiny_internlm2():
    return tiny_internlm(internlm2, "type")


def tiny_internlm3():
    return tiny_internlm(internlm3, "rope_type")


def tiny_deepseek_v41():
    """Keys of two tokens as one, some of them chosen, in caches that mlx-lm cannot put into a batch."""
    args = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "o_groups": 2,
        "o_lora_rank": 8,
        "moe_intermediate_size": 32,
        "n_routed_experts": 2,
        "num_experts_per_tok": 1,
        "sliding_window": 8,
        "compress_ratios": (2, 2),
        "kv_source_layer_ids": (0,),
        "index_source_layer_ids": (0, 1),
        "candidate_source_layer_id": 0,
        "candidate_topk_blocks": 4,
        "candidate_block_size": 2,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 3,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 1,
    }
    return scaled(deepseek_v41.Model(deepseek_v41.ModelArgs(**args)), seed=0, gain=2.0)
