"""What the checkpoint records: completions, finished rows, rejected attempts, shards. No Arrow here."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from runner.disk.errors import DamagedError
from runner.sequences import MANY_SCORES
from runner.types import Columns, Completion

PRELUDE = -1  # the index of a task that is no row: what a job asks before the first one
_PACKED = ":"  # what numbers as text begin with
_VARIABLES = 500  # bound parameters of one statement
_NAME_CHARS = 100  # of a row's name, shown
_JOINED = ["\0".join(["%s"] * count) for count in range(12)]  # twice as fast as joining texts


class Usage(NamedTuple):
    """What a row's completions took together, in tokens; ``finish_reason`` is the last completion's.

    ``retries``: requests asked again (``Request.retry``). ``seed``: the seed of the first random draws, None for a row
    without any; the 64 bits of ``Sequence.draw_seed`` as a signed number, which Arrow and SQLite both hold.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    retries: int = 0
    seed: int | None = None

    @classmethod
    def of(cls, completions: Iterable[Completion], retries: int = 0, seed: int | None = None) -> Usage:
        """The sum over a row's completions, in the order in which they were asked for."""
        prompt = cached = completion = 0
        reason = None
        for one in completions:
            prompt += one.prompt_tokens
            cached += one.cached_tokens
            completion += one.completion_tokens
            reason = one.finish_reason
        return cls(prompt, cached, completion, reason, retries, seed)


class Record(NamedTuple):
    """A completion to commit: request ``number`` of ``row``. ``digest``: see ``runner.loop.requests``.

    ``seat``: the one that computed it, if a fleet did (see ``runner.checkpoint.seats``). ``row`` is PRELUDE for what a
    job asks before the first row, and below it where the row is gone (see ``runner.checkpoint.growth``).
    """

    row: int
    number: int
    digest: bytes | None
    completion: Completion
    seat: int | None = None

    @property
    def is_free(self) -> bool:
        """Whether it answers no row, so that the next one that asks the same can have it as its own."""
        return self.row < PRELUDE

    @classmethod
    def of(cls, row: int, number: int, digest: bytes | None, body: str, crc: int, seat: int | None = None) -> Record:
        """The inverse of ``completion_rows``. Raises DamagedError if they are not what was written."""
        checked("completions", row, number, digest, body, crc)
        return cls(row, number, digest, from_body(body), seat)


