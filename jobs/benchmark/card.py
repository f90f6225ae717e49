"""The workload ``card`` of ``rowmill benchmark``: a model card's line, tokens/s and time to first token."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs.benchmark.apart import apart, tell
from runner.engine.conf import EngineConf
from runner.machine.facts import shown, versions
from runner.types import UserError
from runner.words import size

log = logging.getLogger("rowmill.card")


@dataclass(frozen=True)
class Streams:
    """``streams`` responses of ``response`` tokens each, written at once, to prompts of ``prompt`` tokens.

    ``first_token_s``: from the prompts' arrival until all have their first token. ``tokens_per_s``: of all streams,
    after the first token. ``peak_bytes``: of the device's memory, weights included.
    """

    streams: int
    prompt: int
    response: int
    first_token_s: float
    tokens_per_s: float
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Card:
    """What a model card says of speed. ``versions`` of rowmill and what it computes with."""

    model: str
    weight_bytes: int
    machine: str
    versions: dict[str, str | None]
    measured: list[Streams]

    def line(self) -> str:
        """One line for people."""
        speeds = "; ".join(
            f"{'single stream' if one.streams == 1 else f'{one.streams} streams'} {one.tokens_per_s:,.1f} tokens/s, "
            f"{one.first_token_s:.2f} s to the first token"
            for one in self.measured
        )
        what = f"{self.measured[0].response:,}-token responses to {self.measured[0].prompt}-token prompts"
        return f"{self.model} ({size(self.weight_bytes)}) on {self.machine}: {speeds} ({what}; {shown(self.versions)})"


def card(task: dict[str, Any], environment: dict[str, str]) -> Card:
    """Measure in a process of its own. ``task``: see ``measure``. Raises UserError, exit code 3, when that fails."""
    answer = apart("jobs.benchmark.card", "the card's measurement", task, environment)
    return Card(**{**answer, "measured": [Streams(**one) for one in answer["measured"]]})


def measure(task: dict[str, Any]) -> Card:
    """Load the model in folder ``model`` and measure ``streams`` (a list; None: the batch of a run), one by one.

    ``engine``: the engine group's keys; ``name``: what to call the model; ``prompt`` and ``response`` in tokens;
    ``seed`` of the random prompts.
    """
    from mlx.utils import tree_reduce

    from runner.engine.budget import Budget
    from runner.engine.weights import load
    from runner.machine import device
    from runner.models.resolve import read_config

    folder = Path(task["model"])
    conf = EngineConf(**task["engine"])
    found = device.set_up(conf.backend, conf.costly(read_config(folder)))
    model, config = load(folder, found)
    weights = tree_reduce(lambda total, array: total + array.nbytes, model.parameters(), 0)
    batch = Budget.of(conf, found).batch_size
    measured = []
    for streams in [one or batch for one in task["streams"]]:
        log.info("%d at once: responses of %s tokens ...", streams, f"{task['response']:,}")
        measured.append(_measure(model, found, replace(conf, batch_size=streams), task, int(config["vocab_size"])))
    return Card(task["name"], weights, f"{found.name} ({found.kind})", versions(), measured)


def _measure(model: Any, found: Any, conf: EngineConf, task: dict[str, Any], vocabulary: int) -> Streams:
    import mlx.core as mx

    from runner.engine.open import batch_engine

    streams = conf.batch_size or 1
    draw = random.Random(task["seed"])
    reach = range(vocabulary // 50, vocabulary - vocabulary // 50)
    prompts = [draw.choices(reach, k=task["prompt"]) for _ in range(streams)]
    engine = batch_engine(model, found, conf)
    _seconds(engine, prompts, 2)  # kernels are compiled, buffers made
    mx.reset_peak_memory()
    first = min(_seconds(engine, prompts, 1) for _ in range(3))
    whole = _seconds(engine, prompts, task["response"])
    rate = streams * (task["response"] - 1) / max(1e-9, whole - first)
    peak = int(mx.get_peak_memory())
    engine.close()
    return Streams(streams, task["prompt"], task["response"], first, rate, whole, peak)


def _seconds(engine: Any, prompts: list[list[int]], response: int) -> float:
    """Until all prompts have ``response`` tokens."""
    from runner.sequences import Sequence

    began, left = time.perf_counter(), len(prompts)
    engine.add([Sequence((0, index), prompt, response) for index, prompt in enumerate(prompts)])
    while left:
        for generation in engine.step():
            if generation.error:
                raise UserError(f"a prompt failed: {generation.error}", exit_code=3)
            left -= 1
    return time.perf_counter() - began


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    tell(lambda task: asdict(measure(task)))
