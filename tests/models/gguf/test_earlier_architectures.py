"""Promises of runner/models/gguf/{architectures,making,settings}: names, orders and settings of further families."""

import mlx.core as mx
import numpy as np
import pytest

from runner.types import UserError
from tests.support import conversions, ggufs
from tests.support.conversions import converted, in_blocks, logits

HALF = {"rope__dimension_count": 8, **ggufs.LAYER_NORM}
USED = {"expert_count": 4, "expert_used_count": 2}
LONG = [1.0 + at / 4 for at in range(8)]
SHORT = {"rope_factors_long.weight": np.full(8, 9, np.float32), "rope_factors_short.weight": np.array(LONG, np.float32)}
FACTORS = {f"rope_factors_{kind}.weight": np.array(LONG, np.float32) for kind in ("long", "short")}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
STABLELM = {"use_qkv_bias": False, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5}
NEOX = {"layer_norm_eps": 1e-5, "rotary_emb_base": 20000.0, "rotary_pct": 0.5, "num_key_value_heads": 4}
NEOX |= {"intermediate_size": 256}
GPT2 = {"n_ctx": 512, "n_positions": 512, "n_embd": 64, "n_head": 4, "n_layer": 4, "layer_norm_epsilon": 1e-5}
GPT2 |= {"num_key_value_heads": 4, "intermediate_size": 256, "tie_word_embeddings": True}
LAYERS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
ROUTED = {"expert_shared_count": 1, "expert_feed_forward_length": 32, "leading_dense_block_count": 1}
SIGMOID = {**USED, **ROUTED, "expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": 1.5}
BLOCKS = [
    {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 6.0}},
    {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 12.0}},
    {"attention": {"no_op": True}, "ffn": {"ffn_mult": 6.0}},
    {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 6.0}},
]
KEYS = {"attention__key_length": None}  # what a converter leaves out where heads are as wide as the model

