"""An engine without a model, for trials and tests: deterministic answers from each prompt's hash."""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import string
import time
from collections.abc import Callable

import numpy as np

from runner.engine.masks import Grammars, Matching, bitmasks
from runner.machine.facts import peak_memory
from runner.sequences import Costs, Gauge, Generation, Scored, Sequence, Waiting, Work
from runner.text.choices import score_fields
from runner.text.vocabulary import ByteTokenizer
from runner.types import BAD_GRAMMAR

WORDS = [
    *("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("moor", "north", "oak", "pine", "quay", "reed"),
]
LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
CLOSERS = b'"]},'
MARKS = bytes(string.punctuation, "ascii")
LONG = 24  # letters in a row: some words, such as a URI's scheme, need a mark behind them
END = 256  # of ByteTokenizer
BATCH = 256
DELAY = "ROWMILL_FAKE_DELAY"  # environment variable: seconds that a step takes, to try interrupts and kills
FAULT = "ROWMILL_FAKE_FAULT"  # environment variable: HOW:TEXT, see _fail; "load" hangs at once


class FakeEngine(Waiting):
    """Answers up to ``batch_size`` sequences a step, by prompt, drawn seed, ``max_tokens`` and ``stopped`` only.

    It caches nothing, so that the usage does not depend on what was asked before either. The environment variables
    ROWMILL_FAKE_DELAY and ROWMILL_FAKE_FAULT make its steps slow, and some of them fatal. ``share`` of ``batch_size``
    is used.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        stopped: Callable[[Sequence, list[int]], bool] | None = None,
        share: float = 1.0,
    ) -> None:
        self.batch_size = max(1, int(share * (batch_size or BATCH)))
        self.fault = os.environ.get(FAULT, "")
        if self.fault == "load":
            time.sleep(1e6)
        self.delay_s = float(os.environ.get(DELAY) or 0)
        self.stopped = stopped
        self.grammars = Grammars(ByteTokenizer())
        self.waiting: list[Sequence] = []
        self.costs = Costs()
        self.work = Work()
        self.busy = 0  # sequences in the latest step

    def gauge(self) -> Gauge:
        """Slots in use and the process's memory."""
        return Gauge(self.busy, self.batch_size, peak_memory())

    def room(self) -> int:
        return self.batch_size - len(self.waiting)

    def step(self) -> list[Generation]:
        batch, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        self.busy = len(batch)
        if batch and self.delay_s:
            time.sleep(self.delay_s)
        if self.fault:
            _fail(self.fault, batch)
        return [self.answer(sequence) for sequence in batch]

    def close(self) -> None:
        self.waiting.clear()

    def answer(self, sequence: Sequence) -> Generation:
        seed = sequence.draw_seed if sequence.sampling.temperature > 0 else 0
        digest = hashlib.blake2b(sequence.ids + seed.to_bytes(8, "little"), digest_size=16).digest()
        if sequence.choices:
            places = np.arange(len(sequence.choices))
            scores = -(1.0 + np.frombuffer(digest, np.uint8)[places % 16] + places) / 16
            scores -= np.log(np.exp(scores).sum())
            return Generation(sequence.key, finish_reason="choice", **score_fields(scores, sequence.top))
        if (matching := self.grammars.start(sequence)) is not None:
            return self._follow(sequence, matching, random.Random(digest))
        text = " ".join(WORDS[byte % len(WORDS)] for byte in digest[: 1 + digest[0] % 6]).encode()
        reason = "stop" if len(text) <= sequence.max_tokens else "length"
        mean = -(1 + digest[1]) / 64 if sequence.mean_logprob else None
        tokens = list(text[: sequence.max_tokens])
        if end := next((end for end in range(1, len(tokens) + 1) if self._stops(sequence, tokens[:end])), 0):
            tokens, reason = tokens[:end], "stop"
        return Generation(sequence.key, tokens, reason, mean_logprob=mean, scored=_scored(sequence, tokens))

    def _stops(self, sequence: Sequence, tokens: list[int]) -> bool:
        return self.stopped is not None and self.stopped(sequence, tokens)

    def _follow(self, sequence: Sequence, matching: Matching, chance: random.Random) -> Generation:
        """An answer that follows the sequence's grammar, byte by byte: short words, ended where that is allowed."""
        tokens: list[int] = []
        reason = "length"
        while len(tokens) < sequence.max_tokens and not matching.ended:
            if forced := matching.force(sequence.max_tokens - len(tokens)):
                tokens += forced
                continue
            bits = bitmasks([matching], END + 1).view(np.uint8)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: END + 1]).tolist()
            if END in allowed or not allowed:
                reason = "stop"
                break
            closers = [byte for byte in CLOSERS if byte in allowed] if chance.random() < 0.3 else []
            is_long = len(tokens) >= LONG and all(byte in LETTERS for byte in tokens[-LONG:])
            wanted = [byte for byte in allowed if byte in (MARKS if is_long else LETTERS)]
            tokens.append(closers[0] if closers else chance.choice(wanted or allowed))
            matching.take(tokens[-1])
            if self._stops(sequence, tokens):
                reason = "stop"
                break
        if matching.problem:
            return Generation(sequence.key, finish_reason="error", error=f"{BAD_GRAMMAR}: {matching.problem}")
        reason = "stop" if matching.ended else reason
        return Generation(sequence.key, tokens, reason, scored=_scored(sequence, tokens))


def _fail(fault: str, batch: list[Sequence]) -> None:
    """Die as models do: abort, kill, hang, raise, exit, or oom:N for lack of memory with more than N at once."""
    how, _, text = fault.partition(":")
    if how == "oom":
        if len(batch) > int(text):
            os.write(2, b"[METAL] Command buffer execution failed: Insufficient Memory\n")
            os.abort()
    elif any(text in bytes(i for i in sequence.tokens if i < 256).decode() for sequence in batch):
        if how == "hang":
            time.sleep(1e6)
        if how == "exit":
            os._exit(1)
        if how == "raise":
            raise RuntimeError("a fault was asked for")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGABRT)


def _scored(sequence: Sequence, tokens: list[int]) -> tuple[Scored, ...] | None:
    """Each token with half of the mass, the next ones in the alphabet with half of what is left."""
    if (count := sequence.top_logprobs) is None:
        return None
    shares = [-(1 + place) * math.log(2) for place in range(count)]
    return tuple(
        Scored(-math.log(2), tuple(((token + place) % 128, share) for place, share in enumerate(shares)))
        for token in tokens
    )
