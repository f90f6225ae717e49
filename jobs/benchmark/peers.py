"""Other engines on the same prompts: mlx-lm's own functions, and llama.cpp where llama-cpp-python is installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.types import UserError

MLX_LM = ("mlx_lm.generate", "mlx_lm.batch_generate", "mlx_lm.batch_generate+prefix")
LLAMA_CPP = "llama.cpp"
PEERS = (*MLX_LM, LLAMA_CPP)
THREADS = 2

Rows = list[list[int]]
Once = Callable[[int], tuple[float, float | None, Rows]]  # output -> seconds, to the first token, tokens of each row


def mlx_lm_peer(name: str, model: Any, tokenizer: Any, rows: Rows) -> Once:
    """One of mlx-lm's ways; the prefix is what all rows begin with."""
    import mlx.core as mx
    from mlx_lm.generate import batch_generate, generate_step
    from mlx_lm.models.cache import make_prompt_cache

    tokenizer.eos_token_ids = set()  # as for rowmill: every row generates ``output`` tokens
    prefix = shared_tokens(rows)

    def one_by_one(output: int) -> Rows:
        return [[int(t) for t, _ in generate_step(mx.array(row), model, max_tokens=output)] for row in rows]

    def batched(output: int, shared: int = 0, caches: Any = None) -> Rows:
        own = [row[shared:] for row in rows]
        options = {"prompt_caches": caches, "max_tokens": output, "return_token_ids": True}
        return [list(map(int, ids)) for ids in batch_generate(model, tokenizer, own, **options).token_ids]

    def with_prefix(output: int) -> Rows:
        if not prefix:
            return batched(output)
        cache = make_prompt_cache(model)
        model(mx.array([rows[0][:prefix]]), cache=cache)
        mx.eval([layer.state for layer in cache])
        return batched(output, prefix, [cache] * len(rows))

    run = {"mlx_lm.generate": one_by_one, "mlx_lm.batch_generate": batched}.get(name, with_prefix)
    return _timed(run)


def shared_tokens(rows: Rows) -> int:
    """How many first tokens all rows share; each row keeps its last one for itself."""
    first, last = min(rows), max(rows)  # what these two share, all in between do
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, rows)) - 1)


def llama_cpp_peer(gguf: Path, rows: Rows, output: int) -> Once:
    """llama.cpp, a row at a time on THREADS threads; it keeps what a row shares with the one before it."""
    try:
        from llama_cpp import Llama
    except ImportError as error:
        raise UserError("benchmark.against", "llama.cpp needs `pip install llama-cpp-python`") from error
    context = max(map(len, rows)) + output + 8
    model = Llama(str(gguf), n_ctx=context, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)

    def run(output: int) -> Rows:
        return [[token for token, _ in zip(model.generate(row, temp=0.0), range(output))] for row in rows]  # noqa: B905

    return _timed(run)


def _timed(run: Callable[[int], Rows]) -> Once:
    def once(output: int) -> tuple[float, float | None, Rows]:
        began = time.perf_counter()
        tokens = run(output)
        return time.perf_counter() - began, None, tokens

    return once
