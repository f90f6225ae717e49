"""The architectures of GGUF files that are known, and their settings as mlx-lm's config.json has them.

What a file does not say because llama.cpp knows it by the architecture's name stands here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.rotary import rope_scaling

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """``model_type`` is mlx-lm's, ``named`` the class that transformers calls it. ``settings``: what it has of its own.

    ``interleaved``: llama.cpp lays the two halves of each rotated pair of query and key rows side by side.
    ``norm_offset``: what llama.cpp has added to the weights of norms.
    """

    model_type: str
    named: str
    settings: Callable[[GGUFFile, Config], Config] = lambda file, base: {}
    interleaved: bool = False
    norm_offset: float = 0.0


def architecture_of(file: GGUFFile) -> Architecture:
    """The file's; UserError for one that is not known."""
    if found := KNOWN.get(file.architecture):
        return found(file) if callable(found) else found
    raise file.error(f"architecture {file.architecture} is not known (known: {', '.join(sorted(KNOWN))})")


def config_of(file: GGUFFile, ends: list[int]) -> Config:
    """The content of config.json, but for what quantisation adds. ``ends``: the ids that end an answer."""
    architecture = architecture_of(file)
    base = {"architectures": [architecture.named], "model_type": architecture.model_type, **_base(file)}
    base |= {"bos_token_id": file.get("tokenizer.ggml.bos_token_id"), "eos_token_id": ends}
    config = base | {key: value for key, value in architecture.settings(file, base).items() if value is not None}
    _check(file, config)
    return config


