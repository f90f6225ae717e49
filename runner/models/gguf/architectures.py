"""The architectures of GGUF files that are known, and their settings as mlx-lm's config.json has them.

What a file does not say because llama.cpp knows it by the architecture's name stands here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.models.gguf import settings
from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings import Config


@dataclass(frozen=True)
class Architecture:
    """``model_type`` is mlx-lm's, ``named`` the class that transformers calls it. ``own``: its own settings.

    ``interleaved``: llama.cpp lays the two halves of each rotated pair of query and key rows side by side.
    ``norm_offset``: what llama.cpp has added to the weights of norms.
    """

    model_type: str
    named: str
    own: Callable[[GGUFFile, Config], Config] = lambda file, base: {}
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
    config = base | {key: value for key, value in architecture.own(file, base).items() if value is not None}
    _check(file, config)
    return config


def _base(file: GGUFFile) -> Config:
    heads, width = file.setting("attention.head_count"), file.setting("embedding_length")
    return {
        "hidden_size": width,
        "num_hidden_layers": file.setting("block_count"),
        "intermediate_size": file.setting("feed_forward_length", 0),
        "num_attention_heads": heads,
        "num_key_value_heads": _key_heads(file, heads),
        "head_dim": file.setting("attention.key_length", width // heads),
        "rms_norm_eps": file.setting("attention.layer_norm_rms_epsilon", file.optional("attention.layer_norm_epsilon")),
        "rope_theta": file.setting("rope.freq_base", 10000.0),
        "max_position_embeddings": file.setting("context_length"),
        "vocab_size": file.shape("token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _key_heads(file: GGUFFile, heads: int) -> int:
    """The same in all layers that have any."""
    found = file.optional("attention.head_count_kv")
    if isinstance(found, list) and len(set(found)) == 2 and 0 in found:
        return int(max(found))
    return int(file.setting("attention.head_count_kv", heads))


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


def _of_llama(file: GGUFFile) -> Architecture:
    """Llama, Mistral, or Mixtral, which llama.cpp gives the same name."""
    if file.optional("expert_count"):
        return Architecture("mixtral", "MixtralForCausalLM", settings.mixtral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", settings.llama, interleaved=True)


def _of_mistral3(file: GGUFFile) -> Architecture:
    """Ministral, which scales attention by position, or Mistral Small, which is a llama."""
    if file.optional("attention.temperature_scale"):
        return Architecture("ministral3", "Ministral3ForCausalLM", settings.ministral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", settings.llama, interleaved=True)


def _of_olmo2(file: GGUFFile) -> Architecture:
    """OLMo 2, or OLMo 3, which has layers with a sliding window."""
    if file.optional("attention.sliding_window"):
        return Architecture("olmo3", "Olmo3ForCausalLM", settings.olmo3)
    return Architecture("olmo2", "Olmo2ForCausalLM", settings.llama)


KNOWN: dict[str, Architecture | Callable[[GGUFFile], Architecture]] = {
    "llama": _of_llama,
    "mistral3": _of_mistral3,
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", settings.llama, interleaved=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", settings.scaled),
    "qwen2moe": Architecture("qwen2_moe", "Qwen2MoeForCausalLM", settings.qwen2_moe),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", settings.scaled),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", settings.qwen3_moe),
    "gemma": Architecture("gemma", "GemmaForCausalLM", norm_offset=1.0),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", settings.gemma2, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", settings.gemma3, norm_offset=1.0),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", settings.phi3),
    "gpt-oss": Architecture("gpt_oss", "GptOssForCausalLM", settings.gpt_oss),
    "granite": Architecture("granite", "GraniteForCausalLM", settings.granite, interleaved=True),
    "granitemoe": Architecture("granitemoe", "GraniteMoeForCausalLM", settings.granite, interleaved=True),
    "olmo2": _of_olmo2,
    "olmoe": Architecture("olmoe", "OlmoeForCausalLM", settings.olmoe),
    "qwen2vl": Architecture("qwen2", "Qwen2ForCausalLM", settings.with_images),
    "qwen3vl": Architecture("qwen3", "Qwen3ForCausalLM", settings.with_images),
    "qwen3vlmoe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", settings.qwen3_vl_moe),
    "command-r": Architecture("cohere", "CohereForCausalLM", settings.cohere),
    "cohere2": Architecture("cohere2", "Cohere2ForCausalLM", settings.cohere2),
    "exaone": Architecture("exaone", "ExaoneForCausalLM", settings.exaone),
    "exaone4": Architecture("exaone4", "Exaone4ForCausalLM", settings.exaone4),
    "ernie4_5": Architecture("ernie4_5", "Ernie4_5ForCausalLM", settings.ernie),
    "glm4": Architecture("glm4", "Glm4ForCausalLM", settings.glm4),
    "hunyuan-dense": Architecture("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", settings.hunyuan),
    "lfm2": Architecture("lfm2", "Lfm2ForCausalLM", settings.lfm2),
    "minicpm": Architecture("minicpm", "MiniCPMForCausalLM", settings.minicpm, interleaved=True),
    "nemotron": Architecture("nemotron", "NemotronForCausalLM", settings.nemotron, norm_offset=1.0),
    "seed_oss": Architecture("seed_oss", "SeedOssForCausalLM", settings.llama),
    "starcoder2": Architecture("starcoder2", "Starcoder2ForCausalLM", settings.starcoder2),
}
