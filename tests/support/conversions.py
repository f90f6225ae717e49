"""Tiny models with experts, latent keys or recurrent layers as GGUF files, changed as llama.cpp's converter does."""

import re

import gguf
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from runner.engine import weights
from runner.machine.device import Device
from runner.models.gguf.convert import Asked, convert_gguf
from tests.support import ggufs

CPU = Device("cpu", "a CPU", None, 1 << 34)

# How mlx-lm's parameters are called where llama.cpp's converter finds them, or where it has renamed them.
RENAMED = [
    (r"language_model\.", ""),
    (r"block_sparse_moe\.switch_mlp|feed_forward\.switch_mlp|(mlp|feed_forward)\.(switch_mlp|experts)", "mlp.experts"),
    (r"backbone\.layers\.(\d+)\.mixer\.switch_mlp\.fc1", r"model.layers.\1.mlp.experts.up_proj"),
    (r"backbone\.layers\.(\d+)\.mixer\.switch_mlp\.fc2", r"model.layers.\1.mlp.experts.down_proj"),
    (r"e_score_correction_bias$", "e_score_correction.bias"),
    (r"expert_bias$", "expert_bias.bias"),
    (r"mixer\.dt_bias$", "mixer.dt.bias"),
    (r"dt_bias$", "dt_proj.bias"),
    (r"mlp\.gate\.gate_proj", "mlp.gate"),
    (r"([qkv])_conv\.conv\.weight", r"\1_conv1d.weight"),
    (r"layer_scalar$", "layer_scalar.weight"),
    (r"correct_output_scale$", "correct_output_scale.weight"),
    (r"embed_q", "k_b_proj"),
    (r"unembed_out", "v_b_proj"),
    (r"^model\.embed_out", "embed_out"),
    (r"^model\.(h\.\d+\.(attn|mlp|ln_[12])|wte|wpe|ln_f)\b", r"transformer.\1"),
    (r"^model\.h\.", "gpt_neox.layers."),
    (r"^model\.(embed_in|final_layer_norm)\b", r"gpt_neox.\1"),
    (r"self_attn\.linear\b", "self_attn.linear_attn"),
]
PERMUTED = ("granitehybrid", "deepseek", "deci")


def tensors(architecture, model, config, fused=False):
    """The model's weights as llama.cpp's converter writes them. ``fused``: experts' gates and ups in one tensor."""
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], config["num_hidden_layers"])
    found = {}
    for parameter, array in tree_flatten(model.parameters()):
        array = np.array(array)
        for name, part in changed(architecture, parameter, array, config):
            if re.match(r"blk|altup|xielu|[a-z_]+$", name):
                found[name] = part
                continue
            known_as = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert known_as, (parameter, name)
            found[known_as] = part
    for name in [name for name in found if fused and name.endswith("ffn_gate_exps.weight")]:
        gates, ups = found.pop(name), found.pop(name.replace("gate", "up"))
        found[name.replace("gate", "gate_up")] = np.concatenate([gates, ups], axis=1)
    for which in ("altup_proj", "altup_unembd_proj"):
        if parts := [found.pop(f"{which}.{at}") for at in range(3) if f"{which}.{at}" in found]:
            found[f"{which}.weight"] = np.stack(parts)
    for name in [name for name in found if re.search(r"attn_[qk]_norm\.0\.weight", name)]:
        parts = [part for at in range(config["num_attention_heads"]) for part in found_at(found, name, at)]
        found[name.replace("_norm.0.", "_norm.")] = np.stack(parts)
    return found


def found_at(found, name, at):
    """What is called so with another number, if it is there; it is there no longer."""
    part = found.pop(name.replace("_norm.0.", f"_norm.{at}."), None)
    return [] if part is None else [part]


