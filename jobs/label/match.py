"""Which label a freely written answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runner.types import RowError

_PARTS = re.compile(r"(?P<words>[^\W_]+(?:[\W_]+[^\W_]+)*)")


class Matcher:
    """Finds labels, given as name -> surface text, in answers."""

    def __init__(self, surfaces: Mapping[str, str]) -> None:
        self._exact = {surface.strip(): name for name, surface in surfaces.items()}
        self._patterns = {name: _pattern(surface) for name, surface in surfaces.items()}

    def match(self, answer: str) -> str:
        """The label that an answer is or begins with, else the only one that occurs in it as a whole word.

        Case and what stands between a label's words do not matter, unless the answer is exactly a label; a label
        within a longer one does not count. RowError if there is no such label.
        """
        if exact := self._exact.get(answer.strip()):
            return exact
        found = self._spans(answer)
        first = {name for (start, _), name in found if not any(map(str.isalnum, answer[:start]))}
        names = first or {name for _, name in found}
        if len(names) == 1:
            return names.pop()
        what = "more than one label" if names else "no label"
        raise RowError("unmatched label", f"{what} in the answer {answer[:80]!r}")

    def _spans(self, answer: str) -> list[tuple[tuple[int, int], str]]:
        """Where labels stand, those inside of a longer one left out."""
        spans = [(hit.span(), name) for name, pattern in self._patterns.items() for hit in pattern.finditer(answer)]
        return [(span, name) for span, name in spans if not any(_inside(span, other) for other, _ in spans)]


def _pattern(surface: str) -> re.Pattern[str]:
    """A label as a whole word: its words with anything that is no word between them, signs at its ends as they are."""
    surface = surface.strip()
    before, words, after = _PARTS.split(surface, maxsplit=1) if _PARTS.search(surface) else (surface, "", "")
    between = r"[\W_]+".join(map(re.escape, re.split(r"[\W_]+", words)))
    text = re.escape(before) + between + re.escape(after)
    return re.compile(rf"(?<![^\W_]){text}(?![^\W_])", re.IGNORECASE)


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]
