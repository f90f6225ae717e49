"""Architectures all of whose layers are attention and one feed-forward layer."""

from __future__ import annotations

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings.common import (
    Config,
    biases,
    experts,
    rotated,
    scaled,
    unscaled,
    window_period,
    windowed,
)
from runner.models.gguf.settings.rotary import rope_scaling


def llama(file: GGUFFile, base: Config) -> Config:
    return {**biases(file), **scaled(file, base)}


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


def phi3(file: GGUFFile, base: Config) -> Config:
    original = file.setting("rope.scaling.original_context_length", base["max_position_embeddings"])
    return {
        "intermediate_size": file.shape("blk.0.ffn_down.weight")[1],
        "partial_rotary_factor": file.setting("rope.dimension_count", base["head_dim"]) / base["head_dim"],
        "original_max_position_embeddings": original,
        **scaled(file, base),
    }


def granite(file: GGUFFile, base: Config, rotates: bool = True) -> Config:
    """``rotates``: whether positions are rotated in mlx-lm's model."""
    if file.setting("rope.scaling.finetuned", True) != rotates:
        raise file.error("it rotates no positions")
    return {
        "logits_scaling": file.setting("logit_scale"),
        "attention_multiplier": file.setting("attention.scale", base["head_dim"] ** -0.5),
        "embedding_multiplier": file.setting("embedding_scale", 1.0),
        "residual_multiplier": file.setting("residual_scale", 1.0),
        "attention_bias": False,
        "mlp_bias": False,
        **biases(file),
        **scaled(file, base),
        **(experts(file, "num_local_experts") if file.optional("expert_count") else {}),
    }


def olmo3(file: GGUFFile, base: Config) -> Config:
    return {**windowed(file, base, 4), **scaled(file, base)}


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
    window = {
        "sliding_window": file.setting("attention.sliding_window"),
        "sliding_window_pattern": window_period(file, 4),
    }
    return {**cohere(file, base), **window}


def exaone(file: GGUFFile, base: Config) -> Config:
    own = {"num_layers": base["num_hidden_layers"], "layer_norm_epsilon": base["rms_norm_eps"]}
    return {**own, **scaled(file, base)}


def exaone4(file: GGUFFile, base: Config) -> Config:
    window = file.setting("attention.sliding_window", 0)
    return {
        "sliding_window": window,
        "sliding_window_pattern": "L" * (window_period(file, 4) - 1) + "G" if window else "",
        "rope_scaling": rope_scaling(file, base["head_dim"], base["rope_theta"]) or {"rope_type": "default"},
    }


def ernie(file: GGUFFile, base: Config) -> Config:
    return {"use_bias": file.has("attn_q.bias", "attn_output.bias", "ffn_up.bias"), **unscaled(file, base)}


def glm4(file: GGUFFile, base: Config) -> Config:
    own = {"attention_bias": file.has("attn_q.bias"), "partial_rotary_factor": rotated(file, base)}
    return {**own, **unscaled(file, base)}


def hunyuan(file: GGUFFile, base: Config) -> Config:
    """Its stretched positions are part of the base frequency already."""
    return {"use_qk_norm": file.has("attn_q_norm.weight"), **biases(file), **unscaled(file, base)}


def minicpm(file: GGUFFile, base: Config) -> Config:
    return {
        "scale_emb": file.setting("embedding_scale"),
        "scale_depth": file.setting("residual_scale") * base["num_hidden_layers"] ** 0.5,
        "dim_model_base": base["hidden_size"] / file.setting("logit_scale"),
        **scaled(file, base),
    }


def nemotron(file: GGUFFile, base: Config) -> Config:
    own = {"norm_eps": base["rms_norm_eps"], "hidden_act": "relu2", "partial_rotary_factor": rotated(file, base)}
    return {**own, **biases(file), **scaled(file, base)}


def starcoder2(file: GGUFFile, base: Config) -> Config:
    return {"norm_epsilon": base["rms_norm_eps"], **unscaled(file, base)}


