"""What caches take is foretold by a configuration alone, for all families: it is what they hold after a prompt."""

import importlib

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList, make_prompt_cache

from runner.engine.attention.resident import ResidentModel
from runner.engine.budget import KVShape, kv_shape
from tests.support.attentions import BLOCKS, EXPERTS, LATENT, SIZES, YARN
from tests.support.attentions import FAMILIES as SHARING
from tests.support.tiny import VOCAB

LATENT = LATENT | EXPERTS | {"n_group": 1, "rope_scaling": YARN}
OLD = {"n_embd": 32, "n_layer": 3, "n_inner": 48, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4}
OLD |= {"layer_norm_epsilon": 1e-5, "layer_norm_eps": 1e-5, "norm_eps": 1e-5, "vocab_size": VOCAB}
WINDOWS = SIZES | {"num_hidden_layers": 5, "sliding_window": 8, "sliding_window_pattern": 4, "rope_scaling": None}
WINDOWS |= {"layer_norm_eps": 1e-5, "moe_intermediate_size": 24}
MIXED = {"hybrid_layer_pattern": [0, 1, 1, 0, 1], "moe_layer_freq": [0, 1, 1, 1, 1], "sliding_window_size": 8}
MIXED |= {"swa_num_attention_heads": 8, "swa_num_key_value_heads": 2, "swa_head_dim": 12, "swa_v_head_dim": 8}
MIXED |= {"head_dim": 12, "v_head_dim": 8, "num_attention_heads": 8, "num_key_value_heads": 1, "swa_rope_theta": 1e4}
MIXED |= {"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False, "partial_rotary_factor": 0.334}
MIXED |= {"n_shared_experts": None, "layernorm_epsilon": 1e-5, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}
OTHERS = {"num_attention_heads": 6, "num_attention_groups": 2, "head_dim": 8}
STEPS = {"num_attention_groups": 2, "attention_other_setting": OTHERS, "moe_num_experts": 4, "moe_top_k": 2}
STEPS |= {"layer_types": ["full_attention", *["sliding_attention"] * 4], "share_expert_dim": 24}
LONGCAT = {"attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 48, "moe_topk": 2}
LONGCAT |= {"expert_ffn_hidden_size": 24, "zero_expert_num": 2, "num_layers": 3}
LONGCAT |= {"mla_scale_q_lora": True, "mla_scale_kv_lora": True}
LONG = {"original_max_position_embeddings": 512, "short_factor": [1.0] * 2, "long_factor": [1.0] * 2}
MINICPM = {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 1.0, "rope_scaling": LONG}
HEADS = {"num_transformer_layers": 3, "num_query_heads": [4, 6, 8], "num_kv_heads": [2, 3, 4]}
HEADS |= {"ffn_multipliers": [1.0, 1.5, 2.0], "ffn_dim_divisor": 8, "model_dim": 32, "rope_freq_constant": 10000}

# Configurations as they lie on the hub say less than the model does: which layers have windows, say.
FAMILIES = {
    "gemma3_text": WINDOWS,
    "cohere2": WINDOWS,
    "exaone4": WINDOWS | {"sliding_window_pattern": "LLLG"},
    "olmo3": WINDOWS | {"num_key_value_heads": 4},
    "gpt_oss": WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mimo_v2_flash": WINDOWS | EXPERTS | MIXED,
    "step3p5": WINDOWS | STEPS,
    "nemotron-nas": SIZES | {"num_hidden_layers": 4, "block_configs": BLOCKS},
    "nanbeige": SIZES | {"num_loops": 2},
    "iquestloopcoder": SIZES | {"loop_num": 2, "loop_window_size": 8},
    "afm7": SIZES | {"hidden_dim": 32, "num_layers": 4, "num_kv_reuse_layers": 2, "num_heads": 4, "num_kv_heads": 2},
    "minicpm3": SIZES | LATENT | MINICPM,
    "longcat_flash": SIZES | LATENT | LONGCAT,
    "kimi_vl": {"text_config": SIZES | LATENT | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}},
    "phixtral": SIZES | OLD | {"num_vocab": VOCAB, "model_dim": 32, "num_heads": 4, "num_layers": 3},
    "openelm": SIZES | HEADS,
    "gpt2": OLD,
    "gptj": OLD,
    "gpt_bigcode": OLD,
    "lille-130m": SIZES | OLD | {"n_embd": 256, "n_kv_heads": 2, "block_size": 512},
    "phi3small": SIZES  # its layers cannot share prefixes
    | {
        "vocab_size": 100352,
        "layer_norm_epsilon": 1e-5,
        "rope_embedding_base": 1e4,
        "dense_attention_every_n_layers": 2,
    }
    | {"ff_intermediate_size": 48, "gegelu_limit": 20.0},
}


def made(family, config):
    mx.set_default_device(mx.cpu)
    module = importlib.import_module(f"mlx_lm.models.{family}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": family, **config}))
    model.eval()
    return model


