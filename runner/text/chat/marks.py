"""Control tokens that a template writes, told from the same characters in data.

What a template writes is *marked*: the characters of its control tokens are moved to a private plane of Unicode, one by
one, so that a marked text is as long as what it stands for, and every operation on texts keeps the marks. Text from
data has none (``unmarked``), whatever it spells, so that it can neither be nor complete a control token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

_PLANE, _END = 0xF0000, 0xFFFE
_MARKED = re.compile("[\U000f0000-\U000ffffd]+")
_FILLED = re.compile(r"(%s|\{\w*\})")  # in texts for % and format
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "model")


def mark(text: str) -> str:
    """The text as that of a control token."""
    return "".join(chr(ord(char) + _PLANE) if ord(char) < _END else char for char in text)


def plain(text: str) -> str:
    """The text without marks, as it is read."""
    return _MARKED.sub(lambda found: "".join(chr(ord(char) - _PLANE) for char in found[0]), text)


def unmarked(text: str) -> str:
    """Data with U+FFFD where it has characters that marks are made of."""
    return text if text.isascii() else _MARKED.sub(lambda found: "\ufffd" * len(found[0]), text)


def control_pattern(control: Iterable[str]) -> re.Pattern[str] | None:
    """Matches any of these texts, the longest first; captures it. None if there are none."""
    longest_first = sorted(control, key=lambda text: (-len(text), text))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


class Marks:
    """The marks of one vocabulary's control tokens."""

    def __init__(self, control: Iterable[str]) -> None:
        self._control = tuple(control)
        self.pattern = control_pattern(self._control)
        ends = {text[at] for text in self._control for at in (0, -1)}
        self._ends = re.compile(f"[{re.escape(''.join(sorted(ends)))}]") if ends else None

    def any_may_forge(self, value: Any) -> bool:
        """Whether a text in nested lists and dicts (their keys aside) could be a control token or complete one."""
        if self._ends is None:
            return False
        if isinstance(value, str):
            return self._ends.search(value) is not None
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list | tuple):
            return False
        return any(map(self.any_may_forge, value))

    def spells(self, text: str) -> bool:
        """Whether the text holds a control token's."""
        return self.pattern is not None and self.pattern.search(text) is not None

    def literal(self, text: str) -> str:
        """A template's own text with its control tokens marked, and parts of some beside whatever is filled in."""
        if self.pattern is None:
            return text
        text = self.pattern.sub(lambda found: mark(found[0]), text)
        return "".join(part if at % 2 else self._at_edges(part) for at, part in enumerate(_FILLED.split(text)))

    def _at_edges(self, text: str) -> str:
        most = min(len(text), self._longest)
        head = next((n for n in range(most, 0, -1) if text[:n] in self._last_parts), 0)
        tail = len(text) - next((n for n in range(most, 0, -1) if text[-n:] in self._first_parts), 0)
        head = min(head, tail)
        return mark(text[:head]) + text[head:tail] + mark(text[tail:])

    def settled(self, text: str) -> str:
        """A rendered text in which whole control tokens are marked, and nothing else.

        A template may put a token together around the name of a role: ``'<|' + message.role + '|>'``.
        """
        text = self._composed.sub(lambda found: mark(plain(found[0])), text) if self._composed else text
        return self._tokens_or_rest.sub(lambda found: found[0] if found[1] else plain(found[0]), text)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._control))

    @cached_property
    def _first_parts(self) -> set[str]:
        parts = {text[:end] for text in self._control for end in range(1, len(text))}
        return {part for part in parts if not part[0].isalnum()}

    @cached_property
    def _last_parts(self) -> set[str]:
        parts = {text[start:] for text in self._control for start in range(1, len(text))}
        return {part for part in parts if not part[-1].isalnum()}

    @cached_property
    def _composed(self) -> re.Pattern[str] | None:
        cuts = (text.partition(role) for text in self._control for role in ROLES if role in text)
        return control_pattern(mark(before) + role + mark(after) for before, role, after in cuts if before and after)

    @cached_property
    def _tokens_or_rest(self) -> re.Pattern[str]:
        whole = control_pattern(map(mark, self._control))
        return re.compile(f"{whole.pattern if whole else '(?!)'}|{_MARKED.pattern.removesuffix('+')}")


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy in which every text is changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(part, change) for key, part in value.items()}
    return [map_strings(part, change) for part in value] if isinstance(value, list | tuple) else value
