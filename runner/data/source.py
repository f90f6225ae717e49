"""Data sets in: files of many kinds, an Arrow folder, a database table or a hub data set become rows by position.

``dataset=NAME`` chooses the reader; ``dataset.path`` names one file, a pattern (``"data/*.jsonl.gz"``), or ``-`` for
the standard input, of which the run keeps a copy to resume from. Files may be compressed: gzip, zstd, bz2, lz4 or xz.
``where`` applies first, then ``shuffle_seed``, then ``limit``, so that a limited shuffled run is a random sample. A
run is tied to the contents of its data and to these keys, not to the path or the machine.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runner.data.cells import UnreadableCell, stored, values
from runner.data.columns import own_columns, own_value, with_composed_names
from runner.data.conf import DatasetConf, check_column
from runner.data.gold import gold_name, gold_values, names_of_classes
from runner.data.layout import check_layout, plain
from runner.data.load import FORMAT_VERSION, check_unchanged, hash_json
from runner.data.readers import READERS, Loaded
from runner.data.readers.check import check_conf
from runner.data.readers.raw.compressed import explained
from runner.data.rowhash import hash_keys, hash_rows
from runner.data.stdin import is_pipe, spooled
from runner.data.where import NoRowsError, parse_where, with_parts
from runner.types import Row, UnreadableRow, UserError
from runner.words import count_of, first_line

if TYPE_CHECKING:
    import datasets
    import numpy as np

log = logging.getLogger("rowmill")
_CELLS_PER_READ = 100_000
_BYTES_PER_READ = 16 << 20


def open_source(
    conf: DatasetConf,
    offline: bool = False,
    run_dir: Path | None = None,
    folders: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> DataSource:
    """Open the data set; UserError (before anything else is loaded) when it is missing, malformed or has no rows.

    ``offline``: what is not in a local cache counts as missing. ``run_dir``: where the rows of an earlier session's
    standard input lie, if nothing is piped in now. ``folders``, ``modules``: where a reader of the user's own may lie.
    """
    check_conf(conf)
    conf = conf.changed(classes=[str(name) for name in conf.classes])
    path, piped = str(conf.path), not conf.target and is_pipe(str(conf.path))
    if piped:
        path = str(spooled(run_dir, path))
    try:
        loaded = _loaded(conf, path, offline, folders, modules)
    except UserError as error:
        if not piped or error.file is None or not Path(path).is_relative_to(str(error.file)):
            raise
        raise error.of(conf.display_name) from None
    except Exception as error:  # a reader's library may raise anything for what is in a file
        log.debug("%s cannot be read", conf.display_name, exc_info=True)
        what = first_line(error) if isinstance(error, OSError | pa.ArrowException) else ""
        what = explained(what) or f"{type(error).__name__}: {first_line(error)}"
        raise UserError(_key(conf), f"{conf.display_name} cannot be read as {conf.kind}: {what}") from error
    if not loaded.table.num_columns:
        raise UserError(_key(conf), f"{conf.display_name} has no columns: empty data set")
    if not len(loaded.table):
        raise UserError(_key(conf), f"{conf.display_name} has no rows: empty data set")
    check_layout(loaded.table, conf.display_name)
    try:
        return DataSource(
            conf, replace(loaded, table=with_composed_names(plain(loaded.table))), Path(path) if piped else None
        )
    except pa.ArrowException as error:
        raise UserError(
            "dataset.where" if conf.where else _key(conf), f"{conf.display_name}: {first_line(error)}"
        ) from error


def _loaded(conf: DatasetConf, path: str, offline: bool, folders: Sequence[str], modules: Sequence[str]) -> Loaded:
    if not conf.target:
        return READERS[conf.kind].load()(conf, path, offline)
    from runner.data.readers.own import read_own

    return read_own(conf, list(folders) or [str(Path.cwd())], modules)


def _key(conf: DatasetConf) -> str:
    return "dataset._target_" if conf.target else "dataset.path"


class DataSource:
    """Rows of an Arrow table in a fixed order; implements ``runner.types.Source``.

    Memory: a large table is memory-mapped, the order takes 8 bytes a row if rows are chosen or shuffled, and reading
    holds one slice of at most about 16 MiB.
    """

    def __init__(self, conf: DatasetConf, loaded: Loaded, spool: Path | None = None) -> None:
        """Use ``open_source``. ``spool`` is the file that holds what was piped in, if it was.

        Reading raises UserError once a file that the table is mapped from has been written to.
        """
        table = loaded.table
        self.conf = conf
        self.spool = spool
        self._mapped, self._unreadable = loaded.mapped, loaded.unreadable
        self._all: pa.Schema = table.schema
        self._own = own_columns(table.schema)
        hidden = set(self._own.values())
        self.schema: pa.Schema = pa.schema([f for f in table.schema if f.name not in hidden], table.schema.metadata)
        self.column_names: list[str] = self.schema.names
        self.written = frozenset(self.column_names if not conf.target and READERS[conf.kind].written else ())
        self._total_rows = len(table)
        self._batches = [batch for batch in table.to_batches() if len(batch)]
        self._starts = [0, *accumulate(map(len, self._batches))][: len(self._batches)]
        self._read_rows = _rows_per_read(table)
        self._names_of = names_of_classes(table.schema)
        self._order = _choose(conf, table, loaded.order, self._names_of)
        self._chosen = self._total_rows if self._order is None else len(self._order)
        self._length = min(self._chosen, conf.limit or self._chosen)
        if not self._length:
            raise NoRowsError("dataset.where", f"no row of {conf.display_name} matches {conf.where!r}: empty data set")
        self._check_gold(table)
        if self._order is not None:
            self.table(0, 1, self._all.names)  # what Arrow cannot do for a type is told now
        self.keys = None if conf.key is None else hash_keys(conf.key, self)
        self._contents = loaded.contents
        self.fingerprint = self.fingerprint_of(len(self))

    def __len__(self) -> int:
        return self._length

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows [start, stop), or all from ``start`` on, in order, as Python values."""
        stop = len(self) if stop is None else min(stop, len(self))
        for at in range(start, stop, self._read_rows):
            table = self.table(at, min(at + self._read_rows, stop), self._all.names)
            check_unchanged(self._mapped)
            yield from self._read(table)

    def rows_at(self, positions: Sequence[int]) -> Iterator[Row]:
        """These rows, in the order given."""
        for at in range(0, len(positions), self._read_rows):
            yield from self._read(self.take(list(positions[at : at + self._read_rows]), self._all.names))

    def _read(self, table: pa.Table) -> Iterator[Row]:
        for cells in zip(*self._columns(table), strict=True):
            row = dict(zip(self.column_names, cells, strict=True))
            why = row[self._unreadable] if self._unreadable else None
            yield row if why is None else UnreadableRow(row, why)

    def _columns(self, table: pa.Table, read: Callable[[str, Any], list[Any]] = values) -> list[list[Any]]:
        """The table's cells, column by column, each its row's own value."""
        columns = [read(name, table[name]) for name in self.column_names]
        for name, hidden in self._own.items():
            at = self.column_names.index(name)
            texts = table[hidden].to_pylist()
            columns[at] = [v if text is None else own_value(text) for v, text in zip(columns[at], texts, strict=True)]
        return columns

    def stored_place(self, row: int) -> int:
        """The row's place in the data set as stored, whichever rows were chosen; with a key, its key's number."""
        places = self._order if self.keys is None else self.keys
        return row if places is None else int(places[row])

    def hashes(self, start: int, stop: int, places: bool = False) -> bytes:
        """What rows [start, stop) hold, HASH_BYTES for each; ``places``: and where they stood in their file."""
        hidden = () if places or self.conf.target else READERS[self.conf.kind].places
        spans = ((at, min(at + self._read_rows, stop)) for at in range(start, stop, self._read_rows))
        tables = (self.table(*span, self._all.names) for span in spans)
        return b"".join(self._hashed(table, hidden) for table in tables)

    def _hashed(self, table: pa.Table, hidden: tuple[str, ...]) -> bytes:
        cells = [
            (name, cell)
            for name, cell in zip(self.column_names, self._columns(table, stored), strict=True)
            if name not in hidden
        ]
        return hash_rows([name for name, _ in cells], [cell for _, cell in cells])

    def table(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """These columns of rows [start, stop), with their own Arrow types; KeyError for an unknown column."""
        check_unchanged(self._mapped)
        schema = pa.schema([self._all.field(name) for name in columns], self._all.metadata)
        start, stop = max(0, start), min(stop, len(self))
        if start >= stop or not columns:
            return schema.empty_table()
        pieces = self._slices(start, stop) if self._order is None else self._gathered(self._order[start:stop])
        return pa.Table.from_batches([piece(columns) for piece in pieces], schema)

    def take(self, rows: list[int], columns: list[str]) -> pa.Table:
        """These columns of these rows, in the order given; KeyError for an unknown column."""
        import numpy as np

        schema = pa.schema([self._all.field(name) for name in columns], self._all.metadata)
        if not rows or not columns:
            return schema.empty_table()
        positions = np.array(rows) if self._order is None else self._order[rows]
        return pa.Table.from_batches([piece(columns) for piece in self._gathered(positions)], schema)

    def gold_name(self, value: Any, labels: Collection[str] = ()) -> str | None:
        """The label that a value of the gold column means; see ``runner.data.gold``."""
        return gold_name(value, self.class_names, labels)

    @property
    def class_names(self) -> list[str]:
        """The names of the gold column's values 0, 1, 2, ..., where they are numbers."""
        return self.conf.classes or self._names_of.get(self.conf.gold or "", [])

    def with_gold(self, column: str, classes: list[str]) -> DataSource:
        """The same rows with the right answers in another column; ``classes`` are for a source that has none."""
        source = copy.copy(self)
        source.conf = self.conf.changed(gold=column, classes=self.conf.classes or classes)
        return source

    def first(self, rows: int) -> DataSource:
        """The first ``rows`` of the rows that there are without ``dataset.limit``."""
        source = copy.copy(self)
        source._length = min(self._chosen, rows)
        source.fingerprint = source.fingerprint_of(len(source))
        return source

    @property
    def features(self) -> datasets.Features:
        """The columns' types in the words of ``datasets``; class labels keep their names."""
        import datasets

        return datasets.Features.from_arrow_schema(self.schema)

    def describe(self) -> str:
        """One line for people: what is read, how many rows, which columns."""
        rows = count_of(self._total_rows, "row")
        rows = rows if len(self) == self._total_rows else f"{len(self):,} of {rows}"
        names = ", ".join(self.column_names[:8]) + (", ..." if len(self.column_names) > 8 else "")
        shuffled = "" if self.conf.shuffle_seed is None else f", shuffled with seed {self.conf.shuffle_seed}"
        kind = "own reader" if self.conf.target else self.conf.kind
        return f"{self.conf.display_name} ({kind}): {rows}{shuffled}, columns {names}"

    def _slices(self, start: int, stop: int) -> Iterator[Any]:
        for at in range(bisect_right(self._starts, start) - 1, bisect_left(self._starts, stop)):
            low = max(start - self._starts[at], 0)
            yield self._batches[at].slice(low, stop - self._starts[at] - low).select

    def _gathered(self, positions: np.ndarray) -> Iterator[Any]:
        """Rows of any order: taken batch by batch, then put in order (a take over all chunks would copy the table)."""
        import numpy as np

        starts = np.array([*self._starts, self._total_rows])
        by_position = np.argsort(positions, kind="stable")
        ascending = positions[by_position]
        bounds = np.searchsorted(ascending, starts)
        back = np.empty_like(by_position)
        back[by_position] = np.arange(len(by_position))

        def piece(columns: list[str]) -> pa.RecordBatch:
            taken = [
                batch.select(columns).take(pa.array(ascending[low:high] - first))
                for batch, first, low, high in zip(self._batches, starts, bounds, bounds[1:], strict=False)
                if low < high
            ]
            return pa.Table.from_batches(taken).combine_chunks().take(pa.array(back)).to_batches()[0]

        yield piece

    def _check_gold(self, table: pa.Table) -> None:
        gold, classes = self.conf.gold, self.conf.classes
        if gold is None:
            return
        check_column("dataset.gold", gold, self.column_names)
        if pa.types.is_nested(table.schema.field(gold).type):
            return
        found = gold_values(table, gold)
        if bad := [value for value in found if isinstance(value, UnreadableCell)]:
            log.warning("dataset.gold: rows whose right answer cannot be read have none (%s)", bad[0].why)
        wrong = [v for v in found if self.gold_name(v) not in (None, *classes)] if classes else []
        if wrong:
            raise UserError(
                "dataset.classes",
                f"column {gold!r} holds {wrong[0]!r}, which is neither a class nor a number below "
                f"{len(classes)}; classes: {', '.join(classes)}",
            )

    def fingerprint_of(self, rows: int) -> str:
        """What tells the first ``rows`` rows from any others, beyond ``dataset.limit`` as well."""
        order = None
        if self._order is not None:
            order = hashlib.sha256(self._order[:rows].astype("<i8").tobytes()).hexdigest()
        conf = self.conf
        document = [conf.document] if conf.document else []
        return hash_json(
            FORMAT_VERSION, self._contents, conf.kind, conf.delimiter, conf.encoding, order, rows, *document
        )


def _choose(
    conf: DatasetConf, table: pa.Table, order: np.ndarray | None, class_names: dict[str, list[str]]
) -> np.ndarray | None:
    """Positions of the chosen rows, or None for all in their own order. The seed alone fixes the shuffle, forever."""
    if conf.where is None and conf.shuffle_seed is None:
        return order
    import numpy as np

    chosen = np.arange(len(table)) if order is None else order
    if conf.where is not None:
        seen = with_parts(table, conf.where)
        names = [name for name in seen.column_names if name not in own_columns(table.schema).values()]
        mask = parse_where(conf.where, names, class_names)(seen).fill_null(False)
        chosen = chosen[np.asarray(mask)[chosen]]
    if conf.shuffle_seed is not None:
        chosen = chosen[np.random.RandomState(conf.shuffle_seed).permutation(len(chosen))]
    return chosen


def _rows_per_read(table: pa.Table) -> int:
    row_bytes = max(1, table.nbytes // max(1, len(table)))
    by_cells = _CELLS_PER_READ // max(1, table.num_columns)
    return int(max(1, min(1000, by_cells, _BYTES_PER_READ // row_bytes)))