def held_bytes(model, tokens):
    """What mlx-lm's own caches hold of so many tokens, without what they have allocated for more."""
    caches = make_prompt_cache(model)
    for _ in range(tokens // 10):
        mx.eval(model(mx.ones((1, 10), mx.int32), cache=caches))
    left, found = list(caches), 0
    while left:
        kv = left.pop()
        if type(kv) is CacheList:
            left += kv.caches
        elif kv.keys is not None:
            kept = min(tokens, getattr(kv, "max_size", tokens))
            found += kept * sum(a.nbytes // a.shape[2] for a in (kv.keys, kv.values))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_foretold_of_a_configuration_is_what_caches_hold_after_a_prompt(family):
    model = made(family, FAMILIES[family])
    said = kv_shape({"model_type": family, **FAMILIES[family]}, "cpu")
    assert said is not None
    assert said.sequence_bytes(100) == held_bytes(model, 100) > 0


@pytest.mark.parametrize("family", ["gemma3_text", "mimo_v2_flash", "nemotron-nas", "iquestloopcoder"])
def test_keys_and_values_in_fewer_bits_are_foretold_as_slots_hold_them(family):
    wide = {"head_dim": 32} if family != "nemotron-nas" else {"hidden_size": 128}
    config = FAMILIES[family] | wide
    for bits in (None, 8, 4):
        said = kv_shape({"model_type": family, **config}, "cpu", bits)
        assert said.sequence_bytes(100) == ResidentModel(made(family, config), kv_bits=bits).slot_bytes(100)


def test_a_model_that_repeats_keys_after_its_cache_is_foretold_as_slots_hold_them():
    config = SIZES | {"n_shared_head": 2}
    said = kv_shape({"model_type": "plamo", **config}, "cpu")
    assert (
        said.sequence_bytes(100)
        == ResidentModel(made("plamo", config)).slot_bytes(100)
        == 2 * held_bytes(made("plamo", config), 100)
    )


def test_nothing_is_computed_of_a_model_of_whatever_size():
    mx.set_default_device(mx.cpu)
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    size = {"hidden_size": 1 << 16, "intermediate_size": 1 << 18, "num_hidden_layers": 99}
    size |= {"num_attention_heads": 512, "num_key_value_heads": 8, "head_dim": 128}
    assert kv_shape({"model_type": "llama", **SIZES, **size}, "metal") == KVShape(99 * 2 * 8 * 128 * 2)
    assert mx.get_peak_memory() - held < 1 << 20


def test_a_model_that_computes_to_go_on_is_unknown():
    """DBRX asks which experts it needs, and that takes its weights."""
    inner = {"ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2}, "n_layers": 3}
    inner |= {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4}, "d_model": 32, "n_heads": 4}
    config = {"model_type": "dbrx", "vocab_size": VOCAB, **inner}
    assert held_bytes(made("dbrx", config), 20) > 0
    mx.enable_compile()
    large = inner | {"d_model": 6144, "n_heads": 48, "n_layers": 40}
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    try:
        assert kv_shape(config, "cpu") is None
        assert kv_shape(config | large, "cpu") is None
        assert mx.get_peak_memory() - before < 1e6
    finally:
        mx.disable_compile()


def test_layers_that_attend_to_earlier_ones_take_no_memory_and_wide_heads_take_theirs():
    """Two of four layers store keys: one with a window of 8 tokens, one with wide heads."""
    config = {"model_type": "gemma4_text", **SIZES, **SHARING["gemma4_text"]}
    assert kv_shape(config, "cpu") == KVShape(2 * 2 * 16 * 4, 2 * 2 * 8 * 4, 8)
    assert kv_shape(config, "metal") == KVShape(2 * 2 * 16 * 2, 2 * 2 * 8 * 2, 8)
