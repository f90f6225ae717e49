"""The encoding that a text is in, by its bytes where they show it.

A text in UTF-16 that has a line end or any ASCII has null bytes. Chinese, Japanese and Korean without any have none,
and may even read as plain ASCII; but all their characters are of those that one national standard holds to be common,
some 5,000 of 60,000, which other bytes seldom are.
"""

from __future__ import annotations

import codecs
import re
from functools import cache

_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig"}
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # after those of 32 bits, which begin alike
_COMMON = {"gb2312": 0xD7, "big5": 0xC6, "euc_jp": 0xCF, "euc_kr": 0xC8}  # up to this first byte
_SHIFTS = {  # of encodings that are ASCII by their bytes
    "iso2022_jp_ext": re.compile(rb"\x1b\$[@B]|\x1b\([IJ]"),
    "iso2022_kr": re.compile(rb"\x1b\$\)C"),
    "hz": re.compile(rb"~\{(?:[!-~]{2})+~\}"),
}
_FEW, _FEWEST = 8, 3  # different characters that tell an encoding: alone, and beside control characters in the one said
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x7f-\x84\x86-\x9f]")
_UTF_8, LATIN = ("utf-8", "utf-8-sig"), ("iso8859-1", "iso8859-15", "cp1252")
_FIRST = 64  # bytes that show most texts to be in no other encoding


def marked(head: bytes) -> str | None:
    """The encoding that a text's byte order mark stands for."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def is_wide(encoding: str) -> bool:
    """Whether it is UTF-16 or UTF-32."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def detected(head: bytes, encoding: str) -> str | None:
    """The encoding that a text which begins so is in, if it is not this one; None if nothing tells."""
    name = codecs.lookup(encoding).name
    said = _read(head, name)
    if is_wide(name) and _is_usual(head, name):
        return None
    shifted = [] if name.startswith(("iso2022", "hz")) else [one for one, sign in _SHIFTS.items() if sign.search(head)]
    controls = said is not None and bool(_CONTROLS.search(said))
    odd = shifted or is_wide(name) or b"\0" in head or controls
    fewest = _FEWEST if odd else _FEW
    found = [
        other for other in (*shifted, *_WIDE) if _is_usual(head[:_FIRST], other) and _is_usual(head, other, fewest)
    ]
    if found:
        return min(found, key=lambda other: len({ord(char) >> 8 for char in _read(head, other) or ""}))
    return "utf-8" if name not in _UTF_8 and _is_utf8(head, name, controls) else None


def _is_utf8(head: bytes, said: str, controls: bool) -> bool:
    """Whether a text is UTF-8 and hardly the encoding that was said, of which most texts are no UTF-8.

    ``controls``: whether it has control characters there, as ASCII has in EBCDIC.
    """
    text = _read(head, "utf-8")
    if text is None or is_wide(said) or controls:
        return text is not None and not _CONTROLS.search(text)
    return sum(not char.isascii() for char in text) >= (1 if said in LATIN else _FEW)


def _read(head: bytes, encoding: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeError:
        return None


def _is_usual(head: bytes, encoding: str, fewest: int = 0) -> bool:
    """Whether bytes read in an encoding of wide characters are a text of usual ones, all but one in ten."""
    text = _read(head, encoding)
    if text is None or "\0" in text or len(set(text)) < (min(fewest, 1) if text.isascii() else fewest):
        return False
    rare = sum(not (char.isprintable() or char.isspace()) for char in text)
    if not codecs.lookup(encoding).name.startswith("utf-32"):
        rare = min(sum(not _is_common(char, standard) for char in text) for standard in _COMMON)
    return rare <= len(text) // 10


@cache
def _is_common(char: str, standard: str) -> bool:
    if char < "\u2000" or "\ua000" <= char < "\uac00" or char > "\uffff":  # alphabets, and emoji
        return char.isprintable() or char.isspace()
    try:
        code = char.encode(standard)
    except UnicodeError:
        return False
    return len(code) == 2 and code[0] <= _COMMON[standard]
