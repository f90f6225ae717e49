"""Promises of runner/models/gguf/{architectures,layout,reader,rotary}.py: a file computes what llama.cpp computes."""

import math

import numpy as np
import pytest

from runner.engine import weights
from runner.machine.device import Device
from runner.models.gguf.convert import Asked, convert_gguf
from runner.models.gguf.pieces import all_pieces, gguf_files
from runner.types import UserError
from tests.support import ggufs

CPU = Device("cpu", "a CPU", None, 1 << 34)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GRANITE_SCALES = {**ggufs.SCALES, "mlp_bias": False}
USED = {"expert_count": 4, "expert_used_count": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
YARN_KEYS = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 128,
}
LONG = [1.0 + at / 4 for at in range(8)]


# Named: (llama.cpp's name, mlx-lm's, its settings, the file's keys, further tensors)
CASES = {
    "llama": ("llama", "llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, {}, {}),
    "llama3": (
        "llama",
        "llama",
        {"rope_scaling": LLAMA3, "rope_theta": 5e5, "head_dim": 32},
        {},
        {"rope_freqs.weight": ggufs.llama3_factors(32, 5e5)},
    ),
    "mixtral": ("llama", "mixtral", LOCAL_EXPERTS, USED, {}),
    "mixtral until 2024": ("llama", "mixtral", LOCAL_EXPERTS, USED, {"experts": "by themselves"}),
    "mistral small": ("mistral3", "llama", {"head_dim": 32}, {}, {}),
    "ministral": (
        "mistral3",
        "ministral3",
        {
            "rope_parameters": {
                **YARN,
                "rope_theta": 20000.0,
                "llama_4_scaling_beta": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            }
        },
        {**YARN_KEYS, "attention__temperature_scale": 0.1, "rope__scaling__yarn_log_multiplier": 1.0},
        {},
    ),
    "smollm3": ("smollm3", "smollm3", {"tie_word_embeddings": True}, {}, {}),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}, {}, {}),
    "qwen2moe": (
        "qwen2moe",
        "qwen2_moe",
        {**EXPERTS, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48},
        USED,
        {},
    ),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 32, "rope_scaling": YARN}, YARN_KEYS, {}),
    "qwen3moe": (
        "qwen3moe",
        "qwen3_moe",
        {
            **EXPERTS,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
        USED,
        {},
    ),
    "gemma": ("gemma", "gemma", {"tie_word_embeddings": True}, {}, {}),
    "gemma2": (
        "gemma2",
        "gemma2",
        {
            "tie_word_embeddings": True,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 16,
        },
        {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        {},
    ),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {
            "tie_word_embeddings": True,
            "sliding_window": 8,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 16,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "attention__sliding_window": 8,
            "attention__sliding_window_pattern": 3,
            "rope__scaling__type": "linear",
            "rope__scaling__factor": 8.0,
        },
        {},
    ),
    "phi3": (
        "phi3",
        "phi3",
        {
            "rope_scaling": {"type": "longrope", "long_factor": LONG, "short_factor": LONG},
            "original_max_position_embeddings": 128,
        },
        {
            "rope__scaling__original_context_length": 128,
            "rope__scaling__attn_factor": (1 + math.log(4) / math.log(128)) ** 0.5,
        },
        {
            "rope_factors_long.weight": np.array(LONG, np.float32),
            "rope_factors_short.weight": np.array(LONG, np.float32),
        },
    ),
    "gpt-oss": (
        "gpt-oss",
        "gpt_oss",
        {**LOCAL_EXPERTS, "sliding_window": 8, "rope_scaling": YARN},
        {**USED, **YARN_KEYS, "attention__sliding_window": 8},
        {},
    ),
    "granite": ("granite", "granite", {**GRANITE_SCALES, "tie_word_embeddings": True}, ggufs.SCALE_KEYS, {}),
    "granitemoe": ("granitemoe", "granitemoe", {**GRANITE_SCALES, **LOCAL_EXPERTS}, {**ggufs.SCALE_KEYS, **USED}, {}),
    "olmo2": ("olmo2", "olmo2", {}, {}, {}),
    "olmo3": (
        "olmo2",
        "olmo3",
        {"sliding_window": 8, "rope_scaling": YARN},
        {"attention__sliding_window": 8, "attention__sliding_window_pattern": [True, True, True, False], **YARN_KEYS},
        {},
    ),
    "olmoe": ("olmoe", "olmoe", {**EXPERTS, "num_key_value_heads": 4}, USED, {}),
    "qwen2vl": (
        "qwen2vl",
        "qwen2",
        {"tie_word_embeddings": True},
        {"rope__dimension_sections": [2, 3, 3, 0]},
        {},
    ),
    "qwen3vl": (
        "qwen3vl",
        "qwen3",
        {},
        {"rope__dimension_sections": [3, 3, 2, 0], "n_deepstack_layers": 1},
        {},
    ),
    "qwen3vlmoe": (
        "qwen3vlmoe",
        "qwen3_moe",
        {
            **EXPERTS,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
        {**USED, "rope__dimension_sections": [3, 3, 2, 0], "n_deepstack_layers": 1},
        {},
    ),
    "command-r": (
        "command-r",
        "cohere",
        {"logit_scale": 0.25, "use_qk_norm": True, "tie_word_embeddings": True},
        {"logit_scale": 0.25, **ggufs.LAYER_NORM},
        {},
    ),
    "cohere2": (
        "cohere2",
        "cohere2",
        {"logit_scale": 0.25, "sliding_window": 8, "tie_word_embeddings": True},
        {"logit_scale": 0.25, "attention__sliding_window": 8, **ggufs.LAYER_NORM},
        {},
    ),
    "exaone": ("exaone", "exaone", {"num_layers": 4, "layer_norm_epsilon": 1e-5}, {}, {}),
    "exaone4": (
        "exaone4",
        "exaone4",
        {"rope_scaling": {"rope_type": "default"}, "sliding_window": 0, "sliding_window_pattern": ""},
        {},
        {},
    ),
    "exaone4 with windows": (
        "exaone4",
        "exaone4",
        {"rope_scaling": {"rope_type": "default"}, "sliding_window": 8, "sliding_window_pattern": "LLLG"},
        {"attention__sliding_window": 8, "attention__sliding_window_pattern": [True, True, True, False]},
        {},
    ),
    "ernie4_5": ("ernie4_5", "ernie4_5", {"use_bias": False, "tie_word_embeddings": True}, {}, {}),
    "glm4": (
        "glm4",
        "glm4",
        {"attention_bias": True, "partial_rotary_factor": 0.5},
        {"rope__dimension_count": 8},
        {},
    ),
    "hunyuan-dense": ("hunyuan-dense", "hunyuan_v1_dense", {"tie_word_embeddings": True}, {}, {}),
    "lfm2": (
        "lfm2",
        "lfm2",
        {
            "norm_eps": 1e-5,
            "conv_bias": False,
            "conv_L_cache": 3,
            "block_dim": 64,
            "block_multiple_of": 1,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "tie_word_embeddings": True,
        },
        {"shortconv__l_cache": 3, "attention__head_count_kv": [0, 0, 2, 0]},
        {},
    ),
    "minicpm": (
        "minicpm",
        "minicpm",
        {"scale_emb": 3.0, "scale_depth": 1.5, "dim_model_base": 32},
        {"embedding_scale": 3.0, "residual_scale": 0.75, "logit_scale": 2.0},
        {},
    ),
    "nemotron": (
        "nemotron",
        "nemotron",
        {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        {"rope__dimension_count": 8, **ggufs.LAYER_NORM},
        {},
    ),
    "seed_oss": ("seed_oss", "seed_oss", {"attention_bias": True}, {}, {}),
    "starcoder2": ("starcoder2", "starcoder2", {"tie_word_embeddings": True}, ggufs.LAYER_NORM, {}),
}


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("name", CASES)
def test_a_file_of_each_architecture_computes_what_its_model_does(tmp_path, name):
    import mlx.core as mx

    architecture, model_type, changes, keys, extra = CASES[name]
    original, config = ggufs.random_model(model_type, **changes)
    path = ggufs.write_model(tmp_path / "tiny.gguf", architecture, original, config, extra, **keys)
    said = []
    (tmp_path / "out").mkdir()
    convert_gguf(Asked(str(path), str(tmp_path / "out")), said.append)
    model, _ = weights.load(tmp_path / "out", CPU)
    tokens = mx.array([[at * 7 % len(ggufs.TOKENS) for at in range(40)]])
    got, want = model(tokens), original(tokens)
    assert float(mx.abs(got - want).max()) < 1e-4 * float(mx.std(want))
    assert not [line for line in said if isinstance(line, str)]  # each setting of the file is used


def convert(tmp_path, architecture="llama", model_type="llama", extra=None, changes=None, **keys):
    original, config = ggufs.random_model(model_type, **(changes or {}))
    written = ggufs.settings(architecture, config, **keys)
    tensors = ggufs.tensors(architecture, original, config) | (extra or {})
    path = ggufs.write(
        tmp_path / "tiny.gguf", architecture, written, {n: a for n, a in tensors.items() if a is not None}
    )
    (tmp_path / "out").mkdir()
    convert_gguf(Asked(str(path), str(tmp_path / "out")))


@pytest.mark.usefixtures("cpu")
def test_gpt_oss_as_ollama_converted_it_becomes_the_same_model(tmp_path):
    import mlx.core as mx
    from gguf import GGMLQuantizationType, quants

    mxfp4, settings = GGMLQuantizationType.MXFP4, CASES["gpt-oss"]
    original, config = ggufs.random_model("gpt_oss", **settings[2])
    tensors = {
        name: (mxfp4, quants.quantize(array, mxfp4)) if name.endswith("_exps.weight") else array
        for name, array in ggufs.tensors("gpt-oss", original, config).items()
    }
    keys = ggufs.settings("gptoss", config, **settings[3]) | {"tokenizer.ggml.pre": "default"}
    del keys["gptoss.rope.scaling.type"]
    known = ggufs.settings("gpt-oss", config, **settings[3]) | {"tokenizer.ggml.pre": "gpt-4o"}
    for architecture, found, written in (("gpt-oss", known, tensors), ("gptoss", keys, ggufs.ollamas(tensors))):
        path = ggufs.write(tmp_path / f"{architecture}.gguf", architecture, found, written)
        (tmp_path / architecture).mkdir()
        convert_gguf(Asked(str(path), str(tmp_path / architecture)))
    (ours, theirs) = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("gpt-oss", "gptoss"))
    assert ours.keys() == theirs.keys() and all(mx.array_equal(ours[name], theirs[name]) for name in ours)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "gptoss" / name).read_text() == (tmp_path / "gpt-oss" / name).read_text()


