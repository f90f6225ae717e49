"""Which rows and columns of a run are exported: joined to the input, filtered, chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from runner.chain.folder import Chain
from runner.data.columns import free_name
from runner.data.kept import GOLD, INPUT, numbered
from runner.data.source import DataSource
from runner.data.where import Mask, compared, parse_where, with_parts
from runner.results.quality.columns import questions_of
from runner.results.quality.rescore import rescorings_of
from runner.results.quality.rescore.decision import AS_RUN, Decision
from runner.results.run import RowBlock, Run
from runner.text.questions.known import Known, check_known, of_questions, of_values
from runner.text.structure import recorded
from runner.types import SEED_ROW, UserError
from runner.words import did_you_mean

ROW = "row"  # the column with the row's position in the input
GATHER_ROWS = 50_000
GATHER_BYTES = 32 << 20


@dataclass
class Selection:
    """``join`` adds the input's columns; ``where`` filters (see ``runner.data.where``; parts of a struct are
    named with a dot, such as usage.finish_reason); ``columns`` chooses among the output's, by default all; labels are
    those of the ``decision``. ``read``: how many finished rows there were, of a run at work at the time of reading.

    Raises UserError for what does not exist, and if no row is finished.
    """

    run: Run
    join: bool = False
    where: str | None = None
    columns: list[str] = field(default_factory=list)
    decision: Decision = AS_RUN
    read: int = field(default=0, init=False)

    def tables(self) -> Iterator[pa.Table]:
        """The rows in the order of the input, in tables of one schema; the first column is the row's position."""
        mask: Mask | None = None
        began = False
        for block in self._decided():
            table = self._joined(block)
            self.read += len(table)
            if not began:
                began, mask = True, self._mask(table)
                self._check_columns(table)
            if mask is not None:
                table = table.filter(_filtered(mask, with_parts(table, self.where or "")).fill_null(False))
            yield table.select(self.columns) if self.columns else table
        if not began:
            raise UserError(f"{self.run.path} has no finished rows yet")

    def _decided(self) -> Iterator[RowBlock]:
        if self.decision == AS_RUN:
            yield from self.run.blocks()
            return
        deciding = rescorings_of(self.run, self.decision)
        for start, table in self.run.blocks():
            for one in deciding:
                table = one.table(table)
            yield RowBlock(start, table)

    def gathered(self) -> Iterator[pa.Table]:
        """The same rows in fewer, larger tables, for formats that are written in groups of rows."""
        held: list[pa.Table] = []
        for table in self.tables():
            held.append(table)
            if sum(map(len, held)) >= GATHER_ROWS or sum(one.nbytes for one in held) >= GATHER_BYTES:
                yield pa.concat_tables(held)
                held = [table.slice(0, 0)]
        yield pa.concat_tables(held)

    def _joined(self, block: RowBlock) -> pa.Table:
        start, table = block
        names = [position_column(self.run), *table.column_names]
        columns = [pa.array(range(start, start + len(table)), pa.int64()), *table.columns]
        if self.join:
            if not self.run.is_row_by_row and SEED_ROW not in table.column_names:
                raise UserError(f"{self.run.path} was not made row by row from its data set: nothing to join")
            kept = self.run.columns.kept
            there = {name for output, name in kept.items() if output != GOLD or name == GOLD}
            added = [name for name in input_of(self.run).column_names if name not in there]
            columns += self._input(block, added).columns
            for name in added:
                names = [*names, numbered(INPUT + name, names) if name in names else name]
        return pa.Table.from_arrays(columns, names=names)

    def _input(self, block: RowBlock, columns: list[str]) -> pa.Table:
        """The input's columns of these rows: of the rows they were made from, where they were made."""
        start, table = block
        if self.run.is_row_by_row:
            return self.run.source.table(start, start + len(table), columns)
        return self.run.source.take(table[SEED_ROW].to_pylist(), columns)

    def _mask(self, table: pa.Table) -> Mask | None:
        if self.where is None:
            return None
        try:
            names = with_parts(table, self.where).column_names
            mask = parse_where(self.where, names, {})
            check_known(compared(self.where, names), _known(self.run))
            return mask
        except UserError as error:
            raise _of_where(error) from None

    def _check_columns(self, table: pa.Table) -> None:
        for name in self.columns:
            if name not in table.column_names:
                raise UserError("--columns", f"no column {name!r}{did_you_mean(name, table.column_names)}")


def _known(run: Run) -> dict[str, Known]:
    """What the columns of a run or a chain can hold, as far as their questions and schemas tell."""
    if isinstance(run, Chain):
        return run.plan.known([_known(part) for part in run.parts])
    if asked := questions_of(run):
        return of_questions(asked)
    grammar = (run.identity.get("answers") or {}).get("grammar")
    is_own = not str(run.identity["job"].get("_target_")).startswith("jobs.")  # which may make something else of it
    return of_values(recorded(grammar).known()) if grammar and not is_own else {}


def input_of(run: Run) -> DataSource:
    """The input rows; where they are not, a UserError says how to name their place."""
    try:
        return run.source
    except UserError as error:
        hint = "; if it has moved, --data PATH says where it is now" if run.data is None else ""
        raise UserError(f"{error}{hint}", exit_code=error.exit_code) from error


def position_column(run: Run) -> str:
    """The column with the rows' positions: ``row``, with underscores where a column of the output is called so."""
    return free_name(ROW, run.columns.names)


def _filtered(mask: Mask, table: pa.Table) -> pa.Array:
    try:
        return mask(table)
    except UserError as error:
        raise _of_where(error) from None


def _of_where(error: UserError) -> UserError:
    return error.at("--where")
