"""A prompt taken apart for people to see: the text of each token, of the shared prefix and of the rest."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from runner.results.show_preview import Prompt
from runner.sequences import Sequence
from runner.session.prepare import Prepared
from runner.text.vocabulary import Vocabulary

_CONTEXT = 3  # tokens before one, with which it is decoded: alone, some tokenizers drop its space
_MOST = 1500  # tokens taken apart, the rest is one piece
_CHOICES = 6


def parts(ready: Prepared, text: str, sequence: Sequence) -> Prompt:
    """A prompt's text up to the last snapshot and after it, whole and by token, and the answer that is expected."""
    shared = sequence.shared_tokens
    vocabulary = ready.prompter.vocabulary
    prefix = vocabulary.decode(sequence.tokens[:shared], control=True)
    if not text.startswith(prefix):  # the boundary cuts a character in two, or decoding is not exact
        prefix = _common(prefix, text)
    return {
        "row": sequence.key[0],
        "tokens": len(sequence.tokens),
        "shared_tokens": shared,
        "prefix": prefix,
        "suffix": text[len(prefix) :],
        "prefix_tokens": token_texts(vocabulary, sequence.tokens[:shared]),
        "suffix_tokens": token_texts(vocabulary, sequence.tokens[shared:]),
        "expected": _expected(ready, sequence),
    }


def token_texts(vocabulary: Vocabulary, tokens: Ids[int]) -> list[str]:
    """The text of each token; those that make a character together are one."""
    texts: list[str] = []
    start = 0
    for end in range(1, min(len(tokens), _MOST) + 1):
        before = vocabulary.decode(tokens[max(0, start - _CONTEXT) : start], control=True)
        after = vocabulary.decode(tokens[max(0, start - _CONTEXT) : end], control=True)
        if not after.endswith("\ufffd") or end - start >= 8:
            texts.append(after[len(before) :] if after.startswith(before) else after)
            start = end
    rest = vocabulary.decode(tokens[start:], control=True)
    return [*texts, rest] if rest else texts


def _expected(ready: Prepared, sequence: Sequence) -> str:
    """The gold answer where there is one, else what it may be."""
    source = ready.source
    gold = source.conf.gold
    if gold:
        row = next(iter(source.rows(sequence.key[0], sequence.key[0] + 1)))
        if (name := source.gold_name(row[gold])) is not None:
            return name
    if sequence.choices is None:
        return f"up to {sequence.max_tokens:,} tokens"
    names = list(choices(ready, sequence) or {})
    return " | ".join(names[:_CHOICES]) + (f" | {len(names) - _CHOICES:,} more" if len(names) > _CHOICES else "")


def choices(ready: Prepared, sequence: Sequence) -> dict[str, int] | None:
    """The labels and how many tokens each has, where the first request is to score some."""
    if sequence.choices is None:
        return None
    names = ready.hooks.choices.choice_names() if ready.hooks.choices else []
    if len(names) != len(sequence.choices):
        names = [ready.prompter.vocabulary.decode(choice) for choice in sequence.choices]
    return {name: len(choice) for name, choice in zip(names, sequence.choices, strict=True)}


def _common(a: str, b: str) -> str:
    return a[: next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
