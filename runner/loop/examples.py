"""Few-shot examples from a data set: which of its rows can be one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from runner.config.conf import RunConf
from runner.config.hooks import Hooks, calling
from runner.data.conf import check_column
from runner.data.load import kind_of
from runner.data.readers import holds_requests
from runner.data.source import DataSource, open_source
from runner.plain import to_json
from runner.text.examples import SELECTS, Examples, ExamplesConf, Shot, plain_text, shown_text
from runner.text.prompter import Prompter
from runner.types import Example, Row, RowError, UnreadableRow, UserError
from runner.words import count_of, did_you_mean

log = logging.getLogger("rowmill")
KEY = "prompt.examples_from"
MOST_GROUPS = 100  # that can be balanced


@dataclass(frozen=True)
class Makes:
    """How a job makes an example of a row and its right answer; None where it has none.

    ``labels``: those of the job. ``answers``: the columns with the right answers to its questions, and the labels in
    each; None: there is one, ``gold``. ``names``: what the prompt's template uses, of which it ``needs`` some;
    ``variables``: those among them that are the job's.
    """

    example: Callable[[Row, Any], Example | None]
    labels: Collection[str]
    answers: Mapping[str, Collection[str]] | None
    names: Collection[str]
    needs: Collection[str]
    variables: Collection[str]


def open_examples(conf: RunConf, hooks: Hooks, prompter: Prompter, source: DataSource) -> Examples:
    """The few-shot examples that ``prompt.examples_from`` asks for. UserError where there are none."""
    if hooks.attempts or holds_requests(vars(source.conf)):
        raise UserError("prompt.examples_from", "this job's requests do not come from rows and a prompt's template")
    if conf.prompt.examples_from.select is None:
        raise UserError("prompt.examples_from.select", f"is not set: it can be {', '.join(SELECTS)}")
    job = hooks.examples

    def example(row: Row, gold: Any) -> Example | None:
        if job is None:
            return Example(gold if isinstance(gold, str) else to_json(gold))
        try:
            return job.example(row, gold)
        except (RowError, ValueError):
            raise
        except Exception as error:
            with calling("example"):
                raise error

    labels = list(hooks.choices.choice_names()) if hooks.choices else []
    variables = list(hooks.variables.variables()) if hooks.variables else []
    answers = hooks.answers.answer_columns() if hooks.answers else None
    makes = Makes(example, labels, answers, *prompter.asked, variables)
    return choose_among(conf.prompt.examples_from, source, makes, conf.seed, conf.offline)


def choose_among(conf: ExamplesConf, source: DataSource, makes: Makes, seed: int, offline: bool) -> Examples:
    """The examples among the rows that ``conf`` names, by default the run's own. UserError where there are too few."""
    found = _source(conf, source, offline).first(conf.limit)
    golds = _golds(conf, found, makes)
    if lacking := sorted(set(makes.needs) - set(found.column_names) - set(makes.variables)):
        hint = did_you_mean(lacking[0], found.column_names)
        raise UserError(KEY, f"{found.conf.display_name} has no column {lacking[0]!r}, which prompt.user uses{hint}")
    problems: Counter[str] = Counter()
    shots = list(_shots(found, golds, makes, problems))
    shown = _shown(found, makes, shots)
    shots = list({plain_text(shown_text({**one.row, **one.variables}, shown)): one for one in reversed(shots)}.values())
    shots.reverse()
    _check(conf, found, shots, problems)
    log.info("examples: %s of %s, %d a prompt", conf.select, count_of(len(shots), "row"), conf.k)
    return Examples(shots, conf, seed, shown, found.column_names, found.fingerprint)


def _source(conf: ExamplesConf, source: DataSource, offline: bool) -> DataSource:
    gold = conf.gold or source.conf.gold
    if conf.gold is not None and conf.path is None:
        check_column(f"{KEY}.gold", conf.gold, source.column_names)
    try:
        if conf.path is None:
            _refuse_alone(conf)
            return source if gold is None else source.with_gold(gold, [])
        kind = conf.kind or kind_of(conf.path)
        reads = {"kind": kind, "path": conf.path, "table": conf.table, "split": conf.split, "subset": conf.subset}
        same = {"encoding": source.conf.encoding, "delimiter": source.conf.delimiter}
        same = same if kind == source.conf.kind else {"encoding": "utf-8", "delimiter": None}
        order = {"shuffle_seed": None, "limit": None, "where": conf.where, "gold": gold, "revision": None}
        return open_source(source.conf.changed(**reads, **same, **order), offline)
    except UserError as error:
        name = (error.key or "").removeprefix("dataset.")
        raise error.at(f"{KEY}.{name}") if error.key and error.key.startswith("dataset.") else error from None


