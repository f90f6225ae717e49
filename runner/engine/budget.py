"""What an engine may take of a device: bytes of memory, sequences at once, prompt tokens in a step."""

from __future__ import annotations

from dataclasses import dataclass

from runner.engine.conf import EngineConf
from runner.machine.device import Device

BATCH_SIZE = {"cpu": 64, "metal": 32, "cuda": 64}  # to begin with
MOST = 256  # sequences at once
PREFILL_TOKENS = {"cpu": 512, "metal": 2048, "cuda": 4096}
# Share of the limit left for activations, which is no more than so many bytes. Where prompts of 4,096 tokens have less,
# MLX's CUDA backend gives memory back in the middle of a step, and waits for the device: 255 rows/s became 284, and
# prompts of gpt-oss took 60 ms in place of 188 (H200).
WORK_SPACE = {"cpu": 0.1, "metal": 0.1, "cuda": 0.15}
MOST_WORK_BYTES = {"cpu": 4e9, "metal": 4e9, "cuda": 16e9}
LOGIT_BYTES = {"cpu": 16 << 20, "metal": 64 << 20, "cuda": 256 << 20}  # what keeps the device busy
WATERMARK = 0.95  # share of the limit in use at which nothing more is admitted


@dataclass(frozen=True)
class Budget:
    """Bytes of memory: ``limit`` for weights, KV caches and activations together, ``work`` of it for activations.

    ``batch_size``: sequences at once to begin with; ``most``: what it may grow to (None: it stays).
    ``prefill_tokens``: prompt tokens in one step. ``logits``: bytes of those that are scored at a time.
    ``share`` of the usual KV memory and batch size is used.
    """

    limit: int
    work: int
    batch_size: int
    most: int | None
    prefill_tokens: int
    logits: int
    share: float

    @classmethod
    def of(cls, conf: EngineConf, device: Device, share: float = 1.0) -> Budget:
        """What the configuration says, and the device's usual sizes where it leaves them open."""
        limit = int(conf.memory_gb * 1e9) if conf.memory_gb else device.memory_bytes
        work = int(min(WORK_SPACE[device.kind] * limit, MOST_WORK_BYTES[device.kind]))
        return cls(
            limit,
            work=work,
            batch_size=max(1, int(share * (conf.batch_size or device.tuned.batch_size or BATCH_SIZE[device.kind]))),
            most=None if conf.batch_size else int(share * MOST),
            prefill_tokens=conf.prefill_tokens or device.tuned.prefill_tokens or PREFILL_TOKENS[device.kind],
            logits=min(LOGIT_BYTES[device.kind], work // 8),
            share=share,
        )

    @property
    def watermark(self) -> float:
        """Bytes in use at which nothing more is admitted."""
        return WATERMARK * self.limit

    def kv(self, weight_bytes: int) -> int:
        """Bytes for KV caches beside the weights; not positive if there is no room for any."""
        return int(self.share * (self.limit - self.work - weight_bytes))