def _base(file: GGUFFile) -> Config:
    heads, width = file.setting("attention.head_count"), file.setting("embedding_length")
    return {
        "hidden_size": width,
        "num_hidden_layers": file.setting("block_count"),
        "intermediate_size": file.setting("feed_forward_length", 0),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("attention.head_count_kv", heads),
        "head_dim": file.setting("attention.key_length", width // heads),
        "rms_norm_eps": file.setting("attention.layer_norm_rms_epsilon"),
        "rope_theta": file.setting("rope.freq_base", 10000.0),
        "max_position_embeddings": file.setting("context_length"),
        "vocab_size": file.shape("token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _check(file: GGUFFile, config: Config) -> None:
    """Refuse what would be computed differently without a word."""
    width = config["head_dim"]
    if file.setting("attention.value_length", width) != width:
        raise file.error("its keys and values differ in width")
    if "partial_rotary_factor" not in config and file.setting("rope.dimension_count", width) != width:
        raise file.error("only a part of each head is rotated")
    if (
        config["model_type"] in ("granite", "granitemoe")
        and config["head_dim"] * config["num_attention_heads"] != (config["hidden_size"])
    ):
        raise file.error("its heads together are not as wide as the model")
    if file.optional("attention.causal") is False:
        raise file.error("its tokens see what comes after them: it makes embeddings, not texts")
    if file.optional("attention.clamp_kqv"):
        raise file.error("it clamps queries, keys and values")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if file.optional(name) and name not in config:
            raise file.error(f"mlx-lm's {config['model_type']} has no {name}")


def _biases(file: GGUFFile) -> Config:
    found = {"attention_bias": ("attn_q.bias", "attn_output.bias"), "mlp_bias": ("ffn_up.bias", "ffn_down.bias")}
    return {key: True for key, names in found.items() if file.has(*names)}


def _scaling(file: GGUFFile, base: Config) -> Config:
    return {"rope_scaling": rope_scaling(file, base["head_dim"], base["rope_theta"])}


def _llama(file: GGUFFile, base: Config) -> Config:
    return {**_biases(file), **_scaling(file, base)}


def _experts(file: GGUFFile, count: str = "num_experts") -> Config:
    return {count: file.setting("expert_count"), "num_experts_per_tok": file.setting("expert_used_count")}


def _mixtral(file: GGUFFile, base: Config) -> Config:
    return {**_experts(file, "num_local_experts"), **_scaling(file, base)}


def _ministral(file: GGUFFile, base: Config) -> Config:
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


def _qwen2_moe(file: GGUFFile, base: Config) -> Config:
    widths = {
        "moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1],
        "shared_expert_intermediate_size": file.shape("blk.0.ffn_gate_shexp.weight")[0],
    }
    return {**_experts(file), **widths, **_scaling(file, base)}


def _qwen3_moe(file: GGUFFile, base: Config) -> Config:
    own = {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    widths = {"moe_intermediate_size": file.shape("blk.0.ffn_gate_exps.weight")[1]}
    return {**_experts(file), **widths, **own, **_scaling(file, base)}


def _gemma2(file: GGUFFile, base: Config) -> Config:
    return {
        "attn_logit_softcapping": file.setting("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.setting("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _query_scale(base, layers_of_27b=46),
    }


def _gemma3(file: GGUFFile, base: Config) -> Config:
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
        **_scaling(file, base),
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


def _phi3(file: GGUFFile, base: Config) -> Config:
    scaling = rope_scaling(file, base["head_dim"], base["rope_theta"])
    original = file.setting("rope.scaling.original_context_length", base["max_position_embeddings"])
    return {
        "intermediate_size": file.shape("blk.0.ffn_down.weight")[1],
        "partial_rotary_factor": file.setting("rope.dimension_count", base["head_dim"]) / base["head_dim"],
        "original_max_position_embeddings": original,
        "rope_scaling": scaling,
    }


def _gpt_oss(file: GGUFFile, base: Config) -> Config:
    layers = ["full_attention" if at % 2 else "sliding_attention" for at in range(base["num_hidden_layers"])]
    return {
        "intermediate_size": file.shape("blk.0.ffn_down_exps.weight")[2],
        **_experts(file, "num_local_experts"),
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": layers,
        **_scaling(file, base),
    }


def _granite(file: GGUFFile, base: Config) -> Config:
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
        **_scaling(file, base),
        **(_experts(file, "num_local_experts") if file.optional("expert_count") else {}),
    }


def _olmo3(file: GGUFFile, base: Config) -> Config:
    period = _period(file, 4)
    layers = range(base["num_hidden_layers"])
    return {
        "sliding_window": file.setting("attention.sliding_window"),
        "layer_types": ["full_attention" if (at + 1) % period == 0 else "sliding_attention" for at in layers],
        **_scaling(file, base),
    }


def _of_llama(file: GGUFFile) -> Architecture:
    """Llama, Mistral, or Mixtral, which llama.cpp gives the same name."""
    if file.optional("expert_count"):
        return Architecture("mixtral", "MixtralForCausalLM", _mixtral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", _llama, interleaved=True)


def _of_mistral3(file: GGUFFile) -> Architecture:
    """Ministral, which scales attention by position, or Mistral Small, which is a llama."""
    if file.optional("attention.temperature_scale"):
        return Architecture("ministral3", "Ministral3ForCausalLM", _ministral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", _llama, interleaved=True)


def _of_olmo2(file: GGUFFile) -> Architecture:
    """OLMo 2, or OLMo 3, which has layers with a sliding window."""
    if file.optional("attention.sliding_window"):
        return Architecture("olmo3", "Olmo3ForCausalLM", _olmo3)
    return Architecture("olmo2", "Olmo2ForCausalLM", _llama)


KNOWN: dict[str, Architecture | Callable[[GGUFFile], Architecture]] = {
    "llama": _of_llama,
    "mistral3": _of_mistral3,
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", _llama, interleaved=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _scaling),
    "qwen2moe": Architecture("qwen2_moe", "Qwen2MoeForCausalLM", _qwen2_moe),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _scaling),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", _qwen3_moe),
    "gemma": Architecture("gemma", "GemmaForCausalLM", norm_offset=1.0),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", _gemma2, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _gemma3, norm_offset=1.0),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _phi3),
    "gpt-oss": Architecture("gpt_oss", "GptOssForCausalLM", _gpt_oss),
    "granite": Architecture("granite", "GraniteForCausalLM", _granite, interleaved=True),
    "granitemoe": Architecture("granitemoe", "GraniteMoeForCausalLM", _granite, interleaved=True),
    "olmo2": _of_olmo2,
}
