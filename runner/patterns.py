"""Regular expressions of users, which no text keeps busy for good."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import regex

from runner.types import RowError

SECONDS = 2.0  # of processor time for one search; a loaded machine takes longer by the clock


class Pattern:
    """A regular expression of Python's kind; ValueError, saying why, if it is none."""

    def __init__(self, text: str) -> None:
        try:
            self._compiled = regex.compile(text)
        except (regex.error, TypeError) as error:
            raise ValueError(str(error)) from error
        self.text = text

    def search(self, text: str) -> Any:
        """The first match, None if there is none; RowError if that takes too long to tell."""
        try:
            return self._compiled.search(text, timeout=SECONDS)
        except TimeoutError:
            raise RowError("slow pattern", f"no end after {SECONDS:g} s: {self.text[:200]}") from None


@lru_cache(maxsize=256)
def pattern(text: str) -> Pattern:
    """The same pattern, compiled once."""
    return Pattern(text)
