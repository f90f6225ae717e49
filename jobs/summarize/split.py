"""Long texts in pieces of so many tokens, cut at paragraphs, else sentences, lines, words, characters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from runner.text.scripts import SENTENCE, cut_after, middle

Count = Callable[[list[str]], list[int]]  # tokens of each text

_CUTS = (re.compile(r"\n[ \t]*(?:\n[ \t]*)+"), SENTENCE, re.compile(r"\n"), re.compile(r"\s+"))
SENTENCES = 1  # the index of its cut


class Piece(NamedTuple):
    """Some of a text and how many tokens it has."""

    text: str
    tokens: int


def split(text: str, limit: int, overlap: int, count: Count) -> list[Piece]:
    """The text in chunks of at most ``limit`` tokens and, within that, of similar length.

    Each but the first begins with the end of the one before, whole sentences if there are any, of at most ``overlap``
    tokens. A text that fits is one chunk; one without words is none. Tokens are counted piece by piece, which is
    rarely less and never much more than those of the chunk. Raises ValueError unless 0 <= 2 * overlap <= limit.
    """
    if not 0 <= 2 * overlap <= limit:
        raise ValueError(f"overlap {overlap} is not between 0 and half of the limit {limit}")
    atoms = cut(text, limit, count)
    if sum(atom.tokens for atom in atoms) > limit:
        atoms = cut(text, limit - overlap, count)
        chunks = [_joined(atoms[start:stop]) for start, stop in _balanced([a.tokens for a in atoms], limit - overlap)]
    else:
        chunks = [_joined(atoms)]
    tails = [Piece("", 0), *(tail(chunk.text, overlap, count) for chunk in chunks[:-1])]
    pairs = (_joined([before, chunk]) for before, chunk in zip(tails, chunks, strict=True))
    return [Piece(text.strip(), tokens) for text, tokens in pairs if text.strip()]


def cut(text: str, limit: int, count: Count, level: int = 0) -> list[Piece]:
    """The text in pieces of at most ``limit`` tokens (or one character), as few cuts as can be; joined they are it."""
    texts = _halves(text) if level >= len(_CUTS) else cut_after(_CUTS[level], text)
    pieces: list[Piece] = []
    for part, tokens in zip(texts, count(texts), strict=True):
        whole = tokens <= limit or not middle(part)
        pieces += [Piece(part, tokens)] if whole else cut(part, limit, count, min(level + 1, len(_CUTS)))
    return pieces


def tail(text: str, limit: int, count: Count) -> Piece:
    """The text's last sentences, or words of the last one, of at most ``limit`` tokens."""
    pieces: list[Piece] = []
    left = limit
    for piece in reversed(cut(text, limit, count, SENTENCES) if limit else []):
        left -= piece.tokens
        if left < 0:
            break
        pieces.append(piece)
    return _joined(pieces[::-1])


def _halves(text: str) -> list[str]:
    at = middle(text)
    return [text[:at], text[at:]] if at else [text]


def _joined(pieces: list[Piece]) -> Piece:
    return Piece("".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces))


def _balanced(sizes: list[int], limit: int) -> list[tuple[int, int]]:
    """The spans of as few runs as ``limit`` allows, under the least limit that gives as few."""
    runs = _runs(sizes, limit)
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        fewer = _runs(sizes, middle)
        if len(fewer) <= len(runs) and max(sizes) <= middle:
            high = middle
        else:
            low = middle + 1
    return _runs(sizes, high)


def _runs(sizes: list[int], limit: int) -> list[tuple[int, int]]:
    """Spans [start, stop) of consecutive sizes, each as long as the sum stays within the limit."""
    spans: list[tuple[int, int]] = []
    start = total = 0
    for at, size in enumerate(sizes):
        if at > start and total + size > limit:
            spans.append((start, at))
            start, total = at, 0
        total += size
    return [*spans, (start, len(sizes))]
