"""The architectures of GGUF files that are known, and their settings as mlx-lm's config.json has them.

What a file does not say because llama.cpp knows it by the architecture's name stands here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.settings import dense, experts, gemma, hybrid
from runner.models.gguf.settings.common import Config, scaled, with_images
from runner.words import first_line


@dataclass(frozen=True)
class Architecture:
    """``model_type`` is mlx-lm's, ``named`` the class that transformers calls it. ``own``: its own settings.

    ``interleaved``: llama.cpp lays the two halves of each rotated pair of query and key rows side by side.
    ``norm_offset``: what llama.cpp has added to the weights of norms. ``tiled``: llama.cpp lays the heads of values in
    linear attention one of each group after the other. ``varies``: layers may differ in their widths and heads.
    ``called``: how mlx-lm's names of parameters begin, and how the original's do, which llama.cpp goes by.
    """

    model_type: str
    named: str
    own: Callable[[GGUFFile, Config], Config] = lambda file, base: {}
    interleaved: bool = False
    norm_offset: float = 0.0
    tiled: bool = False
    varies: bool = False
    called: tuple[tuple[str, str], ...] = ()

    def original(self, parameter: str) -> str:
        """What the original model calls a parameter of mlx-lm's."""
        begins = (pair for pair in self.called if parameter.startswith(pair[0]))
        ours, theirs = next(begins, ("", ""))
        return theirs + parameter.removeprefix(ours)


def architecture_of(file: GGUFFile) -> Architecture:
    """The file's; UserError for one that is not known."""
    if found := KNOWN.get(file.architecture):
        return found(file) if callable(found) else found
    if reason := DIFFERENT.get(file.architecture):
        raise file.error(f"of architecture {file.architecture}, {reason}")
    raise file.error(f"architecture {file.architecture} is not known (known: {', '.join(sorted(KNOWN))})")


def config_of(file: GGUFFile, ends: list[int]) -> Config:
    """The content of config.json, but for what quantisation adds. ``ends``: the ids that end an answer."""
    architecture = architecture_of(file)
    try:
        base = {
            "architectures": [architecture.named],
            "model_type": architecture.model_type,
            **_base(file, architecture.varies),
        }
        base |= {"bos_token_id": file.get("tokenizer.ggml.bos_token_id"), "eos_token_id": ends}
        config = base | architecture.own(file, base)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of numbers that no model has
        told = f"its settings do not go together ({type(error).__name__}: {first_line(error)})"
        raise file.error(told) from error
    _check(file, config)
    return config


