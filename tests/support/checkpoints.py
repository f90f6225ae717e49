"""gpt-oss with random weights, from the real config: as the hub has it (MXFP4 experts), written layer by layer."""

import json
import shutil
from pathlib import Path

import mlx.core as mx

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE")


def shaped(config, **smaller):
    """The config with other sizes; ``layer_types`` is cut to the layers that are left."""
    config = {**config, **smaller}
    config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    return config


def write_hub_checkpoint(folder, config, tokenizer_from=None, seed=0):
    """A checkpoint in the hub's layout, a shard a layer. ``tokenizer_from``: the folder whose tokenizer is copied."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    key = mx.random.key(seed)
    for number, tensors in enumerate(_shards(config)):
        keys = mx.random.split(mx.random.split(key, 1000)[number], len(tensors))
        shard = {name: _random(name, shape, one) for (name, shape), one in zip(tensors.items(), keys, strict=True)}
        mx.eval(shard)
        mx.save_safetensors(str(folder / f"model-{number:05d}.safetensors"), shard, {"format": "pt"})
        del shard
        mx.clear_cache()
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER if tokenizer_from else ():
        shutil.copyfile(Path(tokenizer_from) / name, folder / name)


def _random(name, shape, key):
    if name.endswith("_blocks"):
        words = mx.random.randint(-(2**31), 2**31 - 1, (*shape[:-1], shape[-1] // 4), key=key)
        return words.view(mx.uint8)
    if name.endswith("_scales"):  # powers of two, 127 is 1
        return mx.random.randint(118, 123, shape, key=key).astype(mx.uint8)
    if "norm" in name:
        return mx.ones(shape, mx.bfloat16)
    reach = 0.035 if len(shape) > 1 else 0.1
    return mx.random.uniform(-reach, reach, shape, mx.bfloat16, key=key)


def _shards(config):
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    yield {"lm_head.weight": (vocabulary, hidden)}
    for number in range(config["num_hidden_layers"]):
        yield {f"model.layers.{number}.{name}": shape for name, shape in _layer(config).items()}


def _layer(config):
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    queries = config["num_attention_heads"] * config["head_dim"]
    pairs = config["num_key_value_heads"] * config["head_dim"]
    linear = {"q_proj": (queries, hidden), "k_proj": (pairs, hidden), "v_proj": (pairs, hidden)}
    linear["o_proj"] = (hidden, queries)
    shapes = {f"self_attn.{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"self_attn.{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {
        "self_attn.sinks": (config["num_attention_heads"],),
        "mlp.router.weight": (experts, hidden),
        "mlp.router.bias": (experts,),
        "mlp.experts.gate_up_proj_blocks": (experts, 2 * inner, hidden // 32, 16),
        "mlp.experts.gate_up_proj_scales": (experts, 2 * inner, hidden // 32),
        "mlp.experts.gate_up_proj_bias": (experts, 2 * inner),
        "mlp.experts.down_proj_blocks": (experts, hidden, inner // 32, 16),
        "mlp.experts.down_proj_scales": (experts, hidden, inner // 32),
        "mlp.experts.down_proj_bias": (experts, hidden),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
