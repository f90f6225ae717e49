"""Continuous batches by mlx-lm, with a copy of its prefix's cache for each row."""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import KVCache, make_prompt_cache

from runner.engine.copying.batched import even_batch, prefill_batch
from runner.engine.copying.choices import even, score, together
from runner.engine.copying.even import EvenRows
from runner.engine.masks import Grammars, Matching, bitmasks
from runner.engine.sampling import asks, draw, likeliest, logprob_fields, masked, normaliser, pairs, uniforms
from runner.engine.trial import Trial
from runner.sequences import Costs, Gauge, Generation, Scored, Sequence, Waiting, Work
from runner.text.choices import Walk, choice_tree, score_fields
from runner.types import BAD_GRAMMAR, TOO_LONG
from runner.words import size

log = logging.getLogger("rowmill")


@dataclass
class Working:
    """A sequence being generated, and its tokens so far; ``scored`` are these where it asks."""

    sequence: Sequence
    cached: int
    matching: Matching | None
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)

    def ended(self, reason: str) -> Generation:
        if self.matching is not None and (problem := self.matching.problem):
            return Generation(self.sequence.key, finish_reason="error", error=f"{BAD_GRAMMAR}: {problem}")
        said = logprob_fields(self.sequence, self.scored, len(self.tokens))
        return Generation(self.sequence.key, self.tokens, reason, self.cached, **said)