def stablelm(file: GGUFFile, base: Config) -> Config:
    """StableLM; whether attention and feed-forward layers are side by side is said by the tensors, as files of
    StableLM 3B say it wrongly.
    """
    file.optional("use_parallel_residual")
    return {
        "layer_norm_eps": base["rms_norm_eps"],
        "use_qkv_bias": file.has("attn_q.bias"),
        "qk_layernorm": file.has("attn_q_norm.weight"),
        "use_parallel_residual": not file.has("ffn_norm.weight"),
        "partial_rotary_factor": rotated(file, base),
        **unscaled(file, base),
    }


def internlm2(file: GGUFFile, base: Config) -> Config:
    return {"bias": file.has("attn_q.bias"), **scaled(file, base)}


def gpt_neox(file: GGUFFile, base: Config) -> Config:
    """Pythia, Dolly, RedPajama and GPT-NeoX."""
    return {
        "layer_norm_eps": base["rms_norm_eps"],
        "rotary_emb_base": base["rope_theta"],
        "rotary_pct": rotated(file, base),
        "use_parallel_residual": bool(file.setting("use_parallel_residual", True)),
        **unscaled(file, base),
    }


def phi2(file: GGUFFile, base: Config) -> Config:
    """Phi 1, 1.5 and 2."""
    own = {"layer_norm_eps": base["rms_norm_eps"], "partial_rotary_factor": rotated(file, base)}
    return {**own, **unscaled(file, base)}


def apertus(file: GGUFFile, base: Config) -> Config:
    own = {"mlp_bias": False, "attention_bias": False, "post_norm": False, "qk_norm": True}
    return {**own, **scaled(file, base)}


def gpt2(file: GGUFFile, base: Config) -> Config:
    """GPT-2, which has no head of its own; files until 2024 have its embedding twice."""
    return {
        "n_ctx": base["max_position_embeddings"],
        "n_positions": file.shape("position_embd.weight")[0],
        "n_embd": base["hidden_size"],
        "n_head": base["num_attention_heads"],
        "n_layer": base["num_hidden_layers"],
        "layer_norm_epsilon": base["rms_norm_eps"],
        "tie_word_embeddings": True,
    }


def starcoder(file: GGUFFile, base: Config) -> Config:
    """StarCoder and SantaCoder, whose heads share one head of keys and values."""
    return {**gpt2(file, base), "n_inner": base["intermediate_size"], "multi_query": True}


def qwen(file: GGUFFile, base: Config) -> Config:
    """Qwen until 1.5, whose feed-forward layers are half as wide as their setting says."""
    own = {"kv_channels": base["head_dim"], "layer_norm_epsilon": base["rms_norm_eps"], "no_bias": True}
    if base["rope_theta"] != 10000.0:
        raise file.error("mlx-lm's qwen rotates by the base 10,000 alone")
    return {**own, **unscaled(file, base)}


def nemotron_nas(file: GGUFFile, base: Config) -> Config:
    """Llama Nemotron 49B, 51B and 253B, some of whose layers are without attention, or have one matrix instead."""
    layers, width = range(base["num_hidden_layers"]), base["hidden_size"]
    file.optional("attention.head_count")
    return {"block_configs": [_block(file, at, width, base["head_dim"]) for at in layers], **scaled(file, base)}


def _block(file: GGUFFile, at: int, width: int, head: int) -> Config:
    """What a layer of Nemotron's has, by its tensors."""
    attention: Config = {"no_op": True}
    if f"blk.{at}.attn_k.weight" in file.tensors:
        queries, keys = (file.shape(f"blk.{at}.attn_{part}.weight")[0] // head for part in "qk")
        attention = {"n_heads_in_group": queries // keys}
    elif f"blk.{at}.attn_output.weight" in file.tensors:
        attention = {"replace_with_linear": True}
    if f"blk.{at}.ffn_up.weight" not in file.tensors:
        return {"attention": attention, "ffn": {"no_op": True}}
    inner = file.shape(f"blk.{at}.ffn_up.weight")[0]
    return {"attention": attention, "ffn": {"ffn_mult": 1.5 * inner / width}}
