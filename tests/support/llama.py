"""A llama computed with NumPy in float64 from a GGUF file, in llama.cpp's own order of rows, to compare with."""

import numpy as np
from gguf import GGUFReader, quants


class Llama:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.weights = {t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
        self.fields = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}

    def logits(self, tokens):
        """Logits [L, V] of token ids [L]."""
        x = self.weights["token_embd.weight"][np.asarray(tokens)]
        for layer in range(self.fields["block_count"]):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"))
            y = self._norm(x, f"blk.{layer}.ffn_norm")
            gate, up = (y @ self.weights[f"blk.{layer}.ffn_{name}.weight"].T for name in ("gate", "up"))
            x = x + (gate / (1 + np.exp(np.minimum(-gate, 500))) * up) @ self.weights[f"blk.{layer}.ffn_down.weight"].T
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self._norm(x, "output_norm") @ head.T

    def _norm(self, x, name):
        mean = np.square(x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.fields["attention.layer_norm_rms_epsilon"]) * self.weights[f"{name}.weight"]

    def _attention(self, layer, x):
        heads, kv_heads = self.fields["attention.head_count"], self.fields["attention.head_count_kv"]
        q, k, v = (self._heads(x, f"blk.{layer}.attn_{name}") for name in "qkv")
        q, k = self._rotated(q), self._rotated(k)
        k, v = (np.repeat(one, heads // kv_heads, axis=0) for one in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out = weights / weights.sum(axis=-1, keepdims=True) @ v
        return out.swapaxes(0, 1).reshape(len(x), -1) @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def _heads(self, x, name):
        width = self.fields["embedding_length"] // self.fields["attention.head_count"]
        return (x @ self.weights[f"{name}.weight"].T).reshape(len(x), -1, width).swapaxes(0, 1)

    def _rotated(self, x):
        """Neighbouring pairs turned by their position (ggml's GGML_ROPE_TYPE_NORMAL)."""
        width = x.shape[-1]
        rates = self.fields["rope.freq_base"] ** (-np.arange(0, width, 2) / width)
        angles = np.arange(x.shape[1])[:, None] * rates
        even, odd = x[..., ::2], x[..., 1::2]
        turned = [even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)]
        return np.stack(turned, axis=-1).reshape(x.shape)
