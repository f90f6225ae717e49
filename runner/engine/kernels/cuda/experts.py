"""CUDA kernels for a layer of experts whose weights stay quantised, for decode steps and for prompts."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.gpt_oss import SwigluOAI
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwiGLU, SwitchGLU

from runner.engine.kernels.cuda import CheckedKernels, checked
from runner.engine.kernels.cuda.nvrtc import Kernel, Template, numbers

SOURCE = Path(__file__).with_suffix(".cu")
ROWS = 64  # of weights that a block computes; of numbers that it takes at a time
PAIRS = 32, 48  # of tokens and experts, that a block takes at a time: of few, of many
STAGES = 3  # of numbers in shared memory
BLOCKS = {(2, 32): 4, (1, 32): 6, (2, 48): 3, (1, 48): 5}  # at once on a multiprocessor, by matrices and pairs
GROUPING = 512  # threads of a block that groups pairs
SUMMING = 128  # threads of a block that sums up what experts give


class Form(NamedTuple):
    """How a layer of experts is made: what its kernels are compiled for. ``activation``: as in experts.cu."""

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
    """A layer of experts in three launches: pairs of tokens and experts by expert, up and gate, down; ``routed`` takes
    in the choice of experts, and in a fourth the sum of what they give.
    """

    def __init__(self, made: Form) -> None:
        self.form = made
        header = SOURCE.read_text()
        self._group = Kernel(
            ["x", "chosen", "pairs"],
            ["order", "offsets", "paired"],
            """
            __shared__ int counts[E];
            const size_t row = (size_t)(blockIdx.x - 1) * K;
            if (blockIdx.x == 0) rowmill::group_pairs(chosen, pairs[0], E, order, offsets, counts);
            else rowmill::pair_up(x + row, K, paired + row);""",
            header,
        )
        self._route = Kernel(
            ["x", "scores", "tokens"],
            ["chosen", "weights", "order", "offsets", "paired"],
            """
            __shared__ int counts[E];
            const size_t row = (size_t)(blockIdx.x - 1) * K;
            if (blockIdx.x > 0) return rowmill::pair_up(x + row, K, paired + row);
            rowmill::choose<E, CHOSEN>(scores, tokens[0], chosen, weights);
            __syncthreads();
            rowmill::group_pairs(chosen, CHOSEN * tokens[0], E, order, offsets, counts);""",
            header,
        )
        self._sum = Kernel(
            ["outs", "weights", "pieces"], ["out"], "rowmill::weigh<CHOSEN, K>(outs, weights, pieces[0], out);", header
        )
        weights = [[f"{part}{i}" for part in ("packed", "bias")] for i in range(2)]
        self._project = {
            (matrices, few): Kernel(
                ["x", "order", "offsets", "share", *chain(*weights[:matrices])],
                ["out"],
                f"""
                const rowmill::Weights weights[] = {{{", ".join(map(_weights_in_cuda, weights[:matrices]))}}};
                rowmill::project<BITS, GROUP, K, PAIRS, (rowmill::Activation)BY, {STAGES}, {shared}>(
                    x, weights, order, offsets, share[0], out);""",
                header,
                shared_memory=shared,
                bounds=(2 * ROWS * matrices, BLOCKS[matrices, few]),
            )
            for matrices in (1, 2)
            for few in PAIRS
            for shared in [self._memory(matrices, few)]
        }
        for (matrices, few), kernel in self._project.items():
            dtypes = [mx.bfloat16, *[mx.int32] * 3, *[mx.uint32, mx.bfloat16] * matrices]
            kernel.compile(self._template(matrices, few), dtypes, [mx.bfloat16])

    def _template(self, matrices: int, few: int) -> Template:
        made, first = self.form, matrices > 1
        return [
            *(("BITS", made.bits), ("GROUP", made.group_size), ("K", made.inputs if first else made.hidden)),
            *(("PAIRS", few), ("BY", made.activation if first else 0), ("BIAS", made.bias)),
        ]

    def _memory(self, matrices: int, few: int) -> int:
        """Bytes of shared memory of a block: of ``Memory`` in experts.cu, which does not compile with others."""
        packed = ROWS * (ROWS * self.form.bits // 8 + ROWS // self.form.group_size * 4)
        return STAGES * (matrices * packed + few * (ROWS + 8) * 2) + few * 4

    def __call__(self, x: mx.array, chosen: mx.array, packed: list[list[mx.array]]) -> mx.array:
        """x [T, D] of bfloat16 through the ``chosen`` [T, k] of experts that ``pack`` laid out: [T, k, D]."""
        pairs, count = chosen.size, len(packed[0][0])
        order, offsets, paired = self._group(
            inputs=[x, chosen, numbers(pairs)],
            template=[("E", count), ("K", x.shape[-1])],  # and nothing that differs from step to step: that is compiled
            grid=((1 + len(x)) * GROUPING, 1, 1),
            threadgroup=(GROUPING, 1, 1),
            output_shapes=[(pairs,), (count + 1,), x.shape],
            output_dtypes=[mx.int32, mx.int32, x.dtype],
        )
        return self._experts(paired, [order, offsets], packed, chosen.shape[-1])

    def routed(self, x: mx.array, scores: mx.array, k: int, packed: list[list[mx.array]]) -> tuple[mx.array, mx.array]:
        """x [T, D] through the ``k`` experts of the highest ``scores`` [T, E]: what they give, [T, k, D], and the
        softmax of these scores in float32, [T, k]. Others of bfloat16, and E a multiple of 8.
        """
        tokens, count = scores.shape
        _, weights, order, offsets, paired = self._route(
            inputs=[x, scores, numbers(tokens)],
            template=[("E", count), ("K", x.shape[-1]), ("CHOSEN", k)],
            grid=((1 + tokens) * GROUPING, 1, 1),
            threadgroup=(GROUPING, 1, 1),
            output_shapes=[(tokens, k), (tokens, k), (tokens * k,), (count + 1,), x.shape],
            output_dtypes=[mx.uint32, mx.float32, mx.int32, mx.int32, x.dtype],
        )
        return self._experts(paired, [order, offsets], packed, k), weights

    def summed(self, outs: mx.array, weights: mx.array) -> mx.array:
        """The sum [T, D] of outs [T, k, D] times weights [T, k]."""
        tokens, k, size = outs.shape
        pieces = tokens * size // 8  # a thread for each
        summed: list[mx.array] = self._sum(
            inputs=[outs, weights, numbers(pieces)],
            template=[("CHOSEN", k), ("K", size)],
            grid=(-(-pieces // SUMMING) * SUMMING, 1, 1),
            threadgroup=(SUMMING, 1, 1),
            output_shapes=[(tokens, size)],
            output_dtypes=[outs.dtype],
        )
        return summed[0]

    def _experts(self, x: mx.array, places: list[mx.array], packed: list[list[mx.array]], k: int) -> mx.array:
        """x, paired up, through the experts of its pairs, ``places`` as ``_group`` finds them: [T, k, D]."""
        few = PAIRS[len(x) * k > 16 * len(packed[0][0])]
        hidden = self._through(x, places, packed[:2], k, few)
        return self._through(hidden, places, packed[2:], 1, few).reshape(len(x), k, -1)

    def _through(
        self, x: mx.array, places: list[mx.array], layers: list[list[mx.array]], share: int, few: int
    ) -> mx.array:
        """The pairs' rows of x, ``share`` pairs a row, through one layer, or through up and gate: [pairs, rows]."""
        (count, blocks), threads = layers[0][0].shape[:2], 2 * ROWS * len(layers)
        done: list[mx.array] = self._project[len(layers), few](
            inputs=[x, *places, numbers(share), *chain(*layers)],
            template=self._template(len(layers), few),
            grid=(blocks * threads, count, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[(places[0].size, blocks * ROWS)],
            output_dtypes=[mx.bfloat16],
        )
        return done[0]

    def _error(self) -> float:
        made, count, tokens = self.form, 8, 96
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
        scores = mx.random.normal((tokens, count), key=seeds[7]).astype(mx.bfloat16)
        chosen = mx.argsort(-scores, axis=-1)[:, :2]
        weights = mx.softmax(mx.take_along_axis(scores, chosen, axis=-1).astype(mx.float32), axis=-1)
        want, packed = experts(x, chosen).astype(mx.float32), pack(experts)
        pairs = [(self(x, chosen, packed), want), (self(x[:8], chosen[:8], packed), want[:8])]
        pairs.append((self.summed(*self.routed(x, scores, 2, packed)), (want * weights[..., None]).sum(axis=-2)))
        off = max(float(mx.abs(got.astype(mx.float32) - one).max()) for got, one in pairs)
        return off / float(mx.abs(want).mean()) / 4  # about the largest of normal numbers


def _weights_in_cuda(names: list[str]) -> str:
    packed, bias = names
    return f"{{{packed}, BIAS ? {bias} : nullptr}}"


def pack(experts: Any) -> list[list[mx.array]]:
    """The up, gate and down of a SwitchGLU as the kernels read them: weights with their scales and biases by 64 rows
    and 64 numbers of each, uint32 [experts, rows / 64, inputs / 64, words], and the rows' biases.
    """
    return [_packed(layer) for layer in (experts.up_proj, experts.gate_proj, experts.down_proj)]


def _packed(layer: Any) -> list[mx.array]:
    E, rows = layer.weight.shape[:2]
    groups = mx.stack([layer.scales, layer.biases], axis=-1).view(mx.uint32).reshape(E, rows, -1)
    blocks = [
        part.reshape(E, rows // ROWS, ROWS, layer.input_dims // ROWS, -1).swapaxes(2, 3)
        for part in (layer.weight, groups)
    ]
    packed = mx.concatenate([part.reshape(*part.shape[:3], -1) for part in blocks], axis=-1)
    return [packed, layer.bias if "bias" in layer else mx.zeros((1,), mx.bfloat16)]