def _refuse_alone(conf: ExamplesConf) -> None:
    for name in ("kind", "table", "subset", "where"):
        if (value := getattr(conf, name)) is not None:
            raise UserError(f"{KEY}.{name}", f"it applies to another data set: set {KEY}.path, too", value=value)


def _golds(conf: ExamplesConf, found: DataSource, makes: Makes) -> Mapping[str, Collection[str]]:
    """The columns with the right answers, and the labels in each."""
    if makes.answers is None:
        if found.conf.gold is None:
            raise UserError(f"{KEY}.gold", "is not set, nor is dataset.gold: which column has the right answers?")
        return {found.conf.gold: makes.labels}
    if conf.gold is not None:
        raise UserError(f"{KEY}.gold", "with job.questions each question has its own gold", value=conf.gold)
    if not makes.answers:
        raise UserError(KEY, "none of job.questions has a column gold with the right answers to it")
    if lacking := [name for name in makes.answers if name not in found.column_names]:
        hint = did_you_mean(lacking[0], found.column_names)
        raise UserError(KEY, f"{found.conf.display_name} has no column {lacking[0]!r}, a question's gold{hint}")
    return makes.answers


def _shots(
    found: DataSource, golds: Mapping[str, Collection[str]], makes: Makes, problems: Counter[str]
) -> Iterator[Shot]:
    named = {gold: found.with_gold(gold, []) for gold in golds}
    nested = {gold for gold in golds if pa.types.is_nested(found.schema.field(gold).type)}
    columns = ", ".join(golds)
    for row in found.rows():
        if isinstance(row, UnreadableRow):
            problems["unreadable"] += 1
            continue
        try:
            cells = {
                gold: row[gold] if gold in nested else named[gold].gold_name(row[gold], labels)
                for gold, labels in golds.items()
            }
            answer = cells if makes.answers else next(iter(cells.values()))
            made = None if all(cell is None for cell in cells.values()) else makes.example(row, answer)
        except (RowError, ValueError) as problem:
            problems[str(problem)] += 1
            continue
        empty = [name for name in makes.needs if name in row and row[name] is None and name not in makes.variables]
        if made is None or empty:
            problems[f"column {empty[0]} is null" if made else f"column {columns} has no right answer"] += 1
        else:
            yield Shot(row, made.variables, made.answer, str(made.answer) if made.group is None else made.group)


def _shown(found: DataSource, makes: Makes, shots: list[Shot]) -> list[str]:
    """The texts by which rows are compared: those that differ from row to row."""
    own = set(found.column_names) - set(makes.variables) | (shots[0].variables.keys() if shots else set())
    return sorted(own & set(makes.names))


def _check(conf: ExamplesConf, found: DataSource, shots: list[Shot], problems: Counter[str]) -> None:
    if len(shots) < conf.k:
        first = f": {problems.most_common(1)[0][0]}" if problems else ""
        of = f"{len(shots):,} of {count_of(len(found), 'row')} of {found.conf.display_name} can be an example"
        raise UserError(f"{KEY}.k", f"{of}{first}", value=conf.k)
    if problems:
        rows = f"{sum(problems.values()):,} of {count_of(len(found), 'row')} are no examples"
        log.info("%s, most often: %s", rows, problems.most_common(1)[0][0])
    groups = {one.group for one in shots}
    if conf.select == "balanced" and len(groups) > MOST_GROUPS:
        raise UserError(
            f"{KEY}.select", f"{found.conf.gold} has {len(groups):,} different answers: take random", value="balanced"
        )
    if conf.groups is not None and conf.select != "nearest":
        raise UserError(f"{KEY}.groups", f"it applies to {KEY}.select=nearest only", value=conf.groups)
