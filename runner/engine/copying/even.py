"""Rows that have come equally far, side by side: for models whose caches mlx-lm cannot put into a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from runner.machine.sums import normaliser


class Response(NamedTuple):
    """As mlx-lm's: the next token of a sequence, the log-probabilities of all tokens there."""

    uid: int
    token: int
    logprobs: mx.array
    finish_reason: str | None


@dataclass
class Row:
    """A sequence: its known tokens that are not computed yet, and how many are to come."""

    uid: int
    rest: list[int]
    left: int
    sampler: Callable[[mx.array], mx.array]


@dataclass
class Group:
    """Rows with as many tokens computed, and as many known ones left; one cache holds them all."""

    computed: int
    rows: list[Row]
    cache: Any

    @property
    def place(self) -> tuple[int, int]:
        """How many tokens come before its next answers, and how many of them are computed."""
        return self.computed + len(self.rows[0].rest), self.computed


class EvenRows:
    """What CopyingEngine uses of a BatchGenerator, for caches of any kind whose arrays have a row for each sequence.

    Such a cache has one position for all of its rows. So those that are behind go first, until they have caught up with
    others and go on together with them.
    """

    def __init__(self, model: Any, end_tokens: Collection[int], prefill_tokens: int) -> None:
        self.model = model
        self.end_tokens = frozenset(end_tokens)
        self.prefill_tokens = prefill_tokens
        self.last = -1
        self.groups: list[Group] = []

    def insert(
        self,
        prompts: list[list[int]],
        max_tokens: list[int],
        caches: list[Any],
        all_tokens: list[list[int]],
        samplers: list[Any],
    ) -> Any:
        """Begin with these sequences, of which the caches hold ``all_tokens``; their uids."""
        for prompt, most, cache, before, sampler in zip(prompts, max_tokens, caches, all_tokens, samplers, strict=True):
            self.last += 1
            self.groups.append(Group(len(before), [Row(self.last, list(prompt), most, sampler)], cache))
        return range(self.last + 1 - len(prompts), self.last + 1)

    def next_generated(self) -> list[Response]:
        """The next tokens of the sequences that are furthest behind."""
        while self.groups:
            self._meet()
            group = min(self.groups, key=lambda group: group.place)
            if len(group.rows[0].rest) == 1:
                return self._draw(group)
            self._prefill(group)
        return []

    def remove(self, uids: Iterable[int]) -> None:
        """Forget these sequences."""
        gone = set(uids)
        for group in self.groups:
            kept = [at for at, row in enumerate(group.rows) if row.uid not in gone]
            if kept and len(kept) < len(group.rows):
                group.cache = picked(group.cache, kept)
            group.rows = [group.rows[at] for at in kept]
        self.groups = [group for group in self.groups if group.rows]

    def close(self) -> None:
        """Forget all of them."""
        self.groups.clear()

    def _meet(self) -> None:
        """Join groups that have come equally far, unless their caches have other shapes."""
        found: dict[tuple[int, int], list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.place, []).append(group)
        self.groups = [one for some in found.values() for one in _joined(some)]

    def _prefill(self, group: Group) -> None:
        """All but the last token of each row's prompt, or a chunk of that."""
        count = min(self.prefill_tokens, len(group.rows[0].rest) - 1)
        self.model(mx.array([row.rest[:count] for row in group.rows]), cache=group.cache)
        mx.eval([layer.state for layer in group.cache])
        mx.clear_cache()
        group.computed += count
        for row in group.rows:
            del row.rest[:count]

    def _draw(self, group: Group) -> list[Response]:
        logits = self.model(mx.array([row.rest for row in group.rows]), cache=group.cache)[:, -1].astype(mx.float32)
        logprobs = logits - normaliser(logits)[..., None]
        group.computed += 1
        if len({row.sampler for row in group.rows}) == 1:
            drawn = group.rows[0].sampler(logprobs)
        else:
            drawn = mx.concatenate([row.sampler(logprobs[at : at + 1]) for at, row in enumerate(group.rows)])
        tokens: list[int] = np.array(drawn).tolist()
        responses = []
        for row, token, own in zip(group.rows, tokens, logprobs, strict=True):
            row.rest, row.left = [token], row.left - 1
            reason = "stop" if token in self.end_tokens else None if row.left else "length"
            responses.append(Response(row.uid, token, own, reason))
        self.remove([response.uid for response in responses if response.finish_reason])
        return responses


def _joined(groups: list[Group]) -> list[Group]:
    if len(groups) > 1:
        try:
            cache = joined([group.cache for group in groups])
        except ValueError:
            return groups
        return [Group(groups[0].computed, [row for group in groups for row in group.rows], cache)]
    return groups


def joined(caches: list[Any]) -> Any:
    """One cache of the rows of several that have come equally far. Raises ValueError if they differ otherwise."""
    return _mapped(caches, mx.concatenate)


def picked(cache: Any, rows: list[int]) -> Any:
    """A cache of some rows of another, each as often as it is named."""
    return _mapped([cache], lambda arrays: arrays[0][mx.array(rows)])


def _mapped(found: list[Any], change: Callable[[list[mx.array]], mx.array]) -> Any:
    """Objects of one kind as one, whose arrays are what ``change`` makes of theirs."""
    first = found[0]
    if any(type(one) is not type(first) for one in found):
        raise ValueError("caches of several kinds")
    if isinstance(first, mx.array):
        if first.ndim:
            return change(found)
        found = [one.item() for one in found]
    elif isinstance(first, list | tuple):
        return type(first)(_mapped(list(some), change) for some in zip(*found, strict=True))
    elif isinstance(first, dict):
        return {key: _mapped([one[key] for one in found], change) for key in first}
    elif hasattr(first, "__dict__"):
        made = copy.copy(first)
        made.__dict__ = _mapped([vars(one) for one in found], change)
        return made
    if any(one != found[0] for one in found):
        raise ValueError("caches that have not come equally far")
    return first
