"""Filters of synthetic rows that compare a draft with what was accepted before it, in the order of the attempts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

from runner.text.scripts import NO_WORD, one_form
from runner.types import Columns, UserError

SHINGLE = 5  # characters
PERMUTATIONS, BANDS = 128, 32  # texts of a similarity over 0.5 meet in a band nearly always
Weights = Mapping[str, Mapping[str, float]]  # attribute -> value -> weight


class OrderedFilter(Protocol):
    """Decides upon drafts one after the other; what it keeps follows from the decisions alone."""

    def reason(self, columns: Columns) -> str | None:
        """Why the draft is rejected, None if it is not; changes nothing."""
        ...

    def keep(self, number: int, columns: Columns) -> None:
        """Attempt ``number`` was accepted."""
        ...

    def seed(self, texts: Iterable[str]) -> None:
        """Texts that were there before the first attempt."""
        ...


@dataclass
class Exact:
    """Rejects texts that were accepted before or are in the seed data, apart from case and white space."""

    def __post_init__(self) -> None:
        self._seen: set[str] = set()

    def seed(self, texts: Iterable[str]) -> None:
        """See OrderedFilter."""
        self._seen.update(map(_normal, texts))

    def reason(self, columns: Columns) -> str | None:
        """See OrderedFilter."""
        return "the text exists already" if _normal(columns["text"]) in self._seen else None

    def keep(self, number: int, columns: Columns) -> None:
        """See OrderedFilter."""
        self._seen.add(_normal(columns["text"]))


@dataclass
class Near:
    """Rejects texts whose estimated Jaccard similarity to an accepted or a seed text reaches ``threshold``.

    Compared are runs of five characters, by MinHash (128 permutations, from a fixed seed) in 32 bands. Memory: some
    2 kB a text.
    """

    threshold: float = 0.7

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold <= 1:
            raise UserError("threshold", "it must be between 0.5 and 1", value=self.threshold)
        if find_spec("rensa") is None:
            raise UserError("it needs the package rensa: pip install 'rowmill[synthesize]'")
        from rensa import RMinHashLSH

        self._index = RMinHashLSH(threshold=self.threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._hashes: list[Any] = []

    def seed(self, texts: Iterable[str]) -> None:
        """See OrderedFilter."""
        for text in texts:
            self._add(text)

    def reason(self, columns: Columns) -> str | None:
        """See OrderedFilter."""
        mine = _minhash(columns["text"])
        nearest = max((mine.jaccard(self._hashes[place]) for place in self._index.query(mine)), default=0.0)
        return f"{nearest:.2f} similarity to an existing text" if nearest >= self.threshold else None

    def keep(self, number: int, columns: Columns) -> None:
        """See OrderedFilter."""
        self._add(columns["text"])

    def _add(self, text: str) -> None:
        minhash = _minhash(text)
        self._index.insert(len(self._hashes), minhash)
        self._hashes.append(minhash)


@dataclass
class Balance:
    """Rejects rows with a value of an attribute that has its share of the target; such values are drawn no longer.

    The shares are those of the attributes' weights. ``attributes``: which (null: all).
    """

    attributes: list[str] | None = None
    _changes: list[int] = field(default_factory=list, init=False, repr=False)  # attempts that filled a value
    _full: list[frozenset[tuple[str, str]]] = field(default_factory=list, init=False, repr=False)  # from then on

    def set_shares(self, weights: Weights, target: int) -> None:
        """How many rows each value is to have, rounded up."""
        unknown = [name for name in self.attributes or [] if name not in weights]
        if unknown:
            raise UserError("attributes", f"there is no {unknown[0]!r}; available: {', '.join(weights) or 'none'}")
        self._quota = {
            (name, value): math.ceil(target * weight / sum(values.values()) - 1e-9)
            for name, values in weights.items()
            if self.attributes is None or name in self.attributes
            for value, weight in values.items()
        }
        self._counts: Counter[tuple[str, str]] = Counter()

    def seed(self, texts: Iterable[str]) -> None:
        """See OrderedFilter: they have no attributes."""

    def full(self, decided: int) -> frozenset[tuple[str, str]]:
        """The (attribute, value) pairs that are full once the first ``decided`` attempts are decided upon."""
        place = bisect_right(self._changes, decided - 1)
        return self._full[place - 1] if place else frozenset()

    def reason(self, columns: Columns) -> str | None:
        """See OrderedFilter."""
        full = next((pair for pair in self._pairs(columns) if self._counts[pair] >= self._quota[pair]), None)
        return f"{full[0]}={full[1]} has reached its share" if full else None

    def keep(self, number: int, columns: Columns) -> None:
        """See OrderedFilter."""
        pairs = self._pairs(columns)
        self._counts.update(pairs)
        new = {pair for pair in pairs if self._counts[pair] >= self._quota[pair]}
        if new:
            self._changes.append(number)
            self._full.append((self._full[-1] if self._full else frozenset()) | new)

    def _pairs(self, columns: Columns) -> list[tuple[str, str]]:
        return [pair for name, value in columns.items() if (pair := (name, value)) in self._quota]


def _normal(text: str) -> str:
    return " ".join(one_form(text.lower()).split())


def _minhash(text: str) -> Any:
    from rensa import RMinHash

    text = NO_WORD.sub(" ", one_form(text.lower())).strip() or _normal(text)  # of signs only
    minhash = RMinHash(num_perm=PERMUTATIONS, seed=0)
    minhash.update(sorted({text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))}))
    return minhash
