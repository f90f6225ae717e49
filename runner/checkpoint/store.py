"""The checkpoint (SQLite) and the output (Arrow shards) of a run, and the only writer of both.

``run.db`` is the only truth. A *completion* is committed before anyone acts on it and kept for the whole run: resume
replays it, equal requests reuse it, a lost shard is made again from it. A *finished* row is held until the last row of
its shard is finished, and staged if that takes long; the shard is then sealed: written, synced, renamed, recorded, in
this order, so that a kill between any two leaves nothing or an orphan, which the next ``open`` removes. ``state.json``
and ``dataset_info.json`` follow from the ``shards`` table and are rewritten after each seal, of a great many shards
when 1% more are sealed: ``datasets.load_from_disk`` reads them, in row order, while the run goes on, and all rows when
it has ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from runner.checkpoint import records
from runner.checkpoint.counts import Tally, Totals, read_totals
from runner.checkpoint.database import Writer
from runner.checkpoint.deaths import Death, Flight, end_session, note_death, read_deaths
from runner.checkpoint.digests import Digests
from runner.checkpoint.growth import extend, inputs
from runner.checkpoint.identity import column_list
from runner.checkpoint.lease import Lease
from runner.checkpoint.marks import Marks
from runner.checkpoint.records import Output, Record, Rejected, Rejections, conditions
from runner.checkpoint.seats import Seats
from runner.checkpoint.shards import columns as shards
from runner.checkpoint.shards.layout import ShardLayout, shard_file, shard_schema
from runner.checkpoint.shards.unsealed import Unsealed
from runner.disk import damage, write_dataset, write_stream, write_text
from runner.disk.errors import DISK_ERRORS, disk_error, disk_errors
from runner.sequences import Gauge
from runner.types import UserError

log = logging.getLogger("rowmill")
T = TypeVar("T")

_ORPHAN = re.compile(
    r"data-\d{5,}\.arrow(\.tmp)?|((state|dataset_info|identity)\.json|config\.yaml|run\.db|stdin)\.tmp(-journal)?"
)
_SPAN = "WHERE row >= ? AND row < ?"


class Store:
    """An open run directory, leased until ``close``. For one thread.

    Any method may raise UserError with exit code 3 when the disk is full or fails; the directory is then as the last
    commit left it, and the next ``open`` resumes. ``run.db`` grows by about 0.2 kB for each label and by the text
    for each free completion, for completions are never deleted.
    """

    def __init__(self, run_dir: Path, layout: ShardLayout, lease: Lease, writer: Writer, hold_s: float = 0.0) -> None:
        """Use ``open``."""
        self.run_dir = run_dir
        self._layout, self._lease, self._writer = layout, lease, writer
        self._connection = writer.connection
        self._finished: Counter[int] = Counter()  # rows of each shard not yet sealed
        self._unsealed = Unsealed(writer, layout.shard_rows, hold_s)  # those of this session
        self._sealed: set[int] = set()
        self._published = 0  # sealed shards that state.json lists
        self._totals = self._first = Totals()  # now, and when the session began
        self._session = 0

    @classmethod
    def open(
        cls,
        run_dir: Path,
        identity: Mapping[str, Any],
        *,
        rows: int,
        shard_rows: int,
        schema: pa.Schema,
        keep: pa.Schema,
        kept: Callable[[int, int], pa.Table],
        durability: str = "process",
        provenance: Mapping[str, Any] | None = None,
        config: str | None = None,
        death: Death | None = None,
        shared: bool = False,
        retry: bool = False,
        growth: extend.Growth | None = None,
        hold_s: float = 0.0,
    ) -> Store:
        """Create the run directory, or resume it if it holds the same run.

        ``identity`` (nested, JSON) is all that decides the output; together with ``rows``, ``shard_rows`` and the
        columns it must equal what the directory was created with. ``provenance`` (versions, machine) is noted for
        each session, ``config`` (YAML) goes into ``config.yaml``. ``schema`` has the job's columns, ``keep`` the kept
        input columns, which ``kept(start, stop)`` reads again when rows [start, stop) are sealed. ``durability``: see
        ``CheckpointConf``. ``death``: how a supervisor saw the last session end. Unless ``shared``, nobody else may
        look into a new directory. With ``retry`` rows in error become unfinished. ``growth``: how it may get more rows.
        ``hold_s``: how long a finished row may wait in memory, which a kill lets be finished again from its answers.

        Raises UserError: column names clash; another process (named) has the lease; the directory belongs to another
        run (with each difference); the checkpoint is damaged, of another version, or not writable.
        """
        columns = shard_schema(keep, schema)
        layout = ShardLayout(rows, shard_rows, schema, keep, kept, columns, growth.recorded if growth else None)
        whole = {**identity, "rows": rows, "shard_rows": shard_rows, "columns": column_list(columns)}
        with disk_errors(run_dir), contextlib.ExitStack() as undo:
            run_dir.mkdir(0o777 if shared else 0o700, parents=True, exist_ok=True)
            lease = Lease(run_dir)
            undo.callback(lease.release)
            writer = Writer(run_dir, json.loads(json.dumps(whole)), power=durability == "power", growth=growth)
            undo.callback(writer.close)
            store = cls(run_dir, layout, lease, writer, hold_s)
            if retry:
                with writer.commit():
                    records.unfinish_errors(writer.connection)
            store._resume(provenance or {}, death)
            undo.callback(store.flight.close)
            if config is not None:
                write_text(run_dir / "config.yaml", config)
            undo.pop_all()
        return store

    def start(self, gauge: Callable[[], Gauge] | None = None) -> None:
        """Restart the session's clock: call it when the model is loaded, so that rows/s leaves loading out.

        ``gauge`` is asked for the engine's memory and slots at each mark of progress.
        """
        pa.array([0])  # the first one loads pandas where it is installed: half a second that is not the run's
        self._marks.start(gauge)

    def leave_out(self, seconds: float) -> None:
        """Take a pause of so many seconds off the session's clock."""
        self._marks.leave_out(seconds)

    def active_s(self) -> float:
        """For how many seconds this session and those before it have been at work."""
        return self._marks.active_s()

    def record(
        self, completions: Iterable[Record] = (), finished: Iterable[Output] = (), rejected: Sequence[Rejected] = ()
    ) -> None:
        """Commit completions, hold or stage rows finished earlier, and seal the shards that are now complete.

        Completions and ``rejected``, attempts that became no rows, are on disk when this returns; rows within
        ``hold_s``, if it is called. A row's last completion may be in the same call as its output. Values that do not
        fit their column's type, or columns that the job did not name, make the row an error row; lone surrogates
        become U+FFFD in outputs (completions keep them, for replay). Raises sqlite3.IntegrityError if a (row, number)
        or a row is committed twice, ValueError for a row out of range; then nothing is committed.
        """
        answers = records.completion_rows([*completions])
        rows = shards.fitting(self._checked(finished), self._layout)
        totals = self._totals.plus(rows).plus_tokens(one.output.usage for one in rejected)
        is_due = self._unsealed.is_due(rows)
        if not (answers or rows or rejected or is_due):
            return
        with self._writer.commit():
            if answers:
                self._connection.executemany("INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?)", answers)
                self._digests.follow(answers)
            if is_due:
                self._unsealed.stage(rows)
            if rejected:
                records.insert_rejected(self._connection, rejected)
            self._marks.finish(rows)
            self._marks.note(totals[:5], len(self._sealed))
        self._totals = totals
        self._finished.update(touched := self._unsealed.add(rows, are_staged=is_due))
        self._seal_complete(touched)

    def finish(self, outputs: Iterable[Output]) -> None:
        """Commit finished rows and seal the shards that they complete; ``record`` without completions."""
        self.record((), outputs)

    def end_at(self, rows: int) -> None:
        """There will be no more than these first rows, all of them finished: seal their last shard."""
        self._layout = dataclasses.replace(self._layout, rows=rows)
        self._seal_complete([*self._finished, 0])

    def rejections(self) -> Rejections:
        """How many attempts were rejected so far, and which was the last."""
        return Rejections(*self._select("SELECT count(*), coalesce(max(attempt), -1) FROM rejected")[0])

    def recorded(self, rows: Iterable[int]) -> dict[int, dict[int, Record]]:
        """The committed completions of these rows (a ``range`` of step 1 is fastest): row -> number -> record."""
        found: dict[int, dict[int, Record]] = {}
        for where, values in conditions("row", rows):
            query = f"SELECT * FROM completions WHERE {where} ORDER BY row, number"
            for record in self._select(query, values, Record.of):
                found.setdefault(record.row, {})[record.number] = record
        return found

    def forget(self, keys: Iterable[tuple[int, int]]) -> None:
        """Remove completions (row, number) of unfinished rows, whose requests are others now or that failed."""
        with self._writer.commit():
            self._connection.executemany("DELETE FROM completions WHERE row = ? AND number = ?", keys)
            self._digests.forgot()

    def lookup(self, digests: Iterable[bytes]) -> dict[bytes, Record]:
        """The committed answers to requests with these digests, but no failed ones; free ones where no row has any."""
        wanted = set(digests)
        keys = self._guarded(self._digests.find, wanted)
        one = "SELECT * FROM completions WHERE row = ? AND number = ?"
        found = (record for key in sorted(keys) for record in self._select(one, key, Record.of))
        return {record.digest: record for record in found if record.digest in wanted}

    def prelude(self) -> dict[str, Any] | None:
        """What the job found before the first row; None if that is still to do."""
        return self._guarded(records.read_prelude, self._connection)

    def record_prelude(self, found: Mapping[str, Any]) -> None:
        """Commit what the job found before the first row (JSON values)."""
        with self._writer.commit():
            records.insert_prelude(self._connection, found)

    def unfinished(self) -> Iterator[range]:
        """The rows still to do, as ascending ranges; a shard is looked at only when its first row is asked for."""
        for shard in range(len(self._layout)):
            if shard in self._sealed:
                continue
            position, stop = self._layout.span(shard)
            staged = self._select(f"SELECT row FROM staged {_SPAN}", (position, stop))
            for row in sorted({row for (row,) in staged} | {*self._unsealed.within(shard)}):
                if position < row:
                    yield range(position, row)
                position = row + 1
            if position < stop:
                yield range(position, stop)

    def totals(self) -> Totals:
        """Sums over the finished rows; costs nothing."""
        return self._totals._replace(shards=len(self._sealed))

    def note(self, facts: Mapping[str, Any]) -> None:
        """Keep these facts of the session (JSON values) with its provenance; null takes one away."""
        change = "UPDATE sessions SET provenance = json_patch(provenance, ?) WHERE session = ?"
        self._select(change, (json.dumps(facts), self._session))

    def close(self, why: str = "closed") -> None:
        """End the session, saying ``why`` (finished, interrupted...), and give the lease back; may be repeated."""
        if self._lease.held:
            with contextlib.suppress(OSError, UserError):
                with self._writer.commit():
                    self._unsealed.stage()
                    if self._totals != self._first:  # time in which nothing was done does not count
                        self._marks.note(self._totals[:5], len(self._sealed), last=True)
                    end_session(self._connection, self._session, why)
                self._publish(synced=True)  # behind the commit, which looks whether the directory is still ours
            self._writer.close()
            self.flight.close()
            self._lease.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("closed" if kind is None else "interrupted" if kind is KeyboardInterrupt else kind.__name__)

    def _select(
        self, query: str, values: Iterable[Any] = (), read: Callable[..., Any] = lambda *columns: columns
    ) -> list[Any]:
        return self._guarded(lambda: [read(*row) for row in self._connection.execute(query, tuple(values))])

    def _guarded(self, work: Callable[..., T], *given: Any) -> T:
        """What ``work`` returns; an error of the disk as a UserError."""
        try:
            return work(*given)
        except DISK_ERRORS as error:
            raise disk_error(self.run_dir, error) from error

    def _resume(self, provenance: Mapping[str, Any], death: Death | None) -> None:
        self.died = note_death(self._connection, self.run_dir, death)
        self.deaths = read_deaths(self._connection)
        self._forget_damaged_shards()
        self._sealed = {shard for (shard,) in self._select("SELECT shard FROM shards")}
        self._remove_orphans()
        self._finished.update(
            dict(self._select(f"SELECT row / {self._layout.shard_rows}, count(*) FROM staged GROUP BY 1"))
        )
        session = (time.time(), os.getpid(), json.dumps(provenance, default=str))
        query = "INSERT INTO sessions (started, pid, provenance) VALUES (?, ?, ?)"
        self._session = int(self._connection.execute(query, session).lastrowid or 0)
        self._marks = Marks(self._connection, self._session, self._layout.shown)
        with self._writer.commit():
            self._digests = Digests(self._connection)
        self.flight = Flight(self.run_dir, self._session)
        self.seats = Seats(self._writer, self._session, self.deaths)
        self._publish()
        self._seal_complete([*self._finished, 0])
        self._totals = self._first = read_totals(self._connection)[0]

    def _forget_damaged_shards(self) -> None:
        for shard, name, size, sha256 in self._select("SELECT shard, file, bytes, sha256 FROM shards"):
            if problem := damage(self.run_dir / name, size, sha256):
                log.warning("%s: its rows will be rebuilt, from recorded completions where there are any", problem)
                with self._writer.commit():
                    self._connection.execute("DELETE FROM shards WHERE shard = ?", (shard,))

    def _remove_orphans(self) -> None:
        recorded = {shard_file(shard) for shard in self._sealed}
        for path in self.run_dir.iterdir():
            if _ORPHAN.fullmatch(path.name) and path.name not in recorded:
                log.info("removing %s, which does not hold all of its rows: their answers are kept in run.db", path)
                path.unlink()

    def _checked(self, outputs: Iterable[Output]) -> list[Output]:
        for output in (outputs := list(outputs)):
            if not 0 <= output.row < self._layout.rows:
                raise ValueError(f"row {output.row} is not in [0, {self._layout.rows})")
            if output.row // self._layout.shard_rows in self._sealed:
                raise sqlite3.IntegrityError(f"row {output.row} is finished already: its shard is sealed")
        self._unsealed.check(output.row for output in outputs)
        return outputs

    def _seal_complete(self, candidates: Iterable[int]) -> None:
        for shard in sorted(set(candidates)):
            span = self._layout.span(shard)
            if shard not in self._sealed and self._finished[shard] == span[1] - span[0]:
                self._guarded(self._seal, shard, span)

    def _seal(self, shard: int, span: tuple[int, int]) -> None:
        layout, name, tally = self._layout, shard_file(shard), Tally()
        tables = (shards.table(rows, layout) for rows in tally.counting(self._unsealed.rows_of(shard, span)))
        written = write_stream(self.run_dir / name, layout.columns, tables)
        with self._writer.commit():
            values = tally.shard(shard, name, written, labelled="label" in layout.job.names).values()
            self._connection.execute(f"INSERT INTO shards VALUES ({', '.join('?' * len(values))})", values)
            self._connection.execute(f"DELETE FROM staged {_SPAN}", span)
            inputs.record(self._connection, layout.inputs, shard, span)
        self._unsealed.forget(shard)
        self._sealed.add(shard)
        del self._finished[shard]
        # The list of shards grows by 1% between two writings, so that they take time in proportion to its length.
        if len(self._sealed) == len(layout) or len(self._sealed) >= 1.01 * self._published:
            self._publish()

    def _publish(self, *, synced: bool = False) -> None:
        files = self._select("SELECT file, sha256 FROM shards ORDER BY shard")
        if files:
            write_dataset(self.run_dir, files, synced=synced)
        else:
            (self.run_dir / "state.json").unlink(missing_ok=True)
        self._published = len(files)
