"""Requests as sequences: what is drawn from which seed, and which requests are identical."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runner.sequences import Sequence
from runner.text.choices import beginnings, choice_tree
from runner.text.grammar import AnswerGrammar
from runner.types import EMPTY_PROMPT, UNKNOWN_TOKEN, Request, RowError, Sampling

Continuations = Callable[[list[int], tuple[str, ...]], tuple[tuple[int, ...], ...]]
_GREEDY = Sampling()
LONG = 1 << 16  # bytes of what is asked that are not hashed anew for each row


@dataclass
class Defaults:
    """What a request gets that does not say otherwise."""

    max_tokens: int
    sampling: Sampling
    seed: int
    grammar: AnswerGrammar | None = None
    grammars: Callable[[str], AnswerGrammar] | None = None  # for a request's own rules; None: a preview
    context: int | None = None  # tokens that the model takes, if that is known
    known: int | None = None  # how many different tokens the model has, where its tokenizer has more


def sequence_of(
    key: tuple[int, int],
    origin: int,
    request: Request,
    tokens: list[int] | RowError,
    defaults: Defaults,
    continuations: Continuations,
) -> Sequence:
    """The request with its rendered prompt, as the engine sees it; RowError if it has none.

    Its draws depend on the run's seed, the row's place in the data set as stored (``origin``) and the number of the
    request in its row only, or on the request's own seed.
    """
    if isinstance(tokens, RowError):
        raise tokens
    if not tokens:
        raise RowError(EMPTY_PROMPT, "it has no tokens")
    _check_known(tokens, defaults.known)
    if request.choices is not None:
        choices = continuations(tokens, request.choices)
        if defaults.known is not None:
            _check_known([token for choice in choices for token in choice], defaults.known)
        choices = choices if request.whole else beginnings(choices)
        return Sequence(key, tokens, 0, choices=choices, cut=_may_cut(request, choices), top=request.top_choices)
    follows = _grammar(request, defaults)
    grammar = follows.after(tokens) if follows else None
    sampling = request.sampling or defaults.sampling
    max_tokens = request.max_tokens or defaults.max_tokens
    if request.once and defaults.context is not None:
        max_tokens = max(1, min(max_tokens, defaults.context - len(tokens)))
    wanted: dict[str, Any] = {"mean_logprob": request.mean_logprob, "top_logprobs": request.top_logprobs}
    wanted["stop"] = request.stop + (follows.stop if follows else ())
    if sampling.temperature <= 0:
        return Sequence(key, tokens, max_tokens, _GREEDY, grammar=grammar, **wanted)
    seeds = (defaults.seed, origin, key[1]) if request.seed is None else (request.seed,)
    draws = hashlib.blake2b(repr(seeds).encode(), digest_size=8).digest()
    draw_seed = int.from_bytes(draws, "little")
    return Sequence(key, tokens, max_tokens, sampling, draw_seed, grammar=grammar, **wanted)


def _check_known(tokens: list[int], known: int | None) -> None:
    if known is not None and max(tokens) >= known:
        raise RowError(UNKNOWN_TOKEN, f"token {max(tokens)} of its tokenizer is none of the model's {known:,}")


def _may_cut(request: Request, choices: tuple[tuple[int, ...], ...]) -> bool:
    return request.cut and choice_tree(choices).may_be_cut(True)


def _grammar(request: Request, defaults: Defaults) -> AnswerGrammar | None:
    if request.grammar is None or defaults.grammars is None:
        return defaults.grammar
    return defaults.grammars(request.grammar)


def shared_tokens(one: list[int], other: list[int]) -> int:
    """How many of their first tokens two prompts share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def digest_of(sequence: Sequence) -> bytes:
    """What identical requests share, and no others; one whose draws are its own has one of its own."""
    asked = _asked(
        sequence.max_tokens, sequence.choices, sequence.sampling, sequence.mean_logprob, sequence.top_logprobs
    )
    if sequence.sampling.temperature > 0:
        asked += sequence.draw_seed.to_bytes(8, "little")
    if sequence.cut or sequence.top is not None:
        asked += repr((sequence.cut, sequence.top)).encode()
    if sequence.stop:
        asked += repr(sequence.stop).encode()
    if sequence.grammar is not None:
        asked += sequence.grammar.encode()
    return hashlib.blake2b(sequence.ids + asked, digest_size=16).digest()


@lru_cache(maxsize=256)
def _asked(*what: Any) -> bytes:
    text = repr(what).encode()
    return text if len(text) < LONG else hashlib.blake2b(text).digest()
