"""Architectures some of whose layers are recurrent or convolutions, which have no keys."""

from __future__ import annotations

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings.common import Config, biases, experts, rotated, scaled, unscaled, with_images
from runner.models.gguf.settings.dense import granite
from runner.models.gguf.settings.experts import gate, latent, routed


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


def lfm2_moe(file: GGUFFile, base: Config) -> Config:
    """LFM2 with experts, whose scores are normalised."""
    gate(file, "sigmoid", "sigmoid")
    own = lfm2(file, base)
    return {
        **{key: own[key] for key in ("norm_eps", "conv_bias", "conv_L_cache", "layer_types")},
        **experts(file),
        "moe_intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1],
        "num_dense_layers": file.setting("leading_dense_block_count", 0),
        "norm_topk_prob": True,
        "use_expert_bias": file.has("exp_probs_b.bias"),
    }


def _delta(file: GGUFFile, base: Config) -> Config:
    """Gated delta nets, with every few layers one that attends to all tokens."""
    interval = file.setting("full_attention_interval", 4)
    file.optional("attention.recurrent_layers")  # said by the tensors
    layers = base["num_hidden_layers"]
    if [at for at in file.layers_with("attn_k.weight") if at < layers] != list(range(interval - 1, layers, interval)):
        raise file.error(f"not every {interval} layers one attends to all tokens")
    heads = file.setting("ssm.time_step_rank")
    return {
        "full_attention_interval": interval,
        "linear_conv_kernel_dim": file.setting("ssm.conv_kernel"),
        "linear_num_key_heads": file.setting("ssm.group_count"),
        "linear_num_value_heads": heads,
        "linear_key_head_dim": file.setting("ssm.state_size"),
        "linear_value_head_dim": file.setting("ssm.inner_size") // heads,
        "partial_rotary_factor": rotated(file, base),
        "attention_bias": False,
    }


def _shared_expert(file: GGUFFile) -> Config:
    return {
        **experts(file),
        "moe_intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1],
        "shared_expert_intermediate_size": file.layer_shape("ffn_down_shexp.weight")[-1],
        "norm_topk_prob": True,
    }


def qwen3_next(file: GGUFFile, base: Config) -> Config:
    own = {"decoder_sparse_step": 1, "mlp_only_layers": []}
    return {**_delta(file, base), **_shared_expert(file), **own, **scaled(file, base)}


def qwen35(file: GGUFFile, base: Config) -> Config:
    """Qwen 3.5 and 3.6."""
    own = _delta(file, base)
    positions = with_images(file, base).get("rope_scaling") or {"type": "default"}
    positions |= {"rope_theta": base["rope_theta"], "partial_rotary_factor": own["partial_rotary_factor"]}
    return {**own, "rope_parameters": positions}


def qwen35_moe(file: GGUFFile, base: Config) -> Config:
    return qwen35(file, base) | _shared_expert(file)


def _mamba2(file: GGUFFile, *names: str) -> Config:
    """The sizes of state-space layers by a model's own ``names`` of heads, their width, state, kernel and groups."""
    heads = file.setting("ssm.time_step_rank")
    width = file.setting("ssm.inner_size") // heads
    rest = (file.setting(f"ssm.{name}") for name in ("state_size", "conv_kernel", "group_count"))
    return dict(zip(names, (heads, width, *rest), strict=True))


def nemotron_h(file: GGUFFile, base: Config) -> Config:
    """Nemotron H and Nemotron 3, whose layers are one of four kinds each."""
    kinds = {"M": "ssm_in.weight", "*": "attn_q.weight", "E": "ffn_gate_inp.weight", "-": "ffn_up.weight"}
    of_kind = {kind: file.layers_with(name) for kind, name in kinds.items()}
    own: Config = {
        "hybrid_override_pattern": [
            next((kind for kind, found in of_kind.items() if at in found), "-")
            for at in range(base["num_hidden_layers"])
        ],
        "layer_norm_epsilon": base["rms_norm_eps"],
        "attention_bias": file.has("attn_q.bias"),
        "mamba_proj_bias": file.has("ssm_in.bias"),
        "mlp_bias": file.has("ffn_up.bias"),
        "use_conv_bias": file.has("ssm_conv1d.bias"),
        "use_bias": False,
        **_mamba2(file, "mamba_num_heads", "mamba_head_dim", "ssm_state_size", "conv_kernel", "n_groups"),
    }
    if of_kind["E"]:
        gate(file, "sigmoid", "sigmoid")
        found = routed(file)
        own |= {key: value for key, value in found.items() if key != "first_k_dense_replace"}
        own |= {"n_shared_experts": 1 if file.has("ffn_down_shexp.weight") else None}
        own |= {"moe_shared_expert_intermediate_size": file.layer_shape("ffn_down_shexp.weight")[-1]}
        own |= {"moe_latent_size": file.optional("moe_latent_size")}
    return own


