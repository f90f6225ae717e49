"""Which label a freely written answer means."""

from __future__ import annotations

from collections.abc import Mapping

import regex

from runner.text.scripts import SPACELESS, folded
from runner.types import RowError

_WORD, _GAP = r"[\w--_]", r"[\W_]+"
_PARTS = regex.compile(rf"(?V1){_WORD}+(?:{_GAP}{_WORD}+)*")
_HANGUL = r"\p{Hangul}"
_ALONE = regex.compile(rf"(?V1){SPACELESS}")
_KOREAN = regex.compile(_HANGUL)
# What may not stand beside a label's first or last letter: another one of a script with spaces between words.
_LETTER = rf"[\w--[_\p{{Hangul}}{SPACELESS}]]"

# Articles, prepositions and conjunctions that are written to the word behind them.
_PREFIXES = {
    regex.compile(r"\p{Arabic}"): "[وف]?(?:[بك]?ال|لل|[بكل])?",
    regex.compile(r"\p{Hebrew}"): "[ושהבכלמ]{0,3}",
}
_ARTICLE = "ال"
_LEAST = 3  # letters of a label that may have them: shorter ones end too many other words


class Matcher:
    """Finds labels, given as name -> surface text, in answers."""

    def __init__(self, surfaces: Mapping[str, str]) -> None:
        self._exact = {surface.strip(): name for name, surface in surfaces.items()}
        self._patterns = {name: _pattern(surface.strip()) for name, surface in surfaces.items()}

    def match(self, answer: str) -> str:
        """The label that an answer is or begins with, else the only one that occurs in it as a whole word.

        Case, width and what stands between a label's words do not matter, unless the answer is exactly a label; a label
        within a longer one does not count. Where a script has no spaces between words, or hangs particles on them, a
        label need not end where a word does. RowError if there is no such label.
        """
        if exact := self._exact.get(answer.strip()):
            return exact
        text = folded(answer)
        found = self._spans(text)
        first = {name for start, name in found if not any(map(str.isalnum, text[:start]))}
        names = first or {name for _, name in found}
        if len(names) == 1:
            return names.pop()
        what = "more than one label" if names else "no label"
        raise RowError("unmatched label", f"{what} in the answer {answer[:80]!r}")

    def _spans(self, text: str) -> list[tuple[int, str]]:
        """Where words with labels begin, those inside of a longer label left out."""
        hits = [(hit, name) for name, pattern in self._patterns.items() for hit in pattern.finditer(text)]
        labels = [hit.span("label") for hit, _ in hits]
        return [(hit.start(), name) for hit, name in hits if not any(_inside(hit.span("label"), one) for one in labels)]


def _pattern(surface: str) -> regex.Pattern[str]:
    """A label as a whole word: its words with anything that is no word between them, signs at its ends as they are."""
    surface = folded(surface) or surface
    found = _PARTS.search(surface)
    start, end = found.span() if found else (len(surface), len(surface))
    words = regex.split(rf"(?V1){_GAP}", surface[start:end])
    between = _GAP.join(map(regex.escape, words))
    text = regex.escape(surface[:start]) + between + regex.escape(surface[end:])
    before = _before(surface[:1]) + _prefix(surface)
    return regex.compile(f"(?V1){before}(?P<label>{_fused(text)}){_after(surface[-1:])}")


def _prefix(surface: str) -> str:
    known = (prefix for script, prefix in _PREFIXES.items() if script.match(surface))
    return next(known, "") if len(surface) >= _LEAST else ""


def _fused(text: str) -> str:
    """A label with the Arabic article also as it is behind the preposition that takes its first letter."""
    rest = text.removeprefix(_ARTICLE)
    return text if rest == text or len(rest) < _LEAST else f"{text}|لل{rest}"


def _before(letter: str) -> str:
    if _ALONE.match(letter):
        return ""
    return f"(?<!{_HANGUL})" if _KOREAN.match(letter) else f"(?<!{_LETTER})"


def _after(letter: str) -> str:
    return "" if _ALONE.match(letter) or _KOREAN.match(letter) else f"(?!{_LETTER})"


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]
