"""How surprised a model is by each token of some windows, in batches side by side and chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SCORE_BYTES = {"cpu": 128 << 20, "metal": 512 << 20, "cuda": 2 << 30}  # of float32 logits held at once


def chunk_tokens(kind: str, config: dict[str, Any], sequences: int) -> int:
    """How many tokens of ``sequences`` go through the model at once, for a device (cpu, metal, cuda)."""
    width = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 1 << 18
    return max(16, SCORE_BYTES[kind] // (4 * int(width) * sequences))


def losses(
    model: Any,
    batches: list[np.ndarray],
    streams: list[Any],
    chunk: int,
    beat: Callable[[], None] = lambda: None,
    kv_bits: int | None = None,
) -> list[np.ndarray]:
    """Negative log-likelihoods of tokens[:, 1:] for token ids [B, L] each: float32 [B, L - 1].

    Batches run side by side, one on each stream. The text goes through the model ``chunk`` tokens at a time behind KV
    caches, so that the logits of no more are held; they are float32 when they are normalised. ``beat`` is called after
    each chunk. ``kv_bits``: as which keys and values are rounded.
    """
    import mlx.core as mx

    from runner.engine.kernels import packed

    caches = [packed.caches(model, kv_bits) for _ in batches]
    results: list[list[Any]] = [[] for _ in batches]
    for at in range(0, max(batch.shape[1] for batch in batches) - 1, chunk):
        for batch, cache, stream, result in zip(batches, caches, streams, results, strict=False):
            stop = min(at + chunk, batch.shape[1] - 1)
            if at < stop:
                with mx.stream(stream):
                    logits = model(mx.array(batch[:, at:stop]), cache=cache)
                    result.append(loss(logits, mx.array(batch[:, at + 1 : stop + 1])))
        mx.eval([result[-1] for result in results], [layer.state for cache in caches for layer in cache])
        beat()
    return [np.concatenate([np.array(part) for part in result], axis=1) for result in results]


def loss(logits: Any, targets: Any) -> Any:
    """Negative log-likelihoods [B, T] of ``targets`` [B, T] under ``logits`` [B, T, V], in float32."""
    import mlx.core as mx

    from runner.engine.sampling import normaliser

    logits = logits.astype(mx.float32)
    return normaliser(logits) - mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
