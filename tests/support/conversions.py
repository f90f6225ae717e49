"""Tiny models with experts, latent keys or recurrent layers as GGUF files, changed as llama.cpp's converter does."""

import re

import gguf
import numpy as np
from mlx.utils import tree_flatten

from tests.support import ggufs

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
]


def tensors(architecture, model, config, fused=False):
    """The model's weights as llama.cpp's converter writes them. ``fused``: experts' gates and ups in one tensor."""
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], config["num_hidden_layers"])
    found = {}
    for parameter, array in tree_flatten(model.parameters()):
        array = np.array(array)
        for name, part in changed(architecture, parameter, array, config):
            if re.match(r"blk|altup|[a-z_]+$", name):
                found[name] = part
                continue
            leaf = name[name.rindex(".") :] if name.endswith((".weight", ".bias")) else ""
            whole = names.get_name(name) if architecture == "falcon-h1" else None  # of one norm, ".weight" and all
            known_as = whole or names.get_name(name.removesuffix(leaf))
            assert known_as, (parameter, name)
            found[known_as + leaf] = part
    for name in [name for name in found if fused and name.endswith("ffn_gate_exps.weight")]:
        gates, ups = found.pop(name), found.pop(name.replace("gate", "up"))
        found[name.replace("gate", "gate_up")] = np.concatenate([gates, ups], axis=1)
    for which in ("altup_proj", "altup_unembd_proj"):
        if parts := [found.pop(f"{which}.{at}") for at in range(3) if f"{which}.{at}" in found]:
            found[f"{which}.weight"] = np.stack(parts)
    return found


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
    if architecture == "granitehybrid" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        array = ggufs.interleaved(array, heads)
    if name.endswith("shared_expert_gate.weight"):
        array = array[0]
    if name.endswith("in_proj_qkvz.weight"):
        yield from ungrouped(block, array, config)
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
    return ggufs.write(path, architecture, keys, change(found | (extra or {})))
