"""What a chain is, as its folder records it: its stages, and which columns come from where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from runner.data.kept import GOLD, INPUT, numbered
from runner.disk import write_json
from runner.disk.errors import disk_errors
from runner.text.questions.known import Known, top
from runner.types import UserError
from runner.words import first_line

FILE = "chain.json"
STAGE = "stage"  # the column with the stage that answered a row last
ROW = "row"
ADD, REPLACE = "add", "replace"
_OURS = (ROW, STAGE, "error", "usage")


@dataclass(frozen=True)
class Stage:
    """``columns``: the job's column behind each of the chain's; ``cleared``: those it leaves null where it answers.

    ``replaces``: the stage whose answers its own take the place of. ``rows``: 0 where it had nothing to ask, else None:
    its run knows.
    """

    name: str
    where: str | None = None
    merge: str = ADD
    columns: Mapping[str, str] = field(default_factory=dict)
    cleared: Sequence[str] = ()
    replaces: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Plan:
    """``inputs``: the data set's column behind each of the chain's; ``gold``: which of them is the gold one.

    ``sample``: with ``cascade.agree``, how many rows both models label first, and the seed that they follow from.
    """

    stages: tuple[Stage, ...]
    inputs: Mapping[str, str]
    gold: str | None = None
    classes: Sequence[str] = ()
    agree: float | None = None
    sample: tuple[int, int] | None = None

    @property
    def names(self) -> list[str]:
        """The stages' names."""
        return [stage.name for stage in self.stages]

    def upto(self, name: str) -> Plan:
        """The same with this stage as the last."""
        if name not in self.names:
            raise UserError("dataset.table", f"there is no such stage; there are {', '.join(self.names)}", value=name)
        return replace(self, stages=self.stages[: self.names.index(name) + 1])

    def without_rows(self, at: int) -> Plan:
        """The same with nothing to do in this stage and those behind it."""
        return replace(self, stages=(*self.stages[:at], *(replace(one, rows=0) for one in self.stages[at:])))

    @property
    def columns(self) -> list[str]:
        """All columns but ``row``, in order."""
        made = dict.fromkeys(name for stage in self.stages for name in stage.columns)
        return [*self.inputs, *made, STAGE, "error", "usage"]

    def known(self, answers: Sequence[Mapping[str, Known]]) -> dict[str, Known]:
        """What the columns and their parts can hold, from what the jobs of the stages begun know of theirs."""
        found: dict[str, Known] = {}
        for stage, known in zip(self.stages, answers, strict=False):
            for name, column in stage.columns.items():
                before = {path: found.pop(path) for path in [*found] if top(path) == name}
                mine = {name + path.removeprefix(column): one for path, one in known.items() if top(path) == column}
                if stage.replaces is not None:  # a row has what one of the two says
                    mine = {path: one.or_else(before[path]) for path, one in mine.items() if path in before}
                found |= mine
        return found

    def check(self, folder: Path) -> None:
        """Raise UserError if the folder belongs to another chain; this one may have more stages."""
        _check_same(folder, read_plan(folder), self)

    def write(self, folder: Path) -> None:
        """Keep it in a chain's folder. UserError if that belongs to another chain."""
        if is_chain(folder):
            self.check(folder)
        with disk_errors(folder):
            write_json(folder / FILE, asdict(self), synced=True)


def planned(
    inputs: Sequence[str], gold: str | None, classes: Sequence[str], stages: Sequence[tuple[Stage, Sequence[str]]]
) -> Plan:
    """Which columns a chain has: ``inputs`` under their own names, then what each stage's job makes.

    ``stages`` come with their jobs' columns. One whose name is taken is called ``STAGE_NAME``, but the gold column
    gives way and becomes ``gold``. With ``merge: replace`` a column takes the place of the job column of the same name
    before it.
    """
    made = {name for _, columns in stages for name in columns}
    named: dict[str, str] = {}
    for name in inputs:
        gives_way = name == gold and name in made and GOLD not in inputs
        free = GOLD if gives_way else name if name not in _OURS else numbered(INPUT + name, [*inputs, *made])
        named[free] = name
    found: list[Stage] = []
    for stage, columns in stages:
        taken = {*named, *_OURS, *(name for one in found for name in one.columns)}
        replaced = _replaced(stage.name, columns, found) if stage.merge == REPLACE else None
        earlier = _family(found, replaced)
        mine: dict[str, str] = {}
        for column in columns:
            free = column if column not in {*taken, *mine} else numbered(f"{stage.name}_{column}", {*taken, *mine})
            mine[earlier.get(column, free)] = column
        cleared = [name for name in earlier.values() if name not in mine]
        found.append(replace(stage, columns=mine, cleared=cleared, replaces=replaced))
    gold_name = next((name for name, column in named.items() if column == gold), None)
    return Plan(tuple(found), named, gold_name, list(classes))


def _replaced(name: str, columns: Sequence[str], before: Sequence[Stage]) -> str:
    """The last stage that has made some of these columns. UserError if there is none."""
    for stage in reversed(before):
        if set(columns) & set(stage.columns.values()):
            return stage.name
    raise UserError(f"stages.{name}.merge", f"no stage before makes {', '.join(columns)}: leave it out", value=REPLACE)


def _family(before: Sequence[Stage], name: str | None) -> dict[str, str]:
    """The columns of a stage and of those that it replaces, by their names in the job."""
    found: dict[str, str] = {}
    for stage in reversed(before):
        if stage.name == name:
            found |= {job: column for column, job in stage.columns.items() if job not in found}
            name = stage.replaces
    return found


def is_chain(folder: Path) -> bool:
    """Whether a folder is that of a chain. UserError if it may not be read."""
    with disk_errors(folder, "read"):
        return (folder / FILE).is_file()


def refuse_chain(folder: Path) -> None:
    """Raise UserError where one of the stages is meant."""
    if is_chain(folder):
        stages = ", ".join(str(folder / name) for name in read_plan(folder).names)
        raise UserError(f"{folder} is a chain: give the folder of one of its stages: {stages}")


def read_plan(folder: Path) -> Plan:
    """The plan in a chain's folder. UserError if it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        sample = tuple(found.pop("sample") or ()) or None
        return Plan(**found | {"stages": tuple(Stage(**stage) for stage in found["stages"]), "sample": sample})
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"{folder / FILE} cannot be read ({first_line(error)})"
        raise UserError(f"{problem}: run the original command again") from error


def _check_same(folder: Path, old: Plan, new: Plan) -> None:
    """Refuse a plan that is not the old one, perhaps with more stages behind."""
    if what := _difference(old, new):
        raise UserError(
            f"{folder} belongs to a different chain: {what}; put that back, choose another run_name, or resume=force "
            "to start over in a new directory beside it"
        )


def _difference(old: Plan, new: Plan) -> str | None:
    if (old.agree, old.sample) != (new.agree, new.sample):
        told = (f"{plan.agree} on (rows, seed) {plan.sample}" if plan.agree else "none" for plan in (old, new))
        return f"cascade.agree: {' -> '.join(told)}"
    for at, stage in enumerate(old.stages):
        now = _in_words(new.stages[at]) if at < len(new.stages) else "missing (stages are only added behind the others)"
        if (was := _in_words(stage)) != now:
            return f"its stage {at + 1} was {was}, and now is {now}"
    return None


def _in_words(stage: Stage) -> str:
    where = f", where: {stage.where}" if stage.where is not None else ""
    return f"{stage.name}{where}{f', merge: {stage.merge}' if stage.merge != ADD else ''}"
