"""The tables of a checkpoint and how they are opened."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runner.checkpoint.growth.extend import Growth, let_grow
from runner.checkpoint.identity import check_identity, completed
from runner.checkpoint.lease import LOCK, Held, holder
from runner.checkpoint.records import checked, with_crc
from runner.disk import Syncer, as_its_folder, publish_file, sync_folder, write_json
from runner.disk.errors import DISK_ERRORS, DamagedError, damaged, disk_error, disk_errors, suspected
from runner.keys import key
from runner.types import EXIT_CANNOT_RUN, UserError

DATABASE = "run.db"
IDENTITY = "identity.json"  # a copy of the one in the checkpoint, in case that is damaged
SCHEMA_VERSION = 10

_SEATS = "CREATE TABLE seats (seat INTEGER PRIMARY KEY, session INTEGER, name TEXT, facts TEXT)"
_INPUTS = "CREATE TABLE inputs (shard INTEGER PRIMARY KEY, rows BLOB NOT NULL, keys BLOB, crc INTEGER)"
_DIGESTS = """CREATE TABLE digests (level INTEGER, digest BLOB, row INTEGER, number INTEGER,
    PRIMARY KEY (level, digest)) WITHOUT ROWID"""
_DIGESTS_9 = "CREATE TABLE digests (digest BLOB PRIMARY KEY, row INTEGER, number INTEGER) WITHOUT ROWID"
_SCHEMA = f"""
BEGIN;
CREATE TABLE run (identity TEXT NOT NULL, crc INTEGER);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
CREATE TABLE progress (session INTEGER, time REAL, elapsed_s REAL, finished INTEGER, errors INTEGER,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, shards INTEGER, memory_bytes INTEGER,
    slots INTEGER, slots_total INTEGER, seats TEXT);
