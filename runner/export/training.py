"""Rows as training data: chat messages, Alpaca's instruction and output, or prompt and completion.

A row becomes what the model was asked, without the few-shot examples, and what it answered: one for each question
and each label asked about. Rows without an answer are left out. Whether an example is for training or
validation follows from a hash of its prompt (of a made row, whose prompt many share, of its text, too): equal prompts
stay together, and an example stays where it is when rows come or go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.chain.folder import Chain
from runner.config.hooks import Hooks
from runner.data.cells import records
from runner.data.readers import holds_requests
from runner.export.files import STDOUT, Fresh
from runner.export.select import Selection, input_of, position_column
from runner.plain import to_json
from runner.results.quality.columns import labels_of, questions_of
from runner.results.run import Run
from runner.text.questions.question import LABELS, MULTI, SCHEMA, Question
from runner.text.templates import WHOLE, Template
from runner.types import SEED_ROW, RowError, UserError
from runner.words import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

_ANSWERS = ("completion", "answer", "output", "response", "label", "summary", "text")
Messages = list[dict[str, str]]
Asked = Callable[[dict[str, Any], Mapping[str, Any]], Messages]  # of a row and what is asked about it


@dataclass
class Example:
    """What was asked and answered."""

    asked: Messages
    answer: str


@dataclass
class Sides:
    """The two sides of an example: each a column, a template over the columns, or what the run itself used."""

    run: Run
    system: str | None = None
    prompt: str | None = None
    completion: str | None = None
    surfaces: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._made = not self.run.is_row_by_row
        self._inputs: dict[int, dict[str, Any]] = {}  # the rows as the run saw them, by their place in the output
        self._questions: list[Question] = []
        if self.completion is not None:
            return
        self._questions = [one for one in questions_of(self.run) if one.name or one.kind != LABELS]
        if self._questions:
            return
        outputs = self.run.columns.job
        self.completion = next((name for name in _ANSWERS if name in outputs), None)
        if self.completion is None:
            raise UserError(f"--completion COLUMN is needed: the job's columns are {', '.join(outputs)}")
        if self.completion == "label":
            self.surfaces = labels_of(self.run)

    def examples(self, row: dict[str, Any]) -> Iterator[Example]:
        """The row's examples: one for each answer, none if it has no answer."""
        if self.completion is None:
            for variables, answer in self._answers(row) if row.get("error") is None else ():
                yield Example(self._asked(row, variables), answer)
            return
        said = self._answer(row) if row.get("error") is None else None
        for text in said if isinstance(said, list) else [said]:
            if text is not None:
                yield Example(self._asked(row, {}), self.surfaces.get(str(text), str(text)))

    def _answers(self, row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        """What the template saw of each question asked about the row, of several labels for each, and the answer."""
        yes, no = self.run.config["job"].get("answers") or ("yes", "no")
        for one in self._questions:
            said = row.get(one.column)
            if one.kind == MULTI and said is not None:
                for choice in one.choices:
                    yield one.variables(choice), yes if choice.name in said else no
            elif one.kind == SCHEMA and said is not None:
                yield one.variables(), to_json(said)
            elif said is not None:
                name = f"{said:g}" if one.is_numeric else str(said)
                yield one.variables(), one.choices[one.names.index(name)].surface

    def prepare(self, columns: list[str]) -> None:
        """Find out what each side is; UserError for a column that does not exist or a prompt that cannot be known."""
        self._place = position_column(self.run)  # no column of the data
        if self.completion is not None:
            self._answer = self._cell("--completion", self.completion, columns)
        if self.prompt is None and isinstance(self.run, Chain):
            self._check_stage(self.run)
        self._asked = self._own_prompt(columns) if self.prompt is None else self._given_prompt(self.prompt, columns)

    def _check_stage(self, chain: Chain) -> None:
        """Refuse an answer to another question than that of the first stage, whose prompt is the chain's own."""
        answer, (first, *later) = self.completion or "", chain.plan.stages
        names = Template("--completion", answer).names if _is_template(answer) else {answer}
        if made := next((one.name for one in later if (names - first.columns.keys()) & one.columns.keys()), None):
            why = f"it answers the prompt of the stage {made}: export {chain.path / made}, or give --prompt"
            raise UserError("--completion", why, value=self.completion)

    def _given_prompt(self, prompt: str, columns: list[str]) -> Asked:
        user = self._cell("--prompt", prompt, columns)
        system = self._cell("--system", self.system, columns) if self.system else None
        return lambda row, _: _messages(system(row) if system else None, user(row))

    def _own_prompt(self, columns: list[str]) -> Asked:
        if holds_requests(self.run.config["dataset"]):
            from runner.data.readers.openai_batch import read_messages

            return lambda row, _: read_messages(json.loads(row["body"])["messages"])
        prompt, source = self.run.config["prompt"], input_of(self.run)
        user = Template("prompt.user", prompt["user"])
        said = self.system or prompt["system"]
        system = Template("prompt.system", said) if said else None
        there = [name for name in columns if name != self._place] if self._made else []
        known = [*source.column_names, *there]
        for template in (user, *([system] if system else [])):
            template.take_columns(known, source.written)
        used = user.names | (system.names if system else set())
        told = {name for one in self._questions for name in one.variables()}  # question by question
        filled = _filled(self.run, used - {*known, *WHOLE, *told}, used - told)

        def asked(row: dict[str, Any], more: Mapping[str, Any]) -> Messages:
            cells = {**(self._cells(row) if self._made else {}), **self._inputs[row[self._place]]}
            variables = {**cells, **filled(row), **more}
            told = system.render(variables, row=cells) if system else None
            return _messages(told, user.render(variables, row=cells))

        return asked

    def take_rows(self, table: pa.Table) -> None:
        """Read the input of these rows, as the run saw it: Arrow's values may be others."""
        if self.prompt is not None:
            return
        places = table[self._place].to_pylist()
        seeds = table[SEED_ROW].to_pylist() if self._made else places
        self._inputs = dict(zip(places, self.run.source.rows_at(seeds), strict=True))

    def _cell(self, option: str, what: str, columns: list[str]) -> Callable[[dict[str, Any]], Any]:
        """A column's cell, or a template over all of them."""
        if _is_template(what):
            template = Template(option, what)
            template.check_names(list(self._cells(dict.fromkeys(columns))))
            return lambda row: template.render(self._cells(row))
        if what not in columns:
            raise UserError(option, f"no column {what!r}{did_you_mean(what, columns)}; a template needs {{{{ }}}}")
        return lambda row: row[what]

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: cell for name, cell in row.items() if name != self._place}


