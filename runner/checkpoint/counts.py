"""Sums and counts over a checkpoint's rows and sessions: totals, kinds of errors, labels, what engines did."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from runner.checkpoint.records import (
    Output,
    Shard,
    Staged,
    Usage,
    error_kind,
    read_rejected,
    read_shards,
    read_staged,
    to_json,
)
from runner.disk import Written
from runner.sequences import Work
from runner.types import Columns

_LABELS = 200  # distinct labels counted in a shard


class Totals(NamedTuple):
    """Sums over the finished rows, sealed or staged, in rows and in tokens of the model; ``shards``: those sealed."""

    finished: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    shards: int = 0

    @property
    def cached_share(self) -> float | None:
        """Of the prompt tokens, those that came from a computed prefix; None without any."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    def plus(self, rows: Iterable[Output | Staged]) -> Totals:
        """The totals when these rows are finished too."""
        rows = list(rows)
        failed = sum([row.error is not None for row in rows])
        more = Totals(self.finished + len(rows), self.errors + failed, *self[2:])
        return more.plus_tokens([row.usage for row in rows])

    def plus_tokens(self, usages: Iterable[Usage]) -> Totals:
        """The totals with the tokens of attempts that became no rows."""
        finished, errors, prompt, cached, completion, shards = self
        for usage in usages:
            prompt += usage.prompt_tokens
            cached += usage.cached_tokens
            completion += usage.completion_tokens
        return Totals(finished, errors, prompt, cached, completion, shards)


@dataclass
class SessionWork(Work):
    """What a session's engine did in the ``loop_s`` seconds of its loop, beside what the planner saw.

    Of the ``prompt`` tokens of all requests, ``served`` were those of requests that had been answered before, and
    ``shareable`` are what an unlimited cache would have spared in any order. The names are those in checkpoints.
    """

    loop_s: float = 0.0
    prompt: int = 0
    served: int = 0
    shareable: int = 0
    thoughts_ended: int = 0  # because they had engine.think_tokens

    @property
    def missed_share(self) -> float | None:
        """Of the prompt tokens that were computed, those that an unlimited cache would have spared; None if none were.

        Unlike their counts, this share holds for a run of which some sessions were killed or left rows unfinished.
        """
        spared = self.cached + self.served
        return min(1.0, max(0, self.shareable - spared) / (self.prompt - spared)) if self.prompt > spared else None

    def to_json(self) -> dict[str, float]:
        """As a session's provenance holds it, beside other facts."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, provenance: Mapping[str, Any]) -> SessionWork:
        """What a session's provenance holds of it; zeros for what an earlier version or a killed session left out."""
        return cls(**{one.name: provenance[one.name] for one in fields(cls) if one.name in provenance})

    @classmethod
    def total(cls, sessions: Iterable[SessionWork]) -> SessionWork:
        """What several sessions did."""
        total = cls()
        for one in sessions:
            total += one
        return total


def read_totals(connection: sqlite3.Connection) -> tuple[Totals, dict[str, int]]:
    """The totals of a checkpoint and how many attempts each filter rejected, most first.

    Every record is read and checked once. Raises DamagedError.
    """
    totals = Totals().plus(read_staged(connection))
    for shard in read_shards(connection):
        sums = (shard.rows, sum(json.loads(shard.error_kinds).values()), *shard[5:8], 1)
        totals = Totals(*map(sum, zip(totals, sums, strict=True)))
    kinds: Counter[str] = Counter()
    for one in read_rejected(connection):
        kinds[error_kind(one.reason)] += 1
        totals = totals.plus_tokens([one.output.usage])
    return totals, dict(kinds.most_common())


def read_error_kinds(connection: sqlite3.Connection) -> dict[str, int]:
    """How many finished rows have each kind of error, the most frequent first."""
    kinds: Counter[str] = Counter()
    query = "SELECT key, sum(value) FROM shards, json_each(error_kinds) GROUP BY key"
    kinds.update(dict(connection.execute(query).fetchall()))
    for error, count in connection.execute("SELECT error, count(*) FROM staged WHERE error IS NOT NULL GROUP BY error"):
        kinds[error_kind(error)] += count
    return dict(kinds.most_common())


class Tally:
    """What the record of a shard says of its rows, which pass by some at a time."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._kinds = Counter[str]()
        self._labels = Counter[str]()

    def counting(self, pieces: Iterable[Sequence[Output]]) -> Iterator[Sequence[Output]]:
        """The same rows, which are counted on their way."""
        for rows in pieces:
            self.totals = self.totals.plus(rows)
            self._kinds.update([error_kind(row.error) for row in rows if row.error is not None])
            self._labels.update(_labels_of(row.columns for row in rows))
            yield rows

    def shard(self, shard: int, name: str, written: Written, *, labelled: bool) -> Shard:
        """The record of a shard with these rows."""
        rows, _, prompt, cached, completion, _ = self.totals
        labels = dict(self._labels.most_common(_LABELS)) if labelled else {}
        counts = (json.dumps(count, ensure_ascii=False) for count in (self._kinds, labels))
        return Shard(shard, rows, name, *written, prompt, cached, completion, *counts)


def _labels_of(rows: Iterable[Columns]) -> list[str]:
    labels = [label for row in rows if (label := row.get("label")) is not None]
    return [label if isinstance(label, str) else to_json(label) for label in labels]


def read_label_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many finished rows have each label, the most frequent first; empty for jobs without labels."""
    counts: Counter[str] = Counter()
    query = "SELECT key, sum(value) FROM shards, json_each(labels) GROUP BY key"
    counts.update(dict(connection.execute(query).fetchall()))
    counts.update(_labels_of(json.loads(row.body) for row in read_staged(connection)))
    return dict(counts.most_common())