class CopyingEngine(Waiting):
    """Continuous batching with a cache copy for each row; see the ``Engine`` protocol and BatchEngine.

    ``kv_bytes`` bounds the memory of the rows' caches, as measured on a short prompt, ``logit_bytes`` that of the
    logits of choices. One prefix is held at a time, the deepest boundary of a sequence. Where a trial shows that
    prompts of different length are mixed up, they are computed one after the other; where answers are, too, or mlx-lm's
    batches do not take the model, rows go on together once they have come equally far, or run one at a time.
    """

    def __init__(
        self,
        model: Any,
        end_tokens: Collection[int] = (),
        *,
        batch_size: int = 32,
        prefill_tokens: int = 512,
        logit_bytes: int = 1 << 24,
        kv_bytes: int = 1 << 33,
        context: int | None = None,
        stopped: Callable[[Sequence, list[int]], bool] = lambda sequence, tokens: False,
        grammars: Grammars | None = None,
    ) -> None:
        self.model = model
        trial = Trial(model) if batch_size > 1 else None
        self.prompts = prefill_batch(model, trial) if trial else 0  # that are computed together
        self.even, self.padded = even_batch(model, trial) if trial and not self.prompts else (False, False)
        self.batch_size = batch_size if self.prompts or self.even else 1
        self.prefill_tokens = prefill_tokens
        self.logit_bytes = logit_bytes
        self.vocabulary = int(model(mx.array([[1]]), cache=make_prompt_cache(model)).shape[-1])
        self.kv_bytes = kv_bytes
        self.row_bytes, self.token_bytes = _cache_bytes(model)
        self.context = context
        self.stopped = stopped
        self.grammars = grammars or Grammars()
        self.generator: Any = EvenRows(model, end_tokens, prefill_tokens)
        if self.prompts:
            self.generator = BatchGenerator(
                model,
                stop_tokens=[[token] for token in end_tokens],
                completion_batch_size=self.batch_size,
                prefill_batch_size=min(self.prompts, self.batch_size),
                prefill_step_size=prefill_tokens,
            )
        self.waiting: deque[Sequence] = deque()
        self.working: dict[int, Working] = {}  # by uid
        self.prefix: tuple[tuple[int, ...], Any] = ((), None)
        self.costs = Costs()
        self.work = Work()

    def gauge(self) -> Gauge:
        """Slots in use and active memory."""
        return Gauge(len(self.working), self.batch_size, mx.get_active_memory())

    def room(self) -> int:
        """How many sequences to add so that the batch is full, and as many again are ready to join it."""
        return max(0, 2 * self.batch_size - len(self.waiting) - len(self.working))

    def step(self) -> list[Generation]:
        """Start what waits, score what is only scored, and advance the batch by a token."""
        began = time.perf_counter()
        ended = []
        scored: list[Sequence] = []
        while self.waiting and len(self.working) + len(scored) < self.batch_size:
            sequence = self.waiting[0]
            if problem := self._misfit(sequence):
                self.waiting.popleft()
                ended.append(Generation(sequence.key, finish_reason="error", error=problem))
                continue
            if not self._fits(sequence, scored):
                break
            self.waiting.popleft()
            if sequence.choices is None:
                self._start(sequence)
            else:
                scored.append(sequence)
        if scored:
            ended += self._score(scored)
        if self.working:
            ended += self._advance()
        lanes = len(self.working) + len(scored)
        self.work += Work(lanes=lanes, slots=self.batch_size, model_s=time.perf_counter() - began)
        return ended

    def close(self) -> None:
        """Drop all sequences and give the memory of their caches back."""
        self.waiting.clear()
        self.generator.remove(list(self.working))
        self.working.clear()
        self.prefix = ((), None)
        self.generator.close()
        mx.clear_cache()

    def _fits(self, sequence: Sequence, scored: list[Sequence]) -> bool:
        """Whether its caches fit beside those at work and to be scored, all of them padded to the longest as mlx-lm's
        batches have it; alone there is nothing to wait for.
        """
        others = [*(work.sequence for work in self.working.values()), *scored]
        longest = max(self._bytes(one) for one in (sequence, *others))
        return not others or longest * (len(others) + 1) <= self.kv_bytes

    def _bytes(self, sequence: Sequence) -> int:
        return self.row_bytes + self.token_bytes * (len(sequence.tokens) + sequence.max_tokens)

    def _misfit(self, sequence: Sequence) -> str | None:
        """Why a sequence can never be computed here; None if it can."""
        needed = len(sequence.tokens) + sequence.max_tokens
        if self.context is not None and needed > self.context:
            return f"{TOO_LONG}: {needed} tokens exceed the model's context of {self.context}"
        if self._bytes(sequence) > self.kv_bytes:
            return f"{TOO_LONG}: {needed} tokens exceed the {size(self.kv_bytes)} for a row's KV caches"
        return None

    def _start(self, sequence: Sequence) -> None:
        cache, cached, start = self._prefix_of(sequence)
        matching = self.grammars.start(sequence)
        (uid,) = self.generator.insert(
            [sequence.tokens[start:]],
            [sequence.max_tokens],
            caches=[copy.deepcopy(cache)],
            all_tokens=[sequence.tokens[:start]],
            samplers=[_sampler(sequence, matching)],
        )
        self.working[uid] = Working(sequence, cached, matching)

    def _advance(self) -> list[Generation]:
        ended = []
        for response in self.generator.next_generated():
            self.work.decoded += 1
            work = self.working[response.uid]
            reason = response.finish_reason
            if asks(work.sequence):
                work.scored.append(_scored(response, work.sequence.top_logprobs or 0))
            if reason != "stop":
                work.tokens.append(int(response.token))
                if self.stopped(work.sequence, work.tokens):
                    if reason is None:
                        self.generator.remove([response.uid])
                    reason = "stop"
            if reason is not None:
                del self.working[response.uid]
                ended.append(work.ended(reason))
        return ended

    def _prefix_of(self, sequence: Sequence) -> tuple[Any, int, int]:
        """A cache that holds the sequence's prefix, how many of its tokens were there before, and how many it has."""
        end = sequence.shared_tokens
        tokens = tuple(sequence.tokens[:end])
        cached = end if self.prefix[1] is not None and self.prefix[0] == tokens else 0
        self.work.prefilled += len(sequence.tokens) - cached
        self.work.cached += cached
        if cached:
            return self.prefix[1], cached, end
        cache = make_prompt_cache(self.model)
        for start in range(0, end, self.prefill_tokens):
            self.model(mx.array([tokens[start : start + self.prefill_tokens]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        self.prefix = (tokens, cache)
        return cache, 0, end

    def _score(self, sequences: list[Sequence]) -> list[Generation]:
        """Every choice's log-probability behind its prompt, of as many rows as a batch holds."""
        found = [self._prefix_of(sequence) for sequence in sequences]
        rows = [sequence.tokens[start:] for sequence, (_, _, start) in zip(sequences, found, strict=True)]
        caches, choices = [cache for cache, _, _ in found], [sequence.choices or () for sequence in sequences]
        walks = [Walk(choice_tree(one), of.cut, of.top) for one, of in zip(choices, sequences, strict=True)]
        at_once = max(1, self.logit_bytes // (4 * self.vocabulary))
        copies = max(1, self.kv_bytes // max(map(self._bytes, sequences)) - len(self.working) - len(rows))
        groups: dict[Any, list[int]] = {}
        for number, (sequence, (*_, start)) in enumerate(zip(sequences, found, strict=True)):
            # Beside others a row of which nothing is computed begins with states of zeros, for some models wrong.
            mixed = self.prompts and len(sequence.tokens) > 1
            kind = None if mixed else (start, len(sequence.tokens)) if self.even else number
            groups.setdefault(kind, []).append(number)
        for kind, numbers in groups.items():
            rows_, caches_ = [rows[number] for number in numbers], [caches[number] for number in numbers]
            if kind is None:
                run = together(self.model, rows_, caches_, prompts=self.prompts, chunk=self.prefill_tokens)
            else:
                run = even(self.model, rows_, caches_, self.prefill_tokens)
            most = copies if kind is None or self.even else 1
            score([walks[number] for number in numbers], run, most, at_once, kind is None or self.padded)
        return [
            Generation(sequence.key, [], "choice", cached, **score_fields(walk.scores(), sequence.top))
            for sequence, (_, cached, _), walk in zip(sequences, found, walks, strict=True)
        ]


def _cache_bytes(model: Any) -> tuple[int, int]:
    """What a row's caches take whatever its length, and for each token."""
    sizes = []
    for count in (1, 1 + KVCache.step):  # by so many tokens they grow
        cache = make_prompt_cache(model)
        mx.eval(model(mx.ones((1, count), mx.int32), cache=cache))
        arrays = [array for _, array in tree_flatten([layer.state for layer in cache]) if isinstance(array, mx.array)]
        sizes.append(sum(array.nbytes for array in arrays))
    each = (sizes[1] - sizes[0]) // KVCache.step
    return sizes[0] - each, each


def _logprobs(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - normaliser(logits)[..., None]


def _scored(response: Any, count: int) -> Scored:
    logprobs = _logprobs(response.logprobs)  # mlx-lm's are not quite normalised
    (top,) = pairs(*likeliest(logprobs[None], count)) if count else [()]
    return Scored(float(logprobs[int(response.token)]), top)


def _greedy(logprobs: mx.array) -> mx.array:
    return logprobs.argmax(axis=-1)


def _sampler(sequence: Sequence, matching: Matching | None) -> Callable[[mx.array], mx.array]:
    """A sampler for one row that counts its own draws; greedy rows share one, which mlx-lm then calls once for all.

    With a grammar it waits for the token it drew before: mlx-lm asks for the next one ahead of handing that out.
    """
    if sequence.sampling.temperature == 0 and matching is None:
        return _greedy
    position = 0
    last: mx.array | None = None

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal position, last
        number = uniforms(np.array([sequence.draw_seed], np.uint64), np.array([position], np.uint64))
        position += 1
        if matching is not None:
            if last is not None:
                matching.take(int(np.array(last)[0]))
            logprobs = masked(logprobs, bitmasks([matching], logprobs.shape[-1]))
        last = draw(logprobs, [sequence.sampling], number)
        return last

    return sample
