"""An engine without a model: deterministic answers from each prompt's hash, for trying configurations and for tests."""

from __future__ import annotations

import hashlib
import math
import struct

from runner.types import Generation, Sequence

WORDS = [
    *("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("moor", "north", "oak", "pine", "quay", "reed"),
]
BATCH = 256


class FakeEngine:
    """Answers up to BATCH sequences a step. Text depends on the prompt, the sampling's seed and ``max_tokens`` only."""

    def __init__(self) -> None:
        self.waiting: list[Sequence] = []
        self.paths: list[bytes] = []

    def room(self) -> int:
        return BATCH - len(self.waiting)

    def add(self, sequences: list[Sequence]) -> None:
        self.waiting.extend(sequences)

    def step(self) -> list[Generation]:
        batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        return [self._answer(sequence) for sequence in batch]

    def close(self) -> None:
        self.waiting.clear()

    def _answer(self, sequence: Sequence) -> Generation:
        prompt = struct.pack(f"{len(sequence.tokens)}I", *sequence.tokens)
        seed = sequence.draw_seed if sequence.sampling.temperature > 0 else 0
        digest = hashlib.blake2b(prompt + struct.pack("Q", seed), digest_size=16).digest()
        cached = self._cached(sequence)
        if sequence.choices:
            scores = [-(1 + digest[i % 16] + i) / 16 for i in range(len(sequence.choices))]
            total = math.log(sum(map(math.exp, scores)))
            logprobs = tuple(score - total for score in scores)
            return Generation(sequence.key, finish_reason="choice", cached_tokens=cached, logprobs=logprobs)
        text = " ".join(WORDS[byte % len(WORDS)] for byte in digest[: 1 + digest[0] % 6]).encode()
        reason = "stop" if len(text) <= sequence.max_tokens else "length"
        return Generation(sequence.key, list(text[: sequence.max_tokens]), reason, cached)

    def _cached(self, sequence: Sequence) -> int:
        """What a cache of the current path of prefixes would have served."""
        prompt = struct.pack(f"{len(sequence.tokens)}I", *sequence.tokens)
        paths = [prompt[: 4 * boundary] for boundary in sequence.boundaries]
        cached = max((len(path) // 4 for path in paths if path in self.paths), default=0)
        self.paths = paths
        return cached
