"""Tokens a second of a loaded model, prefilling and decoding made-up prompts."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from runner.engine.conf import EngineConf
from runner.machine.device import Device
from runner.sequences import Engine, Sequence

log = logging.getLogger("rowmill")

PREFIX, OWN = 512, 16  # tokens of prompts for decoding
ROW = 128  # tokens of prompts for prefilling
STEPS = {False: 12, True: 6}  # that are timed; quick or not
WARM_UP = 3
LONG = 4.0  # seconds, after which nothing is repeated
MOST_STEPS = 400  # until all sequences decode


class Rates:
    """Tokens a second of a loaded model."""

    def __init__(self, model: Any, device: Device, conf: EngineConf, config: Mapping[str, Any], quick: bool) -> None:
        self.model, self.device, self.conf, self.steps = model, device, conf, STEPS[quick]
        table = {**config, **(config.get("text_config") or {})}
        self.tokens = range(1, min(1000, int(table.get("vocab_size") or 50)))

    def prefill(self, size: int) -> float:
        """Of prompts, with up to ``size`` tokens of them in a step."""
        count = math.ceil(max(1024, size) / ROW)
        rows = self._rows(count, 0, ROW)
        with self._engine(count, size) as engine:
            _until_ended(engine, rows[:1])  # what is compiled, is compiled
            return count * ROW / _until_ended(engine, rows)

    def decode(self, prefill: int, count: int) -> float | None:
        """Of ``count`` sequences; None if they do not fit."""
        rows, last = self._rows(count, PREFIX, OWN), math.ceil(count * OWN / prefill) + WARM_UP + self.steps + 8
        with self._engine(count, prefill) as engine:
            engine.add([Sequence((at, 0), row, 2 * last, boundaries=(PREFIX,)) for at, row in enumerate(rows)])
            if not _all_decode(engine, count):
                return None
            before, began = engine.work.decoded, time.perf_counter()
            for done in range(self.steps):
                engine.step()
                if done >= WARM_UP and time.perf_counter() - began > LONG:
                    break
            return (engine.work.decoded - before) / (time.perf_counter() - began)

    @contextlib.contextmanager
    def _engine(self, batch_size: int, prefill: int) -> Iterator[Engine]:
        from runner.engine.open import batch_engine

        level = log.level
        log.setLevel(logging.WARNING)  # each one would tell the same
        try:
            conf = replace(self.conf, batch_size=batch_size, prefill_tokens=prefill, draft_tokens=0)
            engine = batch_engine(self.model, self.device, conf)
        finally:
            log.setLevel(level)
        try:
            yield engine
        finally:
            engine.close()

    def _rows(self, count: int, shared: int, own: int) -> list[list[int]]:
        draw = random.Random(0)
        prefix = draw.choices(self.tokens, k=shared)
        return [prefix + draw.choices(self.tokens, k=own) for _ in range(count)]


def _until_ended(engine: Engine, rows: list[list[int]]) -> float:
    began, left = time.perf_counter(), len(rows)
    engine.add([Sequence((at, 0), row, 1) for at, row in enumerate(rows)])
    while left:
        left -= len(engine.step())
    return time.perf_counter() - began


def _all_decode(engine: Engine, count: int) -> bool:
    """Step until all sequences have decoded together for WARM_UP steps; False if they never do."""
    together = 0
    for _ in range(MOST_STEPS):
        decoded, prefilled = engine.work.decoded, engine.work.prefilled
        engine.step()
        whole = engine.work.decoded - decoded >= count and engine.work.prefilled == prefilled
        together += whole
        if together == WARM_UP:
            return True
        if engine.work.decoded and not whole and (engine.gauge().slots or 0) < count:
            return False
    return False
