"""All stages checked before anything loads: each against the columns that the stages before it will have made."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.chain.plan import REPLACE, ROW, STAGE, Plan, planned
from runner.checkpoint.database import DATABASE
from runner.config.job import make_job
from runner.config.load import Config
from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.source import DataSource
from runner.data.where import compared, parse_where, with_parts
from runner.results.run import Run
from runner.session.prepare import Prepared, prepare
from runner.stages.conf import ChainConf, StageConf, named, with_keys
from runner.text.questions.known import Known, check_known, of_questions, of_values
from runner.text.questions.read import read_questions
from runner.types import UserError

log = logging.getLogger("rowmill")
ROWS = 100  # of the data set, to stand for those that a later stage will see


def check(chain: ChainConf, folder: Path) -> tuple[Plan, list[Prepared]]:
    """What the chain is, and each stage ready, the later ones with rows that stand for theirs. UserError."""
    first = named(chain.stages[0].stage, lambda: prepare(placed(chain.stages[0].config, folder)))
    readies, jobs = [first], [first.job.schema()]
    for stage in chain.stages[1:]:
        plan = plan_of(chain, readies)
        config = reading(chain, stage, plan, stage.config, folder, first.date)
        source = named(stage.stage, partial(_standing_in, readies, plan, jobs, config))
        ready = named(stage.stage, partial(prepare, config, source))
        if ready.attempts is not None:
            raise UserError(
                f"stages.{stage.stage.name}.job", "it makes rows of its own, which only the first stage can"
            )
        readies.append(ready)
        jobs.append(ready.job.schema())
        _check_types(plan_of(chain, readies), jobs)
    plan = plan_of(chain, readies)
    if chain.conf.cascade.agree is not None:
        _check_labels(jobs)
    _tell_names(plan)
    return plan, readies


def _tell_names(plan: Plan) -> None:
    """Say what stages' columns are called whose names are taken: ``where`` and templates may mean the others."""
    columns = [(stage.name, name, own) for stage in plan.stages for name, own in stage.columns.items()]
    renamed = [f"{own} of {stage} is {name}" for stage, name, own in columns if name != own]
    if renamed:
        log.info("columns of stages whose names are taken: %s", ", ".join(renamed))


def placed(config: Config, folder: Path) -> Config:
    """The configuration with its run in the chain's folder."""
    return changed(config, "output", dir=str(folder))


def afresh(config: Config) -> Config:
    """The configuration with a job that has seen no other rows."""
    return replace(config, job=make_job(config.plain["job"], config.config_dir, config.conf.modules))


def changed(config: Config, group: str, **values: Any) -> Config:
    """A configuration with some values of a group changed."""
    conf = replace(config.conf, **{group: replace(getattr(config.conf, group), **values)})
    return replace(config, conf=conf, plain={**config.plain, group: {**config.plain[group], **values}})


def plan_of(chain: ChainConf, readies: Sequence[Prepared]) -> Plan:
    """The plan of the stages that are ready."""
    first, cascade = readies[0], chain.conf.cascade
    by_row = first.attempts is None
    inputs = first.source.column_names if by_row else []
    pairs = [(one.stage, ready.job.schema().names) for one, ready in zip(chain.stages, readies, strict=False)]
    gold = first.source.conf.gold if by_row else None
    found = planned(inputs, gold, first.source.class_names if gold else [], pairs)
    if cascade.agree is None:
        return found
    return replace(found, agree=cascade.agree, sample=(cascade.rows, chain.conf.seed))


def reading(chain: ChainConf, stage: StageConf, plan: Plan, config: Config, folder: Path, date: str) -> Config:
    """A later stage's configuration: its rows are those of the stage before; ``plan`` ends with that."""
    conf, replaces = config.conf.dataset, stage.stage.merge == REPLACE
    where = stage.stage.where or (None if chain.conf.cascade.agree else "error is null")
    gold = conf.gold if "dataset.gold" in stage.own else plan.gold if replaces else None
    classes = conf.classes if "dataset.classes" in stage.own else plan.classes if replaces else []
    dataset = DatasetConf(
        kind="run",
        path=str(folder),
        table=plan.names[-1],
        where=where,
        key=_key(chain, plan, folder / stage.stage.name),
        gold=gold,
        classes=list(classes),
    )
    placed_config = changed(placed(config, folder), "output", keep=[ROW])
    new = replace(placed_config.conf, dataset=dataset, date=date)
    return replace(placed_config, conf=new, plain={**placed_config.plain, "dataset": dataclasses.asdict(dataset)})


