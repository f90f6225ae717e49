"""Where the loop's rows come from and where they go: a data set, or attempts until enough are accepted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from runner.checkpoint.records import Output, Record, Rejected
from runner.checkpoint.store import Store
from runner.types import Attempts, Row, Source

READ_CHARS = 1_000_000  # of cells, after which fewer rows are read together


class Feed(Protocol):
    """A source of rows for the loop, and what becomes of them."""

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted, whatever is still at work."""
        ...

    def take(self, count: int) -> list[tuple[int, Row]]:
        """The next rows with their numbers, up to ``count``; none if there are none for now."""
        ...

    def origin(self, row: int) -> int:
        """What the draws of a row depend on beside the run's seed."""
        ...

    def record(self, completions: Iterable[Record], finished: Iterable[Output]) -> None:
        """Commit completions and finished rows."""
        ...


class RowFeed:
    """The unfinished rows of a data set, ``limit`` of them; they are independent of each other."""

    full = False

    def __init__(self, source: Source, store: Store, limit: int | None = None) -> None:
        self._source, self._store = source, store
        self._rows = islice(self._unfinished(), limit)

    def take(self, count: int) -> list[tuple[int, Row]]:
        """See Feed; fewer rows if they are long."""
        taken: list[tuple[int, Row]] = []
        chars = 0
        for index, row in self._rows:
            taken.append((index, row))
            chars += sum([len(cell) for cell in row.values() if isinstance(cell, str)])
            if len(taken) == count or chars > READ_CHARS:
                break
        return taken

    def origin(self, row: int) -> int:
        """See Feed."""
        return self._source.stored_place(row)

    def record(self, completions: Iterable[Record], finished: Iterable[Output]) -> None:
        """See Feed."""
        self._store.record(completions, finished)

    def _unfinished(self) -> Iterator[tuple[int, Row]]:
        for span in self._store.unfinished():
            yield from zip(span, self._source.rows(span.start, span.stop), strict=True)


class AttemptFeed:
    """Attempts, decided upon in the order of their numbers, however they end: accepted ones are the run's rows.

    Nothing of this is stored: after a kill the recorded completions are replayed from the first attempt on, and lead
    to the same decisions. Attempt n is begun when n - ``ahead`` is decided upon, so that what it is can depend on the
    decisions up to there, and on no others. Towards the end fewer are begun: as many as will be needed. ``limit``
    bounds the attempts of this session, replayed ones included.
    """

    def __init__(self, attempts: Attempts, store: Store, limit: int | None = None) -> None:
        self._attempts, self._store = attempts, store
        self._most = attempts.most if limit is None else min(attempts.most, limit)
        self._missing = bytearray(attempts.target)
        for span in store.unfinished():
            self._missing[span.start : span.stop] = b"\1" * len(span)
        self._known = store.rejections().last
        self._waiting: dict[int, Output] = {}
        self.begun = self.decided = self.accepted = 0

    @property
    def full(self) -> bool:
        """Whether enough are accepted."""
        return self.accepted >= self._attempts.target

    def take(self, count: int) -> list[tuple[int, Row]]:
        """See Feed."""
        stop = min(self._most, self.decided + min(self._attempts.ahead, self._needed()), self.begun + count)
        numbers = range(self.begun, max(self.begun, 0 if self.full else stop))
        self.begun = numbers.stop
        return [(number, self._attempts.row(number)) for number in numbers]

    def origin(self, row: int) -> int:
        """See Feed."""
        return row

    def record(self, completions: Iterable[Record], finished: Iterable[Output]) -> None:
        """Commit the completions and, in the same transaction, what can now be decided."""
        self._waiting.update((output.row, output) for output in finished)
        accepted: list[Output] = []
        rejected: list[Rejected] = []
        while not self.full and (output := self._waiting.pop(self.decided, None)):
            reason = output.error or self._attempts.judge(self.decided, output.columns)
            if reason is not None and self.decided > self._known:
                rejected.append(Rejected(self.decided, reason, output))
            if reason is None:
                if self._missing[self.accepted]:
                    accepted.append(output._replace(row=self.accepted))
                self.accepted += 1
            self.decided += 1
        self._store.record(completions, accepted, rejected)

    def _needed(self) -> int:
        """How many undecided attempts to have at work: those that will be needed as things go, and some more."""
        missing = self._attempts.target - self.accepted
        share = (self.accepted + 1) / (self.decided + 1)
        return int(1.25 * missing / share) + 8
