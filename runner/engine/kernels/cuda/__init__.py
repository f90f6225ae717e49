"""CUDA kernels of our own, each compared with MLX's operations before it is used.

Modules:
attention  CUDA kernels for the parts of attention that a step is made of: one launch each.
blocks     Blocks that compute each sum together with the norm behind it, and the last one with the next block's.
experts    CUDA kernels for a layer of experts whose weights stay quantised, for decode steps and for prompts.
norms      A CUDA kernel for what stands between the layers of a block: a sum, and the norm of it.
nvrtc      CUDA kernels, compiled several at once and kept for the next start.
prepare    What MLX's CUDA backend does slowly, done another way; nothing here runs on Metal or a CPU.
rotary     A CUDA kernel that makes queries, keys and values of one product, turned by their positions.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

log = logging.getLogger("rowmill")

TOLERANCE = 0.05  # of outputs about 1: bfloat16 rounds weights and outputs by 1/256 each


class CheckedKernels:
    """CUDA kernels that are compared with MLX's own operations on this machine."""

    def problem(self, *given: Any) -> str | None:
        """What is wrong with them here, None if nothing is. ``given``: what ``_error`` takes."""
        try:
            error = self._error(*given)
        except RuntimeError as failure:  # they do not compile, or do not run
            return f"fail: {str(failure).splitlines()[0]}"
        return None if error <= TOLERANCE else f"are wrong by {error:.2g}"

    def _error(self, *given: Any, **named: Any) -> float:
        """How far they are off on a few tokens, as a share of outputs about 1."""
        raise NotImplementedError


Kernels = TypeVar("Kernels", bound=CheckedKernels)


def checked(kernels: Kernels, what: str, *given: Any) -> Kernels | None:
    """The kernels if they compute the right thing here; else None, and the log says that MLX computes ``what``."""
    if problem := kernels.problem(*given):
        log.warning("%s by MLX's own operations, as the kernels %s", what, problem)
        return None
    return kernels
