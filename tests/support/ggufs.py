"""Tiny random models of mlx-lm as GGUF files, laid out as llama.cpp's converter lays them out (conversion/*.py)."""

import importlib
import math
import re

import gguf
import numpy as np
from tokenizers import pre_tokenizers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "Ġa", "ĊĊ"]
BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)),
    "tokenizer.ggml.merges": ["1 2", "Ġ a", "Ċ Ċ"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 0,
    "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "max_position_embeddings": 512,
    "vocab_size": len(TOKENS),
    "tie_word_embeddings": False,
}
# Factors of Granite's models, and what files call them.
SCALES = {
    "logits_scaling": 2.0,
    "attention_multiplier": 0.125,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_bias": False,
}
LAYER_NORM = {"attention__layer_norm_epsilon": 1e-5, "attention__layer_norm_rms_epsilon": None}
SCALE_KEYS = {"logit_scale": 2.0, "attention__scale": 0.125, "embedding_scale": 3.0, "residual_scale": 0.5}
_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}
INTERLEAVED = ("llama", "mistral3", "smollm3", "granite", "granitemoe", "minicpm")


def llama3_factors(width, theta):
    """As LlamaModel.generate_extra_tensors works them out, one after the other."""
    found = []
    for at in range(0, width, 2):
        length = 2 * math.pi * theta ** (at / width)
        if length < 8192 / 4:
            found.append(1.0)
        elif length > 8192:
            found.append(32.0)
        else:
            smooth = (8192 / length - 1) / 3
            found.append(1 / ((1 - smooth) / 32 + smooth))
    return np.array(found, np.float32)


def random_model(model_type, **changes):
    """A model of mlx-lm with random weights, and its configuration."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.random.seed(3)
    config = {"model_type": model_type, **SIZES, **changes}
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(config))
    if config["tie_word_embeddings"] and hasattr(model, "sanitize"):
        model.sanitize({name: one for name, one in tree_flatten(model.parameters()) if not name.startswith("lm_head.")})
    weights = {name: mx.random.normal(array.shape) * 0.3 for name, array in tree_flatten(model.parameters())}
    model.load_weights(list(weights.items()))
    return model, config


def write(path, architecture, keys, tensors):
    """A GGUF file; ``tensors`` are arrays, or pairs of a type and its blocks."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        kind = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}[type(value)]
        getattr(writer, f"add_{kind}")(key, value)
    for name, array in tensors.items():
        kind, array = array if isinstance(array, tuple) else (None, array)
        writer.add_tensor(name, array, raw_dtype=kind)
        if architecture == "gptoss" and kind == gguf.GGMLQuantizationType.MXFP4:
            writer.tensors[0][name].dtype = 4  # Ollama's number of it
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def settings(architecture, config, **more):
    """The keys of a configuration; ``more``: those of the architecture, ``__`` for a dot; None: not in the file."""
    own = {key: config[name] for name, key in _KEYS.items()}
    own |= {key.replace("__", "."): value for key, value in more.items()}
    own = {key: value for key, value in own.items() if value is not None}
    return {f"{architecture}.{key}": value for key, value in own.items()} | BYTE_LEVEL


def tensors(architecture, model, config):
    """The model's weights by llama.cpp's names, in its order of rows."""
    from mlx.utils import tree_flatten

    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], config["num_hidden_layers"])
    found = {}
    for parameter, array in tree_flatten(model.parameters()):
        layer, _, leaf = parameter.rpartition(".")
        layer, leaf = (layer, leaf) if leaf in ("weight", "bias") else (parameter, "weight")
        array = np.array(array)
        if architecture in INTERLEAVED and layer.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if layer.endswith("q_proj") else "num_key_value_heads"]
            array = interleaved(array, heads)
        if architecture.startswith(("gemma", "nemotron")) and parameter.endswith("norm.weight"):
            array = array + 1
        if layer.endswith(".conv.conv"):
            array = array[..., 0]
        if layer.endswith("shared_expert_gate"):
            array = array[0]
        found[f"{_expert_tensor(layer) or names.get_name(layer)}.{leaf}"] = array
    return found


def ollamas(tensors):
    """The tensors of a gpt-oss as ConvertGptoss of Ollama laid them out, the experts as pairs of type and blocks."""
    tensors, found = dict(tensors), {}
    for name in list(tensors):
        block, _, leaf = name.rpartition(".")
        if block.endswith("attn_q"):
            block = block.removesuffix("attn_q")
            parts = [tensors.pop(f"{block}attn_{part}.{leaf}") for part in "qkv"]
            found[f"{block}attn_qkv.{leaf}"] = np.concatenate(parts)
        elif block.endswith("ffn_gate_exps"):
            block = block.removesuffix("ffn_gate_exps")
            gates, ups = (tensors.pop(f"{block}ffn_{part}_exps.{leaf}") for part in ("gate", "up"))
            kind, (gates, ups) = (gates[0], (gates[1], ups[1])) if leaf == "weight" else (None, (gates, ups))
            both = np.stack([gates, ups], axis=2).reshape(len(gates), -1, *gates.shape[2:])
            found[f"{block}ffn_gate_up_exps.{leaf}"] = (kind, _paired(both)) if kind else both
    for name, array in tensors.items():
        called = name.replace("attn_output", "attn_out").replace("post_attention_norm", "ffn_norm")
        called = called.replace("attn_sinks.weight", "attn_sinks")
        found[called] = (array[0], _paired(array[1])) if isinstance(array, tuple) else array
    return found


def _paired(stored):
    """MXFP4 blocks whose bytes hold two neighbours each."""
    blocks = stored.reshape(-1, 17)
    levels = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    return np.concatenate([blocks[:, :1], levels[:, ::2] | levels[:, 1::2] << 4], axis=1).reshape(stored.shape)


def _expert_tensor(layer):
    """The name of stacked experts: those of mlx-lm are in no list of names."""
    stacked = re.fullmatch(r"model\.layers\.(\d+)\..*\.(?:switch_mlp|experts)\.(gate|up|down)_proj", layer)
    return stacked and f"blk.{stacked[1]}.ffn_{stacked[2]}_exps"


def interleaved(rows, heads):
    """Rows as LlamaModel.permute lays them: of each head the first row, the middle one, the second, ..."""
    heads_of = rows.reshape(heads, -1, *rows.shape[1:])
    half = heads_of.shape[1] // 2
    order = [at for pair in zip(range(half), range(half, 2 * half), strict=True) for at in pair]
    return heads_of[:, order].reshape(rows.shape)


def write_model(path, architecture, model, config, extra=None, **more):
    """The whole file. ``extra``: further tensors, or that experts are by themselves."""
    found = tensors(architecture, model, config)
    if extra and "experts" in extra:
        stacks = [name for name in found if name.endswith("_exps.weight")]
        for name in stacks:
            block = name.removesuffix("_exps.weight")
            found |= {f"{block}.{at}.weight": one for at, one in enumerate(found.pop(name))}
        extra = None
    return write(path, architecture, settings(architecture, config, **more), found | (extra or {}))
