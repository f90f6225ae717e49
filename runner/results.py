"""A run directory from Python: how far it is, what it was, its rows, its errors.

``OUTPUT_DIR/RUN_NAME`` is a data set for ``datasets.load_from_disk``, in the order of the input:

    ``data-*.arrow``: The rows, with ``state.json`` and ``dataset_info.json``.
    ``run.db``: The checkpoint, an SQLite database.
    ``config.yaml``: The configuration of the run.
    ``run.log``: What happened, with whole tracebacks.
    ``report.html``: One page to read offline, written when all rows are finished, or by ``rowmill report``.

Every row has these columns beside those of its job (see ``rowmill help jobs``):

    ``input columns``: Those in ``output.keep``; by default all whose names do not collide with another column.
    ``gold``: The column ``dataset.gold``, where its own name would collide.
    ``reasoning``: With ``output.reasoning=true``: what the model thought before it answered.
    ``error``: Why this row has no result; null for all others.
    ``usage``: ``prompt_tokens``, ``cached_tokens`` (those of them that came from a computed prefix),
        ``completion_tokens``, ``finish_reason``, ``retries`` (requests asked again) and ``seed`` (of the row's first
        draws; null if there were none).

Exit codes of ``rowmill run``:

    ``0``: All rows finished without an error.
    ``1``: Finished, but some rows have an ``error``, or fewer rows than asked for were accepted.
    ``2``: The configuration or the input is wrong, or the folder belongs to another run; nothing was computed.
    ``3``: This model or this machine cannot run it.
    ``130``: Interrupted; the same command continues.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from runner.database import DATABASE, open_read_only, read_identity
from runner.disk import disk_errors
from runner.lease import holder
from runner.records import Staged
from runner.shards import OURS, Layout, batches, shard_schema
from runner.shards import table as staged_table
from runner.spool import COPY, STDIN
from runner.status import read_sessions, read_status
from runner.types import UserError

if TYPE_CHECKING:
    import datasets

    from runner.source import DataSource


class Piece(NamedTuple):
    """Some finished rows: ``table`` holds rows [``start``, ``start`` + its length)."""

    start: int
    table: pa.Table


@dataclass
class Run:
    """A run directory, running, interrupted or finished; see ``runner.open_run``. ``data``: where its input lies now.

    Raises UserError if there is no run.
    """

    path: Path
    data: str | None = None

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        if not (self.path / DATABASE).is_file():
            raise UserError(f"{self.path} is no run directory: it has no {DATABASE}")

    @property
    def status(self) -> dict[str, Any]:
        """How far it is by now: the figures of ``rowmill status --json``."""
        return read_status(self.path)

    @cached_property
    def begun(self) -> float:
        """When the first session began, in Unix time."""
        return float(self.status["started"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that it was begun with, as plain values."""
        import yaml

        file = self.path / "config.yaml"
        if not file.is_file():
            raise UserError(f"{self.path} has no config.yaml: the run did not get as far as starting")
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))

    @property
    def dataset(self) -> datasets.Dataset:
        """The output in the order of the input: all rows of a finished run, those of whole shards before."""
        import datasets

        if not (self.path / "state.json").is_file():
            raise UserError(f"{self.path} has no finished shard yet; `rows()` gives the rows that are finished")
        return datasets.load_from_disk(str(self.path))

    @property
    def errors(self) -> list[dict[str, Any]]:
        """``row`` and ``error`` of the finished rows that failed."""
        found = []
        for start, table in self.pieces(["error"]):
            failed = pc.indices_nonzero(table["error"].is_valid()).to_pylist()
            found += [{"row": start + at, "error": table["error"][at].as_py()} for at in failed]
        return found

    @cached_property
    def source(self) -> DataSource:
        """The rows that went in, from where they lay. UserError if they have changed or are gone."""
        from runner.dataset_conf import DatasetConf
        from runner.source import open_source

        recorded = self.identity["dataset"]
        conf = DatasetConf.of(self.config["dataset"])
        if self.data is not None or (conf.path == STDIN and not conf.target):
            conf = conf.changed(path=self.data or str(self.path / COPY))
        source = open_source(conf, folders=self._reader_folders(), modules=self.config.get("modules", ()))
        if source.fingerprint != recorded["fingerprint"]:
            raise UserError(f"{conf.shown} holds other rows than {self.path} was made from")
        return source

    def _reader_folders(self) -> list[str]:
        """Where a reader of the user's own may lie: this folder and the ``--config-dir`` of the run inside it."""
        with self._checkpoint() as connection:
            recorded = [session["provenance"].get("config_dir") for session in read_sessions(connection)]
        here, own = Path.cwd(), self.path.resolve()
        found = [Path(folder).resolve() for folder in recorded[-1:] if folder]
        return [str(here), *(str(one) for one in found if one.is_relative_to(here) and own not in (one, *one.parents))]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decided what came out."""
        with self._checkpoint() as connection:
            return read_identity(connection)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The finished rows in the order of the input, as dicts; ``row`` is their position in it."""
        for start, table in self.pieces():
            for number, row in enumerate(table.to_pylist(), start):
                yield {"row": number, **row}

    def pieces(self, columns: list[str] | None = None) -> Iterator[Piece]:
        """The finished rows in the order of the input, some at a time: whole shards, and what is done of others."""
        with self._checkpoint() as connection:
            files = dict(connection.execute("SELECT shard, file FROM shards"))
            size = self.identity["shard_rows"]
            begun = [shard for (shard,) in connection.execute(f"SELECT DISTINCT row / {size} FROM staged")]
            layout = self._layout(connection, next(iter(files.values()), None)) if begun else None
            for shard in sorted({*files, *begun}):
                if layout is None or shard in files:
                    found = [Piece(shard * size, _read(self.path / files[shard]))]
                else:
                    found = [
                        Piece(rows[0].row, staged_table(rows, layout)) for rows in _staged(connection, shard, size)
                    ]
                for start, table in found:
                    yield Piece(start, table.select(columns) if columns else table)

    def _checkpoint(self) -> Any:
        live = holder(self.path) is not None
        with disk_errors(self.path):
            return open_read_only(self.path, live=live)

    def _layout(self, connection: sqlite3.Connection, sealed: str | None) -> Layout:
        """How staged rows become a table: as in a sealed shard or, before there is one, by what the rows hold."""
        identity = self.identity
        keep = pa.schema([self.source.schema.field(name) for name in identity["keep"]] if identity["keep"] else [])
        names = [column.partition(": ")[0] for column in identity["columns"]][len(keep) : -len(OURS)]
        columns = _read(self.path / sealed).schema if sealed else _inferred(connection, names)
        job = pa.schema([columns.field(name) for name in names])

        def kept(start: int, stop: int) -> pa.Table:
            return self.source.table(start, stop, keep.names)

        return Layout(identity["rows"], identity["shard_rows"], job, keep, kept, shard_schema(keep, job), False)


def _inferred(connection: sqlite3.Connection, names: list[str]) -> pa.Schema:
    from runner.jsonfile import infer, merge

    types = dict.fromkeys(names, pa.null())
    for rows in batches(map(Staged._make, connection.execute(f"SELECT {', '.join(Staged._fields)} FROM staged"))):
        bodies = [json.loads(row.body) for row in rows]
        types = {name: merge(kind, infer([body.get(name) for body in bodies])) for name, kind in types.items()}
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])


def _staged(connection: sqlite3.Connection, shard: int, size: int) -> Iterator[list[Staged]]:
    """The staged rows of a shard in groups without gaps, none of them large."""
    query = f"SELECT {', '.join(Staged._fields)} FROM staged WHERE row >= ? AND row < ? ORDER BY row"
    rows = map(Staged._make, connection.execute(query, (shard * size, (shard + 1) * size)))
    for _, group in groupby(enumerate(rows), lambda pair: pair[1].row - pair[0]):
        yield from batches(row for _, row in group)


def _read(file: Path) -> pa.Table:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{file} cannot be read ({error}): `rowmill run` with the run's command makes it again"
        ) from error
