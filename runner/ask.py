"""Requests as sequences: what is drawn from which seed, and which requests are identical."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runner.types import Request, RowError, Sampling, Sequence

Continuations = Callable[[list[int], tuple[str, ...]], tuple[tuple[int, ...], ...]]
_GREEDY = Sampling()


@dataclass
class Defaults:
    """What a request gets that does not say otherwise."""

    max_tokens: int
    sampling: Sampling
    seed: int


def sequence_of(
    key: tuple[int, int],
    request: Request,
    tokens: list[int] | RowError,
    defaults: Defaults,
    continuations: Continuations,
) -> Sequence:
    """The request with its rendered prompt, as the engine sees it; RowError if it has none.

    Its draws depend on (run seed, row, number) only, or on the request's own seed.
    """
    if isinstance(tokens, RowError):
        raise tokens
    if not tokens:
        raise RowError("empty prompt: it has no tokens")
    if request.choices is not None:
        return Sequence(key, tokens, 0, choices=continuations(tokens, request.choices))
    sampling = request.sampling or defaults.sampling
    max_tokens = request.max_tokens or defaults.max_tokens
    if sampling.temperature <= 0:
        return Sequence(key, tokens, max_tokens, _GREEDY)
    seeds = (defaults.seed, *key) if request.seed is None else (request.seed,)
    draws = hashlib.blake2b(repr(seeds).encode(), digest_size=8).digest()
    return Sequence(key, tokens, max_tokens, sampling, int.from_bytes(draws, "little"))


def digest_of(sequence: Sequence, seed: int | None) -> bytes | None:
    """What identical requests share; None for one whose draws are its own. ``seed`` is the request's own."""
    drawn = sequence.choices is None and sequence.sampling.temperature > 0
    if drawn and seed is None:
        return None
    asked = _asked(sequence.max_tokens, sequence.choices, sequence.sampling, seed if drawn else None)
    return hashlib.blake2b(array("I", sequence.tokens).tobytes() + asked, digest_size=16).digest()


@lru_cache(maxsize=256)
def _asked(*what: Any) -> bytes:
    return repr(what).encode()
