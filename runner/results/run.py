"""A run directory from Python: how far it is, what it was, its rows, its errors.

``OUTPUT_DIR/RUN_NAME`` is a data set for ``datasets.load_from_disk``, in the order of the input:

    ``data-*.arrow``: The rows, with ``state.json`` and ``dataset_info.json``.
    ``run.db``: The checkpoint, an SQLite database.
    ``config.yaml``: The configuration of the run.
    ``run.log``: What happened, with whole tracebacks.
    ``figures.json``: The figures that it ended with, as ``rowmill run --json`` prints them.
    ``report.html``: One page to read offline, written when all rows are finished, or by ``rowmill report``.

Every row has these columns beside those of its job (see ``rowmill help jobs``):

    ``input columns``: Those in ``output.keep``; by default all. One whose name another column has is ``input_NAME``.
    ``gold``: The column ``dataset.gold``, where its own name would collide.
    ``reasoning``: With ``output.reasoning=true``: what the model thought before it answered.
    ``error``: Why this row has no result; null for all others.
    ``usage``: ``prompt_tokens``, ``cached_tokens`` (those of them that came from a computed prefix),
        ``completion_tokens``, ``finish_reason``, ``retries`` (requests asked again) and ``seed`` (of the row's first
        draws; null if there were none).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.checkpoint.counts import read_label_counts
from runner.checkpoint.database import check_is_run, open_reader, read_identity
from runner.checkpoint.identity import OutputColumns, output_columns, simple_type
from runner.checkpoint.marks import read_marks
from runner.checkpoint.records import Failure, Output, Shard, read_prelude, read_rejected, read_shards, read_staged
from runner.checkpoint.shards.columns import batches, staged_type
from runner.checkpoint.shards.columns import table as staged_table
from runner.checkpoint.shards.layout import ShardLayout, shard_schema
from runner.data.cells import records
from runner.data.conf import STDIN
from runner.data.kept import Kept, named, naming
from runner.data.stdin import COPY
from runner.disk import damage
from runner.disk.errors import machine_trouble
from runner.machine.environ import filled
from runner.results.status import Session, Status, read_sessions, read_status
from runner.types import UserError
from runner.words import first_line

if TYPE_CHECKING:
    import datasets

    from runner.data.source import DataSource

FIGURES, DATASET = "figures.json", "state.json"
UNREADABLE = (UserError, OSError, ValueError, TypeError, KeyError, ImportError, pa.ArrowException)  # of lost data


class RowBlock(NamedTuple):
    """Some finished rows: ``table`` holds rows [``start``, ``start`` + its length)."""

    start: int
    table: pa.Table

    @property
    def positions(self) -> np.ndarray:
        """The rows' positions in the input."""
        return np.arange(self.start, self.start + len(self.table))