CREATE TABLE prelude (found TEXT NOT NULL, crc INTEGER);
CREATE TABLE latest (row INTEGER, error TEXT, body TEXT);
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER, seat INTEGER,
    PRIMARY KEY (row, number));
{_DIGESTS};
CREATE TABLE digested (upto INTEGER NOT NULL, crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE deaths (session INTEGER, at REAL, why TEXT, memory INTEGER, rows TEXT, crc INTEGER);
CREATE TABLE rejected (attempt INTEGER PRIMARY KEY, reason TEXT NOT NULL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, body TEXT NOT NULL, crc INTEGER);
{_SEATS};
{_INPUTS};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_STEPS = {  # from each version that is read to the next one, and back
    7: (
        f"ALTER TABLE progress ADD COLUMN seats TEXT; ALTER TABLE completions ADD COLUMN seat INTEGER; {_SEATS};",
        "ALTER TABLE progress DROP COLUMN seats; ALTER TABLE completions DROP COLUMN seat; DROP TABLE seats;",
    ),
    8: (f"{_INPUTS};", "DROP TABLE inputs;"),
    # It is derived from the answers, and made anew when the run goes on.
    9: (
        f"DROP TABLE digests; {_DIGESTS}; UPDATE digested SET upto = 0, crc = {with_crc(0)[1]};",
        f"DROP TABLE digests; {_DIGESTS_9};",
    ),
}
_VERIFIED = ("run", "prelude", "digested", "shards", "deaths", "rejected")  # small tables whose rows decide something


@dataclass
class CheckpointConf:
    """How safely answers are stored.

    Attributes:
        durability: What a power cut may take. process: the answers of the last second, which are computed again; power:
            nothing, as every commit waits for the disk. The death of a process never takes any.
    """

    durability: str = key("process", among=("process", "power"))


def create_if_new(run_dir: Path, identity: Mapping[str, Any]) -> None:
    """Make the checkpoint of a run that has none: it appears whole, on the disk, before anything else of the run does.

    Raises UserError where there has been one.
    """
    path = run_dir / DATABASE
    if _has_tables(path):
        return
    if _read_json(run_dir / IDENTITY):
        raise damaged(run_dir, "it is empty or missing")
    if found := sorted(one.name for one in run_dir.glob("data-*.arrow")):
        raise UserError(
            f"{run_dir} holds {found[0]} but no checkpoint: choose another run_name; nothing was overwritten"
        )
    new = path.with_name(f"{DATABASE}.tmp")
    for left in (new, path):
        for ending in ("-journal", "-wal", "-shm"):  # of a killed creation: they must not be taken for ours
            left.with_name(left.name + ending).unlink(missing_ok=True)
    new.unlink(missing_ok=True)
    os.close(as_its_folder(new, os.O_RDWR | os.O_CREAT))  # SQLite would not say why it cannot make a file
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        create_tables(connection, identity)
        begin_log(connection)
    publish_file(new, path)
    for folder in run_dir.parents:
        sync_folder(folder)


def _has_tables(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return check_version(connection, path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # a power cut may leave it empty
        return None


class Writer:
    """The only writer of a checkpoint; ``connection`` is for reading, and for writing inside of ``commit``."""

    def __init__(
        self, run_dir: Path, identity: Mapping[str, Any], *, power: bool, growth: Growth | None = None
    ) -> None:
        """Open the checkpoint, or make it; with ``power`` a commit is on the disk when it returns, else a second later.

        Raises UserError if it is damaged, of another version or identity, unless the run may get these rows by
        ``growth``.
        """
        create_if_new(run_dir, identity)
        log = run_dir / f"{DATABASE}-wal"
        os.close(as_its_folder(log, os.O_RDWR | os.O_CREAT))
        self._run_dir, self._path = run_dir, run_dir / DATABASE
        self.connection = connect(run_dir, power=power)
        try:
            check(self.connection, run_dir)
            self._held, self._syncer = Held(self._path, log, run_dir / LOCK), None
            self._take(identity, growth)
            stored = _stored_identity(self.connection)
            if _read_json(run_dir / IDENTITY) != stored:  # it is new, has grown, or a power cut left it empty
                write_json(run_dir / IDENTITY, stored)
            # Without such a log, as on some shares, every commit is synced.
            is_logged = self.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        except BaseException:
            self.connection.close()
            raise
        self._syncer = Syncer(log) if is_logged and not power else None

    def _take(self, identity: Mapping[str, Any], growth: Growth | None) -> None:
        """Raise UserError for another run, but let it have more rows."""
        old, hint = _stored_identity(self.connection), ""
        if growth is not None and old != identity:
            found = let_grow(self.connection, self._run_dir, old, identity, growth, self.commit)
            if found is None:
                return
            hint = found
        check_identity(self._run_dir, old, identity, hint)

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """A transaction, undone by any exception; errors of the disk become UserErrors."""
        try:
            if (lost := self._held.lost()) is not None:
                raise UserError(
                    f"{lost} was removed or replaced while the run was at work: nothing more can be recorded. "
                    "Put the folder back, or run the same command again to start over",
                    exit_code=EXIT_CANNOT_RUN,
                )
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                self.connection.rollback()
                raise
            if self._syncer is not None:
                self._syncer.wrote()
        except DISK_ERRORS as error:
            raise disk_error(self._run_dir, error) from error

    def close(self) -> None:
        """Put what was committed on the disk, if it takes it."""
        if self._syncer is not None:
            with contextlib.suppress(OSError):
                self._syncer.close()
        self.connection.close()


def connect(run_dir: Path, *, power: bool) -> sqlite3.Connection:
    """Open the checkpoint for its only writer; with ``power`` each commit is on the disk when it returns."""
    connection = sqlite3.connect(run_dir / DATABASE, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if power else 'NORMAL'}")
        connection.execute("PRAGMA fullfsync = 1")  # macOS: out of the disk's cache, too
        connection.execute("PRAGMA checkpoint_fullfsync = 1")
        connection.execute("PRAGMA cache_size = -65536")  # KiB
        connection.execute("PRAGMA wal_autocheckpoint = 16384")  # pages, many of which are changed often
        return connection
    except BaseException:
        connection.close()
        raise


def check(connection: sqlite3.Connection, run_dir: Path) -> None:
    """Raise UserError for a damaged checkpoint.

    Its structure is checked here (1.6 s for a million rows of 500 bytes) and the small tables' checksums, those of
    answers and rows when they are read.
    """
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise suspected(run_dir, " ".join(found.split()))
    version = _version(connection)
    if version in _STEPS and _tables(connection) == _expected(version):
        steps = "".join(forward for step, (forward, _) in _STEPS.items() if step >= version)
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    if _tables(connection) != _expected():
        raise damaged(run_dir, "its tables are not those that were written")
    for table in _VERIFIED:
        for row in connection.execute(f"SELECT * FROM {table}"):
            checked(table, *row)


def create_tables(connection: sqlite3.Connection, identity: Mapping[str, Any]) -> None:
    """Fill an empty database."""
    connection.executescript(_SCHEMA)
    connection.execute("INSERT INTO run VALUES (?, ?)", with_crc(json.dumps(identity)))
    connection.execute("INSERT INTO digested VALUES (?, ?)", with_crc(0))
    connection.execute("COMMIT")


def begin_log(connection: sqlite3.Connection) -> None:
    """Let a database that is written, but has no name yet, have a log from now on.

    The change takes another journal. Later a power cut could leave that one, which only a writer can undo.
    """
    connection.execute("PRAGMA journal_mode = WAL")


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@cache
def _expected(version: int = SCHEMA_VERSION) -> list[tuple[str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        fresh.executescript(_SCHEMA)
        for step in sorted(_STEPS, reverse=True):
            if step >= version:
                fresh.executescript(_STEPS[step][1])
        return _tables(fresh)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def read_identity(connection: sqlite3.Connection) -> dict[str, Any]:
    """What decides the output of the run, as it is written today, whichever version wrote it. Raises DamagedError."""
    return completed(_stored_identity(connection))


def _stored_identity(connection: sqlite3.Connection) -> dict[str, Any]:
    row = connection.execute("SELECT * FROM run").fetchone()
    if row is None:
        raise DamagedError("the table run is empty")
    (identity,) = checked("run", *row)
    return dict(json.loads(identity))


def check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the checkpoint has its tables (False: the file is new). UserError if another version made it."""
    version = _version(connection)
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version not in (*_STEPS, SCHEMA_VERSION) and (version or tables):
        raise UserError(
            f"{path} has checkpoint version {version}, but this rowmill reads version {SCHEMA_VERSION}: use another "
            f"run_name or, if this rowmill wrote it, `rowmill repair {path.parent}`"
        )
    return bool(version)


def check_is_run(run_dir: Path) -> None:
    """Raise UserError for a folder without a checkpoint, and for one that may not be read."""
    with disk_errors(run_dir, "read"):
        if (run_dir / DATABASE).is_file():
            return
        if (run_dir / IDENTITY).is_file():
            raise damaged(run_dir, "it is missing")
    raise UserError(f"{run_dir} is not a run directory: it has no {DATABASE}")


@contextlib.contextmanager
def open_reader(run_dir: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads one consistent state of a run's checkpoint, whether or not the run is at work.

    Damage and read errors anywhere in the ``with`` block become a UserError.
    """
    with disk_errors(run_dir, "read"), open_read_only(run_dir, live=holder(run_dir) is not None) as connection:
        yield connection


@contextlib.contextmanager
def open_read_only(run_dir: Path, *, live: bool) -> Iterator[sqlite3.Connection]:
    """A connection that reads one consistent state of the checkpoint; ``live`` says that a run may be writing to it."""
    check_is_run(run_dir)
    path = run_dir / DATABASE
    wal = path.with_name(path.name + "-wal")
    # Without a log the file is complete in itself; ``immutable`` then works in folders that cannot be written to.
    mode = "mode=ro" if live or wal.exists() else "immutable=1"
    if not live and path.with_name(path.name + "-journal").exists():
        mode = "mode=rw"  # where there are no logs: what was cut off has to be undone before it can be read
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("BEGIN")
        if not check_version(connection, path):
            if (run_dir / IDENTITY).exists():
                raise damaged(run_dir, "it is empty")
            raise UserError(f"{path} is empty: the run never started")
        expected = {name for name, _ in _expected(_version(connection))}
        if missing := expected - {name for name, _ in _tables(connection)}:
            raise damaged(run_dir, f"it has no table {min(missing)}")
        yield connection
