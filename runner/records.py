"""What the checkpoint records: completions, and finished rows until they are sealed. No Arrow here."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from runner.disk import DamagedError
from runner.types import Columns, Completion

_JOINED = ["\0".join(["%s"] * count) for count in range(12)]  # twice as fast as joining texts


class Usage(NamedTuple):
    """What a row's completions took together, in tokens; ``finish_reason`` is the last completion's.

    ``retries``: requests asked again (``Request.retry``). ``seed``: what the first random draws followed from, None for
    a row without any; the 64 bits of ``Sequence.draw_seed`` as a signed number, which Arrow and SQLite both hold.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    retries: int = 0
    seed: int | None = None

    @classmethod
    def of(cls, completions: Iterable[Completion]) -> Usage:
        """The sum over a row's completions, in the order in which they were asked for."""
        total = cls()
        for c in completions:
            total = cls(
                total.prompt_tokens + c.prompt_tokens,
                total.cached_tokens + c.cached_tokens,
                total.completion_tokens + c.completion_tokens,
                c.finish_reason,
            )
        return total


class Record(NamedTuple):
    """A completion to commit: request ``number`` of ``row``. ``digest`` names the request, see ``runner.ask``."""

    row: int
    number: int
    digest: bytes | None
    completion: Completion

    def values(self) -> tuple[Any, ...]:
        """The table's columns; a failed request has no digest, so that nobody takes over its answer."""
        row, number, digest, completion = self
        body = to_json(completion.to_json())
        return sealed(row, number, digest if completion.error is None else None, body)

    @classmethod
    def of(cls, row: int, number: int, digest: bytes | None, body: str, crc: int) -> Record:
        """The inverse of ``values``. Raises DamagedError where they cannot be what was written."""
        verified("completions", row, number, digest, body, crc)
        return cls(row, number, digest, Completion.from_json(json.loads(body)))


def sealed(*values: Any) -> tuple[Any, ...]:
    """A table's row with its CRC-32 as the last column, to tell bits that have flipped on the disk."""
    return *values, zlib.crc32((_JOINED[len(values)] % values).encode("utf-8", "replace"))


def verified(table: str, *row: Any) -> tuple[Any, ...]:
    """The inverse of ``sealed``. Raises DamagedError where the row cannot be what was written."""
    values = row[:-1]
    if sealed(*values) != row:
        raise DamagedError(f"the checksum of a row of the table {table} does not hold")
    return values


class Output(NamedTuple):
    """A finished row: the job's columns (absent ones are null), or what went wrong.

    ``error`` reads ``kind: detail``; the part before the first colon and space is what errors are counted by.
    """

    row: int
    columns: Columns
    error: str | None = None
    usage: Usage = Usage()


class Staged(NamedTuple):
    """A finished row as the checkpoint holds it until its shard is sealed; ``body`` is the job's columns in JSON."""

    row: int
    error: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: str | None
    retries: int
    seed: int | None
    body: str

    @property
    def usage(self) -> Usage:
        """The row's usage again."""
        return Usage(*self[2:-1])

    def values(self) -> tuple[Any, ...]:
        """The table's columns."""
        return sealed(*self)

    @classmethod
    def of(cls, *values: Any) -> Staged:
        """The inverse of ``values``. Raises DamagedError where they cannot be what was written."""
        return cls._make(verified("staged", *values))


def error_kind(error: str) -> str:
    """What an error is counted by: the text before the first ``": "``, at most 80 characters."""
    return error.partition(": ")[0][:80]


def clean(text: str) -> str:
    """``text`` as valid Unicode: split surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored")


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain).encode


def to_json(value: Any) -> str:
    """JSON that SQLite can hold and ``json.loads`` gives back exactly, lone surrogates included."""
    text = encode(value)
    return text if clean(text) is text else json.dumps(value, default=_plain)
