"""Promises of runner/models/gguf/{making,layout,settings}: experts, latent keys and recurrent layers stay the same."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx_lm.models.cache import make_prompt_cache

from runner.models.gguf.pieces import CONVERSION
from runner.models.gguf.tokens import check
from runner.models.gguf.tokens.tokenizer import Vocabulary, build
from runner.types import UserError
from tests.support import conversions, ggufs
from tests.support.conversions import converted, in_blocks, logits

VOCAB = len(ggufs.TOKENS)
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    "num_key_value_heads": 4,
}
LATENT_KEYS = {
    "attention__head_count_kv": 1,
    "attention__key_length": 48,
    "attention__value_length": 32,
    "attention__key_length_mla": 48,
    "attention__value_length_mla": 64,
    "attention__kv_lora_rank": 32,
    "attention__q_lora_rank": 32,
    "rope__dimension_count": 16,
}
ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "n_group": 2,
    "topk_group": 1,
}
USED = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
ROUTED_KEYS = {
    **USED,
    "expert_shared_count": 2,
    "leading_dense_block_count": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 1.5,
    "expert_group_count": 2,
    "expert_group_used_count": 1,
    "expert_gating_func": 2,
}
YARN = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
YARN |= {"mscale": 0.7, "mscale_all_dim": 0.7}
YARN_KEYS = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 128,
    "rope__scaling__yarn_log_multiplier": 0.07,
}
DELTA = {
    "linear_num_value_heads": 6,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}
DELTA_KEYS = {
    "ssm__conv_kernel": 4,
    "ssm__state_size": 32,
    "ssm__group_count": 2,
    "ssm__time_step_rank": 6,
    "ssm__inner_size": 192,
    "full_attention_interval": 2,
    "rope__dimension_count": 8,
}
SHARED = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 64,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
POSITIONS = {"type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5}
SSM_KEYS = {"ssm__conv_kernel": 4, "ssm__state_size": 16, "ssm__time_step_rank": 4, "ssm__inner_size": 128}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_proj_bias": False}
GRANITE = {
    **ggufs.SCALES,
    **MAMBA,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
    "time_step_limit": [0.0, 1e30],
    "position_embedding_type": "nope",
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
}
GRANITE_KEYS = {
    **ggufs.SCALE_KEYS,
    **SSM_KEYS,
    "ssm__group_count": 1,
    "attention__head_count_kv": [0, 2, 0, 0],
    "rope__scaling__finetuned": False,
}
NEMOTRON = {
    "attention_bias": False,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "mamba_proj_bias": False,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
}
LFM2 = {
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "num_dense_layers": 1,
    "layer_types": ["conv", "full_attention", "conv", "conv"],
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
WINDOW_KEYS = {"attention__sliding_window": 8, "attention__sliding_window_pattern": [True, False] * 2}
GEMMA4 = {
    **WINDOWS,
    "head_dim": 16,
    "global_head_dim": 32,
    "final_logit_softcapping": 20.0,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 20000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    },
}
GEMMA4_KEYS = {
    **WINDOW_KEYS,
    "attention__key_length": 32,
    "attention__value_length": 32,
    "attention__key_length_swa": 16,
    "attention__value_length_swa": 16,
    "rope__dimension_count": 32,
    "rope__dimension_count_swa": 16,
    "rope__freq_base_swa": 5000.0,
    "final_logit_softcapping": 20.0,
}
ROTATED = {"rope_freqs.weight": np.array([1.0] * 4 + [1e30] * 12, np.float32)}
SMALL_GEMMA4 = {
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCAB,
    "use_double_wide_mlp": True,
}
SMALL_GEMMA4_KEYS = {
    "attention__shared_kv_layers": 2,
    "embedding_length_per_layer_input": 32,
    "feed_forward_length": [96, 96, 192, 192],
}
GEMMA3N = {
    **ggufs.SIZES,
    **WINDOWS,
    "model_type": "gemma3n_text",
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCAB,
    "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    "rope_local_base_freq": 5000.0,
    "laurel_rank": 32,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "final_logit_softcapping": 30.0,
}
LLAMA4 = {
    **ggufs.SIZES,
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "interleave_moe_layer_step": 2,
    "intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "num_experts_per_tok": 1,
    "num_local_experts": 4,
    "use_qk_norm": True,
    "rope_scaling": None,
}

# Named: (llama.cpp's name, mlx-lm's, its settings, the file's keys, further tensors)
CASES = {
    "deepseek v2": (
        "deepseek2",
        "deepseek_v2",
        {**LATENT, **ROUTED, "norm_topk_prob": False, "topk_method": "group_limited_greedy", "rope_scaling": YARN},
        {**LATENT_KEYS, **ROUTED_KEYS, **YARN_KEYS, "expert_weights_norm": None, "expert_gating_func": 1},
        {},
    ),
    "deepseek v3": (
        "deepseek2",
        "deepseek_v3",
        {**LATENT, **ROUTED, "rope_scaling": YARN, "rms_norm_eps": 1e-6},
        {**LATENT_KEYS, **ROUTED_KEYS, **YARN_KEYS},
        {},
    ),
    "glm 4.7 flash": (
        "deepseek2",
        "glm4_moe_lite",
        {**LATENT, **ROUTED, "n_group": 1},
        {**LATENT_KEYS, **ROUTED_KEYS, "expert_group_count": 1, "expert_gating_func": None},
        {},
    ),
    "youtu": (
        "deepseek2",
        "deepseek_v3",
        {**LATENT, "q_lora_rank": None, "rms_norm_eps": 1e-6},
        {**LATENT_KEYS, "attention__q_lora_rank": None, "leading_dense_block_count": 4},
        {},
    ),
    "glm4moe": (
        "glm4moe",
        "glm4_moe",
        {
            **ROUTED,
            "rope_scaling": None,
            "use_qk_norm": True,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
        },
        {**ROUTED_KEYS, "rope__dimension_count": 8, "block_count": 5, "nextn_predict_layers": 1},
        {
            "blk.4.nextn.eh_proj.weight": np.ones((64, 128), np.float32),
            "blk.4.attn_norm.weight": np.ones(64, np.float32),
        },
    ),
    "minimax m2": (
        "minimax-m2",
        "minimax",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 0,
            "rotary_dim": 8,
            "intermediate_size": 32,
        },
        {**USED, "rope__dimension_count": 8},
        {},
    ),
    "dots1": ("dots1", "dots1", {**ROUTED, "n_group": 1}, {**ROUTED_KEYS, "expert_group_count": 1}, {}),
    "ling 2": (
        "bailingmoe2",
        "bailing_moe",
        {
            "num_experts": 4,
            "num_shared_experts": 2,
            **{key: value for key, value in ROUTED.items() if key not in ("n_routed_experts", "n_shared_experts")},
            "score_function": "sigmoid",
            "moe_router_enable_expert_bias": True,
            "use_qk_norm": True,
            "partial_rotary_factor": 0.5,
        },
        {**ROUTED_KEYS, "rope__dimension_count": 8, "nextn_predict_layers": 0},
        {},
    ),
    "llama4": (
        "llama4",
        "llama4",
        {"text_config": LLAMA4},
        {**USED, "expert_used_count": 1, "interleave_moe_layer_step": 2},
        {},
    ),
    "gemma3n": (
        "gemma3n",
        "gemma3n",
        {"text_config": GEMMA3N, "tie_word_embeddings": True},
        {
            **WINDOW_KEYS,
            "altup__active_idx": 0,
            "altup__num_inputs": 4,
            "embedding_length_per_layer_input": 32,
            "attention__shared_kv_layers": 2,
            "activation_sparsity_scale": [1.6448536269514722, 1.6448536269514722, -1e9, -1e9],
            "rope__freq_base_swa": 5000.0,
        },
        {},
    ),
    "gemma4": (
        "gemma4",
        "gemma4_text",
        {**GEMMA4, **SMALL_GEMMA4},
        {**GEMMA4_KEYS, **SMALL_GEMMA4_KEYS},
        {**ROTATED, "blk.3.attn_k.weight": np.ones((64, 64), np.float32)},
    ),
    "gemma4 with experts": (
        "gemma4",
        "gemma4_text",
        {
            **GEMMA4,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
        {
            **GEMMA4_KEYS,
            **USED,
            "attention__head_count_kv": [2, 1, 2, 1],
            "attention__shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
        },
        ROTATED,
    ),
    "lfm2moe": (
        "lfm2moe",
        "lfm2_moe",
        LFM2,
        {
            **USED,
            "shortconv__l_cache": 3,
            "attention__head_count_kv": [0, 2, 0, 0],
            "leading_dense_block_count": 1,
            "expert_gating_func": 2,
        },
        {},
    ),
    "qwen3next": (
        "qwen3next",
        "qwen3_next",
        {**DELTA, **SHARED, "decoder_sparse_step": 1, "mlp_only_layers": [], "partial_rotary_factor": 0.5},
        {**DELTA_KEYS, **USED},
        {},
    ),
    "qwen35": (
        "qwen35",
        "qwen3_5",
        {**DELTA, "rope_parameters": POSITIONS, "tie_word_embeddings": True},
        {**DELTA_KEYS, "rope__dimension_sections": [11, 11, 10, 0], "block_count": 5, "nextn_predict_layers": 1},
        {"blk.4.attn_k.weight": np.ones((64, 64), np.float32)},
    ),
    "qwen35moe": (
        "qwen35moe",
        "qwen3_5_moe",
        {**DELTA, **SHARED, "rope_parameters": POSITIONS},
        {**DELTA_KEYS, **USED, "rope__dimension_sections": [11, 11, 10, 0]},
        {},
    ),
    "nemotron_h": (
        "nemotron_h",
        "nemotron_h",
        {**NEMOTRON, "hybrid_override_pattern": ["M", "*", "-", "M"]},
        {
            **SSM_KEYS,
            "ssm__group_count": 2,
            "attention__head_count_kv": [0, 2, 0, 0],
            "feed_forward_length": [0, 0, 96, 0],
        },
        {},
    ),
    "nemotron_h_moe": (
        "nemotron_h_moe",
        "nemotron_h",
        {
            **NEMOTRON,
            **{key: value for key, value in ROUTED.items() if key != "first_k_dense_replace"},
            "n_group": 1,
            "n_shared_experts": 1,
            "moe_shared_expert_intermediate_size": 64,
            "moe_latent_size": 32,
            "hybrid_override_pattern": ["M", "*", "E", "E"],
        },
        {
            **SSM_KEYS,
            **ROUTED_KEYS,
            "leading_dense_block_count": None,
            "expert_shared_count": 1,
            "expert_group_count": 1,
            "expert_gating_func": None,
            "moe_latent_size": 32,
            "ssm__group_count": 2,
            "attention__head_count_kv": [0, 2, 0, 0],
            "feed_forward_length": [0, 0, 32, 32],
        },
        {},
    ),
    "granitehybrid": ("granitehybrid", "granitemoehybrid", {**GRANITE, "tie_word_embeddings": True}, GRANITE_KEYS, {}),
    "granitehybrid with experts": (
        "granitehybrid",
        "granitemoehybrid",
        {
            **GRANITE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
            "shared_intermediate_size": 64,
        },
        {**GRANITE_KEYS, **USED, "expert_shared_feed_forward_length": 64},
        {},
    ),
    "falcon-h1": (
        "falcon-h1",
        "falcon_h1",
        {**MAMBA, "mamba_n_groups": 2, "mamba_d_ssm": 128, "mamba_rms_norm": False, "lm_head_multiplier": 1.0},
        {**SSM_KEYS, "ssm__group_count": 2},
        {},
    ),
    "jamba": (
        "jamba",
        "jamba",
        {
            "attn_layer_offset": 2,
            "attn_layer_period": 4,
            "expert_layer_offset": 0,
            "expert_layer_period": 1,
            "mamba_d_conv": 4,
            "mamba_d_state": 16,
            "mamba_expand": 2,
            "num_experts": 1,
            "num_experts_per_tok": 1,
        },
        {**SSM_KEYS, "attention__head_count_kv": [0, 0, 2, 0]},
        {},
    ),
    "kimi-linear": (
        "kimi-linear",
        "kimi_linear",
        {
            **{key: value for key, value in LATENT.items() if key != "q_lora_rank"},
            "model_max_length": 512,
            "num_experts": 4,
            "moe_intermediate_size": 32,
            "num_experts_per_token": 2,
            "num_shared_experts": 2,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.5,
            "linear_attn_config": {
                "num_heads": 4,
                "head_dim": 32,
                "short_conv_kernel_size": 4,
                "kda_layers": [1, 3, 4],
                "full_attn_layers": [2],
            },
        },
        {
            **LATENT_KEYS,
            **ROUTED_KEYS,
            "attention__q_lora_rank": None,
            "attention__head_count_kv": [0, 1, 0, 0],
            "expert_group_count": None,
            "expert_group_used_count": None,
            "expert_weights_norm": None,
            "ssm__conv_kernel": 4,
            "kda__head_dim": 32,
        },
        {},
    ),
}
pytestmark = pytest.mark.usefixtures("cpu")


def model_of(name, **more):
    architecture, model_type, changes, keys, extra = CASES[name]
    original, config = ggufs.random_model(model_type, **changes, **more)
    return architecture, original, config, keys, extra


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_each_newer_architecture_computes_what_its_model_does(tmp_path, name):
    architecture, original, config, keys, extra = model_of(name)
    path = conversions.write_model(tmp_path / "tiny.gguf", architecture, original, config, extra, **keys)
    model, _, said = converted(tmp_path, path)
    got, want = logits(model), logits(original)
    assert float(mx.std(want)) > 0.01 and bool(mx.isfinite(want).all())
    assert float(mx.abs(got - want).max()) < 1e-4 * float(mx.std(want))
    assert not said  # each setting of the file is used


FUSED = [("gemma4 with experts", True), ("glm4moe", True), ("granitehybrid with experts", True)]


@pytest.mark.parametrize(("name", "fused"), [*((name, False) for name in CASES), *FUSED])
def test_quantised_tensors_are_what_their_numbers_are(tmp_path, name, fused):
    """Blocks stay; only what has to be turned is rounded anew."""
    architecture, original, config, keys, extra = model_of(name)
    got = []
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        path = tmp_path / str(at) / "tiny.gguf"
        conversions.write_model(
            path, architecture, original, config, extra, lambda found, at=at: in_blocks(found)[at], fused, **keys
        )
        model, read, said = converted(tmp_path / str(at), path)
        assert "quantization" in read or at == 1
        assert len(said) == (2 if name == "deepseek v2" and at == 0 else 0)  # what rounding has lost
        got.append(logits(model))
    tolerance = 0.1 if name == "deepseek v2" else 1e-3
    assert float(mx.abs(got[0] - got[1]).max()) < tolerance * float(mx.std(got[1]))


@pytest.mark.parametrize("name", ["deepseek v2", "deepseek v3"])
def test_a_file_until_2025_has_keys_and_values_out_of_their_latent_form_together(tmp_path, name):
    architecture, original, config, keys, extra = model_of(name)

    def together(found):
        for at in range(config["num_hidden_layers"]):
            keys, values = (found.pop(f"blk.{at}.attn_{part}_b.weight") for part in "kv")
            both = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
            found[f"blk.{at}.attn_kv_b.weight"] = both.reshape(-1, both.shape[-1])
        return found

    old = {"attention__head_count_kv": 4, "attention__value_length": 64}
    new = {"attention__key_length_mla": None, "attention__value_length_mla": None}
    path = tmp_path / "tiny.gguf"
    conversions.write_model(path, architecture, original, config, extra, together, **keys | old | new)
    got, want = logits(converted(tmp_path, path)[0]), logits(original)
    assert float(mx.abs(got - want).max()) < 1e-4 * float(mx.std(want))


def perplexity(model):
    """Of the text that conversions are measured with."""
    tokenizer = build(
        Vocabulary(SimpleNamespace(architecture="llama", get=ggufs.BYTE_LEVEL.get, need=ggufs.BYTE_LEVEL.get))
    )
    ids = mx.array(tokenizer.encode(check.TEXT).ids[:257])
    found = model(ids[None, :-1], cache=make_prompt_cache(model))[0]
    losses = mx.logsumexp(found, axis=-1) - mx.take_along_axis(found, ids[1:, None], axis=-1)[:, 0]
    return float(mx.exp(mx.mean(losses)))


@pytest.mark.parametrize("name", CASES)
def test_bits_can_be_asked_for_and_what_they_lose_is_measured(tmp_path, name):
    architecture, original, config, keys, extra = model_of(name)
    path = conversions.write_model(tmp_path / "tiny.gguf", architecture, original, config, extra, **keys)
    model, read, said = converted(tmp_path, path, bits=8, group_size=32)
    got, want = logits(model), logits(original)
    assert float(mx.abs(got - want).mean()) < 0.2 * float(mx.std(want))
    kept = yaml.safe_load((tmp_path / "out" / CONVERSION).read_text())["perplexity"]
    assert read["quantization"] == {"group_size": 32, "bits": 8} and len(said) == 2
    assert kept["converted"] == pytest.approx(kept["file"], rel=0.3)
    assert kept["file"] == pytest.approx(perplexity(original), rel=2e-3)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("glm4moe", {"expert_gating_func": 1}, "its experts are chosen by softmax"),
        ("deepseek v3", {"expert_gating_func": 4}, "its experts are chosen by function 4"),
        ("deepseek v2", {"expert_weights_norm": True}, "normalises the scores of its experts"),
        ("deepseek v3", {"attention__temperature_scale": 0.1}, "scales attention by position"),
        ("deepseek v3", {"attention__kv_lora_rank": None}, "lacks deepseek2.attention.kv_lora_rank"),
        ("qwen35", {"full_attention_interval": 3}, "not every 3 layers one attends to all tokens"),
        ("qwen35", {"ssm__inner_size": None}, "lacks qwen35.ssm.inner_size"),
        ("qwen35", {"nextn_predict_layers": None}, "not every 2 layers|lacks the tensor"),
        ("granitehybrid", {"ssm__group_count": 2}, "several groups"),
        ("kimi-linear", {"kda__head_dim": 16}, "has the shape"),
        ("gemma4", {"attention__value_length_swa": 8}, "keys and values differ in width"),
    ],
)
def test_what_mlx_lms_model_would_compute_differently_is_refused_in_one_line(tmp_path, name, words, message):
    architecture, original, config, keys, extra = model_of(name)
    path = tmp_path / "tiny.gguf"
    conversions.write_model(path, architecture, original, config, extra, **keys | words)
    with pytest.raises(UserError, match=message) as refusal:
        converted(tmp_path, path)
    assert refusal.value.exit_code == 3 and "\n" not in str(refusal.value)


def test_experts_that_mlx_lm_weighs_differently_than_the_original_are_refused(tmp_path):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "expert_layer_period": 2}
    architecture, model_type, changes, keys, _ = CASES["jamba"]
    original, config = ggufs.random_model(model_type, **changes | experts)
    path = tmp_path / "tiny.gguf"
    conversions.write_model(path, architecture, original, config, **keys, expert_count=4, expert_used_count=2)
    with pytest.raises(UserError, match="whose scores mlx-lm's jamba normalises and the original does not"):
        converted(tmp_path, path)


def test_a_tied_falcon_h1_is_refused_for_its_scales(tmp_path):
    architecture, original, config, keys, _ = model_of("falcon-h1", tie_word_embeddings=True)
    path = conversions.write_model(tmp_path / "tiny.gguf", architecture, original, config, **keys)
    with pytest.raises(UserError, match="does not say how they are scaled"):
        converted(tmp_path, path)