# Named: (llama.cpp's name, mlx-lm's, its settings, the file's keys, further tensors)
CASES = {
    "stablelm": ("stablelm", "stablelm", STABLELM, {**HALF, "use_parallel_residual": True, **KEYS}, {}),
    "stablelm 2 12b": (
        "stablelm",
        "stablelm",
        {**STABLELM, "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True},
        {**HALF, "use_parallel_residual": True, **KEYS},
        {},
    ),
    "internlm2": ("internlm2", "internlm2", {"bias": False}, KEYS, {}),
    "internlm2 stretched": (
        "internlm2",
        "internlm2",
        {"bias": False, "num_attention_heads": 8, "head_dim": 8, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0, **KEYS},
        {},
    ),
    "gptneox": ("gptneox", "gpt_neox", NEOX, {**HALF, "use_parallel_residual": True, **KEYS}, {}),
    "gptneox in a row": (
        "gptneox",
        "gpt_neox",
        {**NEOX, "use_parallel_residual": False},
        {**HALF, "use_parallel_residual": False, **KEYS},
        {},
    ),
    "phi2": (
        "phi2",
        "phi",
        {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "num_key_value_heads": 4},
        {**HALF, **KEYS},
        {},
    ),
    "phimoe": (
        "phimoe",
        "phimoe",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "original_max_position_embeddings": 128,
            "rope_scaling": {
                "long_factor": LONG,
                "short_factor": LONG,
                "long_mscale": 1.243163121016122,
                "short_mscale": 1.243163121016122,
            },
        },
        {**USED, "rope__scaling__original_context_length": 128, **KEYS},
        FACTORS,
    ),
    "phi mini moe": ("phimoe", "phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}, {**USED, **KEYS}, {}),
    "apertus": (
        "apertus",
        "apertus",
        {
            "mlp_bias": False,
            "attention_bias": False,
            "post_norm": False,
            "qk_norm": True,
            "rope_scaling": LLAMA3,
            "rope_theta": 5e5,
        },
        KEYS,
        {"rope_freqs.weight": ggufs.llama3_factors(16, 5e5)},
    ),
    "afmoe": (
        "afmoe",
        "afmoe",
        {
            **EXPERTS,
            "layer_types": LAYERS,
            "sliding_window": 8,
            "num_shared_experts": 1,
            "num_dense_layers": 1,
            "route_norm": True,
            "route_scale": 1.5,
        },
        {**SIGMOID, "attention__sliding_window": 8},
        {},
    ),
    "gpt2": ("gpt2", "gpt2", GPT2, {**ggufs.LAYER_NORM, "attention__head_count_kv": None, **KEYS}, {}),
    "starcoder": (
        "starcoder",
        "gpt_bigcode",
        {**GPT2, "num_key_value_heads": 1, "n_inner": 256},
        {**ggufs.LAYER_NORM, **KEYS},
        {},
    ),
    "qwen": (
        "qwen",
        "qwen",
        {"kv_channels": 16, "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0, "intermediate_size": 192},
        {"attention__head_count_kv": None, **KEYS},
        {},
    ),
    "deepseek": (
        "deepseek",
        "deepseek",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
        {**USED, **ROUTED, "expert_weights_scale": 1.0, "rope__scaling__type": "none", **KEYS},
        {},
    ),
    "ling": (
        "bailingmoe",
        "bailing_moe",
        {**EXPERTS, "num_shared_experts": 1, "norm_topk_prob": True, "first_k_dense_replace": 0},
        {
            **USED,
            **ROUTED,
            "leading_dense_block_count": 0,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.0,
            "rope__dimension_count": 16,
            **KEYS,
        },
        {},
    ),
    "minicpm3": (
        "minicpm3",
        "minicpm3",
        {
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "num_key_value_heads": 4,
            "dim_model_base": 256,
            "scale_depth": 1.4,
            "scale_emb": 12,
            "rope_scaling": {
                "long_factor": LONG,
                "short_factor": LONG,
                "original_max_position_embeddings": 512,
            },
        },
        {
            "attention__q_lora_rank": 32,
            "attention__kv_lora_rank": 32,
            "attention__key_length": 32,
            "rope__dimension_count": 16,
        },
        SHORT,  # no text is longer than what these are for
    ),
    "llama nemotron": (
        "deci",
        "nemotron-nas",
        {"block_configs": BLOCKS, "rope_scaling": LLAMA3, "rope_theta": 5e5, "num_hidden_layers": 5},
        {
            "attention__head_count": [4, 4, 0, 0, 4],
            "attention__head_count_kv": [2, 0, 0, 0, 1],
            "feed_forward_length": [256, 512, 256, 0, 256],
        },
        {"rope_freqs.weight": ggufs.llama3_factors(16, 5e5)},
    ),
    "k-exaone": (
        "exaone-moe",
        "exaone_moe",
        {
            **EXPERTS,
            "num_shared_experts": 1,
            "sliding_window": 8,
            "layer_types": LAYERS,
            "is_moe_layer": [False, True, True, True],
            "routed_scaling_factor": 1.5,
        },
        {
            **SIGMOID,
            "attention__sliding_window": 8,
            "attention__sliding_window_pattern": [True, True, True, False],
            "expert_shared_feed_forward_length": 32,
        },
        {},
    ),
}
pytestmark = pytest.mark.usefixtures("cpu")


def written(tmp_path, name, change=lambda found: found, words=None):
    architecture, model_type, changes, keys, extra = CASES[name]
    original, config = ggufs.random_model(model_type, **changes)
    path = tmp_path / "tiny.gguf"
    conversions.write_model(path, architecture, original, config, extra, change, **keys | (words or {}))
    return path, original


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_each_earlier_architecture_computes_what_its_model_does(tmp_path, name):
    path, original = written(tmp_path, name)
    model, _, said = converted(tmp_path, path)
    got, want = logits(model), logits(original)
    assert float(mx.std(want)) > 0.01 and bool(mx.isfinite(want).all())
    assert float(mx.abs(got - want).max()) < 1e-4 * float(mx.std(want))
    assert not said  # each setting of the file is used


@pytest.mark.parametrize("name", CASES)
def test_quantised_tensors_of_each_are_what_their_numbers_are(tmp_path, name):
    got = []
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        path, _ = written(tmp_path / str(at), name, lambda found, at=at: in_blocks(found)[at])
        model, read, said = converted(tmp_path / str(at), path)
        assert ("quantization" in read) == (at == 0) and not said
        got.append(logits(model))
    assert float(mx.abs(got[0] - got[1]).max()) < 1e-3 * float(mx.std(got[1]))


@pytest.mark.parametrize("name", CASES)
def test_bits_can_be_asked_for_of_each(tmp_path, name):
    path, original = written(tmp_path, name)
    model, read, said = converted(tmp_path, path, bits=8, group_size=32)
    assert read["quantization"] == {"group_size": 32, "bits": 8} and len(said) == 2
    assert float(mx.abs(logits(model) - logits(original)).mean()) < 0.2 * float(mx.std(logits(original)))


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("phimoe", {"rope__scaling__attn_factor": 1.5}, "an attention factor of their own"),
        ("deepseek", {"expert_weights_norm": True}, "scales or normalises the scores of its experts"),
        ("deepseek", {"expert_weights_scale": 2.5}, "scales or normalises the scores of its experts"),
        ("afmoe", {"expert_gating_func": 1}, "its experts are chosen by softmax"),
        ("stablelm", {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0}, "positions are stretched"),
        ("qwen", {"rope__freq_base": 20000.0}, "rotates by the base 10,000 alone"),
        ("gpt2", {"attention__clamp_kqv": 8.0}, "clamps queries"),
        ("afmoe", {"expert_count": 0}, "its settings do not go together"),
        ("afmoe", {"expert_gating_func": [1]}, "its settings do not go together"),
        ("phimoe", {"rope__scaling__original_context_length": 1}, "its settings do not go together"),
        ("phi2", {"embedding_length": 1}, "its settings do not go together"),
    ],
)
def test_what_mlx_lms_models_would_compute_differently_is_refused_in_one_line(tmp_path, name, words, message):
    path, _ = written(tmp_path, name, words=words)
    with pytest.raises(UserError, match=message) as refusal:
        converted(tmp_path, path)
    assert refusal.value.exit_code == 3 and "\n" not in str(refusal.value)


