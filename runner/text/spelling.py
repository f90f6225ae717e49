"""Generated tokens as people and the OpenAI API see them: their text, bytes and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import dropwhile, pairwise
from typing import Any

from runner.sequences import Generation
from runner.text.channels import Channels
from runner.text.vocabulary import Vocabulary

LEAST = -9999.0  # what the API writes for a nearly impossible token


def spell(generation: Generation, prompt: Sequence[int], channels: Channels) -> tuple[dict[str, Any], ...] | None:
    """``Completion.tokens``: the answer's without reasoning and control tokens; None if they were not asked for."""
    if generation.scored is None:
        return None
    vocabulary = channels.vocabulary
    controls = {token.id for token in vocabulary.control.values()}
    span = channels.span(generation.tokens, prompt)
    both = list(zip(generation.tokens, generation.scored, strict=True))[span]
    spelt = [
        _token(vocabulary, token, scored.logprob)
        | {"top_logprobs": [_token(vocabulary, other, logprob) for other, logprob in scored.top]}
        for token, scored in both
        if token not in controls
    ]
    blank = channels.kind == "think" and span.start
    return tuple(dropwhile(lambda one: blank and not one["token"].strip("\n"), spelt))


def up_to(tokens: Iterable[Any], text: str) -> tuple[Any, ...]:
    """The first of the tokens, as many as it takes to spell ``text``, with which their text begins."""
    tokens = tuple(tokens)
    length = len(text.encode("utf-8", "replace"))
    if tokens and tokens[0]["token"].startswith(" ") and not text.startswith(" "):
        length += 1  # the tokenizer leaves out the first space
    ends = [0]
    for one in tokens:
        ends.append(ends[-1] + len(one["bytes"] or one["token"].encode("utf-8", "replace")))
    return tuple(one for one, (begin, _) in zip(tokens, pairwise(ends), strict=True) if text and begin < length)


def _token(vocabulary: Vocabulary, token: int, logprob: float) -> dict[str, Any]:
    data = vocabulary.spell(token)
    text = vocabulary.decode([token], control=True) if data is None else data.decode("utf-8", "replace")
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": None if data is None else list(data)}
