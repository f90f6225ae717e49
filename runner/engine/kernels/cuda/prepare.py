"""What MLX's CUDA backend does slowly, done another way; nothing here runs on Metal or a CPU.

Measured with MLX 0.32.4, one product of gpt-oss-20b's experts (32 of 2880 x 2880, 4 a token) at 6 bits: for 64, 512
and 4096 tokens ``gather_qmm`` takes 2.4, 17 and 136 ms on an H200. All tokens through all experts as one batched bf16
product take 0.22, 0.6 and 3.5 ms there, eight times the arithmetic included. All three products by the kernels of
``experts``, from the 6-bit weights: 0.27, 0.38 and 1.1 ms for 64, 256 and 1024 tokens.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import gpt_oss
from mlx_lm.models.rope_utils import YarnRoPE
from mlx_lm.models.switch_layers import SwitchGLU
from mlx_lm.utils import dequantize_model

from runner.engine.kernels.cuda import blocks, rotary
from runner.engine.kernels.cuda import experts as expert_kernels
from runner.models import adapters

log = logging.getLogger("rowmill")

# Layers of one module that take the same input, by the names that mlx-lm's models give them.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
CHUNK = 1024  # tokens that go through all experts at once
MEMORY_SHARE = 0.6  # of the device, that dequantised weights and packed experts may take together


def prepare(model: Any, memory_bytes: int) -> None:
    """Change a loaded model in place: experts that read their weights once for all tokens, other weights dequantised if
    all then take at most MEMORY_SHARE of ``memory_bytes``, linear layers of the same input joined, and sums with the
    norms behind them.
    """
    experts = [
        (module, name, child)
        for _, module in model.named_modules()
        for name, child in module.children().items()
        if type(child) is SwitchGLU and _is_plain(child)
    ]
    packed = [one for one in experts if expert_kernels.kernels(expert_kernels.form(one[2])) is not None]
    for module, name, _ in packed:
        module.pop(name)
    kept = sum(array.nbytes for *_, child in packed for _, array in tree_flatten(child.parameters()))
    dense = sum(_dense_bytes(module) for _, module in model.named_modules())
    if dense and kept + dense <= MEMORY_SHARE * memory_bytes:
        log.info("dequantising the weights: %.1f GB", dense / 1e9)
        for layer in model.layers:  # one after the other: both forms of all of them need not fit
            mx.eval(_dense(layer).parameters())
        mx.eval(_dense(model).parameters())
    for module, name, child in experts:
        setattr(module, name, AllExperts(child))
    for _, module in model.named_modules():
        for name, child in module.children().items():
            if Routed.fits(child):
                setattr(module, name, Routed(child))
        heads, _ = (join(module, names) for names in TOGETHER)
        fold_factor(module)
        if heads and (turned := rotary.turned(module, heads.linear, heads.ends)):
            module.turned = turned
    blocks.join(model.layers)


def _dense(module: Any) -> Any:
    dequantize_model(module)
    adapters.fuse(module)
    return module


def join(module: Any, names: tuple[str, ...]) -> Together | None:
    """Let plain linear layers of a module be computed by one product, whose launch costs the host as much as theirs;
    None if they cannot be.
    """
    layers = [module.get(name) for name in names]
    if any(type(layer) is not nn.Linear for layer in layers) or len({"bias" in layer for layer in layers}) > 1:
        return None
    together = Together(layers)
    for index, name in enumerate(names):
        setattr(module, name, Slice(together, index))
    return together


def fold_factor(attention: Any) -> None:
    """YaRN's factor, by which gpt-oss multiplies queries and keys, goes into the scale of their products."""
    rope = attention.get("rope")
    if type(rope) is YarnRoPE and rope.mscale != 1.0 and type(attention) is gpt_oss.AttentionBlock:
        attention.sm_scale *= rope.mscale**2
        rope.mscale = 1.0


class Together:
    """Linear layers as one: asked for one's part of the product with an input, it keeps the others' until asked."""

    def __init__(self, layers: list[Any]) -> None:
        inputs, outputs = layers[0].weight.shape[1], [layer.weight.shape[0] for layer in layers]
        self.linear = nn.Linear(inputs, sum(outputs), bias=False)
        for name in layers[0]:
            self.linear[name] = mx.concatenate([layer[name] for layer in layers])
        self.ends = list(accumulate(outputs[:-1]))
        self.x: mx.array | None = None
        self.parts: dict[int, mx.array] = {}

    def part(self, index: int, x: mx.array) -> mx.array:
        if x is not self.x or index not in self.parts:
            self.x, self.parts = x, dict(enumerate(mx.split(self.linear(x), self.ends, axis=-1)))
        part = self.parts.pop(index)
        if not self.parts:
            self.x = None
        return part


