"""Values on the command line: texts in quotes, lists and mappings as in JSON or without its quotes, and sweeps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from runner.bare import Bare
from runner.types import UserError

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "/": "/", "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_PAIRS = {"[": "]", "{": "}"}


def read_value(typed: str) -> Any:
    """A text in quotes, a list or a mapping (their parts the same, in any depth), else a bare word.

    ValueError with what is wrong with a list or a mapping.
    """
    if _QUOTED.fullmatch(typed):
        return unquoted(typed)
    if typed[:1] not in _PAIRS:
        return Bare(typed)
    reader = _Reader(typed)
    value = reader.value("")
    if reader.rest():
        raise ValueError(f"{reader.rest()!r:.30} follows its end")
    return value


def unquoted(typed: str) -> str:
    r"""What a text in quotes says: with double ones as in JSON, but ``\d`` is left as it is; single ones: see Hydra."""
    inner = typed[1:-1]
    if typed[0] == "'":
        return re.sub(r"(\\+)(?='|$)", lambda match: "\\" * (len(match[1]) // 2), inner)
    read = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[0]), inner)
    return _PAIR.sub(lambda match: match[0].encode("utf-16", "surrogatepass").decode("utf-16"), read)


class _Reader:
    """Reads a list or a mapping from its beginning; ``at`` is how far it has come."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def rest(self) -> str:
        """What is left, white space aside."""
        return self.text[self.at :].strip()

    def value(self, ends: str) -> Any:
        """The next value; ``ends`` are the characters that a bare word stops at."""
        sign = self._peek()
        if sign == "[":
            return self._many("]", lambda: self.value(",]"))
        if sign == "{":
            pairs = self._many("}", self._pair)
            if len(dict(pairs)) < len(pairs):
                names = [name for name, _ in pairs]
                raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
            return dict(pairs)
        if match := _QUOTED.match(self.text, self.at):
            self.at = match.end()
            return unquoted(match[0])
        return self._word(ends)

    def _many(self, end: str, read: Any) -> list[Any]:
        found: list[Any] = []
        self.at += 1
        while self._peek() != end:
            found.append(read())
            sign = self._peek()
            if sign not in (",", end):
                raise ValueError(f"{self.rest()!r:.30} where , or {end} should be" if sign else f"{end} is missing")
            self.at += sign == ","
        self.at += 1
        return found

    def _pair(self) -> tuple[str, Any]:
        name = self.value(":,}")
        if self._peek() != ":" or not isinstance(name, str):
            raise ValueError(f"{name!s:.30} has no value: write {{name: value}}")
        self.at += 1
        return str(name), self.value(",}")

    def _peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _word(self, ends: str) -> Bare:
        """Up to one of ``ends`` outside of brackets of its own; a backslash takes away the meaning of a sign."""
        start, inner, word = self.at, 0, ""
        while (sign := self.text[self.at : self.at + 1]) and (inner or sign not in ends):
            if sign == "\\" and self.text[self.at + 1 : self.at + 2] in (*",:[]{}\\ ",):
                self.at += 1
                sign = self.text[self.at : self.at + 1]
            else:
                inner += (sign in _PAIRS) - (sign in _PAIRS.values())
            word += sign
            self.at += 1
        if self.at == start:
            raise ValueError("an empty place; an empty text needs quotes" if self.rest() else "it is not closed")
        return Bare(word.strip())


def combinations(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """``key=a,b,c`` as one command line for each combination, as Hydra's ``--multirun`` does it.

    Each run's overrides, and those of them that differ from run to run; the last key varies fastest. A text with
    commas stands in quotes; prompts always do.

    Raises UserError if nothing is swept over.
    """
    choices = [_choices(word) for word in overrides]
    if all(len(some) == 1 for some in choices):
        several = """model=a,b,c or 'prompt.user="Is it? {{ text }}","Is it not? {{ text }}"'"""
        raise UserError(f"-m sweeps over values, but each key has only one: write several, such as {several}")
    return [
        (list(words), [word for word, some in zip(words, choices, strict=True) if len(some) > 1])
        for words in itertools.product(*choices)
    ]


def _choices(word: str) -> list[str]:
    key, sign, value = word.partition("=")
    parts = values(value)
    texts = [bool(_QUOTED.fullmatch(part)) for part in parts]
    if key.startswith("prompt.") and not all(texts):
        return [word]
    return [f"{key}{sign}{part}" for part in parts]


def values(typed: str) -> list[str]:
    """What commas outside of quotes and brackets separate; the whole where they separate nothing."""
    reader, parts, start = _Reader(typed), [], 0
    try:
        while reader.rest():
            reader.value(",")
            end = reader.at
            if reader.rest()[:1] not in ("", ","):
                return [typed]
            parts.append(typed[start:end].strip())
            reader.at = start = typed.find(",", end) + 1 if reader.rest() else len(typed)
    except ValueError:  # a text that is no list of values
        return [typed]
    return parts if len(parts) > 1 and not typed.rstrip().endswith(",") else [typed]
