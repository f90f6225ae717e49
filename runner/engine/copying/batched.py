"""Which batches of mlx-lm give each row what it gets by itself."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from runner.engine.trial import SHARED, STEPS, Trial

log = logging.getLogger("rowmill")

PREFILL = 8  # prompts computed together


def prefill_batch(model: Any) -> int:
    """How many prompts of a batch may be computed together; 0 if rows cannot be batched at all."""
    trial = Trial(model)
    for count in (PREFILL, 1):
        try:
            problem = trial.problem(_answers(model, trial, count))
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is None:
            return count
        log.info("mlx-lm cannot batch this model, %d prompts at a time: %s", count, problem)
    log.info("this model runs one row at a time")
    return 0


def _answers(model: Any, trial: Trial, count: int) -> list[list[mx.array]]:
    """The logits of each row: the first two join with copies of a prefix's cache, the others while those decode."""
    shared = make_prompt_cache(model)
    model(mx.array([trial.rows[0][:SHARED]]), cache=shared)
    generator = BatchGenerator(model, prefill_batch_size=count)
    got: dict[int, list[mx.array]] = {}
    try:
        for rows, cache in ((trial.rows[:2], shared), (trial.rows[2:], make_prompt_cache(model))):
            known = SHARED if cache is shared else 0
            generator.insert(
                [row[known:-STEPS] for row in rows],
                [STEPS + 1] * len(rows),
                caches=[copy.deepcopy(cache) for _ in rows],
                samplers=[_forced(row[-STEPS:]) for row in rows],
            )
            _take(generator, got)
        while any(len(row) <= STEPS for row in got.values()) or len(got) < len(trial.rows):
            _take(generator, got)
    finally:
        generator.close()
    return [got[uid] for uid in sorted(got)]


def _take(generator: Any, got: dict[int, list[mx.array]]) -> None:
    responses = generator.next_generated()
    if not responses:
        raise ValueError("no answers")
    for response in responses:
        got.setdefault(response.uid, []).append(response.logprobs)


def _forced(tokens: list[int]) -> Callable[[mx.array], mx.array]:
    """A sampler that takes these tokens, whatever is likely."""
    left = iter([*tokens, 0, 0])
    return lambda logprobs: mx.array([next(left)])
