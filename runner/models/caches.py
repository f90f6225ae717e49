"""What caches of recurrent models take: mlx-lm's own have their shapes before any number is computed."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple


class Caches(NamedTuple):
    """Bytes: ``states`` of a sequence, however long it is; of each token's keys and values, by how many numbers a head
    has, in layers that keep all (``kept``), and in those that keep the last ``window`` of them.
    """

    states: int
    kept: dict[int, int]
    sliding: int
    window: int


def recurrent_caches(config: dict[str, Any], number_bytes: int) -> Caches | None:
    """None for a model without recurrent layers, and for one that mlx-lm does not make from this configuration."""
    if not _keeps_states(config):
        return None
    try:
        return _measured(config, number_bytes)
    except Exception:  # whatever a configuration lacks, which is said where the model is loaded
        return None


def _keeps_states(config: dict[str, Any]) -> bool:
    """By the text of mlx-lm's modules, as importing one takes a second."""
    spec = importlib.util.find_spec("mlx_lm")
    kinds = {str(one.get("model_type")) for one in (config, config.get("text_config") or {})}
    texts = [_text(spec, kind) for kind in kinds]
    texts += [_text(spec, other) for text in texts for other in re.findall(r"^from \.(\w+) import", text, re.M)]
    return any("ArraysCache" in text and "class ArraysCache" not in text for text in texts)


def _text(spec: Any, kind: str) -> str:
    file = Path(spec.origin).parent / "models" / f"{kind}.py" if spec and spec.origin else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else ""


def _measured(config: dict[str, Any], number_bytes: int) -> Caches:
    import mlx.core as mx
    from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache

    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32 if number_bytes == 4 else mx.bfloat16)
    caches = make_prompt_cache(model)
    model(mx.ones((1, 2), mx.int32), cache=caches)  # nothing of it is ever computed
    kept: dict[int, int] = {}
    states = sliding = window = 0
    while caches:
        kv = caches.pop()
        if type(kv) is CacheList:
            caches += kv.caches
        elif type(kv) is ArraysCache:
            states += sum(array.nbytes for array in kv.cache if array is not None)
        elif type(kv) is KVCache:
            for a in (kv.keys, kv.values):
                kept[a.shape[-1]] = kept.get(a.shape[-1], 0) + a.nbytes // a.shape[2]
        elif type(kv) is RotatingKVCache:
            sliding += sum(a.nbytes // a.shape[2] for a in (kv.keys, kv.values))
            window = int(kv.max_size)
        else:
            raise ValueError(f"{type(kv).__name__} caches")
    return Caches(states, kept, sliding, window)