@dataclass
class Run:
    """A run directory, running, interrupted or finished; see ``runner.open_run``. ``data``: where its input lies now.

    Every property and method raises UserError if the run is missing or damaged.
    """

    path: Path
    data: str | None = None
    _sound: set[Shard] = field(default_factory=set, init=False, repr=False)  # whose files were looked at

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        check_is_run(self.path)

    @property
    def status(self) -> Status:
        """How far it has come: the figures of ``rowmill status --json``."""
        return read_status(self.path)

    @cached_property
    def begun(self) -> float:
        """When the first session began, as a Unix time in seconds."""
        return self.status["started"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that it was started with, as plain values."""
        import yaml

        file = self.path / "config.yaml"
        if not file.is_file():
            raise UserError(f"{self.path} has no config.yaml: the run never started")
        try:
            return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({first_line(error)}): run the original command again") from error

    @property
    def figures(self) -> dict[str, Any] | None:
        """What ``rowmill run --json`` printed when all rows were finished; None before."""
        try:
            return dict(json.loads((self.path / FIGURES).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path / FIGURES} cannot be read ({first_line(error)}): delete it") from error

    @property
    def dataset(self) -> datasets.Dataset:
        """The output in the order of the input: all rows of a finished run, those of whole shards before."""
        import datasets

        if not self.status["shards"] or not (self.path / DATASET).is_file():
            raise UserError(f"{self.path} has no finished shard yet; `rows()` gives the rows that are finished")
        with open_reader(self.path) as connection:
            shards = list(read_shards(connection))
        for shard in shards:
            self._sealed(shard)  # UserError if it is damaged
        try:
            return datasets.load_from_disk(str(self.path))
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            problem = f"{self.path} cannot be read as a data set ({first_line(error)})"
            raise UserError(f"{problem}: run the original command again") from error

    @property
    def errors(self) -> list[dict[str, Any]]:
        """``row``, ``error`` and, if a kept column has one, ``name`` of the finished rows that failed."""
        found = sorted(self.failures(self.reopened, whole=True))
        return [{name: value for name, value in one._asdict().items() if value is not None} for one in found]

    def failures(
        self, source: Callable[[], DataSource | None] = lambda: None, *, whole: bool = False
    ) -> Iterator[Failure]:
        """The finished rows that failed: those of whole shards in order, then the others, named by what ``source`` has.

        A row's name is its first cell in the kept columns that ``runner.data.kept.NAMING`` lists. With ``whole`` damage
        to any row is a UserError.
        """
        kept = self.columns.kept
        names = naming(kept)
        where = "" if whole else "WHERE error NOTNULL"
        with open_reader(self.path) as connection:
            sealed = [shard for shard in read_shards(connection) if whole or shard.error_kinds != "{}"]
            staged = [(one.row, one.error) for one in read_staged(connection, where) if one.error is not None]
        for shard in sealed:
            table = self._sealed(shard)
            failed = pc.indices_nonzero(table["error"].is_valid())
            start = shard.shard * self.identity["shard_rows"]
            rows = [(start + at, table["error"][at].as_py()) for at in failed.to_pylist()]
            yield from _named(rows, table.select(names).take(failed) if names else None)
        data = source() if staged and names else None
        columns = [kept[name] for name in names]
        yield from _named(staged, data.take([row for row, _ in staged], columns) if data else None)

    def reopened(self) -> DataSource | None:
        """The input rows, None if they have changed or are gone."""
        with contextlib.suppress(*UNREADABLE):
            return self.source
        return None

    @cached_property
    def source(self) -> DataSource:
        """The input rows, read from their original place. UserError if they have changed or are gone."""
        from runner.data.conf import DatasetConf
        from runner.data.source import open_source

        recorded = self.identity["dataset"]
        conf = DatasetConf.of(filled(self.config["dataset"]))
        piped = not conf.target and (conf.path == STDIN or (self.path / COPY).is_file())
        if self.data is not None or piped:
            conf = conf.changed(path=self.data or str(self.path / COPY))
        source = open_source(conf, folders=self._reader_folders(), modules=self.config.get("modules", ()))
        if source.fingerprint != recorded["fingerprint"]:
            raise UserError(f"{conf.display_name} does not hold the rows that {self.path} was made from")
        return source

    def _reader_folders(self) -> list[str]:
        """Where a reader of the user's own may lie: this folder and the ``--config-dir`` of the run inside it."""
        recorded = [session["provenance"].get("config_dir") for session in self.sessions]
        here, own = Path.cwd(), self.path.resolve()
        found = [Path(folder).resolve() for folder in recorded[-1:] if folder]
        return [str(here), *(str(one) for one in found if one.is_relative_to(here) and own not in (one, *one.parents))]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determined the output."""
        with open_reader(self.path) as connection:
            return read_identity(connection)

    @property
    def columns(self) -> OutputColumns:
        """The output's columns: the kept ones and the job's."""
        return output_columns(self.identity)

    @property
    def is_row_by_row(self) -> bool:
        """Whether row i of the output was made from row i of the data set."""
        return not self.identity.get("made")

    @property
    def sessions(self) -> list[Session]:
        """Its sessions in order, with what is known of the machine and the versions of each."""
        with open_reader(self.path) as connection:
            return read_sessions(connection)

    @property
    def marks(self) -> list[dict[str, Any]]:
        """Its progress over time; see ``runner.checkpoint.marks.read_marks``."""
        with open_reader(self.path) as connection:
            return read_marks(connection)

    @property
    def label_counts(self) -> dict[str, int]:
        """How many finished rows have each label, the most frequent first; empty for jobs without labels."""
        with open_reader(self.path) as connection:
            return read_label_counts(connection)

    @property
    def latest(self) -> list[tuple[int, str | None, dict[str, Any]]]:
        """(row, error, columns with long texts cut) of the rows finished last, the newest first.

        The columns are the job's and, of the kept ones, the text to know the row by.
        """
        with open_reader(self.path) as connection:
            rows = connection.execute("SELECT row, error, body FROM latest ORDER BY rowid DESC")
            return [(row, error, json.loads(body)) for row, error, body in rows]

    @cached_property
    def prelude(self) -> dict[str, Any]:
        """What the job found before the first row; empty if there was nothing to find."""
        with open_reader(self.path) as connection:
            return read_prelude(connection) or {}

    def rejected(self) -> Iterator[dict[str, Any]]:
        """``attempt``, ``reason`` and the job's columns of each rejected attempt, in order."""
        with open_reader(self.path) as connection:
            for one in read_rejected(connection):
                yield {**one.output.columns, "attempt": one.attempt, "reason": one.reason}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The finished rows in the order of the input, as dicts; ``row`` is their position in it."""
        for start, table in self.blocks():
            for number, row in enumerate(records(table), start):
                yield {"row": number, **row}

    def take(self, positions: Iterable[int], columns: list[str] | None = None) -> dict[int, dict[str, Any]]:
        """These rows as dicts, by position; those that are not finished are left out."""
        wanted = np.unique(np.fromiter(positions, np.int64))
        found: dict[int, dict[str, Any]] = {}
        for start, table in self.blocks(columns):
            here = wanted[(wanted >= start) & (wanted < start + len(table))]
            found.update(zip(here.tolist(), records(table.take(here - start)), strict=True))
        return found

    def blocks(self, columns: list[str] | None = None) -> Iterator[RowBlock]:
        """The finished rows in the order of the input, some at a time: whole shards, and the finished parts of others.

        ``columns`` of the output, all by default. The data set is opened only if there are kept columns among them,
        and rows of shards that are not whole yet.
        """
        size = self.identity["shard_rows"]
        with open_reader(self.path) as connection:
            files = {shard.shard: shard for shard in read_shards(connection)}
            begun = [shard for (shard,) in connection.execute(f"SELECT DISTINCT row / {size} FROM staged")]
            layout = self._layout(connection, next(iter(files.values()), None), columns) if begun else None
            for number in sorted({*files, *begun}):
                if layout is None or number in files:
                    found = [RowBlock(number * size, self._sealed(files[number]))]
                else:
                    groups = _staged(connection, number, size)
                    found = [RowBlock(rows[0].row, staged_table(rows, layout)) for rows in groups]
                for start, table in found:
                    yield RowBlock(start, table if columns is None else table.select(columns))

    def _layout(self, connection: sqlite3.Connection, sealed: Shard | None, columns: list[str] | None) -> ShardLayout:
        """How staged rows become a table: as in a sealed shard or, before there is one, by what the rows hold."""
        kept, names = self.columns
        kept = {name: column for name, column in kept.items() if columns is None or name in columns}
        if sealed is not None:
            found = self._sealed(sealed).schema
            job = pa.schema([found.field(name) for name in names])
        else:
            job = _job_schema(connection, names)
        inputs = Kept(self.source, kept) if kept else None
        keep = inputs.schema() if inputs else pa.schema([])
        read = inputs.table if inputs else lambda start, stop: pa.table({})
        whole = shard_schema(keep, job)
        return ShardLayout(self.identity["rows"], self.identity["shard_rows"], job, keep, read, whole)

    def _sealed(self, shard: Shard) -> pa.Table:
        """A shard's rows; its file is compared with its checksum when it is read for the first time."""
        path = self.path / shard.file
        try:
            problem = None if shard in self._sound else damage(path, shard.bytes, shard.sha256)
            if problem is None:
                self._sound.add(shard)
                return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and (trouble := machine_trouble(error)) is not None:
                raise UserError(f"{path} cannot be read: {trouble}", exit_code=3) from error
            problem = str(error)
        raise UserError(f"{path} cannot be read ({problem}): run the original command again to rebuild it")


def _named(rows: list[tuple[int, str]], cells: pa.Table | None) -> Iterator[Failure]:
    """Rows with their errors and, in the columns of ``naming``, their names."""
    names = named(cells) if cells else [None] * len(rows)
    return (Failure(row, name, error) for (row, error), name in zip(rows, names, strict=True))


def _job_schema(connection: sqlite3.Connection, columns: dict[str, str]) -> pa.Schema:
    """The job's columns by their types' names and, where those are not enough, by the values of the staged rows."""
    from runner.data.columns import merge

    types = {name: simple_type(kind) for name, kind in columns.items()}
    unknown = dict.fromkeys((name for name, kind in types.items() if kind is None), pa.null())
    for rows in batches(read_staged(connection)) if unknown else ():
        bodies = [row.columns for row in rows]
        unknown = {name: merge(kind, staged_type(bodies, name, columns[name])) for name, kind in unknown.items()}
    types |= {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in unknown.items()}
    return pa.schema(list(types.items()))


def _staged(connection: sqlite3.Connection, shard: int, size: int) -> Iterator[list[Output]]:
    """The staged rows of a shard in groups without gaps, none of them large."""
    rows = read_staged(connection, "WHERE row >= ? AND row < ?", (shard * size, (shard + 1) * size))
    for _, group in groupby(enumerate(rows), lambda pair: pair[1].row - pair[0]):
        yield from batches(row for _, row in group)
