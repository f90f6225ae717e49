"""Answers kept across runs (``cache=true``): one SQLite file in the cache folder, open to several runs at once.

It is a convenience: whatever is wrong with it, a run continues without it. What a run acts on is in its own checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from runner.cache import cache_dir
from runner.checkpoint.records import checked, from_body, to_bodies, with_crcs
from runner.disk.errors import DamagedError
from runner.types import Completion, UserError
from runner.words import first_line

FILE = "answers.db"
BATCH = 1000  # answers written together,
SECONDS = 1.0  # or those of so long: what a killed run had not written is not in the cache
DAY = 86_400
LOCKED_S = 10.0  # to wait for another run's transaction
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, used INTEGER, body TEXT, crc INTEGER);
CREATE INDEX IF NOT EXISTS answers_used ON answers (used);
CREATE TABLE IF NOT EXISTS found (hits INTEGER);
INSERT INTO found SELECT 0 WHERE NOT EXISTS (SELECT * FROM found);
"""
_MOST = 500  # bound parameters of one statement

log = logging.getLogger("rowmill")


class Answers:
    """The answers to requests with the same digest (``runner.loop.requests``) under the same ``scope``.

    ``scope`` (JSON) is what decides an answer beside its request: the model, and how its text is read.
    """

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = hashlib.blake2b(json.dumps(scope, sort_keys=True).encode(), digest_size=16).digest()
        self._new: dict[bytes, Completion] = {}
        self._used: set[bytes] = set()
        self._hits = 0
        self._written = time.monotonic()
        self._connection: sqlite3.Connection | None = None
        self._is_read_only = False
        with self._tolerant("opened"):
            self._connection, refusal = _open_at_least_to_read(path())
            if refusal is not None:
                self._is_read_only = True
                log.info("%s cannot be written (%s): using its answers, adding none", path(), first_line(refusal))

    def find(self, digests: Iterable[bytes]) -> dict[bytes, Completion]:
        """The known answers by digest. Those damaged, or written by a version that writes others, are unknown."""
        keys = {self._key(digest): digest for digest in digests}
        found: dict[bytes, Completion] = {}
        with self._tolerant("read"):
            for key, body in self._read(list(keys)):
                with contextlib.suppress(ValueError, TypeError, LookupError, struct.error):
                    found[keys[key]] = from_body(body)
                    self._used.add(key)
        self._hits += len(found)
        return found

    def keep(self, answers: Iterable[tuple[bytes, Completion]]) -> None:
        """Remember answers that were computed; they are written some at a time. Without any, write what has waited."""
        self._new.update((self._key(digest), completion) for digest, completion in answers)
        waited = time.monotonic() - self._written
        if len(self._new) + len(self._used) >= BATCH or waited >= SECONDS:
            self._write()

    def close(self) -> None:
        """Write what is left. May be repeated."""
        self._write()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _key(self, digest: bytes) -> bytes:
        return hashlib.blake2b(self._scope + digest, digest_size=16).digest()

    def _read(self, keys: list[bytes]) -> Iterator[tuple[bytes, str]]:
        for start in range(0, len(keys) if self._connection else 0, _MOST):
            some = keys[start : start + _MOST]
            assert self._connection is not None
            query = f"SELECT key, body, crc FROM answers WHERE key IN ({', '.join('?' * len(some))})"
            for row in self._connection.execute(query, some):
                with contextlib.suppress(DamagedError):
                    yield checked("answers", *row)

    def _write(self) -> None:
        new, used, hits = self._new, self._used, self._hits
        self._new, self._used, self._hits = {}, set(), 0
        self._written = time.monotonic()
        if self._connection is None or self._is_read_only or not (new or used or hits):
            return
        today = int(time.time()) // DAY
        new = dict(sorted(new.items()))
        bodies = to_bodies(new.values())
        rows = [(key, today, body, crc) for key, body, crc in with_crcs([*zip(new, bodies, strict=True)])]
        with self._tolerant("written"), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)
            stamps = ((today, key, today) for key in sorted(used))
            connection.executemany("UPDATE answers SET used = ? WHERE key = ? AND used < ?", stamps)
            connection.execute("UPDATE found SET hits = hits + ?", (hits,))

    @contextlib.contextmanager
    def _tolerant(self, doing: str) -> Iterator[None]:
        """Go on without the cache after an error, and say so once."""
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            log.warning("%s: going on without it", _problem(doing, error))
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
            self._connection = None


