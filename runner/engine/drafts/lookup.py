"""What followed the latest tokens of a text where they stood before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LONGEST = 8  # of the latest tokens are looked for; longer matches say no more


class Match(NamedTuple):
    """``tokens`` that may come next, as ``length`` tokens before them are the latest ones of the text."""

    tokens: list[int]
    length: int


class Lookup:
    """A prompt, and the answer to it as far as it is known, of at most ``room`` tokens."""

    def __init__(self, prompt: list[int], room: int) -> None:
        self._prompt = len(prompt)
        self._text = np.empty(len(prompt) + room, np.int32)
        self._text[: self._prompt] = prompt
        self._size = self._prompt

    def follow(self, answer: list[int]) -> None:
        """Take what is new of the answer."""
        known = self._size - self._prompt
        self._size = self._prompt + len(answer)
        self._text[self._prompt + known : self._size] = answer[known:]

    def next(self, most: int) -> Match:
        """Up to ``most`` tokens, from the latest place where the most of the last tokens stand; what repeats itself up
        to the end goes on doing so.
        """
        return continuation(self._text[: self._size], most)


def continuation(text: npt.NDArray[np.int32], most: int) -> Match:
    """See ``Lookup.next``."""
    length, found = 0, np.arange(1, text.size)  # where the text would go on
    while length < LONGEST:
        longer = found[length < found]
        longer = longer[text[longer - 1 - length] == text[-1 - length]]
        if not longer.size:
            break
        length, found = length + 1, longer
    return Match(np.resize(text[found[-1] :], most).tolist() if length else [], length)