class Slice(nn.Module):
    """One of the layers in a Together; the first one has the weights of all among its parameters."""

    def __init__(self, together: Together, index: int) -> None:
        super().__init__()
        self.part = partial(together.part, index)
        if index == 0:
            self.linear = together.linear

    def __call__(self, x: mx.array) -> mx.array:
        return self.part(x)


class AllExperts(nn.Module):
    """A SwitchGLU that computes every expert for every token, and picks.

    If ``experts`` has kernels for the form of its weights, each expert is computed for the tokens that chose it.
    """

    def __init__(self, experts: SwitchGLU) -> None:
        super().__init__()
        self.kernels = expert_kernels.kernels(expert_kernels.form(experts))
        if self.kernels is None:
            self.experts = experts
        else:
            self.packed = expert_kernels.pack(experts)
            mx.eval(self.packed)
            for _, layer in experts.named_modules():  # both forms of all layers need not fit
                for name in ("weight", "scales", "biases"):
                    layer.pop(name, None)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [..., D], indices [..., k] -> [..., k, D]."""
        tokens, chosen = x.reshape(-1, x.shape[-1]), indices.reshape(-1, indices.shape[-1])
        if self.kernels is not None:
            return self.kernels(tokens.astype(mx.bfloat16), chosen, self.packed).reshape(*indices.shape, -1)
        weights = [_weight(layer) for layer in (self.experts.up_proj, self.experts.gate_proj, self.experts.down_proj)]
        chunks = [
            self._chunk(tokens[at : at + CHUNK], chosen[at : at + CHUNK], weights)
            for at in range(0, tokens.shape[0], CHUNK)
        ]
        picked = mx.concatenate(chunks) if len(chunks) > 1 else chunks[0]
        return picked.reshape(*indices.shape, -1)

    def _chunk(self, x: mx.array, chosen: mx.array, weights: list[mx.array]) -> mx.array:
        up = _project(self.experts.up_proj, weights[0], x[None])
        gate = _project(self.experts.gate_proj, weights[1], x[None])
        out = _project(self.experts.down_proj, weights[2], self.experts.activation(up, gate))  # [E, T, D]
        return out[chosen, mx.arange(x.shape[0])[:, None]]


class Routed(nn.Module):
    """gpt-oss's experts and what chooses them, by the kernels of ``AllExperts``."""

    def __init__(self, block: gpt_oss.MLPBlock) -> None:
        super().__init__()
        self.router, self.experts, self.chosen = block.router, block.experts, block.num_experts_per_tok

    @classmethod
    def fits(cls, block: Any) -> bool:
        """Whether a module of a model is such a layer."""
        plain = type(block) is gpt_oss.MLPBlock and block.sharding_group is None and not block.num_local_experts % 8
        return plain and type(block.experts) is AllExperts and block.experts.kernels is not None

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., D] -> [..., D]."""
        return self.experts.kernels.summed(*self.weighed(x)).reshape(x.shape)

    def weighed(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """What k experts give for each of the tokens [T, k, D], and the weights [T, k] of its sum."""
        tokens, scores = (one.reshape(-1, one.shape[-1]).astype(mx.bfloat16) for one in (x, self.router(x)))
        return self.experts.kernels.routed(tokens, scores, self.chosen, self.experts.packed)


def _project(layer: Any, weight: mx.array, x: mx.array) -> mx.array:
    out = x @ weight.swapaxes(-1, -2)
    return out + layer.bias[:, None] if "bias" in layer else out


def _weight(layer: Any) -> mx.array:
    """[E, out, in], dequantised on the way if it did not fit otherwise."""
    if "scales" not in layer:
        return layer.weight
    biases = layer.get("biases")
    return mx.dequantize(
        layer.weight, layer.scales, biases, group_size=layer.group_size, bits=layer.bits, mode=layer.mode
    )


def _dense_bytes(module: Any) -> int:
    """What a quantised layer takes in bf16, 0 for other modules."""
    if not (hasattr(module, "scales") and hasattr(module, "group_size")):
        return 0
    return int(2 * module.scales.size * module.group_size)


def _is_plain(experts: Any) -> bool:
    """Whether its layers' scales say all of their weights, and it has weights of its own."""
    return getattr(experts.up_proj, "global_scale", None) is None and bool(tree_flatten(experts.parameters()))