def path() -> Path:
    """Where the answers lie."""
    return cache_dir() / FILE


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    connection = sqlite3.connect(file, isolation_level=None, timeout=LOCKED_S)
    connection.text_factory = _lenient
    try:
        if new:
            file.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_TABLES)
        return connection
    except BaseException:
        connection.close()
        raise


def _open_at_least_to_read(file: Path) -> tuple[sqlite3.Connection, Exception | None]:
    """The answers, and why none can be added where that is so, as on a share."""
    try:
        return _open(file), None
    except (sqlite3.OperationalError, OSError) as refusal:
        mode = "mode=ro" if file.with_name(f"{FILE}-wal").exists() else "immutable=1"
        try:
            connection = sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, isolation_level=None)
            connection.execute("SELECT 1 FROM answers")
            connection.text_factory = _lenient
            return connection, refusal
        except sqlite3.Error:
            raise refusal from None


def _lenient(text: bytes) -> str:
    """Whatever is in the file: its checksum says what is damaged."""
    return text.decode("utf-8", "replace")


class Size(TypedDict):
    """The figures of ``rowmill cache --json``. ``oldest``: the Unix time of the day when it was last used."""

    path: str
    answers: int
    hits: int
    bytes: int
    oldest: float | None


def measure() -> Size:
    """How large the file of answers is, and what it was good for. UserError if it cannot be read."""
    if not path().exists():
        return Size(path=str(path()), answers=0, hits=0, bytes=0, oldest=None)
    with _opened("read") as connection:
        count, oldest = connection.execute("SELECT count(*), min(used) FROM answers").fetchone()
        hits = int(connection.execute("SELECT coalesce(sum(hits), 0) FROM found").fetchone()[0])
        oldest = None if oldest is None else DAY * float(oldest)
    return Size(path=str(path()), answers=count, hits=hits, bytes=_bytes(), oldest=oldest)


def prune(days: float | None = None, most_bytes: int | None = None) -> int:
    """Delete answers not used for so many days, then the longest unused until the file is small enough; their number.

    UserError if the file is damaged, or busy for long.
    """
    if not path().exists():
        return 0
    with _opened("pruned") as connection:
        before = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        if days is not None:
            connection.execute("DELETE FROM answers WHERE used < ?", (int((time.time() - days * DAY) // DAY),))
        connection.execute("VACUUM")
        left = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        if most_bytes is not None and (size := pages * page) > most_bytes:
            surplus = -(-left * (size - most_bytes) // size)
            oldest = "SELECT rowid FROM answers ORDER BY used, rowid LIMIT ?"
            connection.execute(f"DELETE FROM answers WHERE rowid IN ({oldest})", (surplus,))
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(before - connection.execute("SELECT count(*) FROM answers").fetchone()[0])


@contextlib.contextmanager
def _opened(doing: str) -> Iterator[sqlite3.Connection]:
    try:
        opened = _open_at_least_to_read(path())[0] if doing == "read" else _open(path())
        with contextlib.closing(opened) as connection:
            yield connection
    except (sqlite3.Error, OSError, ValueError) as error:
        raise UserError(_problem(doing, error)) from error


def _problem(doing: str, error: Exception) -> str:
    return f"{path()} cannot be {doing} ({first_line(error)}); it may be deleted at any time"


def _bytes() -> int:
    return sum(file.stat().st_size for file in path().parent.glob(f"{FILE}*"))
