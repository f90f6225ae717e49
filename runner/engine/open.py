"""From a model folder to an engine that serves a run: weights, budgets, batch sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine.budget import Budget
from runner.engine.conf import EngineConf
from runner.engine.masks import Grammars
from runner.machine.device import Device, cpu_streams
from runner.sequences import Queue, Sequence
from runner.text.prompter import Prompter
from runner.types import UserError
from runner.words import size

if TYPE_CHECKING:
    from runner.engine.copying.engine import CopyingEngine
    from runner.engine.engine import BatchEngine

log = logging.getLogger("rowmill")


def open_engine(folder: Path, device: Device, conf: EngineConf, prompter: Prompter, share: float = 1.0) -> Queue:
    """Load the model and put it behind a BatchEngine. UserError, exit code 3, if it cannot run here.

    ``share`` of the usual batch size and KV memory is used.
    """
    from runner.engine.weights import load
    from runner.models.tensors import context_length, known_tokens

    model, config = load(folder, device, Budget.of(conf, device).limit)
    return batch_engine(
        model,
        device,
        conf,
        share=share,
        end_tokens=prompter.end_tokens,
        stopped=stop_at(prompter),
        grammars=Grammars(prompter.vocabulary, known_tokens(config)),
        context=context_length(config),
    )


def batch_engine(
    model: Any, device: Device, conf: EngineConf, share: float = 1.0, **details: Any
) -> BatchEngine | CopyingEngine:
    """An engine for a loaded model, its sizes chosen for the device where ``conf`` leaves them open."""
    import mlx.core as mx

    from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
    from runner.engine.engine import BatchEngine
    from runner.engine.kernels import packed
    from runner.engine.tuning import copies_here, costs_here

    budget = Budget.of(conf, device, share)
    mx.set_cache_limit(budget.work)  # of buffers that MLX keeps for later
    details |= {"batch_size": budget.batch_size, "prefill_tokens": budget.prefill_tokens, "logit_bytes": budget.logits}
    details |= {"kv_bytes": _spare_bytes(model, budget), "context": settle_positions(model, details.get("context"))}
    if said := device.tuned.said():
        log.info("as rowmill tune found: %s", said)
    try:
        resident = ResidentModel(model, conf.max_kv_size, conf.kv_bits)
    except UnsupportedModelError as problem:
        return _copying_engine(model, conf, problem, details)
    costs = costs_here(resident, device.place)
    log.info("a shared prefix costs %.0f tokens and %.1f%% of each behind it", costs.snapshot, 100 * costs.level)
    if conf.kv_bits:
        packed.tell(model, conf.kv_bits)
    else:  # copies would take the memory that is to be saved
        details["copies"] = copies_here(resident, device.place)
    return BatchEngine(
        resident,
        bound_bytes=None if device.kind == "cpu" else mx.get_active_memory() + budget.work,
        streams=cpu_streams() if device.kind == "cpu" else 1,
        most=budget.most,
        costs=costs,
        draft_tokens=conf.draft_tokens,
        **details,
    )


def _spare_bytes(model: Any, budget: Budget) -> int:
    """What the weights leave for KV caches; UserError, exit code 3, if that is nothing."""
    from mlx.utils import tree_reduce

    weights = tree_reduce(lambda total, array: total + array.nbytes, model.parameters(), 0)
    spare = budget.kv(weights)
    if spare <= 0:
        raise UserError(f"the weights take {size(weights)} of {size(budget.limit)}: too little is left", exit_code=3)
    log.info("weights %s, up to %s for KV caches", size(weights), size(spare))
    return spare


def _copying_engine(model: Any, conf: EngineConf, problem: Exception, details: dict[str, Any]) -> CopyingEngine:
    """The engine for a model that cannot share prefixes; UserError, exit code 3, for what it cannot do."""
    from runner.engine.copying.engine import CopyingEngine

    if conf.max_kv_size:
        why = f"this model's caches cannot be bounded ({problem})"
        raise UserError("engine.max_kv_size", why, exit_code=3) from problem
    if conf.kv_bits:
        why = f"this model's caches cannot have it ({problem})"
        raise UserError("engine.kv_bits", why, value=conf.kv_bits, exit_code=3) from problem
    log.info("this model cannot share prefixes (%s): every row gets a copy", problem)
    return CopyingEngine(model, **details)


def settle_positions(model: Any, context: int | None) -> int | None:
    """Give up stretching rotary positions beyond the length that they were trained for, as internlm2 and 3 do.

    Stretched ones depend on how many tokens go through the model at once, and keys that are stored keep those of an
    earlier length: one text would get other answers behind another prefix. The context that is left.
    """
    import mlx.nn as nn
    from mlx_lm.models.rope_utils import DynamicNTKScalingRoPE

    for module in model.modules():
        for name, rope in module.children().items():
            if isinstance(rope, DynamicNTKScalingRoPE):
                module[name] = nn.RoPE(rope.dims, traditional=rope.traditional, base=rope.base)
                context = min(context or rope.max_position_embeddings, rope.max_position_embeddings)
    return context


def stop_at(prompter: Prompter) -> Callable[[Sequence, list[int]], bool]:
    """Whether the text of the tokens generated for a sequence contains one of the texts that end its answer."""

    def stopped(sequence: Sequence, tokens: list[int]) -> bool:
        stops = prompter.stops_of(sequence)
        if not stops:
            return False
        reach = max(len(stop.encode()) for stop in stops) + 4  # a token has at least one byte
        tail = prompter.vocabulary.decode(tokens[-reach:] if sequence.grammar is None else tokens)  # some are forced
        return any(stop in tail for stop in stops) and prompter.stops(tokens, sequence)

    return stopped
