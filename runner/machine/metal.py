"""What Macs need: their chip's name, and how much goes into one of Metal's command buffers.

rowmill is made for Macs with Apple silicon, and has never been measured on one: everything that depends on the device
is therefore measured where it runs, and can be sent in.

What is known:

    ``macOS``: MLX 0.32 needs macOS 14 and a Mac with Apple silicon; Python must be an arm64 build.
    ``memory``: Weights, KV caches and work space together may take what Metal recommends as the largest working set:
        two thirds to three quarters of the memory. ``engine.memory_gb`` lowers it; to raise it, first raise the
        system's limit, in MB and until the next restart: ``sudo sysctl iogpu.wired_limit_mb=28672`` on a Mac with
        32 GB. Leave at least 4 GB to the system. From macOS 15 on, the model's memory stays resident while a run works.
    ``what fits``: ``rowmill preview`` says so before anything is loaded; ``rowmill help engine`` has an example.
    ``sleep``: The Mac stays awake while a run works (``rowmill help night``).
    ``kernels``: rowmill's own kernels are for CUDA. On Metal, MLX's operations compute everything, on weights as they
        are stored, and there is nothing to compile.

What is not known, as nobody has measured it:

    ``speed``: How many rows a second a Mac computes, by itself or compared with mlx-lm.
    ``shared prefixes``: Whether attention over one shared copy of a prefix is faster than over a copy for each
        sequence. Others have found it slower for 4 and 8 sequences on an M1 Ultra. The first run of a model measures
        both on one layer, which takes some seconds, and takes the faster way by batch size and length.
    ``command buffers``: MLX sends work to the GPU in buffers of some 20 to 50 operations, depending on the chip. Others
        have gained 6% with ``MLX_MAX_OPS_PER_BUFFER=2000`` and ``MLX_MAX_MB_PER_BUFFER=2000``. ``rowmill tune`` tries
        several, each in a process of its own, for MLX reads them once; those that you set yourself are left alone.
    ``batch size``: A run begins with 32 sequences and takes more while that makes it faster, up to 256.
    ``prompts``: 2,048 prompt tokens go into a step.

This measures all of it for one model in a few minutes, keeps it for later runs, and writes one file:

    rowmill tune model=gpt_oss_20b_q6g32

Please send the file in (``outputs/tune.json``), and what ``rowmill benchmark`` says: they hold times, versions, the
chip, its memory and the model's dimensions, and no path, user or host name.
"""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from functools import cache

from runner.machine.facts import output

OPERATIONS, MEGABYTES = "MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER"


@cache
def chip() -> str | None:
    """Of a Mac, as MLX names it; None on other machines, or where the system does not say."""
    if platform.system() != "Darwin":
        return None
    return output("sysctl", "-n", "machdep.cpu.brand_string").strip() or None


def set_buffers(buffers: tuple[int, int] | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """For an MLX that has not started yet; what the environment already says counts."""
    if buffers and not {OPERATIONS, MEGABYTES} & set(environment):
        environment.update({OPERATIONS: str(buffers[0]), MEGABYTES: str(buffers[1])})
