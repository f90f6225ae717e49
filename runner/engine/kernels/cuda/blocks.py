"""Blocks that compute each sum together with the norm behind it, and the last one with the next block's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from runner.engine.kernels.cuda import norms
from runner.engine.kernels.cuda.norms import AddNorm

LAYERS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")  # of a block, in order
SIZES = 0.03, 1.0  # of the numbers of a trial: what a block adds outweighs the first ones
OFF = 0.03  # how far it may be off there, as a share of the largest number that it gives


class Stream:
    """What a block hands on to the next one: its output, and the next one's first norm of it."""

    def __init__(self) -> None:
        self._output: mx.array | None = None
        self._normed: mx.array | None = None

    def put(self, output: mx.array, normed: mx.array) -> mx.array:
        """Returns the output."""
        self._output, self._normed = output, normed
        return output

    def take(self, x: mx.array) -> mx.array | None:
        """The norm of a block's input, if that is the output that was put last."""
        normed = self._normed if x is self._output else None
        self._output = self._normed = None
        return normed


@dataclass
class Joints:
    """What a block is joined by; the next block's first norm is ``following``, None behind the last one."""

    add_norm: AddNorm
    before: Stream
    after: Stream
    following: nn.RMSNorm | None


def join(blocks: list[Any]) -> None:
    """Change blocks that lie one behind the other, if each is ``x + self_attn(norm(x))`` and then ``x + mlp(norm(x))``,
    which a trial tells.
    """
    tried: dict[tuple[type, type], bool] = {}
    found = [_add_norm(block, tried) for block in blocks]
    before = Stream()
    for block, add_norm, following, other in zip(blocks, found, [*blocks[1:], None], [*found[1:], None], strict=True):
        stream, before = before, Stream()
        if add_norm is not None:
            norm = following.input_layernorm if other is add_norm else None
            block.joints = Joints(add_norm, stream, before, norm)
            kind: Any = type(block)
            block.__class__ = _joined(kind)


def _add_norm(block: Any, tried: dict[tuple[type, type], bool]) -> AddNorm | None:
    """What computes a block's sums and norms, if it is plain; which kinds are is ``tried`` once."""
    if any(block.get(name) is None for name in LAYERS):
        return None
    layers = [block.input_layernorm, block.post_attention_layernorm]
    if any(type(norm) is not nn.RMSNorm for norm in layers):
        return None
    form, other = ((norm.weight.dtype, norm.weight.size, norm.eps) for norm in layers)
    add_norm = norms.kernel(*form) if form == other else None
    kind = type(block), type(block.mlp)
    if add_norm is not None and kind not in tried:
        tried[kind] = _is_plain(block, add_norm)
    return add_norm if add_norm is not None and tried[kind] else None


def _is_plain(block: Any, add_norm: AddNorm) -> bool:
    """Whether the block's sums and norms are those that ``_forward`` computes, and nothing else."""
    norm = block.input_layernorm
    block.joints = Joints(add_norm, Stream(), Stream(), norm)
    draw = mx.random.normal((1, 4, norm.weight.size), key=mx.random.key(0))
    try:
        for size in SIZES:
            x = (size * draw).astype(norm.weight.dtype)
            want, got = block(x, None, None), _forward(block, x, None, None)
            if got.dtype != want.dtype or mx.abs(got - want).max() > OFF * mx.abs(want).max():
                return False
    except (AttributeError, TypeError, ValueError):  # it takes other arguments, or returns something else
        return False
    finally:
        del block.joints
    return True


@cache
def _joined(kind: Any) -> Any:
    """Blocks of a kind, with ``_forward`` as theirs."""

    def forward(block: Any, x: mx.array, *more: Any, **named: Any) -> mx.array:
        plain = x.dtype == block.input_layernorm.weight.dtype
        result: mx.array = _forward(block, x, *more, **named) if plain else kind.__call__(block, x, *more, **named)
        return result

    return type(kind.__name__, (kind,), {"__call__": forward})


def _forward(block: Any, x: mx.array, *more: Any, **named: Any) -> mx.array:
    joints: Joints = block.joints
    normed = joints.before.take(x)
    if normed is None:
        normed = block.input_layernorm(x)
    out = block.self_attn(normed, *more, **named)
    x, normed = joints.add_norm(x, out, block.post_attention_layernorm.weight)
    if joints.following is None:
        result: mx.array = x + block.mlp(normed)
        return result
    outs, weights = block.mlp.weighed(normed) if hasattr(block.mlp, "weighed") else (block.mlp(normed), None)
    return joints.after.put(*joints.add_norm(x, outs, joints.following.weight, weights))