def test_a_minicpm3_without_a_head_of_its_own_is_refused(tmp_path):
    path, _ = written(tmp_path, "minicpm3", lambda found: {n: one for n, one in found.items() if n != "output.weight"})
    with pytest.raises(UserError, match="does not scale what goes into the embedding"):
        converted(tmp_path, path)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("chatglm", "rotates whole heads"), ("ernie4_5-moe", "without the correction"), ("hunyuan-moe", "not normalise")],
)
def test_an_architecture_whose_model_in_mlx_lm_differs_is_refused_with_what_differs(tmp_path, architecture, reason):
    path = ggufs.write(tmp_path / "a.gguf", architecture, {}, {"token_embd.weight": np.ones((4, 32))})
    with pytest.raises(UserError, match=f"of architecture {architecture}, mlx-lm's .*{reason}") as refusal:
        converted(tmp_path, path)
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize("name", ["gpt2", "starcoder"])
def test_an_embedding_that_a_file_has_twice_is_read_once(tmp_path, name):
    path, original = written(tmp_path, name, lambda found: found | {"output.weight": found["token_embd.weight"]})
    model, _, said = converted(tmp_path, path)
    assert float(mx.abs(logits(model) - logits(original)).max()) < 1e-4 * float(mx.std(logits(original))) and not said


def test_queries_keys_and_values_in_one_tensor_are_taken_apart(tmp_path):
    def together(found):
        for leaf in ("weight", "bias"):
            for at in range(4):
                parts = [found.pop(f"blk.{at}.attn_{part}.{leaf}") for part in "qkv"]
                found[f"blk.{at}.attn_qkv.{leaf}"] = np.concatenate(parts)
        return found

    path, original = written(tmp_path, "phi2", together)
    model, _, _ = converted(tmp_path, path)
    assert float(mx.abs(logits(model) - logits(original)).max()) < 1e-4 * float(mx.std(logits(original)))
