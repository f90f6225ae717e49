"""One row at a time, for models whose caches mlx-lm cannot put into a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.generate import generate_step


class Response(NamedTuple):
    """As mlx-lm's: the next token of a sequence, the log-probabilities of all tokens there."""

    uid: int
    token: int
    logprobs: mx.array
    finish_reason: str | None


class OneByOne:
    """Sequences one after the other, for models whose caches mlx-lm cannot put into a batch: what CopyingEngine uses of
    a BatchGenerator, by ``generate_step``.
    """

    def __init__(self, model: Any, end_tokens: Collection[int], prefill_tokens: int) -> None:
        self.model = model
        self.end_tokens = frozenset(end_tokens)
        self.prefill_tokens = prefill_tokens
        self.last = -1
        self.at_work: dict[int, Iterator[tuple[int, Any]]] = {}
        self.left: dict[int, int] = {}  # tokens to come

    def insert(self, prompts: list[list[int]], max_tokens: list[int], caches: list[Any], samplers: list[Any]) -> Any:
        """Begin with these sequences; their uids."""
        for prompt, most, cache, sampler in zip(prompts, max_tokens, caches, samplers, strict=True):
            self.last += 1
            self.left[self.last] = most
            self.at_work[self.last] = generate_step(
                mx.array(prompt),
                self.model,
                max_tokens=most,
                sampler=sampler,
                prompt_cache=cache,
                prefill_step_size=self.prefill_tokens,
            )
        return range(self.last + 1 - len(prompts), self.last + 1)

    def next_generated(self) -> list[Response]:
        """The next token of each sequence."""
        responses = []
        for uid, steps in list(self.at_work.items()):
            token, logprobs = next(steps)
            self.left[uid] -= 1
            reason = "stop" if token in self.end_tokens else None if self.left[uid] else "length"
            responses.append(Response(uid, token, logprobs, reason))
            if reason:
                self.remove([uid])
        return responses

    def remove(self, uids: Iterable[int]) -> None:
        """Forget these sequences."""
        for uid in uids:
            del self.at_work[uid], self.left[uid]

    def close(self) -> None:
        """Forget all of them."""
        self.remove(list(self.at_work))
