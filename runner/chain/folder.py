"""A chain's folder, read like that of a run: each row of the first stage with the columns of all stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from runner.chain.answers import Answers
from runner.chain.plan import REPLACE, STAGE, Plan, Stage, is_chain, read_plan
from runner.chain.status import Progress
from runner.checkpoint.database import DATABASE, open_reader
from runner.checkpoint.identity import OutputColumns
from runner.checkpoint.lease import holder
from runner.checkpoint.records import Failure, error_kind, read_shards, read_staged
from runner.data.kept import named, naming
from runner.data.load import hash_json
from runner.data.source import DataSource
from runner.results.run import DATASET, RowBlock, Run
from runner.results.status import Session, Status
from runner.types import UserError

if TYPE_CHECKING:
    import datasets


def state_of(run: Run) -> str:
    """A hash of what a run is and of the rows that are finished."""
    if isinstance(run, Chain):
        return run.state
    with open_reader(run.path) as connection:
        found: list[Any] = [shard.sha256 for shard in read_shards(connection)]
        found += [[one.row, one.error, one.body] for one in read_staged(connection)]
    return hash_json(run.identity, *found)


def parts_of(run: Run) -> list[Run]:
    """The runs that it consists of: of a chain, its stages that have begun."""
    return run.parts if isinstance(run, Chain) else [run]


def open_folder(path: Path | str, data: str | None = None) -> Run:
    """The run or the chain in a folder, for reading. UserError if there is none."""
    path = Path(path)
    return Chain(path, data) if is_chain(path) else Run(path, data)


@dataclass
class Chain(Run):
    """A chain at work, interrupted or finished; what ``Run`` says of a run, of all its stages."""

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.plan: Plan = read_plan(self.path)
        self._read: dict[int, Answers] = {}

    @cached_property
    def runs(self) -> list[Run | None]:
        """The stages' runs, None for those that have not begun."""
        found: list[Run | None] = []
        for at, (name, stage) in enumerate(zip(self.plan.names, self.plan.stages, strict=True)):
            begun = stage.rows != 0 and (self.path / name / DATABASE).is_file()
            found.append(Run(self.path / name, None if at else self.data) if begun else None)
        return found

    @property
    def first(self) -> Run:
        """The first stage's run. UserError if it has not begun."""
        if self.runs[0] is None:
            raise UserError(f"{self.path} has not begun its first stage, {self.plan.names[0]}")
        return self.runs[0]

    @property
    def parts(self) -> list[Run]:
        return [run for run in self.runs if run is not None]

    @property
    def current(self) -> Run:
        return self.parts[-1] if self.parts else self.first

    @property
    def status(self) -> Status:
        """How far all of it is: a row is finished when no stage is left that may answer it. ``stages``: each one's."""
        progress = self._progress
        is_done = progress.current is None and (self.path / DATASET).is_file()
        errors = Counter(error_kind(one.error) for one in self.failures()) if is_done else None
        return progress.status(holder(self.path), errors)

    @property
    def _progress(self) -> Progress:
        return Progress(self.plan.stages, [run.status if run is not None else None for run in self.runs])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the first stage, and the others'."""
        stages = {run.path.name: run.config for run in self.parts[1:]}
        return {**self.first.config, "stages": stages}

    @cached_property
    def source(self) -> DataSource:
        return self.first.source

    @property
    def dataset(self) -> datasets.Dataset:
        """The output in the order of the input, once all stages are finished."""
        import datasets

        if not (self.path / DATASET).is_file():
            raise UserError(f"{self.path} is not finished yet; `rows()` gives what its stages have so far")
        return datasets.load_from_disk(str(self.path))

    @cached_property
    def identity(self) -> dict[str, Any]:
        first = self.first.identity
        later = {
            run.path.name: {name: run.identity[name] for name in ("job", "prompt", "model")} for run in self.parts[1:]
        }
        plan = {stage.name: {"where": stage.where, "merge": stage.merge} for stage in self.plan.stages[1:]}
        columns = self.columns
        types = {**dict.fromkeys(columns.kept, "string"), **columns.job, "error": "string", "usage": "struct<>"}
        return {
            **first,
            "keep": columns.kept,
            "columns": [f"{name}: {kind}" for name, kind in types.items()],
            "stages": {name: {**where, **later.get(name, {})} for name, where in plan.items()},
            **({"agree": self.plan.agree} if self.plan.agree else {}),
        }

    @property
    def columns(self) -> OutputColumns:
        kept = set(self.first.columns.kept.values())
        inputs = {name: column for name, column in self.plan.inputs.items() if column in kept}
        job: dict[str, str] = {}
        for stage, run in zip(self.plan.stages, self.runs, strict=True):
            types = run.columns.job if run is not None else {}
            job = {name: types.get(column, "null") for name, column in stage.columns.items()} | job
        order = [name for name in self.plan.columns if name in job]
        return OutputColumns(inputs, {**{name: job[name] for name in order}, STAGE: "string"})

    @property
    def sessions(self) -> list[Session]:
        found: list[Session] = []
        for run in self.parts:
            before = len(found)
            found += [{**session, "session": session["session"] + before} for session in run.sessions]
        return found

    @property
    def marks(self) -> list[dict[str, Any]]:
        """Those of all stages, one behind the other: ``finished`` counts the answers of all of them."""
        found: list[dict[str, Any]] = []
        sums = dict.fromkeys(("session", "finished", "active_s"), 0.0)
        for run in self.parts:
            found += [
                {**mark, **{name: mark[name] + type(mark[name])(sums[name]) for name in sums}} for mark in run.marks
            ]
            status = run.status
            ended = {"session": len(run.sessions), "finished": status["finished"], "active_s": status["active_s"]}
            sums = {name: before + ended[name] for name, before in sums.items()}
        return found

    @property
    def label_counts(self) -> dict[str, int]:
        if "label" not in self.columns.job:
            return {}
        counts: Counter[str] = Counter()
        for _, table in self.blocks(["label"]):
            counts.update(value for value in table["label"].to_pylist() if value is not None)
        return dict(counts.most_common())

    @property
    def latest(self) -> list[tuple[int, str | None, dict[str, Any]]]:
        return self.current.latest

    @cached_property
    def prelude(self) -> dict[str, Any]:
        """Nothing: the labels may be those of several models."""
        return {}

    @cached_property
    def state(self) -> str:
        """A hash of what its stages have answered."""
        return hash_json(*map(state_of, self.parts), [dict(stage.columns) for stage in self.plan.stages])

    def rejected(self) -> Iterator[dict[str, Any]]:
        return self.first.rejected()

    def failures(
        self, source: Callable[[], DataSource | None] = lambda: None, *, whole: bool = False
    ) -> Iterator[Failure]:
        kept = self.columns.kept
        names = naming(kept)
        for start, table in self.blocks([*names, "error"]):
            failed = np.flatnonzero(table["error"].is_valid().to_numpy(zero_copy_only=False))
            found = table.take(failed)
            called = named(found.select(names)) if names else [None] * len(failed)
            for at, name, error in zip(failed.tolist(), called, found["error"].to_pylist(), strict=True):
                yield Failure(start + at, name, str(error))

    def blocks(self, columns: list[str] | None = None) -> Iterator[RowBlock]:
        wanted = self.columns.names if columns is None else columns
        head, *rest = self.plan.stages
        outputs = {column: name for name, column in self.first.columns.kept.items()}
        here = {**{name: outputs[column] for name, column in self.columns.kept.items()}, **head.columns}
        here |= {"error": "error", "usage": "usage"}
        names = [name for name in wanted if name in here]
        later = [self._answers(at, stage) for at, stage in enumerate(rest, 1) if self.runs[at] is not None]
        for start, table in self.first.blocks(list(dict.fromkeys([*(here[name] for name in names), "error", "usage"]))):
            found: dict[str, Any] = {
                name: table[column] for name, column in here.items() if column in table.column_names
            }
            found[STAGE] = pa.array([head.name] * len(table), pa.string())
            for answers in later:
                answers.into(found, start, len(table), wanted)
            missing = pa.nulls(len(table))
            yield RowBlock(start, pa.table({name: found.get(name, missing) for name in wanted}))

    def rows_of(self, at: int) -> np.ndarray:
        """The first stage's rows that a later stage has answered."""
        return self._answers(at, self.plan.stages[at]).rows

    def _answers(self, at: int, stage: Stage) -> Answers:
        run = self.runs[at]
        if run is None:
            return Answers(stage, np.zeros(0, np.int64), pa.table({"error": pa.array([], pa.string())}))
        if at not in self._read:
            self._read[at] = Answers.read(stage, run)
        return self._read[at]

    @property
    def is_complete(self) -> bool:
        """Whether no stage has anything left to do."""
        return self._progress.current is None

    @property
    def is_cascade(self) -> bool:
        """Whether its last stage gave answers in place of others."""
        return len(self.plan.stages) > 1 and self.plan.stages[-1].merge == REPLACE

    def upto(self, name: str) -> Chain:
        """The same with this stage as the last."""
        found = Chain(self.path, self.data)
        found.plan = self.plan.upto(name)
        return found
