"""A CUDA kernel for what stands between the layers of a block: a sum, and the norm of it.

By MLX's operations these are two launches, or three behind experts. A launch takes the GPU 2 to 3 us, and the host 15.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlx.core as mx

from runner.engine.kernels.cuda import CheckedKernels, checked
from runner.engine.kernels.cuda.nvrtc import Kernel

SOURCE = Path(__file__).with_suffix(".cu")
MOST_THREADS = 512  # of a block, for a token


@cache
def kernel(dtype: mx.Dtype, size: int, eps: float) -> AddNorm | None:
    """For tokens of ``size`` numbers; None where there is none: on other devices, too."""
    if size % 8 or dtype not in (mx.bfloat16, mx.float16) or not mx.cuda.is_available():
        return None
    return checked(AddNorm(size, eps), "norms", dtype)


class AddNorm(CheckedKernels):
    """The sum of two arrays, and its RMS norm."""

    def __init__(self, size: int, eps: float) -> None:
        self.size, self.eps = size, eps
        self.threads = min(MOST_THREADS, -(-size // 256) * 32)
        header = SOURCE.read_text()
        call = "rowmill::add_norm<T, D, {}, THREADS>(x, outs, {}, scale, EPS, sum, normed);"
        results = ["sum", "normed"]
        self._plain = Kernel(["x", "outs", "scale"], results, call.format(0, "nullptr"), header)
        self._weighed = Kernel(["x", "outs", "scale", "weights"], results, call.format("CHOSEN", "weights"), header)

    def __call__(
        self, x: mx.array, outs: mx.array, scale: mx.array, weights: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """x [..., D] + outs [..., D], or the sum of outs [T, k, D] times ``weights`` [T, k] in float32: these sums
        [..., D], and their norm times ``scale`` [D].
        """
        tokens = x.size // self.size
        template = [("T", x.dtype), ("D", self.size), ("THREADS", self.threads), ("EPS", self.eps)]
        chosen = [] if weights is None else [("CHOSEN", weights.shape[-1])]
        sums, normed = (self._plain if weights is None else self._weighed)(
            inputs=[x, outs, scale, *([] if weights is None else [weights])],
            template=[*template, *chosen],
            grid=(tokens * self.threads, 1, 1),
            threadgroup=(self.threads, 1, 1),
            output_shapes=[x.shape, x.shape],
            output_dtypes=[x.dtype, x.dtype],
        )
        return sums, normed

    def _error(self, dtype: mx.Dtype) -> float:
        keys = mx.random.split(mx.random.key(0), 4)
        x, outs = (
            mx.random.normal((3, n, self.size), key=key).astype(dtype) for n, key in ((1, keys[0]), (4, keys[1]))
        )
        scale = mx.random.normal((self.size,), key=keys[2]).astype(dtype)
        weights = mx.random.uniform(shape=(3, 4), key=keys[3])
        pairs: list[tuple[mx.array, mx.array]] = []
        for some, by in ((outs[:, :1], None), (outs, weights)):
            added = some if by is None else (some * by[..., None]).sum(axis=1, keepdims=True).astype(dtype)
            want = x + added, mx.fast.rms_norm(x + added, scale, self.eps)
            pairs += zip(self(x, some, scale, by), want, strict=True)
        return max(float(mx.abs((a - b).astype(mx.float32)).max()) for a, b in pairs) / 4  # the largest are some 4
