r"""Words, lengths and sentences in any script, also where no spaces stand between words.

Where a script has spaces, a word is what ``\w+`` matches (with Unicode's meaning of ``\w``, marks included). Chinese,
Japanese, Thai, Lao, Khmer and Burmese have none, and to find their words takes a dictionary. Here each of their letters
stands for itself where texts are compared, and lengths are counted in words of the usual number of letters.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator

import regex

# Letters in a word, on average over running text.
_LETTERS_A_WORD = {"Han": 1.5, "Bopomofo": 3, "Hiragana": 2, "Thai": 3, "Lao": 3, "Khmer": 3, "Myanmar": 3}
_RUNS = "Katakana"  # no spaces either, but its runs are words
_LONE = "".join(rf"\p{{{script}}}" for script in _LETTERS_A_WORD)
SPACELESS = rf"[{_LONE}\p{{{_RUNS}}}\u30fc]"
_WORD = regex.compile(rf"(?V1)[{_LONE}&&\p{{Letter}}]\p{{M}}*|[\w--[{_LONE}&&\p{{Letter}}]]+")
_LETTERS = {regex.compile(rf"(?V1)[\p{{{script}}}&&\p{{L}}]"): size for script, size in _LETTERS_A_WORD.items()}
_ANY_LONE = regex.compile(rf"(?V1)[{_LONE}&&\p{{L}}]")
_NO_WIDTH = r"\u00ad\u200b\u2060\ufeff"
_POINTS = regex.compile(rf"(?V1)[\p{{Mn}}&&[\u0591-\u05c7\u064b-\u065f\u0670]]|(?<=i)\u0307|[\u0640{_NO_WIDTH}]")
NO_WORD = regex.compile(r"\W+")
_CHARACTER = regex.compile(r"\X")

# Behind . ! ? or their like and closing quotes, before what is no small letter ("e.g. this" goes on); behind full stops
# that need no space, and the quotes that they close.
_CLOSING = r"""["'\u201d\u2019\u00bb)\]\u300d\u300f\u3011\uff09]"""
SENTENCE = regex.compile(
    rf"""(?<=[.!?\u2026\u061f\u06d4\u0964\u0965\u0589\u1362]){_CLOSING}*\s+(?=["'\u201c\u2018(\[]*[^\Wa-z_])"""
    rf"""|(?<=[\u3002\uff01\uff1f\uff61\u17d4\u17d5\u104b])(?![\u3002\uff01\uff1f\uff61]){_CLOSING}*"""
)


def words(text: str) -> list[str]:
    """The text's words without case, in one form of each character: what texts are compared by."""
    return list(_WORD.findall(one_form(text.lower())))


def ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """The runs of ``n`` of the words."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def count_words(text: str) -> int:
    """How long the text is in words; where there are spaces, what stands between them."""
    chunks = text.split()
    if text.isascii() or not _ANY_LONE.search(text):
        return len(chunks)
    mixed = [chunk for chunk in chunks if _ANY_LONE.search(chunk)]
    others = sum(_ANY_LONE.search(word) is None for chunk in mixed for word in _WORD.findall(chunk))
    letters = sum(len(letter.findall(text)) / size for letter, size in _LETTERS.items())
    return len(chunks) - len(mixed) + others + max(1, round(letters))


def first_words(text: str, most: int) -> str:
    """The beginning of the text that has so many words."""
    if not _ANY_LONE.search(text):
        return " ".join(text.split()[:most])
    ends = [found.end() for found in _WORD.finditer(text)]
    fitting = bisect_right(ends, most, key=lambda end: count_words(text[:end]))
    return text[: ends[fitting - 1]].strip() if fitting else ""


def count_characters(text: str) -> int:
    """How many characters people see."""
    return len(text) if text.isascii() else len(_CHARACTER.findall(text))


def sentences(text: str) -> list[str]:
    """The text's sentences with the space behind them."""
    return cut_after(SENTENCE, text)


def cut_after(cuts: re.Pattern[str] | regex.Pattern[str], text: str) -> list[str]:
    """The text in pieces that end where ``cuts`` matches; joined they are it."""
    ends = [*(found.end() for found in cuts.finditer(text)), len(text)]
    parts = (text[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return [part for part in parts if part]


def middle(text: str) -> int:
    """A place near the text's middle where no character is cut in two; 0 if there is none."""
    ends = [found.end() for found in _CHARACTER.finditer(text)] if not text.isascii() else range(1, len(text) + 1)
    return ends[len(ends) // 2 - 1] if len(ends) > 1 else 0


def folded(text: str) -> str:
    """The text as it is looked for: without case, width and marks of no width, Arabic and Hebrew without points."""
    if text.isascii():
        return text.casefold()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return str(_POINTS.sub("", text))


def one_form(text: str) -> str:
    """The text with one form for each character: of full and half width, composed or with its marks apart."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)
