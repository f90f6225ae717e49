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


def tiny_llama(seed=0, **overrides):
    args = {
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
    return scaled(llama.Model(llama.ModelArgs(**(args | overrides))), seed, gain=2.0)


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
