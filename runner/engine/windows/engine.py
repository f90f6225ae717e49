"""An engine whose sequences are windows: the end of each is scored, nothing is generated."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runner.engine.budget import Budget
from runner.engine.conf import EngineConf
from runner.engine.windows.losses import chunk_tokens, losses
from runner.machine.device import Device, cpu_streams
from runner.sequences import Costs, Gauge, Generation, Sequence, Waiting, Work


def windows_at_once(conf: EngineConf, device: Device, window: int, share: float) -> int:
    """How many windows of so many tokens are scored in a step, where ``share`` of the usual memory is left."""
    return _lanes(device) * _in_a_batch(conf, device, window, share)


def reset_peak() -> None:
    """Let ``peak`` begin now."""
    import mlx.core as mx

    mx.reset_peak_memory()


def peak(device: Device | None) -> int | None:
    """The most memory of the device that was in use at once; None where this process has none."""
    if device is None:
        return None
    import mlx.core as mx

    return int(mx.get_peak_memory())


class WindowEngine(Waiting):
    """An Engine for sequences of one choice each, which ends the window: ``logprobs`` has the choice's.

    ``window``: how many tokens most of them have, which bounds a batch. ``share`` of the usual batch size is used. A
    step scores windows of one length in batches, one on each stream; after each ``chunk`` of tokens it calls ``beat``.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        device: Device,
        conf: EngineConf,
        window: int,
        share: float = 1.0,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        import mlx.core as mx

        from runner.engine import weights
        from runner.engine.kernels import cpu, packed

        self.lanes, self._rows = _lanes(device), _in_a_batch(conf, device, window, share)
        self.batch_size = self.lanes * self._rows
        self.costs, self.work = Costs(), Work()
        self.chunk = max(16, int(share * chunk_tokens(device.kind, config, self.batch_size)))
        self._beat = beat
        self.waiting: list[Sequence] = []
        others = [mx.new_stream(mx.default_device()) for _ in range(1, self.lanes)]
        self.streams = [mx.default_stream(mx.default_device()), *others]
        self.model, _ = weights.load(folder, device, Budget.of(conf, device).limit)
        cpu.hook()
        self.kv_bits = conf.kv_bits
        if conf.kv_bits:
            packed.tell(self.model, conf.kv_bits)

    def gauge(self) -> Gauge:
        """The device's memory in use."""
        import mlx.core as mx

        return Gauge(memory_bytes=int(mx.get_active_memory()))

    def room(self) -> int:
        """See Engine."""
        return self.batch_size - len(self.waiting)

    def step(self) -> list[Generation]:
        """See Engine."""
        windows = self._next()
        if not windows:
            return []
        began = time.perf_counter()
        batches = [np.array([[*one.tokens, *_end(one)] for one in some], np.int32) for some in self._batches(windows)]
        found = losses(self.model, batches, self.streams, self.chunk, self._beat, self.kv_bits)
        tokens, spent = sum(batch.size for batch in batches), time.perf_counter() - began
        self.work += Work(prefilled=tokens, lanes=len(windows), slots=self.batch_size, model_s=spent)
        return [_scored(*pair) for pair in zip(windows, itertools.chain(*found), strict=True)]

    def close(self) -> None:
        """See Engine."""
        import mlx.core as mx

        self.model, self.waiting = None, []
        mx.clear_cache()

    def _next(self) -> list[Sequence]:
        """The windows of a step: the first ones that wait and have the length of the very first."""
        lengths = [len(one.tokens) + len(_end(one)) for one in self.waiting]
        same = [one for one, length in zip(self.waiting, lengths, strict=True) if length == lengths[0]]
        chosen = {one.key for one in same[: self.batch_size]}
        self.waiting = [one for one in self.waiting if one.key not in chosen]
        return same[: self.batch_size]

    def _batches(self, windows: list[Sequence]) -> Iterator[list[Sequence]]:
        for at in range(0, len(windows), self._rows):
            yield windows[at : at + self._rows]


def _lanes(device: Device) -> int:
    """How many batches a device scores side by side."""
    return cpu_streams() if device.kind == "cpu" else 1


def _in_a_batch(conf: EngineConf, device: Device, window: int, share: float) -> int:
    usual = conf.batch_size or Budget.of(conf, device).prefill_tokens // window
    return max(1, int(share * usual))


def _end(window: Sequence) -> tuple[int, ...]:
    """The tokens that are scored."""
    (end,) = window.choices or ((),)
    return end


def _scored(window: Sequence, losses: np.ndarray) -> Generation:
    """The log-probability of a window's end, summed in double precision."""
    nll = float(losses[len(losses) - len(_end(window)) :].sum(dtype=np.float64))
    return Generation(window.key, finish_reason="choice", logprobs=(-nll,))