def granite_hybrid(file: GGUFFile, base: Config) -> Config:
    """Granite 4."""
    attends = file.layers_with("attn_q.weight")
    layers = range(base["num_hidden_layers"])
    scales = granite(file, base, rotates=file.setting("rope.scaling.finetuned", True))
    if (sizes := _mamba2(file, *_OF_MAMBA))["mamba_n_groups"] != 1:
        raise file.error("its state-space layers have several groups, which mlx-lm's granitemoehybrid does not know")
    own: Config = {
        "layer_types": ["attention" if at in attends else "mamba" for at in layers],
        "position_embedding_type": "rope" if file.setting("rope.scaling.finetuned", True) else "nope",
        "mamba_proj_bias": file.has("ssm_in.bias"),
        "mamba_conv_bias": file.has("ssm_conv1d.bias"),
        "time_step_limit": [0.0, 1e30],
    }
    if file.has("ffn_down_exps.weight"):
        own |= {"intermediate_size": file.layer_shape("ffn_down_exps.weight")[-1]}
        own |= {"shared_intermediate_size": file.layer_shape("ffn_down_shexp.weight")[-1]}
    return {**scales, **sizes, **own}


_OF_MAMBA = ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_d_conv", "mamba_n_groups")


def falcon_h1(file: GGUFFile, base: Config) -> Config:
    """Falcon H1, whose multipliers are part of the file's weights."""
    if base["tie_word_embeddings"]:
        raise file.error("it has one matrix for tokens that come in and go out, and does not say how they are scaled")
    sizes, normed = _mamba2(file, *_OF_MAMBA), file.has("ssm_norm.weight")
    if normed and sizes["mamba_n_groups"] != 1:
        raise file.error("its state-space layers have norms of several groups, which mlx-lm's falcon_h1 does not know")
    ones = ("attention_in", "attention_out", "embedding", "key", "lm_head", "ssm_in", "ssm_out")
    return {
        **sizes,
        "mamba_d_ssm": file.setting("ssm.inner_size"),
        "mamba_rms_norm": normed,
        "mamba_conv_bias": file.has("ssm_conv1d.bias"),
        "mamba_proj_bias": file.has("ssm_in.bias"),
        "projectors_bias": file.has("ssm_out.bias"),
        **biases(file),
        **{f"{name}_multiplier": 1.0 for name in ones},
        "mlp_multipliers": [1.0] * 2,
        "ssm_multipliers": [1.0] * 5,
        **unscaled(file, base),
    }


def jamba(file: GGUFFile, base: Config) -> Config:
    """Jamba, which rotates no positions."""
    layers = range(base["num_hidden_layers"])
    if file.has("ffn_gate_inp.weight"):
        raise file.error("it has experts, whose scores mlx-lm's jamba normalises and the original does not")
    file.optional("expert_count")
    file.optional("expert_used_count")
    period, offset = _pattern(file, layers, file.layers_with("attn_q.weight"))
    return {
        "attn_layer_period": period,
        "attn_layer_offset": offset,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "mamba_d_conv": file.setting("ssm.conv_kernel"),
        "mamba_d_state": file.setting("ssm.state_size"),
        "mamba_expand": file.setting("ssm.inner_size") // base["hidden_size"],
        "mamba_dt_rank": file.setting("ssm.time_step_rank"),
        "mamba_proj_bias": file.has("ssm_in.bias"),
        "mamba_conv_bias": file.has("ssm_conv1d.bias"),
    }


def _pattern(file: GGUFFile, layers: range, some: list[int]) -> tuple[int, int]:
    """Every how many layers there is one of ``some``, and the first of them; UserError where that is not so."""
    ways = ((period, offset) for period in range(1, len(layers) + 1) for offset in range(period))
    if found := next((way for way in ways if list(layers[way[1] :: way[0]]) == some), None):
        return found
    raise file.error("its layers of one kind follow no simple pattern")


def kimi_linear(file: GGUFFile, base: Config) -> Config:
    """Kimi Linear, whose attention rotates no positions."""
    found, attends = routed(file), file.layers_with("attn_kv_a_mqa.weight")
    layers = range(base["num_hidden_layers"])
    return {
        **{key: value for key, value in latent(file).items() if key != "q_lora_rank"},
        "num_key_value_heads": base["num_attention_heads"],
        "linear_attn_config": {
            "num_heads": base["num_attention_heads"],
            "head_dim": file.setting("kda.head_dim"),
            "short_conv_kernel_size": file.setting("ssm.conv_kernel"),
            "kda_layers": [at + 1 for at in layers if at not in attends],
            "full_attn_layers": [at + 1 for at in layers if at in attends],
        },
        "model_max_length": base["max_position_embeddings"],
        "num_experts": found["n_routed_experts"],
        "num_experts_per_token": found["num_experts_per_tok"],
        "num_shared_experts": found["n_shared_experts"] or 0,
        "num_expert_group": found["n_group"],
        **{key: found[key] for key in ("moe_intermediate_size", "first_k_dense_replace", "routed_scaling_factor")},
        "topk_group": found["topk_group"],
        "moe_router_activation_func": gate(file, "sigmoid", "sigmoid", "softmax"),
        "moe_renormalize": file.setting("expert_weights_norm", True),
    }
