"""Which batches give each row what it gets by itself."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from runner.engine.copying.choices import Way, even
from runner.engine.copying.even import EvenRows
from runner.engine.trial import SHARED, STEPS, Trial

log = logging.getLogger("rowmill")

PREFILL = 8  # prompts computed together


def prefill_batch(model: Any, trial: Trial) -> int:
    """How many prompts of one of mlx-lm's batches may be computed together; 0 if it cannot batch rows at all."""
    for count in (PREFILL, 1):
        answers = partial(_answers, model, trial, partial(BatchGenerator, model, prefill_batch_size=count))
        if _holds(f"mlx-lm cannot batch this model, {count} prompts at a time", trial, answers):
            return count
    return 0


def even_batch(model: Any, trial: Trial) -> tuple[bool, bool]:
    """Whether rows that have come equally far may be computed together, and whether then with padding behind them."""
    answers = partial(_answers, model, trial, partial(EvenRows, model, (), PREFILL))
    if not _holds("this model runs one row at a time", trial, answers):
        return False, False
    log.info("rows of this model go on together where they have come equally far")
    return True, _holds("this model takes no padding", trial, partial(_ways, model, trial))


def _holds(told: str, trial: Trial, answers: Callable[[], list[list[mx.array]]]) -> bool:
    try:
        problem = trial.problem(answers())
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        log.info("%s: %s", told, problem)
    return problem is None


def _answers(model: Any, trial: Trial, make: Callable[[], Any]) -> list[list[mx.array]]:
    """The logits of each row: the first two join with copies of a prefix's cache, the others while those decode."""
    shared = make_prompt_cache(model)
    model(mx.array([trial.rows[0][:SHARED]]), cache=shared)
    generator = make()
    got: dict[int, list[mx.array]] = {}
    try:
        for rows, cache in ((trial.rows[:2], shared), (trial.rows[2:], make_prompt_cache(model))):
            known = SHARED if cache is shared else 0
            generator.insert(
                [row[known:-STEPS] for row in rows],
                [STEPS + 1] * len(rows),
                caches=[copy.deepcopy(cache) for _ in rows],
                all_tokens=[row[:known] for row in rows],
                samplers=[_forced(row[-STEPS:]) for row in rows],
            )
            _take(generator, got)
        while any(len(row) <= STEPS for row in got.values()) or len(got) < len(trial.rows):
            _take(generator, got)
    finally:
        generator.close()
    return [got[uid] for uid in sorted(got)]


def _ways(model: Any, trial: Trial) -> list[list[mx.array]]:
    """The logits of each row, as ways behind what they share."""
    ways = [Way(0, tuple(row[SHARED:]), []) for row in trial.rows]
    run = even(model, [trial.rows[0][:SHARED]], [make_prompt_cache(model)], PREFILL)
    logits = run(ways, max(len(way.tokens) for way in ways))
    return [list(row[len(way.tokens) - STEPS : len(way.tokens) + 1]) for row, way in zip(logits, ways, strict=True)]


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