def changed(architecture, parameter, array, config):
    """A parameter's tensors, by the names of the original or by llama.cpp's own."""
    block = re.sub(r".*layers\.(\d+)\..*", r"blk.\1", parameter)
    name = parameter
    for pattern, instead in RENAMED:
        name = re.sub(pattern, instead, name)
    if architecture.startswith("qwen35") and "linear_attn." in name:
        array = tiled(name, array, config)
    if name.endswith("A_log"):
        array = -np.exp(array)
    if "conv1d.weight" in name or ".conv.conv." in name:
        array = array[..., 0]
    if architecture == "kimi-linear" and "conv1d" in name:
        array = array[None, :, None]
    if architecture in ("granitehybrid", "falcon-h1", "nemotron_h", "nemotron_h_moe"):
        if name.endswith((".A_log", ".D")):
            array = array.reshape(-1, 1)
        if name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
            array = array.reshape(config.get("n_groups", config.get("mamba_n_groups")), -1)
    if architecture in PERMUTED and name.endswith(("q_proj.weight", "k_proj.weight")):
        array = ggufs.interleaved(array, len(array) // config["head_dim"])
    if name.endswith("shared_expert_gate.weight"):
        array = array[0]
    if name.endswith("in_proj_qkvz.weight"):
        yield from ungrouped(block, array, config)
    elif "attention.wqkv." in name:
        yield from by_kind(block, name, array, config)
    elif architecture == "bailingmoe" and "query_key_value" in name:
        heads, groups, width = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        for kind, part in zip("qkv", np.split(array, [heads * width, (heads + groups) * width]), strict=True):
            yield f"{block}.attn_{kind}.weight", part if kind == "v" else ggufs.interleaved(part, len(part) // width)
    elif architecture == "gptneox" and "query_key_value" in name:
        of_heads = array.reshape(config["num_attention_heads"], 3, -1, *array.shape[1:])
        yield name, of_heads.swapaxes(0, 1).reshape(array.shape)
    elif one := re.search(r"mlp\.act_fn\.(\w+)$", name):
        yield f"{block.replace('blk', 'xielu')}.{one[1]}", array
    elif one := re.search(r"([qk])_layernorm\.norms\.(\d+)", name):
        yield f"{block}.attn_{one[1]}_norm.{one[2]}.weight", array
    elif architecture == "minicpm3":
        yield name, array  # whose latent keys and values stay together
    elif name.endswith("kv_b_proj.weight"):
        heads, keys = config["num_attention_heads"], config["qk_nope_head_dim"]
        both = array.reshape(heads, -1, array.shape[-1])
        yield f"{block}.attn_k_b.weight", both[:, :keys].swapaxes(1, 2).copy()
        yield f"{block}.attn_v_b.weight", both[:, keys:]
    elif name.endswith("shared_mlp.input_linear.weight"):
        for part, half in zip(("gate", "up"), np.split(array, 2), strict=True):
            yield f"{block}.ffn_{part}_shexp.weight", half
    elif stack := re.search(r"switch_glu\.(\w+)_proj", name):
        yield f"{block}.ffn_{stack[1]}_exps.weight", array
    elif name.endswith("router.scale"):
        yield f"{block}.ffn_gate_inp.scale", array
    elif name.endswith("router.per_expert_scale"):
        yield f"{block}.ffn_down_exps.scale", array
    elif one := re.match(r"model\.altup_(unembed_)?projections\.(\d)", name):
        yield f"altup_{'unembd_' if one[1] else ''}proj.{one[2]}", array
    else:
        yield name, array


def by_kind(block, name, array, config):
    """Queries, keys and values of each group of heads, each kind of all groups by itself, and permuted."""
    groups, width, leaf = config["num_key_value_heads"], config["head_dim"], name.rpartition(".")[2]
    parts = array.reshape(groups, -1, width, *array.shape[1:])
    parts = (part.reshape(-1, *array.shape[1:]) for part in (parts[:, :-2], parts[:, -2], parts[:, -1]))
    for kind, part in zip("qkv", parts, strict=True):
        yield f"{block}.attn_{kind}.{leaf}", part if kind == "v" else ggufs.interleaved(part, len(part) // width)


def ungrouped(block, array, config):
    """Queries, keys, values and gates of each group of heads, each kind of all groups by itself."""
    groups, keys = config["linear_num_key_heads"], config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] // groups * config["linear_value_head_dim"]
    by_group = array.reshape(groups, -1, array.shape[-1])
    parts = np.split(by_group, np.cumsum([keys, keys, values]), axis=1)
    q, k, v, z = (part.reshape(-1, array.shape[-1]) for part in parts)
    yield f"{block}.attn_qkv.weight", np.concatenate([q, k, v])
    yield f"{block}.attn_gate.weight", z


def tiled(name, array, config):
    """The heads of values in the order of ggml's broadcasts: the first of each group, then the second of each."""
    groups, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    keys, width = groups * config["linear_key_head_dim"], config["linear_value_head_dim"]
    if groups == heads:
        return array

    def reordered(part, width):
        shape = (groups, heads // groups, width, *part.shape[1:])
        return part.reshape(shape).swapaxes(0, 1).reshape(part.shape)

    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        return np.concatenate([array[: 2 * keys], reordered(array[2 * keys :], width)])
    if name.endswith("in_proj_z.weight"):
        return reordered(array, width)
    if name.endswith("out_proj.weight"):
        return reordered(array.T, width).T.copy()
    return array if name.endswith(".norm.weight") else reordered(array, 1)


def write_model(path, architecture, model, config, extra=None, change=lambda found: found, fused=False, **more):
    """The whole file. ``change``: what is done to all of its tensors before."""
    found = {name: np.ascontiguousarray(array) for name, array in tensors(architecture, model, config, fused).items()}
    keys = ggufs.settings(architecture, config, **more)
    for name in sorted(name for name in found if name.startswith("xielu.")):  # numbers that are settings of a file
        keys.setdefault(f"xielu.{name.rpartition('.')[2]}", []).append(float(found.pop(name)[0]))
    return ggufs.write(path, architecture, keys, change(found | (extra or {})))


def converted(tmp_path, path, **asked):
    """The model that a file becomes, its configuration, and the lines that were said."""
    said = []
    (tmp_path / "out").mkdir()
    convert_gguf(Asked(str(path), str(tmp_path / "out"), **asked), said.append)
    model, config = weights.load(tmp_path / "out", CPU)
    assert weights.load_tokenizer(tmp_path / "out", config).encode("a")
    return model, config, [line for line in said if isinstance(line, str)]


def logits(model, length=40):
    """Of a model for some tokens."""
    tokens = mx.array([[at * 7 % len(ggufs.TOKENS) for at in range(length)]])
    return model(tokens, cache=make_prompt_cache(model))


KINDS = [gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "Q5_1")]
PLAIN = ("norm", "ffn_gate_inp", "conv", "ssm_a", "ssm_d", "exp_probs_b", "altup_", "scale", "position_embd")


def in_blocks(found):
    """Matrices in blocks of several types, as far as llama.cpp quantises them, and the numbers that these say."""
    blocks, numbers = {}, {}
    for at, (name, array) in enumerate(found.items()):
        blocks[name] = numbers[name] = array
        if array.ndim > 1 and array.shape[-1] % 32 == 0 and not any(part in name for part in PLAIN):
            kind = KINDS[at % len(KINDS)]
            stored = gguf.quants.quantize(array, kind)
            blocks[name], numbers[name] = (kind, stored), gguf.quants.dequantize(stored, kind)
    return blocks, numbers
