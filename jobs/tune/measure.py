"""Attention by its ways, tokens a second by batch size and step size; what is best becomes the choice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from jobs.tune.buffers import measure_buffers
from jobs.tune.found import Found
from jobs.tune.rates import PREFIX, Rates
from jobs.tune.turns import in_turns
from runner.engine.budget import BATCH_SIZE, PREFILL_TOKENS
from runner.engine.conf import EngineConf
from runner.machine.device import Device

log = logging.getLogger("rowmill")

DECODE = (8, 16, 32, 64, 128, 256)  # sequences at once
PREFILL = {"cpu": (128, 256, 512, 1024, 2048), "metal": (256, 512, 1024, 2048, 4096, 8192)}
BEYOND = {False: 2.0, True: 1.0}  # times as slow, at which copies are not tried for more sequences; quick or not


def measure_all(
    found: Found, task: dict[str, Any], device: Device, config: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    """One section after the other. ``task``: the ``model`` folder, the ``engine``'s keys, whether to be ``quick``."""
    from runner.engine.budget import Budget
    from runner.engine.weights import load

    conf = EngineConf(**task["engine"])
    model, _ = load(Path(task["model"]), device, Budget.of(conf, device).limit)
    measure_ways(found, model, device, conf)
    rates = Rates(model, device, conf, config, task["quick"])
    measure_sizes(found, rates, device.kind)
    if device.kind == "metal":
        del model, rates  # the others need the memory
        measure_buffers(found, task, environment)
    found.complete = True
    found.save()


def measure_ways(found: Found, model: Any, device: Device, conf: EngineConf) -> None:
    """Both ways of attention behind a prefix, and what sharing one costs at all."""
    from runner.engine import tuning
    from runner.engine.attention import copies
    from runner.engine.attention.resident import ResidentModel, UnsupportedModelError

    try:
        resident = ResidentModel(model, conf.max_kv_size, conf.kv_bits)
    except UnsupportedModelError as problem:
        log.info("this model cannot share prefixes (%s): there is one way only", problem)
        return
    costs = tuning.costs_here(resident, device.place, anew=True)
    log.info("a shared prefix costs %.0f tokens and %.1f%% of each behind it", costs.snapshot, 100 * costs.level)
    form = tuning.form_of(resident)
    if form is None or conf.kv_bits:  # no layer sees all tokens, or memory is to be saved
        log.info("attention in a decode step: prefixes are never copied")
        return
    log.info("attention in a decode step, by prefix and sequences:")

    def cell(form: Any, prefix: int, sequences: int) -> copies.Cell:
        name = f"{prefix} x {sequences}"
        return copies.Cell(*found.once("ways", name, lambda: list(copies.cell(form, prefix, sequences)), _both))

    chosen = tuning.keep(form, device.place, copies.measure(form, cell, BEYOND[found.quick]))
    found.choose(copies=list(chosen.most))


def _both(cell: list[Any]) -> str:
    _, _, copied, shared = cell
    return f"{1e6 * median(copied):,.0f} us over copies, {1e6 * median(shared):,.0f} us shared"


def measure_sizes(found: Found, rates: Rates, kind: str) -> None:
    """Prompt tokens in a step, sequences at once."""
    usual, others = PREFILL_TOKENS[kind], PREFILL.get(kind, PREFILL["metal"])
    log.info("prompt tokens, by the most of them in a step:")
    best = in_turns(found, "prefill", _sizes(found.quick, usual, others), usual, rates.prefill)
    found.choose(prefill_tokens=best)
    log.info("decoded tokens behind a prefix of %d, by sequences at once:", PREFIX)
    usual_batch, decode = BATCH_SIZE[kind], partial(rates.decode, best or usual)
    best = in_turns(found, "decode", _sizes(found.quick, usual_batch, DECODE), usual_batch, decode)
    found.choose(batch_size=best)


def _sizes(quick: bool, usual: int, others: tuple[int, ...]) -> tuple[int, ...]:
    return (usual // 2, usual, 2 * usual) if quick else others
