"""Choices as a trie: every distinct beginning is computed once, every choice scored exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class ChoiceTree:
    """The trie of some token sequences below a prompt.

    ``tokens`` and ``parents`` are its inner nodes, parents first; parent -1 is the prompt's last token. ``edges`` are
    (node, next token) pairs whose log-probabilities are needed; node -1 likewise. ``paths[i]`` lists the edges of
    choice i, whose log-probabilities add up to its score.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=1024)
def choice_tree(choices: tuple[tuple[int, ...], ...]) -> ChoiceTree:
    """The trie of ``choices``; a choice may be a beginning of another. Raises ValueError for an empty choice."""
    nodes: dict[tuple[int, ...], int] = {(): -1}
    parents: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    paths = []
    for choice in choices:
        if not choice:
            raise ValueError("a choice has no tokens")
        path = []
        for depth, token in enumerate(choice):
            beginning = choice[:depth]
            if beginning not in nodes:
                nodes[beginning] = len(parents)
                parents.append(nodes[beginning[:-1]])
            path.append(edges.setdefault((nodes[beginning], token), len(edges)))
        paths.append(tuple(path))
    tokens = tuple(beginning[-1] for beginning in nodes if beginning)
    return ChoiceTree(tokens, tuple(parents), tuple(edges), tuple(paths))


@lru_cache(maxsize=1024)
def beginnings(choices: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Each choice as far as it takes to tell it from all others: all of it where it is a beginning of another."""
    shared = Counter(choice[:end] for choice in choices for end in range(1, len(choice) + 1))
    return tuple(
        next((choice[:end] for end in range(1, len(choice)) if shared[choice[:end]] == 1), choice) for choice in choices
    )
