"""What questions need of the data and the prompt: gold that fits, a template that puts them."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runner.data.cells import values
from runner.data.conf import check_column
from runner.data.gold import gold_members, gold_values, is_missing, members_of
from runner.loop.requests import shared_tokens
from runner.text.questions.question import LABEL, LABELS, MULTI, SCALE, Question
from runner.types import Example, Request, RowError, UnreadableRow, UserError
from runner.words import alike, count_of, listed

if TYPE_CHECKING:
    from jobs.label.questions import Asked
    from runner.data.source import DataSource
    from runner.text.prompter import Prompter

log = logging.getLogger("rowmill")
_READ = 50_000  # cells of gold looked at together


def check_gold(source: DataSource, question: Question, elsewhere: bool) -> None:
    """Refuse a gold column with answers that the question cannot have; examples ``elsewhere`` may have it alone."""
    gold = question.gold_in(source.conf.gold)
    if gold is None or (elsewhere and question.gold and gold not in source.column_names):
        return
    key = f"{question.key}.gold" if question.gold else "dataset.gold"
    check_column(key, gold, source.column_names)
    if question.kind == LABELS:
        _check_labels(source, question, gold, key)
    elif question.kind == MULTI:
        _check_members(source, question, gold, key)
    elif question.kind == SCALE:
        _check_levels(source, question, gold, key)
    elif question.gold:
        raise UserError(key, "answers with a schema are compared afterwards: rowmill evaluate --gold --column")


def check_tokens(question: Question, choices: tuple[tuple[int, ...], ...]) -> None:
    """Refuse labels that are the same to the model; say so if one is the beginning of another."""
    names, first, key = question.names, dict[tuple[int, ...], str](), f"{question.key}.labels"
    for name, choice in zip(names, choices, strict=True):
        if first.setdefault(choice, name) != name:
            raise UserError(key, f"{first[choice]!r} and {name!r} are the same tokens for this model")
    longer = [
        (first[choice[:end]], name)
        for name, choice in zip(names, choices, strict=True)
        for end in range(1, len(choice))
        if choice[:end] in first
    ]
    if longer:
        so_on = f", and {len(longer) - 1:,} more" if len(longer) > 1 else ""
        log.warning(
            "%s: %r is the beginning of %r, which can never be as likely then%s: "
            'job.label_end="\\n" tells where labels end',
            *(key, *longer[0], so_on),
        )


def _check_labels(source: DataSource, question: Question, gold: str, key: str) -> None:
    names, named = question.names, source.with_gold(gold, [])
    known = set(names)
    taken: dict[str, str] = {}
    for value in gold_values(source.table(0, len(source), [gold]), gold):
        name = named.gold_name(value, names)
        if name is not None and name not in known:
            labels = f"{question.key}.labels ({listed(names)})"
            raise UserError(key, f"the value {name!r} is not among {labels}{_instead(name, names, gold)}", value=gold)
        if isinstance(value, str) and name is not None and value != name and alike(value, [name]):
            taken[value] = name
    _tell_taken(key, gold, taken)


def _tell_taken(key: str, gold: str, taken: Mapping[str, str]) -> None:
    """Say which cells are taken for labels that they differ from."""
    if taken:
        value, name = next(iter(taken.items()))
        more = f", and {count_of(len(taken) - 1, 'more value')} likewise" if len(taken) > 1 else ""
        log.warning("%s=%s: %r, which differs in case or spaces only, is taken for %r%s", key, gold, value, name, more)


def _instead(name: str, names: list[str], gold: str) -> str:
    """What to do about a value of the gold column that is no label."""
    if near := alike(name, names):
        return f", and {' and '.join(map(repr, near))} differ from it in case or spaces only: write it as one of them"
    if re.fullmatch(r"-?\d+", name):
        return "; dataset.classes=[...] names the values 0, 1, ..."
    close = get_close_matches(name, names, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    without = f"{gold} != {json.dumps(name, ensure_ascii=False)}"
    return f"{guess}; add it, correct the cells, or leave out such rows: dataset.where={shlex.quote(without)}"


def _check_members(source: DataSource, question: Question, gold: str, key: str) -> None:
    if pa.types.is_struct(source.schema.field(gold).type):
        raise UserError(key, "labels cannot be compared with a column of objects", value=gold)
    taken: dict[str, str] = {}
    known = set(question.names)
    for start in range(0, len(source), _READ):
        for value in values(gold, source.table(start, start + _READ, [gold])[gold]):
            wrong = (gold_members(value, question.names, source.conf.classes) or frozenset()) - known
            others = members_of(value, question.names) - known
            taken |= {one: near[0] for one in others if len(near := alike(one, question.names)) == 1}
            if wrong:
                labels = f"{question.key}.labels ({listed(question.names)})"
                raise UserError(key, f"the label {min(wrong)!r} in it is not among {labels}", value=gold)
    _tell_taken(key, gold, taken)


def _check_levels(source: DataSource, question: Question, gold: str, key: str) -> None:
    for value in gold_values(source.table(0, len(source), [gold]), gold):
        if not is_missing(value) and question.value(value) is None:
            levels = f"{question.names[0]} to {question.names[-1]}"
            raise UserError(key, f"the value {value!r} is not on {question.key}.scale, {levels}", value=gold)


def example_of(question: Question, gold: Any, answers: Sequence[str]) -> Example:
    """A row with this gold as a few-shot example; RowError for what is no answer to the question."""
    surfaces = {choice.name: choice.surface for choice in question.choices}
    if question.kind == MULTI:
        found = gold_members(gold, question.names) or frozenset()
        if wrong := found - {*question.names}:
            raise RowError("not among job.labels", min(wrong))
        yes, no = answers
        return Example(lambda asked: yes if asked["label"]["name"] in found else no, group=", ".join(sorted(found)))
    if question.kind == SCALE and question.value(gold) in question.values:
        gold = question.names[question.values.index(question.value(gold) or 0.0)]
    if str(gold) not in surfaces:
        raise RowError(f"not among {'the levels of job.scale' if question.kind == SCALE else 'job.labels'}", str(gold))
    return Example(surfaces[str(gold)])


def examples_of(asked: Sequence[Asked], golds: Mapping[str, Any], answers: Sequence[str]) -> Example:
    """A row with the right answers to all questions that it has some to, by column, one behind the other."""
    turns: list[tuple[Mapping[str, Any], str]] = []
    for one in asked:
        gold = golds.get(one.question.gold or "")
        if gold is None or gold_members(gold, one.question.names) is None:
            continue
        answer = example_of(one.question, gold, answers).answer
        turns += [(to.variables, answer(to.variables) if callable(answer) else str(answer)) for to in one.requests]
    if not turns:
        raise RowError("no right answer", "to any question")
    return Example(turns, group=", ".join(answer for _, answer in turns))


def check_prompt(source: DataSource, prompter: Prompter, asked: Sequence[Asked]) -> None:
    """Refuse a template that puts all questions alike; say so if it puts them before the row's text."""
    questions = [one.question for one in asked]
    used = prompter.names
    for one in questions:
        if one.kind == MULTI and "label" not in used and not (LABEL in one.ask and "question" in used):
            example = "'Is it about {{ label.surface }}? Answer yes or no.'"
            instead = f", or write {LABEL} into {one.key}.ask" if one.name else ""
            raise UserError("prompt.user", f"it does not use label, the one that is asked about: {example}{instead}")
    if len(questions) > 1 and not used & {"question", "labels", "label"}:
        raise UserError("prompt.user", "it does not use question, so that all would be the same: {{ question }}")
    if "label" in used and (unlike := next((one for one in asked if _lacks_label(source, prompter, one)), None)):
        instead = "write {{ question }}, or {% if label %}{{ label.surface }}{% endif %}"
        name = unlike.question.name
        raise UserError("prompt.user", f"it uses label, which the question {name} has none of: {instead}")
    requests = [request for one in asked for request in one.requests]
    if len(requests) > 1 and len(source) > 1 and _stands_before(source, prompter, requests):
        times = f"{len(requests):,} times"
        log.warning("prompt.user: the question stands before the row's text, which is computed %s: put it last", times)


def _lacks_label(source: DataSource, prompter: Prompter, asked: Asked) -> bool:
    """Whether the prompts about a question fail for want of a label: those about the first row, with one, do not."""
    request, row = asked.requests[0], next(source.rows(0, 1), None)
    if row is None or isinstance(row, UnreadableRow) or request.variables.get("label", "") is not None:
        return False
    label = {"name": "x", "surface": "x", "description": "x"}
    with_one = replace(request, variables={**request.variables, "label": label})
    without, there = prompter.render_many([(request, row), (with_one, row)])
    return isinstance(without, RowError) and not isinstance(there, RowError)


def _stands_before(source: DataSource, prompter: Prompter, requests: list[Request]) -> bool:
    """Whether two questions about a row share no more than two rows with one question."""
    rows = list(source.rows(0, 2))
    try:
        here, there = (prompter.render(one, rows[0]) for one in requests[:2])
        other = prompter.render(requests[0], rows[1])
    except RowError:
        return False
    return here not in (there, other) and shared_tokens(here, there) <= shared_tokens(here, other)
