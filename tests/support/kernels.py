"""What the CUDA kernels of attention compute, in MLX's operations: for tests of those who call them."""

import ctypes
from pathlib import Path

import mlx.core as mx

from runner.engine.attention.parts import Part, attend, merge

NO_FUSE = 2  # mlx/compile.h


class PlainKernels:
    """As ``kernels.cuda.attention.Kernels``."""

    def __init__(self, scale):
        self.scale = scale
        self.calls = set()

    def over_slots(self, q, keys, values, mask, slot_of):
        self.calls.add("over_slots")
        K, scaled = mask.shape[-1], q[: slot_of.size].astype(mx.float32) * self.scale
        return attend(scaled, keys[slot_of, :, :K], values[slot_of, :, :K], mask[slot_of])

    def finish(self, q, keys, values, mask, slot_of, fresh, before, sinks):
        assert q.shape[0] == slot_of.size
        k, v, place = fresh
        keys[slot_of, :, place], values[slot_of, :, place] = k[: len(q), :, 0], v[: len(q), :, 0]
        parts = [self.over_slots(q, keys, values, mask, slot_of)]
        if before is not None:
            parts += [Part(out, mass) for out, mass in zip(*before, strict=True)]
        self.calls.add("finish")
        return merge(parts, sinks, q.dtype)

    def prompts(self, q, k, v, prefix, fresh, stored, before, sinks):
        self.calls.add("prompts")
        since, slot, place = fresh
        first, at = len(q) - since.size, mx.arange(len(q))
        seen = (at >= since[:, None]) & (at <= at[first:, None])
        mask = mx.where(seen, 0.0, -1e30)[:, None, None]
        if stored is not None:
            for token, (one, there) in enumerate(zip(slot.tolist(), place.tolist(), strict=True), first):
                if one >= 0:
                    stored[0][one, :, there], stored[1][one, :, there] = k[token, :, 0], v[token, :, 0]
        own = (a[:, :, 0].swapaxes(0, 1) for a in (k, v))
        parts = [attend(q[first:].astype(mx.float32) * self.scale, *own, mask)]
        if prefix is not None:
            self.calls.add("prompts with their prefix")
            out, mass = self.over_segment(q, *prefix, None, first, since.size, 1)
            parts.append(Part(out[0], mass[0]))
        if before is not None:
            parts += [Part(out, mass) for out, mass in zip(*before, strict=True)]
        return merge(parts, sinks, q.dtype)

    def shares(self, heads, tokens, keys):
        return 1 if tokens > 8 else 2

    def over_segment(self, q, k, v, mask, first, tokens, shares):
        self.calls.add("over_segment")
        N, G, D = q.shape[1:]
        size, parts = -(-k.shape[1] // shares), []
        flat = (q[first : first + tokens].astype(mx.float32) * self.scale).transpose(1, 0, 2, 3).reshape(N, -1, D)
        for at in range(0, shares * size, size):
            own = None if mask is None else mx.repeat(mask[:, at : at + size], G, axis=0)
            part = nothing(flat) if at >= k.shape[1] else attend(flat, k[:, at : at + size], v[:, at : at + size], own)
            parts.append([x.reshape(N, tokens, G, -1).transpose(1, 0, 2, 3) for x in part])
        outs, masses = zip(*parts, strict=True)
        return mx.stack(outs), mx.stack(masses)


def nothing(flat):
    return Part(mx.zeros(flat.shape), mx.full((*flat.shape[:-1], 1), -1e30))


def compile_without_fusing():
    """``mx.compile`` records and runs again, and asks g++ for nothing: that takes a second for each expression.

    MLX has this mode in C++ only; its library is the one that is loaded already.
    """
    # A private name, mangled: MLX has no public one for this mode in Python.
    library = ctypes.CDLL(str(next(Path(mx.__file__).parent.glob("lib/libmlx.*"))))
    library._ZN3mlx4core16set_compile_modeENS0_11CompileModeE(NO_FUSE)
