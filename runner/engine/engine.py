"""The resident MLX model's engine: continuous batches over shared prefixes.

The next step is launched before the tokens of the last one are read. On a CPU there is a batch for every core, each on
a stream of its own, and all are launched together: matrix products and everything between them then run on all cores.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any

import mlx.core as mx

from runner.engine.attention.copies import Copies
from runner.engine.attention.resident import ResidentModel
from runner.engine.attention.snapshots import Snapshots
from runner.engine.batch import Batch
from runner.engine.drafts.gain import Gain
from runner.engine.lanes import Drawn, Lane, Launch
from runner.engine.masks import Grammars
from runner.engine.sampling import logprob_fields
from runner.engine.tuning import Growth
from runner.sequences import Costs, Gauge, Generation, Sequence, Waiting, Work
from runner.text.choices import score_fields
from runner.types import BAD_GRAMMAR, TOO_LONG
from runner.words import size


class BatchEngine(Waiting):
    """Continuous batching on a ResidentModel; see the ``Engine`` protocol.

    ``end_tokens`` end a generation and are left out of it; ``stopped(sequence, tokens)`` may, too. ``batch_size`` (it
    grows up to ``most`` while that makes it faster), ``prefill_tokens`` (prompt tokens of a step) and ``logit_bytes``
    (logits of choices that are held at once) are divided among ``streams`` batches. ``kv_bytes`` bounds the memory of
    slots and snapshots, ``bound_bytes`` that of everything else on the device (None: nothing does). ``costs``: what
    sharing costs, for the planner; ``copies``: where copied prefixes are faster. ``draft_tokens``: at most so many are
    drafted for each sequence in a step, None: as many as pay. ``grammars``: compiled over its vocabulary, for sequences
    that have some.
    """

    def __init__(
        self,
        model: ResidentModel,
        end_tokens: Collection[int] = (),
        *,
        batch_size: int = 32,
        prefill_tokens: int = 512,
        logit_bytes: int = 1 << 24,
        kv_bytes: int = 1 << 33,
        bound_bytes: int | None = None,
        context: int | None = None,
        stopped: Callable[[Sequence, list[int]], bool] = lambda sequence, tokens: False,
        streams: int = 1,
        most: int | None = None,
        costs: Costs | None = None,
        copies: Copies | None = None,
        draft_tokens: int | None = 0,
        grammars: Grammars | None = None,
    ) -> None:
        self.model = model
        self.end_tokens = frozenset(end_tokens)
        self.kv_bytes = kv_bytes
        self.bound_bytes = bound_bytes
        self._limit_before = None if bound_bytes is None else mx.set_memory_limit(bound_bytes)
        self.context = context
        self.stopped = stopped
        self.grammars = grammars or Grammars()
        self.growth = Growth(batch_size, max(batch_size, most or 0))
        self.costs = (costs or Costs())._replace(holds=True)
        self.work = Work()
        # What is right of guesses is computed twice where a state would have to go back: that did not pay.
        self.gain = Gain(0 if model.states and draft_tokens is None else draft_tokens)
        self.drafting = False  # whether the latest step began with known tokens alone
        streams = min(streams, batch_size)
        prefill = max(1, prefill_tokens // streams)
        models = (model if number == 0 else model.twin() for number in range(streams))
        shares = prefill, logit_bytes // streams, kv_bytes // streams
        self.batches = [Batch(one, _stream(at), *shares, copies or Copies()) for at, one in enumerate(models)]
        self._size()
        self.snapshots = Snapshots(model, [batch.stream for batch in self.batches], prefill)
        self.waiting: deque[Sequence] = deque()
        self.busy = 0  # sequences in the latest step

    def gauge(self) -> Gauge:
        """Slots in use and active memory."""
        return Gauge(self.busy, self.batch_size, mx.get_active_memory())

    @property
    def lanes(self) -> list[Lane]:
        """All sequences at work."""
        return [lane for batch in self.batches for lane in batch.lanes]

    @property
    def batch_size(self) -> int:
        """Sequences at once."""
        return self.growth.size

    def room(self) -> int:
        """How many sequences to add so that the batch is full, and as many again are ready to join it."""
        return max(0, 2 * self.batch_size - len(self.lanes) - len(self.waiting))

    def step(self) -> list[Generation]:
        """Admit, launch the next forward passes, read the ones before them."""
        began = time.perf_counter()
        ended = self._admit()
        self.work.model_s += time.perf_counter() - began  # of the prefixes that it computes
        if self.bound_bytes is not None:  # a fast host would fill the memory with the activations of steps to come
            kv = sum(batch.kv_bytes for batch in self.batches) + self.snapshots.nbytes
            mx.set_memory_limit(self.bound_bytes + kv)
        self.busy = len(self.lanes)
        began = time.perf_counter()
        before = [(batch, batch.latest) for batch in self.batches if batch.latest]
        drafted, self.drafting = self.drafting, self._may_draft()
        first = self.drafting or any(launch.work.drafted for _, launch in before)
        if first:
            ended += self._read(before)
            self._settle()
        launched = [batch.launch() for batch in self.batches]
        mx.async_eval([array for arrays in launched for array in arrays])
        if not first:
            ended += self._read(before)
        mx.async_eval([array for batch in self.batches for array in batch.draw()])
        self._account([launch for _, launch in before], time.perf_counter() - began, drafted)
        return ended

    def close(self) -> None:
        """Drop the batches and give their memory back; the model's comes back when it is collected (``gc``)."""
        self.waiting.clear()
        self.snapshots.clear()
        for batch in self.batches:
            batch.clear()
        if self._limit_before is not None:
            mx.set_memory_limit(self._limit_before)
        mx.clear_cache()

    def _size(self) -> None:
        """Divide the batch size among the batches."""
        for i, batch in enumerate(self.batches):
            batch.size = (self.batch_size + i) // len(self.batches)

    def _may_draft(self) -> bool:
        """Whether the next step is to have drafts: few sequences are left, all with answers, and that pays."""
        lanes = self.lanes
        return self.gain.wanted(len(lanes), self.batch_size, bool(self.waiting)) and all(
            lane.launched for lane in lanes
        )

    def _settle(self) -> None:
        for batch in self.batches:
            batch.settle()
        count = len(self.lanes)
        for batch in self.batches if self.drafting else ():
            batch.draft(lambda match: self.gain.length(match, count))

    def _account(self, before: list[Launch], seconds: float, drafted: bool) -> None:
        step = Work(slots=self.batch_size, model_s=seconds)
        for launch in before:
            step += launch.work
        self.work += step
        if step.prefilled:
            self.gain.saw_prompts(step.prefilled + step.decoded, seconds)
        elif drafted and step.decoded:
            self.gain.saw_drafts(step.decoded - step.accepted, step.drafted, step.accepted, seconds)
        elif step.decoded:
            self.gain.saw_plain(step.decoded, seconds)
            self.growth.saw(step.decoded, seconds)
            self._size()

    def _admit(self) -> list[Generation]:
        refused = []
        while self.waiting:
            sequence = self.waiting[0]
            batch = min(self.batches, key=lambda batch: len(batch.lanes) - batch.size)
            problem = self._misfit(sequence)
            if problem:
                refused.append(Generation(sequence.key, finish_reason="error", error=problem))
            elif self._make_room(batch, sequence):
                prefix, cached = self.snapshots.prefix(sequence)
                self.work.prefilled += (prefix.end if prefix else 0) - cached
                self.snapshots.join(sequence)
                lane = batch.join(sequence, prefix, cached, self.grammars.start(sequence))
                if lane.over:  # the grammar has one text only, or its beginning fills the room
                    refused.append(self._end(lane, lane.over))
                    batch.lanes.remove(lane)
            else:
                break
            self.waiting.popleft()
        return refused

    def _misfit(self, sequence: Sequence) -> str | None:
        """Why a sequence can never be computed here; None if it can."""
        prompt = len(sequence.tokens)
        needed = prompt + (sequence.max_tokens if sequence.choices is None else 0)
        if self.context is not None and needed > self.context:
            return f"{TOO_LONG}: {needed} tokens (prompt {prompt}) exceed the model's context of {self.context}"
        shared = self.model.prefix_bytes(sequence.shared_tokens, len(sequence.boundaries))
        alone = self.model.slot_bytes(self.batches[0].own(sequence)) + shared
        if alone > self.kv_bytes:
            memory = size(self.kv_bytes)
            return f"{TOO_LONG}: {needed} tokens (prompt {prompt}) exceed the {memory} for a row's KV caches"
        return None

    def _make_room(self, batch: Batch, sequence: Sequence) -> bool:
        if len(batch.lanes) >= batch.size:
            return False
        self.snapshots.keep(sequence, (lane.prefix for lane in self.lanes))
        shared = self.snapshots.nbytes + self.snapshots.missing_bytes(sequence)
        spare = self.kv_bytes - shared
        others = [other for other in self.batches if other is not batch]
        left = spare - sum(other.kv_bytes for other in others)
        if batch.make_room(sequence, islice(self.waiting, batch.size), min(spare // len(self.batches), left)):
            return True
        if self.snapshots.held:
            self.snapshots.held.clear()
            return self._make_room(batch, sequence)
        if self.lanes:
            return False
        for other in others:
            other.clear()
        # Alone it fits, as _misfit saw, in a slot of just its size.
        return batch.make_room(sequence, (), min(spare, self.model.slot_bytes(batch.own(sequence))))

    def _read(self, launches: list[tuple[Batch, Launch]]) -> list[Generation]:
        ended = []
        for batch, launch in launches:
            drawn, scored = launch.read()
            ended += [self._end(lane, "choice") for lane in scored]
            for one in drawn:
                lane = one.row.lane
                if not lane.ended and (reason := self._advance(lane, one, launch.work)):
                    ended.append(self._end(lane, reason))
            batch.lanes = [lane for lane in batch.lanes if not lane.ended]
            for guess in launch.guesses:
                self.gain.saw_guess(*guess)
        return ended

    def _advance(self, lane: Lane, drawn: Drawn, work: Work) -> str | None:
        """Append a token; the reason why the lane ends with it, or None."""
        if drawn.scored:
            lane.scored.append(drawn.scored)
        if drawn.row.link:
            work.accepted += 1
            work.decoded += 1
        token = drawn.token
        if (matching := drawn.row.matching) is not None and matching.problem:
            lane.matching = matching  # a guess has one of its own
            return "error"
        if token in self.end_tokens:
            return "stop"
        lane.append(token)
        if self.stopped(lane.sequence, lane.tokens):
            return "stop"
        return lane.over

    def _end(self, lane: Lane, reason: str) -> Generation:
        lane.ended = True
        if lane.sequence.ahead:
            self.snapshots.hold(lane.sequence, lane.prefix, 2 * self.batch_size)
        matching = lane.matching
        if reason == "error" and matching is not None:
            return Generation(lane.sequence.key, finish_reason="error", error=f"{BAD_GRAMMAR}: {matching.problem}")
        self.work.cached += lane.cached
        self.work.forced += matching.forced if matching else 0
        said = logprob_fields(lane.sequence, lane.scored, len(lane.tokens))
        if lane.walk is not None:
            said |= score_fields(lane.walk.scores(), lane.sequence.top)
        return Generation(lane.sequence.key, lane.tokens, reason, lane.cached, **said)


def _stream(index: int) -> Any:
    device = mx.default_device()
    return mx.default_stream(device) if index == 0 else mx.new_stream(device)
