"""Sums and counts over a checkpoint's rows and sessions: totals, kinds of errors, labels, what engines did."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from runner.checkpoint.records import Staged, Usage, error_kind, read_rejected, read_shards, read_staged
from runner.sequences import Work

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

    def plus(self, rows: Iterable[Staged]) -> Totals:
        """The totals when these rows are finished too."""
        finished, errors, prompt, cached, completion, shards = self
        for row in rows:
            finished += 1
            errors += row.error is not None
            prompt += row.prompt_tokens
            cached += row.cached_tokens
            completion += row.completion_tokens
        return Totals(finished, errors, prompt, cached, completion, shards)

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


def count_labels(connection: sqlite3.Connection, where: str = "", values: Iterable[Any] = ()) -> dict[str, int]:
    """How many of the selected staged rows have each value of the column ``label``, the most frequent first."""
    label = "CASE WHEN json_valid(body) THEN json_extract(body, '$.label') END"  # not so with NaN in it
    query = f"SELECT {label}, count(*) FROM staged {where} GROUP BY 1 ORDER BY 2 DESC LIMIT {_LABELS}"
    return {str(name): count for name, count in connection.execute(query, tuple(values)) if name is not None}


def read_label_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many finished rows have each label, the most frequent first; empty for jobs without labels."""
    counts: Counter[str] = Counter()
    query = "SELECT key, sum(value) FROM shards, json_each(labels) GROUP BY key"
    counts.update(dict(connection.execute(query).fetchall()))
    counts.update(count_labels(connection))
    return dict(counts.most_common())
