"""Copying from a text: rules that allow nothing else, and where in the text each copy stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import regex

from runner.text.scripts import SPACELESS
from runner.text.vocabulary import clean

NOTHING = "none"
# Words, characters as people see them where no spaces stand between words, and the space between them as one piece.
_PIECE = regex.compile(rf"(?V1)\s+|(?:[\w--{SPACELESS}]|[\u200c\u200d](?=\w))+|\X")
_CHARACTER = regex.compile(r"\s+|\X")


class Span(NamedTuple):
    """``text[start:end]`` is a mention of a ``kind``."""

    start: int
    end: int
    kind: str


class Mention(NamedTuple):
    """What a model wrote: a kind's surface and the text of a mention, its white space single spaces."""

    surface: str
    text: str


class Pieces:
    """A text as what a mention may begin and end with: its words (``whole_words``) or its characters.

    All white space counts as one space each, so that no mention has a line break in it. ``flat`` is the text with
    single spaces in which mentions are found.
    """

    def __init__(self, text: str, whole_words: bool) -> None:
        found = list((_PIECE if whole_words else _CHARACTER).finditer(clean(text)))
        self.texts = [" " if piece[0].isspace() else piece[0] for piece in found]
        self.flat = "".join(self.texts)
        self._starts: dict[int, int] = {}  # places in ``flat``: places in the text
        self._ends: dict[int, int] = {}
        at = 0
        for piece, flat in zip(found, self.texts, strict=True):
            if flat != " ":
                self._starts[at], self._ends[at + len(flat)] = piece.start(), piece.end()
            at += len(flat)

    @property
    def words(self) -> int:
        """How many pieces are no space."""
        return len(self._starts)

    def places(self, mention: str) -> Iterator[tuple[int, int]]:
        """Where in the text a mention stands, from left to right: starts and ends."""
        at = self.flat.find(mention) if mention else -1
        while at >= 0:
            if at in self._starts and at + len(mention) in self._ends:
                yield self._starts[at], self._ends[at + len(mention)]
            at = self.flat.find(mention, at + 1)


def rules(pieces: Pieces, surfaces: Sequence[str], most: int, end: str) -> str:
    """Lark for up to ``most`` lines ``surface: mention``, or none; ``end`` may come behind them."""
    copied = json.dumps({"substring_chunks": pieces.texts}, ensure_ascii=False)
    further = min(most, len(surfaces) * pieces.words) - 1  # a model that goes round in a circle comes to an end
    return "\n".join(
        (
            f"body: lines {json.dumps(end)}?" if end else "body: lines",
            f"lines: {json.dumps(NOTHING)} | line" + (f" more{{0,{further}}}" if further else ""),
            'more: "\\n" line',
            'line: KIND ": " MENTION',
            f"KIND: {' | '.join(map(json.dumps, surfaces))}",
            "MENTION: COPY & /[^ ](.*[^ ])?/",
            f"COPY: %regex {copied}",
        )
    )


def read(lines: Iterable[str], surfaces: Iterable[str]) -> list[Mention]:
    """The mentions in an answer's lines, in their order; a line that holds none is left out."""
    by_length = sorted(surfaces, key=len, reverse=True)
    lines = [line.strip() for line in lines]
    found = ((line, next((one for one in by_length if line.startswith(f"{one}: ")), None)) for line in lines)
    return [Mention(one, line.removeprefix(f"{one}: ").strip()) for line, one in found if one is not None]


def located(pieces: Pieces, mentions: Iterable[Mention]) -> tuple[list[Span], list[Mention]]:
    """Each mention at a place of its own, in the order of the text; and those that it has no further place for.

    Mentions come in the order of the text. One that stands there several times means the first place behind the
    mention before it; else the first place that begins no earlier (inside of that mention); else the first place left.
    """
    spans: list[Span] = []
    left: list[Mention] = []
    start = end = 0
    for mention in mentions:
        free = [place for place in pieces.places(mention.text) if Span(*place, mention.surface) not in spans]
        if not free:
            left.append(mention)
            continue
        behind = (place for place in free if place[0] >= end)
        inside = (place for place in free if place[0] >= start)
        start, end = next(behind, None) or next(inside, None) or free[0]
        spans.append(Span(start, end, mention.surface))
    return sorted(spans), left
