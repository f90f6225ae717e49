"""Metal's command buffers of several sizes, tried in processes of their own."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmark.apart import apart, tell
from jobs.tune.found import Found
from jobs.tune.rates import Rates
from jobs.tune.turns import NEAR, TURNS, best
from runner.engine.budget import BATCH_SIZE, PREFILL_TOKENS
from runner.engine.conf import EngineConf
from runner.machine.metal import set_buffers

log = logging.getLogger("rowmill")

USUAL = "usual"
SIZES = ((100, 100), (200, 200), (500, 500), (2000, 2000))  # operations, megabytes
QUICK = ((2000, 2000),)
GAIN = 1.02  # for which other sizes than the usual ones are taken


def measure_buffers(found: Found, task: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Prefilling and decoding with the sizes chosen before, for each size of command buffers."""
    log.info("command buffers, by operations and megabytes:")
    task = {**task, "batch_size": found.chosen.get("batch_size"), "prefill_tokens": found.chosen.get("prefill_tokens")}
    names = {USUAL: None} | {f"{size[0]} x {size[1]}": size for size in (QUICK if found.quick else SIZES)}
    turns: dict[tuple[int, int] | None, list[float]] = {size: [] for size in names.values()}
    again = names
    for turn in range(TURNS):
        for name, size in again.items():
            surroundings = dict(environment)
            set_buffers(size, surroundings)
            rates = found.once("buffers", f"{name}, turn {turn + 1}", partial(_apart, task, surroundings), _both)
            turns[size].append(math.prod(rates) ** 0.5)
        top = max(turns.values())[0]
        again = {name: size for name, size in again.items() if size is None or turns[size][0] > NEAR * top}
    found.choose(buffers=best({names[name]: turns[names[name]] for name in again}, None, GAIN))


def _apart(task: Mapping[str, Any], environment: Mapping[str, str]) -> list[float]:
    answer = apart("jobs.tune.buffers", "the measurement", dict(task), environment)
    return [answer["decode"], answer["prefill"]]


def _both(rates: list[float]) -> str:
    return f"{rates[0]:,.0f} tokens/s decoded, {rates[1]:,.0f} tokens/s of prompts"


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own."""
    from runner.engine.weights import load
    from runner.machine.device import set_up

    device, conf = set_up(task["engine"]["backend"]), EngineConf(**task["engine"])
    model, config = load(Path(task["model"]), device)
    rates = Rates(model, device, conf, config, task["quick"])
    prefill = task["prefill_tokens"] or PREFILL_TOKENS[device.kind]
    decode = rates.decode(prefill, task["batch_size"] or BATCH_SIZE[device.kind])
    return {"decode": decode or 0.0, "prefill": rates.prefill(prefill)}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what the parent was told, too, needs no traceback
    tell(measure)
