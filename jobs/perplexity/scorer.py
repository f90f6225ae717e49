"""The model that scores windows, loaded when it is needed and given back in long pauses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jobs.perplexity.windows import Check, chunk_tokens, losses, self_check
from runner.engine.budget import Budget
from runner.machine.device import Device, cpu_streams
from runner.sequences import Gauge


def lanes(device: Device) -> int:
    """How many batches a device scores side by side."""
    return cpu_streams() if device.kind == "cpu" else 1


class Scorer:
    """A model on its streams. ``sequences``: windows in all batches together, which bound a chunk's logits."""

    def __init__(self, folder: Path, config: dict[str, Any], device: Device, budget: Budget, sequences: int) -> None:
        import mlx.core as mx

        self._folder, self._device, self._budget = folder, device, budget
        self._chunk = max(16, int(budget.share * chunk_tokens(device.kind, config, sequences)))
        self._model: Any = None
        others = [mx.new_stream(mx.default_device()) for _ in range(1, lanes(device))]
        self._streams = [mx.default_stream(mx.default_device()), *others]
        mx.reset_peak_memory()

    def load(self) -> None:
        """Load the weights, unless they are there."""
        if self._model is None:
            from runner.engine import weights
            from runner.engine.kernels import cpu

            self._model, _ = weights.load(self._folder, self._device, self._budget.limit)
            cpu.hook()

    def losses(self, batches: list[np.ndarray], beat: Callable[[], None]) -> list[np.ndarray]:
        """See ``windows.losses``."""
        return losses(self._model, batches, self._streams, self._chunk, beat)

    def check(self, batches: list[np.ndarray]) -> Check:
        """See ``windows.self_check``."""
        return self_check(self._model, batches, self._streams, self._chunk)

    def gauge(self) -> Gauge:
        """The device's memory in use."""
        import mlx.core as mx

        return Gauge(memory_bytes=int(mx.get_active_memory()))

    @property
    def peak_bytes(self) -> int:
        """The most memory in use at once since it was made."""
        import mlx.core as mx

        return int(mx.get_peak_memory())

    def release(self) -> None:
        """Give the model's memory back."""
        import mlx.core as mx

        self._model = None
        mx.clear_cache()

    def __enter__(self) -> Scorer:
        self.load()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