def completion_rows(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Rows of the table; a failed request has no digest, so that its answer is never reused."""
    bodies = to_bodies([record.completion for record in records])
    pairs = zip(records, bodies, strict=True)
    rows = [(one[0], one[1], one[2] if one[3].error is None else None, body) for one, body in pairs]
    return [(*row, record[4]) for row, record in zip(with_crcs(rows), records, strict=True)]


def to_bodies(completions: Iterable[Completion]) -> list[str]:
    """Each completion as text; very many scores that are numbers of 32 bits are packed."""
    said = [completion.to_json() for completion in completions]
    for one in said:
        scores = one.get("logprobs", ())
        if len(scores) > MANY_SCORES and (packed := pack_floats(scores)) is not None:
            one["logprobs"] = packed
    return to_jsons(said)


def from_body(body: str) -> Completion:
    """The inverse of ``to_bodies``."""
    said = json.loads(body)
    if isinstance(scores := said.get("logprobs"), str):
        said["logprobs"] = unpack_floats(scores)
    return Completion.from_json(said)


def pack_floats(values: tuple[float, ...]) -> str | None:
    """Numbers of 32 bits as a text of 16 characters for three; None if one of them has more, or is no number."""
    form = f"<{len(values)}f"
    try:
        data = struct.pack(form, *values)
    except (struct.error, OverflowError):
        return None
    return _PACKED + base64.b64encode(data).decode() if struct.unpack(form, data) == values else None


def unpack_floats(text: str) -> tuple[float, ...]:
    """The inverse of ``pack_floats``, and of what earlier versions did, ten times as slowly."""
    packed = text.startswith(_PACKED)
    data = base64.b64decode(text.removeprefix(_PACKED)) if packed else base64.b85decode(text)
    return struct.unpack(f"<{len(data) // 4}f", data)


def with_crc(*values: Any) -> tuple[Any, ...]:
    """A table's row with its CRC-32 as the last column, which reveals bits that have flipped on the disk."""
    return with_crcs([values])[0]


def with_crcs(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Each row of a table as ``with_crc`` has it."""
    form = _JOINED[len(rows[0])] if rows else ""
    return [(*row, zlib.crc32((form % row).encode("utf-8", "replace"))) for row in rows]


def checked(table: str, *row: Any) -> tuple[Any, ...]:
    """The row without its CRC, the inverse of ``with_crc``. Raises DamagedError if it is not what was written."""
    values = row[:-1]
    if with_crc(*values) != row:
        raise DamagedError(f"a row of the table {table} does not match its checksum")
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
        """What its completions took."""
        return Usage._make(self[2:8])

    @classmethod
    def of(cls, *values: Any) -> Staged:
        """A row of the table without its CRC. Raises DamagedError if they are not what was written."""
        return cls._make(checked("staged", *values))


class Shard(NamedTuple):
    """A sealed shard; ``error_kinds`` and ``labels`` are counts of its rows in JSON."""

    shard: int
    rows: int
    file: str
    bytes: int
    sha256: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    error_kinds: str
    labels: str

    def values(self) -> tuple[Any, ...]:
        """The table's columns."""
        return with_crc(*self)

    @classmethod
    def of(cls, *values: Any) -> Shard:
        """The inverse of ``values``. Raises DamagedError if they are not what was written."""
        return cls._make(checked("shards", *values))


class Failure(NamedTuple):
    """A row in error. ``name``: its cell of the column that names rows, None if that is not known."""

    row: int
    name: str | None
    error: str

    @property
    def shown(self) -> str:
        """Which row it is, for people."""
        name = self.name if self.name is None or len(self.name) <= _NAME_CHARS else f"{self.name[:_NAME_CHARS]}…"
        return f"row {self.row:,}" + (f" ({name})" if name else "")


class Rejections(NamedTuple):
    """How many attempts were rejected, and the number of the last of them (-1: none)."""

    attempts: int
    last: int


class Rejected(NamedTuple):
    """An attempt that was not accepted. ``reason`` reads ``filter: detail``; ``output`` has what the job made of it."""

    attempt: int
    reason: str
    output: Output

    def values(self) -> tuple[Any, ...]:
        """The table's columns."""
        return with_crc(self.attempt, clean(self.reason), *self.output.usage[:3], to_json(self.output.columns))

    @classmethod
    def of(cls, attempt: int, reason: str, prompt: int, cached: int, completion: int, body: str, crc: int) -> Rejected:
        """The inverse of ``values``. Raises DamagedError if they are not what was written."""
        checked("rejected", attempt, reason, prompt, cached, completion, body, crc)
        return cls(attempt, reason, Output(attempt, json.loads(body), None, Usage(prompt, cached, completion)))


def conditions(column: str, values: Iterable[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """WHERE clauses and their parameters that together select ``values``: one for a range, else one for each 500."""
    if isinstance(values, range) and values.step == 1:
        yield f"{column} >= ? AND {column} < ?", (values.start, values.stop)
        return
    remaining = iter(values)
    while some := tuple(islice(remaining, _VARIABLES)):
        yield f"{column} IN ({', '.join('?' * len(some))})", some


def read_staged(connection: sqlite3.Connection, where: str = "", values: Iterable[Any] = ()) -> Iterator[Staged]:
    """The staged rows selected, in order. Raises DamagedError."""
    rows = connection.execute(f"SELECT * FROM staged {where} ORDER BY row", tuple(values))
    return (Staged.of(*row) for row in rows)


def read_shards(connection: sqlite3.Connection) -> Iterator[Shard]:
    """The sealed shards in order. Raises DamagedError."""
    return (Shard.of(*row) for row in connection.execute("SELECT * FROM shards ORDER BY shard"))


def read_rejected(connection: sqlite3.Connection) -> Iterator[Rejected]:
    """The rejected attempts in order. Raises DamagedError."""
    return (Rejected.of(*row) for row in connection.execute("SELECT * FROM rejected ORDER BY attempt"))


def read_prelude(connection: sqlite3.Connection) -> dict[str, Any] | None:
    """What the job found before the first row; None if it has not been found yet. Raises DamagedError."""
    found = connection.execute("SELECT * FROM prelude").fetchone()
    return dict(json.loads(checked("prelude", *found)[0])) if found else None


def insert_prelude(connection: sqlite3.Connection, found: Mapping[str, Any]) -> None:
    """Commit what the job found before the first row (JSON values)."""
    connection.execute("INSERT INTO prelude VALUES (?, ?)", with_crc(to_json(dict(found))))


def insert_rejected(connection: sqlite3.Connection, rejected: Iterable[Rejected]) -> None:
    """Add attempts inside the caller's transaction."""
    connection.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?, ?)", (one.values() for one in rejected))


def unfinish_errors(connection: sqlite3.Connection) -> None:
    """Make the rows in error unfinished; their shards' other rows are made again from the recorded completions."""
    connection.execute("DELETE FROM shards WHERE error_kinds != '{}'")
    connection.execute("DELETE FROM staged WHERE error IS NOT NULL")
    connection.execute("DELETE FROM deaths")  # rows put aside for them get another chance, too


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
    if hasattr(value, "isoformat"):  # dates and times
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be stored")


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain).encode


def to_jsons(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """``to_json`` of each; many small ones take half the time together."""
    text = encode(objects)
    parts = text[2:-2].split("},{")
    if len(parts) == len(objects) and clean(text) is text:  # it stands between them, and nowhere else
        return [f"{{{part}}}" for part in parts]
    return [to_json(one) for one in objects]


def to_json(value: Any) -> str:
    """JSON that SQLite can hold and ``json.loads`` gives back exactly, lone surrogates included."""
    text = encode(value)
    return text if clean(text) is text else json.dumps(value, default=_plain)
