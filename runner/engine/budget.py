"""What an engine may take of a device, in memory, sequences and tokens, and what a model's caches take of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class KVShape:
    """The memory of a token: ``token_bytes`` in the layers that keep every token, ``sliding_bytes`` in those that keep
    only the last ``window`` tokens. ``state_bytes``: of a sequence, however long it is, in recurrent layers.
    """

    token_bytes: int
    sliding_bytes: int = 0
    window: int = 0
    state_bytes: int = 0

    def sequence_bytes(self, tokens: int, shared: int = 0) -> int:
        """The bytes of a sequence's own caches; ``shared`` of its tokens lie in a prefix that is stored once."""
        own = (tokens - shared) * self.token_bytes + min(tokens, self.window) * self.sliding_bytes
        return own + self.state_bytes


def kv_shape(config: dict[str, Any], kind: str, bits: int | None = None) -> KVShape | None:
    """From a model's config.json, for a device (cpu, metal, cuda): what the engine's own layers would store, by a pass
    of which nothing is computed. None for what mlx-lm makes no model of, which is said where the model is loaded, and
    for a model that has to compute something to go on.

    ``bits``: of keys and values in layers that keep every token.
    """
    for told in (_shared, _copied):
        try:
            return told(_unloaded(config, kind), bits)
        except Exception:  # whatever a configuration lacks, or a model cannot
            continue
    return None


def _unloaded(config: dict[str, Any], kind: str) -> Any:
    """mlx-lm's model without its weights, in the type that they have on a device."""
    import mlx.core as mx
    from mlx_lm.utils import _get_classes

    table = {**config, **(config.get("text_config") or {})}
    dtype = str(table.get("torch_dtype") or table.get("dtype") or "bfloat16")
    made, arguments = _get_classes(config)
    model = made(arguments.from_dict(config))
    model.set_dtype(mx.float32 if kind == "cpu" or dtype == "float32" else mx.bfloat16)
    return model


def _shared(model: Any, bits: int | None) -> KVShape:
    from runner.engine.attention.resident import ResidentModel

    resident = ResidentModel(model, kv_bits=bits, trial=False)
    window = max((layer.reach.window or 0 for layer in resident.layers), default=0)
    sliding = resident.window_bytes
    return KVShape(resident.token_bytes - sliding, sliding, window, resident.state_bytes)


def _copied(model: Any, _: int | None) -> KVShape:
    """By the caches of mlx-lm's own that a model has whose layers cannot share prefixes."""
    import mlx.core as mx
    from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

    from runner.engine.attention.resident import traced

    caches = make_prompt_cache(model)
    traced(lambda tokens: model(tokens, cache=caches), mx.ones((1, 2), mx.int32))
    token = sliding = window = state = 0
    left = list(caches)
    while left:
        kv = left.pop()
        if type(kv) is CacheList:
            left += kv.caches
        elif type(kv) is ArraysCache:
            state += sum(array.nbytes for array in kv.cache if array is not None)
        elif kv.keys is not None:
            size = sum(array.nbytes // array.shape[2] for array in (kv.keys, kv.values))
            last = getattr(kv, "max_size", None) or getattr(kv, "chunk_size", None)
            token, sliding = (token, sliding + size) if last else (token + size, sliding)
            window = max(window, last or 0)
    return KVShape(token, sliding, window, state)
