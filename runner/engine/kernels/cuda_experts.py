"""CUDA kernels for a layer of experts whose weights stay quantised, for decode steps and for prompts."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.gpt_oss import SwigluOAI
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwiGLU, SwitchGLU

from runner.engine.kernels import CheckedKernels, checked, kernel_name

SOURCE = Path(__file__).with_suffix(".cu")
ROWS = 64  # of weights that a block computes; of numbers that it takes at a time
THREADS = 128


class Form(NamedTuple):
    """How a layer of experts is made: what its kernels are compiled for. ``activation``: as in cuda_experts.cu."""

    bits: int
    group_size: int
    inputs: int
    hidden: int
    activation: int
    bias: bool


def form(experts: SwitchGLU) -> Form | None:
    """The form of a layer of experts, None if there are no kernels for it."""
    layers = [experts.up_proj, experts.gate_proj, experts.down_proj]
    activation = {SwiGLU: 1, SwigluOAI: 2}.get(type(experts.activation))
    if activation is None or any(type(layer) is not QuantizedSwitchLinear for layer in layers):
        return None
    if activation == 2 and (experts.activation._alpha, experts.activation._limit) != (1.702, 7.0):
        return None
    kinds = {(layer.bits, layer.group_size, layer.mode, layer.scales.dtype, "bias" in layer) for layer in layers}
    bits, group_size, mode, dtype, bias = kinds.pop()
    sizes = experts.up_proj.input_dims, experts.up_proj.output_dims
    alike = not kinds and mode == "affine" and dtype == mx.bfloat16
    fits = bits in (4, 6, 8) and group_size in (32, 64) and not any(size % ROWS for size in sizes)
    return Form(bits, group_size, *sizes, activation, bias) if alike and fits else None


@cache
def kernels(made: Form | None) -> Kernels | None:
    """For a form of experts; None where there are none: on other devices, too."""
    if made is None or not mx.cuda.is_available():
        return None
    return checked(Kernels(made), "experts")


class Kernels(CheckedKernels):
    """A layer of experts in three launches: pairs of tokens and experts by expert, up and gate, down."""

    def __init__(self, made: Form) -> None:
        self.form = made
        header = SOURCE.read_text()
        name = kernel_name(header)
        self._group: Any = mx.fast.cuda_kernel(
            name=f"{name}_group",
            input_names=["chosen", "pairs"],
            output_names=["order", "offsets"],
            source="""
            __shared__ int counts[E];
            rowmill::group_pairs(chosen, pairs[0], E, order, offsets, counts);""",
            header=header,
        )
        weights = [[f"{part}{i}" for part in ("words", "scales", "biases", "bias")] for i in range(2)]
        self._project: list[Any] = [
            mx.fast.cuda_kernel(
                name=f"{name}_project{len(used)}",
                input_names=["x", "order", "offsets", *(one for names in used for one in names)],
                output_names=["out"],
                source=f"""
                const rowmill::Weights weights[] = {{{", ".join(map(_weights_in_cuda, used))}}};
                rowmill::project<BITS, GROUP, K, PAIRS, (rowmill::Activation)BY>(
                    x, weights, order, offsets, SHARE, out);""",
                header=header,
            )
            for used in (weights[:1], weights)
        ]

    def __call__(self, x: mx.array, chosen: mx.array, experts: Any) -> mx.array:
        """x [T, D] of bfloat16 through a SwitchGLU's ``chosen`` [T, k] experts: [T, k, D]."""
        pairs, count = chosen.size, experts.up_proj.num_experts
        order, offsets = self._group(
            inputs=[chosen, _number(pairs)],
            template=[("E", count)],  # and nothing that differs from step to step: that would be compiled each time
            grid=(1024, 1, 1),
            threadgroup=(1024, 1, 1),
            output_shapes=[(pairs,), (count + 1,)],
            output_dtypes=[mx.int32, mx.int32],
        )
        few = 32 if pairs <= 16 * count else 64
        places = [order, offsets]
        hidden = self._through(x, places, [experts.up_proj, experts.gate_proj], chosen.shape[-1], pairs, few)
        out = self._through(hidden, places, [experts.down_proj], 1, pairs, few)
        return out.reshape(*chosen.shape, -1)

    def _through(
        self, x: mx.array, places: list[mx.array], layers: list[Any], share: int, pairs: int, few: int
    ) -> mx.array:
        """The pairs' rows of x, ``share`` pairs a row, through one layer, or through up and gate: [pairs, rows]."""
        count, rows = layers[0].weight.shape[:2]
        weights = [
            array
            for layer in layers
            for array in (layer.weight, layer.scales, layer.biases, layer.bias if self.form.bias else layer.scales)
        ]
        done: list[mx.array] = self._project[len(layers) - 1](
            inputs=[x, *places, *weights],
            template=[
                *(("BITS", self.form.bits), ("GROUP", self.form.group_size), ("K", x.shape[-1]), ("PAIRS", few)),
                *(("BY", self.form.activation if len(layers) > 1 else 0), ("SHARE", share), ("BIAS", self.form.bias)),
            ],
            grid=(rows // ROWS * THREADS, count, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(pairs, rows)],
            output_dtypes=[mx.bfloat16],
        )
        return done[0]

    def _error(self) -> float:
        made, count, tokens = self.form, 3, 40
        activation = SwiGLU() if made.activation == 1 else SwigluOAI()
        experts = SwitchGLU(made.inputs, made.hidden, count, activation, bias=made.bias)
        seeds = mx.random.split(mx.random.key(0), 8)
        for layer, seed in zip((experts.up_proj, experts.gate_proj, experts.down_proj), seeds, strict=False):
            layer.weight = mx.random.normal(layer.weight.shape, key=seed) * layer.weight.shape[-1] ** -0.5
            if made.bias:
                layer.bias = mx.random.normal(layer.bias.shape, key=seed)
        experts.set_dtype(mx.bfloat16)
        for name in ("up_proj", "gate_proj", "down_proj"):
            setattr(experts, name, experts[name].to_quantized(made.group_size, made.bits))
        x = mx.random.normal((tokens, made.inputs), key=seeds[6]).astype(mx.bfloat16)
        first = mx.random.randint(0, count, (tokens, 1), key=seeds[7])
        chosen = mx.concatenate([first, (first + 1) % count], axis=-1).astype(mx.uint32)
        want, got = experts(x, chosen).astype(mx.float32), self(x, chosen, experts).astype(mx.float32)
        return float(mx.abs(got - want).max() / mx.abs(want).mean()) / 4  # about the largest of normal numbers


@lru_cache(maxsize=4096)
def _number(number: int) -> Any:
    return mx.array([number], mx.int32)


def _weights_in_cuda(names: list[str]) -> str:
    *packed, bias = names
    return f"{{{', '.join(packed)}, BIAS ? {bias} : nullptr}}"
