"""Tiny random models: untied embeddings, weights scaled so that outputs vary from token to token."""

import mlx.core as mx
from mlx_lm.models import gpt_oss, llama

VOCAB = 97


def scaled(model, seed, gain):
    mx.random.seed(seed)
    weights = {}
    for name, value in _flat(model):
        if name.endswith("norm.weight") or "layernorm" in name:
            weights[name] = mx.ones(value.shape)
        elif value.ndim == 0:
            weights[name] = value
        elif value.ndim == 1:
            weights[name] = 0.1 * mx.random.normal(value.shape)
        else:
            weights[name] = gain * mx.random.normal(value.shape) / value.shape[-1] ** 0.5
    model.load_weights(list(weights.items()))
    mx.eval(model.parameters())
    model.eval()
    return model


def _flat(model):
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())


TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
}


def tiny_llama(seed=0, **overrides):
    return scaled(llama.Model(llama.ModelArgs(**(TINY_LLAMA | overrides))), seed, gain=2.0)


def tiny_gpt_oss(seed=0, **overrides):
    args = {
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 32,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "rope_theta": 150000,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    return scaled(gpt_oss.Model(gpt_oss.ModelArgs(**(args | overrides))), seed, gain=2.0)


MODELS = {"llama": tiny_llama, "gpt_oss": tiny_gpt_oss}


def save_tiny_llama(folder, seed=0, tags=()):
    """A tiny llama over single bytes as a model folder, tokenizer included: what ``model.path`` takes.

    ``tags`` are further tokens, which are not special ones.
    """
    import json

    from mlx.utils import tree_flatten
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.add_tokens(list(tags))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    shape = TINY_LLAMA | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 512}
    model = scaled(llama.Model(llama.ModelArgs(**shape)), seed, gain=2.0)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    end = tokenizer.token_to_id("<end>")
    (folder / "config.json").write_text(json.dumps(shape | {"eos_token_id": end, "bos_token_id": end}))


def tiny_folder(folder, quantise=False, bits=4, family="llama", **changes):
    """A folder with one layer of a model in bfloat16 and a tokenizer of three words; ``changes`` of its settings."""
    import importlib
    import json

    import mlx.nn as nn
    from mlx.utils import tree_flatten

    module = importlib.import_module(f"mlx_lm.models.{family}")
    folder.mkdir()
    config = {
        "model_type": family,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 9,
    }
    config |= {"num_attention_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 77, **changes}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if quantise:
        config["quantization"] = {"group_size": 32, "bits": bits}
        nn.quantize(model, 32, bits)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def tiny_tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
