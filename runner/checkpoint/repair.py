"""A damaged checkpoint rebuilt from whatever is intact: the shards, and the readable parts of the old one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from runner.checkpoint.database import DATABASE, IDENTITY, begin_log, check, check_version, create_tables, read_identity
from runner.checkpoint.identity import column_list
from runner.checkpoint.lease import Lease
from runner.checkpoint.records import Record, Rejected, Shard, Staged, checked, error_kind
from runner.checkpoint.shards.layout import shard_file
from runner.disk import publish_file
from runner.disk.errors import DamagedError, disk_errors
from runner.types import UserError
from runner.words import count_of

_LONGER = ("completions", "progress")  # tables that have one column more than in the version before
_LEAP = 1 << 20  # the longest gap of row numbers that is jumped over behind a damaged page


class Repaired(NamedTuple):
    """What was kept: ``shards`` with ``rows``, ``answers`` and other ``finished`` rows; ``lost`` says what was not.

    ``aside``: where the damaged checkpoint is now; None if it was whole, and stays.
    """

    shards: int
    rows: int
    answers: int
    finished: int
    lost: list[str]
    aside: Path | None


def repair(run_dir: Path) -> Repaired:
    """Put the checkpoint aside and write a new one. Deletes nothing. Raises UserError if too little is left."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir() or not any((run_dir / name).exists() for name in (DATABASE, IDENTITY)):
        raise UserError(f"{run_dir} is not a run directory: it has neither {DATABASE} nor {IDENTITY}")
    with disk_errors(run_dir):
        lease = Lease(run_dir)
        try:
            return _repair(run_dir)
        finally:
            lease.release()