def test_an_architecture_that_is_not_known_is_named_with_those_that_are(tmp_path):
    path = ggufs.write(tmp_path / "a.gguf", "mamba", {"mamba.block_count": 2}, {"token_embd.weight": np.ones((4, 32))})
    with pytest.raises(
        UserError, match=r"architecture mamba is not known \(known: afmoe, .*gpt-oss.*qwen3moe"
    ) as raised:
        convert_gguf(Asked(str(path), str(tmp_path)))
    assert raised.value.exit_code == 3 and "\n" not in str(raised.value)


def test_what_reads_images_for_a_model_is_none(tmp_path):
    path = ggufs.write(tmp_path / "Qwen-VL-mmproj.GGUF", "clip", {}, {})
    with pytest.raises(
        UserError, match=r"reads images for a model \(mmproj\), which is another file; give the file of"
    ):
        convert_gguf(Asked(str(path), str(tmp_path)))
    for name in ("Qwen-00002-of-00002.GGUF", "Qwen-00001-of-00002.GGUF", "._Qwen.gguf"):
        (tmp_path / name).touch()
    assert [path.name for path in gguf_files(tmp_path)] == ["Qwen-00001-of-00002.GGUF"]
    for name in ("Qwen.gguf", "Qwen-00003-of-00003.gguf"):  # of the latter the first pieces are not there
        (tmp_path / name).touch()
    assert {path.name for path in gguf_files(tmp_path)} == {
        "Qwen-00001-of-00002.GGUF",
        "Qwen-00003-of-00003.gguf",
        "Qwen.gguf",
    }
    assert [path.name for path in all_pieces(tmp_path / "Qwen-00002-of-00002.GGUF")] == [
        "Qwen-00001-of-00002.GGUF",
        "Qwen-00002-of-00002.GGUF",
    ]


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"extra": {"blk.0.ffn_up.weight": None}}, r"lacks the tensor blk.0.ffn_up.weight"),
        (
            {"extra": {"blk.0.ssm_a.weight": np.ones(4, np.float32)}},
            r"blk.0.ssm_a.weight is not part of mlx-lm's llama",
        ),
        ({"block_count": 3}, "tensor blk.3.*weight is not part of mlx-lm's llama"),
        ({"extra": {"blk.1.attn_v.weight": np.ones((64, 64), np.float32)}}, r"attn_v.weight has the shape \(64, 64\)"),
        ({"extra": {"rope_freqs.weight": np.full(8, 3, np.float32)}}, "not those of Llama 3"),
        ({"rope__scaling__type": "longrope"}, "scaled by longrope"),
        ({"attention__causal": False}, "it makes embeddings"),
        ({"rope__dimension_count": 8}, "only a part of each head is rotated"),
        ({"attention__head_count_kv": [2, 2, 2, 1]}, "head_count_kv differs from layer to layer"),
        ({"final_logit_softcapping": 30.0}, "no final_logit_softcapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_computed_differently_is_refused(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        convert(tmp_path, **words)