def write_training(
    target: str, selection: Selection, kind: str, sides: Sides, validation: float, *, overwrite: bool
) -> dict[str, int]:
    """The examples in ``target`` and, if ``validation`` (a share) is not 0, some of them in a second file.

    How many went into each file. UserError if there is none.
    """
    if not 0 <= validation < 1:
        raise UserError("--validation", "it must be at least 0 and below 1", value=f"{validation:g}")
    if validation and target == STDOUT:
        raise UserError("--validation", "it writes two files, so it needs a file name", value=f"{validation:g}")
    selection.join = True
    names = [target, *([validation_file(target)] if validation else [])]
    counts = dict.fromkeys(names, 0)
    made = not selection.run.is_row_by_row
    with Fresh(overwrite=overwrite) as fresh:
        files = [fresh.opened(name) for name in names]
        for example in _examples(selection, sides):
            side = int(_place([*example.asked, *([{"text": example.answer}] if made else [])]) < validation)
            files[side].write(to_json(RECORDS[kind](example)).encode() + b"\n")
            counts[names[side]] += 1
        if not any(counts.values()):
            raise UserError(f"{selection.run.path} has no rows with an answer to train on")
    return counts


def validation_file(target: str) -> str:
    """valid.jsonl beside train.jsonl, out.valid.jsonl beside out.jsonl."""
    path = Path(target)
    stem, dot, suffixes = path.name.partition(".")
    return str(path.with_name(f"{'valid' if stem == 'train' else f'{stem}.valid'}{dot}{suffixes}"))


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _examples(selection: Selection, sides: Sides) -> Iterator[Example]:
    prepared = False
    for table in selection.tables():
        if not prepared:
            sides.prepare(table.column_names)
            prepared = True
        sides.take_rows(table)
        for row in records(table):
            try:
                yield from sides.examples(row)
            except RowError as error:
                raise UserError(f"row {row['row']}: {error}") from None


def _place(of: Messages) -> float:
    """A number in [0, 1) that follows from the prompt, or the whole example."""
    digest = hashlib.blake2b(to_json(of).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _hooks(run: Run) -> Hooks | None:
    """What the run's job has beside its steps, None if it cannot be made here."""
    from runner.config.job import make_job

    try:
        return Hooks.of(make_job(run.config["job"], modules=run.config.get("modules", ())))
    except UserError:
        return None


def _filled(run: Run, missing: Set[str], used: Set[str]) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """What the job put into a row's prompt beside the columns, if it can say or that was the same for all rows."""
    hooks = _hooks(run)
    if hooks and hooks.made_from:
        return hooks.made_from.made_from
    known = hooks.variables.variables() if hooks and hooks.variables else {}
    known = known if isinstance(known, Mapping) else {}
    if unknown := sorted(name for name in missing if not known.get(name)):
        raise UserError(f"--prompt TEMPLATE is needed: the job of {run.path} filled in {unknown[0]!r} row by row")
    same = {name: known[name] for name in used if known.get(name)}
    return lambda row: same


def _messages(system: Any, user: Any) -> Messages:
    messages = [{"role": "system", "content": str(system)}] if system else []
    return [*messages, {"role": "user", "content": user if isinstance(user, str) else to_json(user)}]


def _chat(example: Example) -> dict[str, Any]:
    return {"messages": [*example.asked, {"role": "assistant", "content": example.answer}]}


def _alpaca(example: Example) -> dict[str, Any]:
    """A system prompt is the instruction and the rest its input; without one, all is the instruction."""
    first, *rest = [message["content"] for message in example.asked]
    return {"instruction": first, "input": "\n\n".join(rest), "output": example.answer}


def _prompt_completion(example: Example) -> dict[str, Any]:
    prompt = "\n\n".join(message["content"] for message in example.asked)
    return {"prompt": prompt, "completion": example.answer}


RECORDS = {"chat": _chat, "alpaca": _alpaca, "prompt-completion": _prompt_completion}