def _repair(run_dir: Path) -> Repaired:
    """The new checkpoint gets its name when it is complete; an interrupted repair starts over."""
    old_path = _damaged(run_dir)
    new_path = run_dir / f"{DATABASE}.tmp"
    new_path.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(old_path, isolation_level=None)) as old,
        contextlib.closing(sqlite3.connect(new_path, isolation_level=None)) as new,
    ):
        identity = _identity(run_dir, old)
        lost: list[str] = []
        create_tables(new, identity)
        new.execute("BEGIN")
        shards = list(_sound_shards(run_dir, identity, _hashes(old), lost))
        new.executemany(f"INSERT INTO shards VALUES ({', '.join('?' * 11)})", (shard.values() for shard in shards))
        sealed, size = {shard.shard for shard in shards}, identity["shard_rows"]
        answers = _copy(old, new, "completions", lost, Record.of)
        finished = _copy(old, new, "staged", lost, Staged.of, lambda row: row[0] // size not in sealed)
        _copy(old, new, "prelude", lost, partial(checked, "prelude"))
        _copy(old, new, "rejected", lost, Rejected.of, gaps=False)
        _copy(old, new, "sessions", lost, lambda *row: json.loads(row[3] or "{}"))
        _copy(old, new, "progress", lost, lambda *row: [0.0 + value for value in row[:12] if value is not None])
        _copy(old, new, "seats", lost, lambda *row: json.loads(row[3] or "{}"))
        _copy(old, new, "inputs", lost, partial(checked, "inputs"))
        _copy(old, new, "deaths", lost, partial(checked, "deaths"))
        new.execute("COMMIT")
        begin_log(new)
        is_whole = not lost and old_path == run_dir / DATABASE and _is_whole(old, run_dir)
    if is_whole:
        new_path.unlink()
        aside = None
    else:
        aside = _put_aside(run_dir)
        publish_file(new_path, run_dir / DATABASE)
    return Repaired(len(shards), sum(shard.rows for shard in shards), answers, finished, lost, aside)


def _is_whole(old: sqlite3.Connection, run_dir: Path) -> bool:
    """Whether a run goes on with the checkpoint as it is."""
    try:
        if not check_version(old, run_dir / DATABASE):
            return False
        check(old, run_dir)
    except (UserError, DamagedError, sqlite3.Error, UnicodeDecodeError):
        return False
    return True


def _damaged(run_dir: Path) -> Path:
    """The checkpoint, or where an interrupted repair has put it."""
    asides = sorted(run_dir.glob(f"{DATABASE}.damaged-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))
    path = run_dir / DATABASE
    return path if path.exists() or not asides else asides[-1]


def _identity(run_dir: Path, old: sqlite3.Connection) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((run_dir / IDENTITY).read_text(encoding="utf-8")))
    with contextlib.suppress(sqlite3.Error, DamagedError, TypeError, ValueError):
        return read_identity(old)
    raise UserError(f"neither {run_dir / IDENTITY} nor {DATABASE} identifies this run: use another run_name")


def _put_aside(run_dir: Path) -> Path:
    number = 1
    while (aside := run_dir / f"{DATABASE}.damaged-{number}").exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            (run_dir / f"{DATABASE}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _hashes(old: sqlite3.Connection) -> dict[str, str]:
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        return dict(old.execute("SELECT file, sha256 FROM shards"))
    return {}


def _sound_shards(run_dir: Path, identity: dict[str, Any], hashes: dict[str, str], lost: list[str]) -> Iterator[Shard]:
    """A line of the table ``shards`` for each file that holds what it should; the others are put aside, too."""
    rows, size = identity["rows"], identity["shard_rows"]
    for shard in range(max(1, -(-rows // size))):
        path = run_dir / shard_file(shard)
        if not path.is_file():
            continue
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        full = min(size, rows - shard * size)
        # A run out of attempts ends with fewer rows than asked for.
        least = 1 if hashes.get(path.name) == sha256 else full
        table = _table(data, identity["columns"], range(least, full + 1))
        if table is None or hashes.get(path.name, sha256) != sha256:
            lost.append(f"{path.name} is damaged: its rows will be rebuilt")
            path.rename(path.with_name(f"{path.name}.damaged"))
            continue
        yield Shard(shard, table.num_rows, path.name, len(data), sha256, *_sums(table))


def _table(data: bytes, columns: list[str], rows: range) -> pa.Table | None:
    try:
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError):
        return None
    return table if column_list(table.schema) == columns and table.num_rows in rows else None


def _sums(table: pa.Table) -> tuple[Any, ...]:
    usage = table.column("usage").to_pylist()
    tokens = [sum(one[name] for one in usage) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
    kinds = Counter(error_kind(error) for error in table.column("error").to_pylist() if error is not None)
    labels = Counter(map(str, table.column("label").drop_null().to_pylist())) if "label" in table.schema.names else {}
    return *tokens, json.dumps(kinds, ensure_ascii=False), json.dumps(labels, ensure_ascii=False)


def _copy(
    old: sqlite3.Connection,
    new: sqlite3.Connection,
    table: str,
    lost: list[str],
    check: Callable[..., Any] = lambda *row: row,
    wanted: Callable[[Any], bool] = lambda row: True,
    gaps: bool = True,
) -> int:
    """Copy a table's rows that can be read and pass ``check``; how many. Without ``gaps`` up to the first damage."""
    kept = damaged = 0
    width = len(new.execute(f"PRAGMA table_info({table})").fetchall())
    for row in _readable(old, table, _LEAP if gaps else 1):
        row += (None,) * (table in _LONGER and len(row) == width - 1)
        try:
            if len(row) != width:
                raise DamagedError(f"the table {table} lacks columns")
            check(*row)
            if wanted(row):
                new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
                kept += 1
        except (DamagedError, sqlite3.IntegrityError, TypeError, ValueError):
            damaged += 1
            if not gaps:
                break
    if damaged:
        lost.append(f"{count_of(damaged, 'damaged row')} of the table {table}")
    return kept


def _readable(old: sqlite3.Connection, table: str, most: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a table by rowid; behind a page that cannot be read it goes on at the next one that can, if that is
    no more than ``most`` rows away.
    """
    last, leap = -1, 1
    while leap <= most:
        try:
            rows = old.execute(f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid", (last,))
            for rowid, *row in rows:
                last, leap = rowid, 1
                yield tuple(row)
            return
        except (sqlite3.Error, UnicodeDecodeError):
            last, leap = last + leap, leap * 2