def _key(chain: ChainConf, plan: Plan, run_dir: Path) -> str:
    """The column by which a later stage knows its rows: the one that it began with, else the chain's own key."""
    if (run_dir / DATABASE).is_file():
        return str(Run(run_dir).identity["dataset"].get("key", ROW))
    return next((name for name, column in plan.inputs.items() if column == chain.conf.dataset.key), ROW)


def limited(config: Config, rows: int) -> Config:
    """The configuration with so many rows."""
    return changed(config, "dataset", limit=rows)


def extending(config: Config) -> Config:
    """The configuration for a run whose rows have changed: known ones keep their answers."""
    return with_keys(config, resume="extend")


def _standing_in(readies: Sequence[Prepared], plan: Plan, jobs: Sequence[pa.Schema], config: Config) -> DataSource:
    """Rows like those that the stage will see, what models have yet to say in them made up."""
    first = readies[0]
    rows = min(ROWS, first.rows)
    columns: dict[str, Any] = {ROW: pa.array(range(rows), pa.int64())}
    if plan.inputs:
        found = first.source.table(0, rows, list(plan.inputs.values()))
        columns |= dict(zip(plan.inputs, found.columns, strict=True))
    conf = config.conf.dataset
    for stage, job in zip(plan.stages, jobs, strict=True):
        for name, column in stage.columns.items():
            kind = job.field(column).type
            one = None if name == conf.gold else made_up(kind, f"({column} of {stage.name})")
            columns[name] = pa.array([one] * rows, kind)
    columns[STAGE] = pa.array([plan.names[-1]] * rows)
    columns["error"] = pa.nulls(rows, pa.string())
    table = pa.table(columns)
    if conf.where:
        try:
            seen = with_parts(table, conf.where)
            parse_where(conf.where, seen.column_names, {})(seen)
            check_known(compared(conf.where, seen.column_names), plan.known(list(map(_answers, readies))))
        except UserError as error:
            raise error.at("where") from None
    return DataSource(conf.changed(where=None), Loaded(table, "stands in"))


def _answers(ready: Prepared) -> dict[str, Known]:
    """What a job's columns and their parts can hold, by their names in the job."""
    files = ready.hooks.fingerprints.fingerprint() if ready.hooks.fingerprints else None
    try:
        asked = read_questions(ready.config.plain["job"] | (files if isinstance(files, dict) else {}))
    except UserError:
        asked = []
    if asked and {one.column for one in asked} <= {*ready.job.schema().names}:
        return of_questions(asked)
    return of_values(ready.structure.known()) if ready.structure and ready.hooks.structured else {}


def made_up(kind: pa.DataType, text: str) -> Any:
    """A value of a type."""
    t = pa.types
    if t.is_struct(kind):
        return {field.name: made_up(field.type, text) for field in kind}
    if t.is_list(kind) or t.is_large_list(kind):
        return [made_up(kind.value_type, text)]
    if t.is_boolean(kind):
        return True
    if t.is_integer(kind):
        return 1
    return 0.5 if t.is_floating(kind) else None if t.is_null(kind) else text


def _check_types(plan: Plan, jobs: Sequence[pa.Schema]) -> None:
    """Refuse a column that would take the place of one of another type."""
    types: dict[str, pa.DataType] = {}
    for stage, job in zip(plan.stages, jobs, strict=True):
        for name, column in stage.columns.items():
            kind = job.field(column).type
            if types.setdefault(name, kind) != kind:
                place = f"stages.{stage.name}.merge"
                raise UserError(place, f"its column {column} is {kind}, and the one that it replaces {types[name]}")


def _check_labels(jobs: Sequence[pa.Schema]) -> None:
    if any("label" not in job.names for job in jobs) or "confidence" not in jobs[0].names:
        raise UserError("cascade.agree", "both stages must give a label, the first with a confidence (job=label)")