def _base(file: GGUFFile, varies: bool) -> Config:
    heads, width = file.setting("attention.head_count"), file.setting("embedding_length")
    setting = file.of_first_layer if varies else file.setting
    return {
        "hidden_size": width,
        "num_hidden_layers": file.setting("block_count") - file.setting("nextn_predict_layers", 0),
        "intermediate_size": setting("feed_forward_length", 0),
        "num_attention_heads": heads,
        "num_key_value_heads": int(setting("attention.head_count_kv", heads)),
        "head_dim": file.setting("attention.key_length", width // heads),
        "rms_norm_eps": file.setting("attention.layer_norm_rms_epsilon", file.optional("attention.layer_norm_epsilon")),
        "rope_theta": file.setting("rope.freq_base", 10000.0),
        "max_position_embeddings": file.setting("context_length"),
        "vocab_size": file.shape("token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


# How models whose heads are not rotated as a whole say so.
_ROTATED_IN_PART = ("partial_rotary_factor", "rotary_pct", "rotary_dim", "qk_rope_head_dim", "global_head_dim")


def _check(file: GGUFFile, config: Config) -> None:
    """Refuse what would be computed differently without a word."""
    width = file.setting("attention.key_length", config["head_dim"])
    if "kv_lora_rank" not in config and file.setting("attention.value_length", width) != width:
        raise file.error("its keys and values differ in width")
    in_part = any(key in config for key in _ROTATED_IN_PART)
    if not in_part and file.setting("rope.dimension_count", width) != width:
        raise file.error("only a part of each head is rotated")
    own_heads = config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]
    if config["model_type"] in _HEADS_AS_WIDE_AS_MODEL and not own_heads:
        raise file.error("its heads together are not as wide as the model")
    if file.optional("attention.causal") is False:
        raise file.error("its tokens see what comes after them: it makes embeddings, not texts")
    if file.optional("attention.clamp_kqv"):
        raise file.error("it clamps queries, keys and values")
    inner = config.get("text_config", config)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if file.optional(name) and name not in inner:
            raise file.error(f"mlx-lm's {config['model_type']} has no {name}")


_HEADS_AS_WIDE_AS_MODEL = ("bailing_moe", "granite", "granitemoe", "granitemoehybrid", "jamba", "lfm2_moe")


def _of_llama(file: GGUFFile) -> Architecture:
    """Llama, Mistral, or Mixtral, which llama.cpp gives the same name."""
    if file.optional("expert_count"):
        return Architecture("mixtral", "MixtralForCausalLM", experts.mixtral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", dense.llama, interleaved=True)


def _of_mistral3(file: GGUFFile) -> Architecture:
    """Ministral, which scales attention by position, or Mistral Small, which is a llama."""
    if file.optional("attention.temperature_scale"):
        return Architecture("ministral3", "Ministral3ForCausalLM", dense.ministral, interleaved=True)
    return Architecture("llama", "LlamaForCausalLM", dense.llama, interleaved=True)


def _of_olmo2(file: GGUFFile) -> Architecture:
    """OLMo 2, or OLMo 3, which has layers with a sliding window."""
    if file.optional("attention.sliding_window"):
        return Architecture("olmo3", "Olmo3ForCausalLM", dense.olmo3)
    return Architecture("olmo2", "Olmo2ForCausalLM", dense.llama)


def _of_deepseek2(file: GGUFFile) -> Architecture:
    """DeepSeek V2, or what came after it: experts chosen by sigmoid, with a bias."""
    sigmoid = experts.gate(file, "sigmoid" if file.has("exp_probs_b.bias") else "softmax", "sigmoid", "softmax")
    if sigmoid == "softmax" and file.optional("expert_count"):
        return Architecture("deepseek_v2", "DeepseekV2ForCausalLM", experts.deepseek2)
    # DeepSeek's own norms of latent queries and keys have this epsilon, whatever the others have.
    if file.setting("attention.layer_norm_rms_epsilon") != 1e-6:
        return Architecture("glm4_moe_lite", "Glm4MoeLiteForCausalLM", experts.deepseek3)
    return Architecture("deepseek_v3", "DeepseekV3ForCausalLM", experts.deepseek3)


_GPT_NEOX = (("model.embed_out", "embed_out"), ("model.h.", "gpt_neox.layers."), ("model.", "gpt_neox."))

KNOWN: dict[str, Architecture | Callable[[GGUFFile], Architecture]] = {
    "llama": _of_llama,
    "mistral3": _of_mistral3,
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", dense.llama, interleaved=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", scaled),
    "qwen2moe": Architecture("qwen2_moe", "Qwen2MoeForCausalLM", experts.qwen2_moe),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", scaled),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", experts.qwen3_moe),
    "gemma": Architecture("gemma", "GemmaForCausalLM", norm_offset=1.0),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", gemma.gemma2, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", gemma.gemma3, norm_offset=1.0),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", dense.phi3),
    "gpt-oss": Architecture("gpt_oss", "GptOssForCausalLM", experts.gpt_oss),
    "granite": Architecture("granite", "GraniteForCausalLM", dense.granite, interleaved=True),
    "granitemoe": Architecture("granitemoe", "GraniteMoeForCausalLM", dense.granite, interleaved=True),
    "olmo2": _of_olmo2,
    "olmoe": Architecture("olmoe", "OlmoeForCausalLM", experts.olmoe),
    "qwen2vl": Architecture("qwen2", "Qwen2ForCausalLM", with_images),
    "qwen3vl": Architecture("qwen3", "Qwen3ForCausalLM", with_images),
    "qwen3vlmoe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", experts.qwen3_vl_moe),
    "command-r": Architecture("cohere", "CohereForCausalLM", dense.cohere),
    "cohere2": Architecture("cohere2", "Cohere2ForCausalLM", dense.cohere2),
    "exaone": Architecture("exaone", "ExaoneForCausalLM", dense.exaone),
    "exaone4": Architecture("exaone4", "Exaone4ForCausalLM", dense.exaone4),
    "ernie4_5": Architecture("ernie4_5", "Ernie4_5ForCausalLM", dense.ernie),
    "glm4": Architecture("glm4", "Glm4ForCausalLM", dense.glm4),
    "hunyuan-dense": Architecture("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", dense.hunyuan),
    "lfm2": Architecture("lfm2", "Lfm2ForCausalLM", hybrid.lfm2),
    "minicpm": Architecture("minicpm", "MiniCPMForCausalLM", dense.minicpm, interleaved=True),
    "nemotron": Architecture("nemotron", "NemotronForCausalLM", dense.nemotron, norm_offset=1.0),
    "seed_oss": Architecture("seed_oss", "SeedOssForCausalLM", dense.llama),
    "deepseek2": _of_deepseek2,
    "glm4moe": Architecture("glm4_moe", "Glm4MoeForCausalLM", experts.glm4_moe),
    "minimax-m2": Architecture("minimax", "MiniMaxM2ForCausalLM", experts.minimax),
    "dots1": Architecture("dots1", "Dots1ForCausalLM", experts.dots1),
    "bailingmoe": Architecture("bailing_moe", "BailingMoeForCausalLM", experts.bailing),
    "bailingmoe2": Architecture("bailing_moe", "BailingMoeV2ForCausalLM", experts.bailing),
    "llama4": Architecture("llama4", "Llama4ForConditionalGeneration", experts.llama4),
    "gemma3n": Architecture("gemma3n", "Gemma3nForConditionalGeneration", gemma.gemma3n),
    "gemma4": Architecture("gemma4_text", "Gemma4ForCausalLM", gemma.gemma4, varies=True),
    "lfm2moe": Architecture("lfm2_moe", "Lfm2MoeForCausalLM", hybrid.lfm2_moe),
    "qwen3next": Architecture("qwen3_next", "Qwen3NextForCausalLM", hybrid.qwen3_next),
    "qwen35": Architecture("qwen3_5", "Qwen3_5ForConditionalGeneration", hybrid.qwen35, tiled=True),
    "qwen35moe": Architecture("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", hybrid.qwen35_moe, tiled=True),
    "nemotron_h": Architecture("nemotron_h", "NemotronHForCausalLM", hybrid.nemotron_h),
    "nemotron_h_moe": Architecture("nemotron_h", "NemotronHForCausalLM", hybrid.nemotron_h),
    "granitehybrid": Architecture(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", hybrid.granite_hybrid, interleaved=True
    ),
    "falcon-h1": Architecture("falcon_h1", "FalconH1ForCausalLM", hybrid.falcon_h1),
    "jamba": Architecture("jamba", "JambaForCausalLM", hybrid.jamba),
    "kimi-linear": Architecture("kimi_linear", "KimiLinearForCausalLM", hybrid.kimi_linear),
    "starcoder2": Architecture("starcoder2", "Starcoder2ForCausalLM", dense.starcoder2),
    "stablelm": Architecture("stablelm", "StableLmForCausalLM", dense.stablelm),
    "internlm2": Architecture("internlm2", "InternLM2ForCausalLM", dense.internlm2),
    "gptneox": Architecture("gpt_neox", "GPTNeoXForCausalLM", dense.gpt_neox, called=_GPT_NEOX),
    "phi2": Architecture("phi", "PhiForCausalLM", dense.phi2),
    "phimoe": Architecture("phimoe", "PhiMoEForCausalLM", experts.phimoe),
    "apertus": Architecture("apertus", "ApertusForCausalLM", dense.apertus),
    "afmoe": Architecture("afmoe", "AfmoeForCausalLM", experts.afmoe),
    "gpt2": Architecture("gpt2", "GPT2LMHeadModel", dense.gpt2, called=(("model.", "transformer."),)),
    "starcoder": Architecture("gpt_bigcode", "GPTBigCodeForCausalLM", dense.starcoder),
    "qwen": Architecture("qwen", "QWenLMHeadModel", dense.qwen),
    "deepseek": Architecture("deepseek", "DeepseekForCausalLM", experts.deepseek, interleaved=True),
    "minicpm3": Architecture("minicpm3", "MiniCPM3ForCausalLM", experts.minicpm3),
    "deci": Architecture("nemotron-nas", "DeciLMForCausalLM", dense.nemotron_nas, interleaved=True, varies=True),
    "exaone-moe": Architecture("exaone_moe", "ExaoneMoEForCausalLM", experts.exaone_moe),
}

# Architectures that mlx-lm has a model of which computes something else than the original, and what.
DIFFERENT = {
    "chatglm": "mlx-lm's glm rotates whole heads, where the original rotates half of each",
    "ernie4_5-moe": "mlx-lm's ernie4_5_moe chooses experts without the correction that the original adds",
    "hunyuan-moe": "mlx-lm's hunyuan does not normalise the scores of its experts as the original does",
}
