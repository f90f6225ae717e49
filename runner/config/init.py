"""``rowmill init``: a commented configuration to start from, proposed after a look at a data file."""

from __future__ import annotations

import contextlib
import glob
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from runner.config.starters import write_new
from runner.config.starters.answers import LOOKED_AT, Answers, answer_columns
from runner.data.cells import UnreadableCell
from runner.data.conf import DatasetConf
from runner.data.gold import gold_spans
from runner.data.load import kind_of, local_paths
from runner.data.readers import READERS
from runner.data.readers.csv.dialect import other_delimiter
from runner.data.readers.raw.encodings import open_bytes
from runner.data.readers.table import check_encoding
from runner.data.source import DataSource, open_source
from runner.text.questions.question import LABEL, LABELS, MULTI, SCALE
from runner.text.templates import cell
from runner.types import RowError, UserError
from runner.words import did_you_mean

LONG = 6000  # characters of a document that is worth summarising
_HOW_READ = ["kind", "table", "encoding", "delimiter", "document"]
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.[A-Z]\w*[a-z]\w*")  # module.Class


@dataclass
class Proposal:
    """What to do with a data set: ``job`` is label, spans, summarize or generate; ``labels``: those in ``gold``.

    ``kind`` of question: one label, several of them (multi), or a level on a scale, whose levels are the labels.
    ``others``: further columns that look like answers.
    """

    conf: DatasetConf
    rows: int
    text: str
    job: str
    median_chars: int
    gold: str | None = None
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    kind: str = LABELS
    others: tuple[Answers, ...] = ()


def propose(path: str, table: str | None = None, folder: Path | None = None, keys: Sequence[str] = ()) -> Proposal:
    """Look at the texts of the first rows, and at the labels of all.

    UserError if they cannot be read or have no column of texts to ask about.

    ``path`` is a file, a pattern or a folder, with ``keys`` that say how it is read, or a reader of the user's own as
    ``module.Class``, with its ``keys`` as NAME=VALUE, whose module may lie in ``folder``.
    """
    conf = _conf(path, table, keys)
    folders = [str(place.resolve()) for place in (Path.cwd(), folder) if place]
    source = open_source(conf, offline=True, folders=folders)
    rows = list(islice(source.rows(0), LOOKED_AT))
    offsets = [name for name in source.column_names if _kinds(rows, name)]
    text, chars = _text_column(source, rows, offsets)
    gold = next((name for name in offsets if _kinds(rows, name, text)), None)
    if gold:
        kinds = _kinds(rows, gold, text)
        return Proposal(conf, len(source), text, "spans", chars, gold, kinds, tuple(source.column_names))
    best, *others = answer_columns(source, text) or [Answers("", (), LABELS)]
    job = "label" if best.column else "summarize" if chars >= LONG else "generate"
    columns = tuple(source.column_names)
    found = Proposal(conf, len(source), text, job, chars, best.column or None, best.answers, columns, best.kind)
    return replace(found, others=tuple(others))


def write_starter_config(found: Proposal, folder: Path, name: str | None = None) -> tuple[str, list[Path]]:
    """Write ``dataset/NAME.yaml``, ``job/NAME.yaml`` and ``prompt/NAME.yaml`` into ``folder``; NAME and the files.

    NAME is the file's own by default, with ``my_`` before it where rowmill has one. Raises UserError; nothing is
    overwritten.
    """
    name = _name(name or _stem(found.conf), given=name is not None)
    contents = {"dataset": _dataset(found), "job": _job(found), "prompt": _prompt(found)}
    targets = {folder / group / f"{name}.yaml": content for group, content in contents.items()}
    write_new(folder, targets, "--name")
    return name, list(targets)


def _stem(conf: DatasetConf) -> str:
    return conf.target.rpartition(".")[2] if conf.target else Path(str(conf.path)).name.split(".")[0]


def _conf(path: str, table: str | None, keys: Sequence[str]) -> DatasetConf:
    if not Path(path).exists() and _CLASS.fullmatch(path):
        given = (key.partition("=") for key in keys)
        own = {name: yaml.safe_load(value) for name, _, value in given}
        return DatasetConf.of({"_target_": path, **own})
    if not Path(path).exists() and not glob.has_magic(path):
        raise UserError(f"no such file: {path}")
    given = (key.removeprefix("dataset.").partition("=") for key in keys)
    how: dict[str, Any] = {"kind" if name == "dataset" else name: value for name, _, value in given}
    if unknown := [f"dataset.{name}" for name in how if name not in _HOW_READ]:
        valid = ["dataset", *(f"dataset.{name}" for name in _HOW_READ[1:])]
        raise UserError(f"{unknown[0]} does not say how a file is read{did_you_mean(unknown[0], valid)}")
    kind = how.pop("kind", None) or kind_of(path)
    if kind not in READERS:
        raise UserError("dataset", f"there is no such reader{did_you_mean(kind, [*READERS])}", value=kind)
    conf = DatasetConf(kind=kind, path=path, **{"table": table, **how})
    check_encoding(conf.encoding)
    return conf if kind != "csv" or conf.delimiter else conf.changed(delimiter=_delimiter(path, conf.encoding))


def _delimiter(path: str, encoding: str) -> str | None:
    """What the first line seems to be separated by, if it is neither commas nor what the file's name says."""
    if ".tsv" in Path(path).suffixes:
        return None
    first = local_paths(path, "csv", offline=True)[0]
    with contextlib.suppress(OSError, UnicodeError), open_bytes(first, encoding) as file:
        return other_delimiter(file.readline().decode(errors="replace"))
    return None  # the reader says more about a damaged file


def _kinds(rows: list[dict[str, Any]], column: str, text: str | None = None) -> tuple[str, ...]:
    """The kinds of the spans that a column holds; none if it does not hold spans, or not those of the ``text``."""
    try:
        found = [gold_spans(row[column], row[text] or "" if text else None) or [] for row in rows]
    except (ValueError, RowError):  # or a cell that cannot be read
        return ()
    return tuple(sorted({one.kind for spans in found for one in spans}))


def _text_column(source: DataSource, rows: list[dict[str, Any]], others: Sequence[str]) -> tuple[str, int]:
    """The column with the longest texts, and their median length; ``others`` hold something else."""
    lengths = {
        name: int(statistics.median([_chars(row[name]) for row in rows]))
        for name in source.column_names
        if name not in others
        and (pa.types.is_string(t := source.schema.field(name).type) or pa.types.is_large_string(t))
    }
    if not lengths or not any(lengths.values()):
        columns = ", ".join(source.column_names)
        raise UserError(f"{source.conf.display_name} has no column of texts to ask about (columns: {columns})")
    return max(lengths.items(), key=lambda pair: pair[1])


def _chars(cell: Any) -> int:
    """How long a cell's text is, a number's in a column of texts included; objects and lists are none."""
    return 0 if cell is None or isinstance(cell, UnreadableCell | dict | list) else len(str(cell))


def _name(name: str, given: bool) -> str:
    clean = re.sub(r"\W+", "_", name).strip("_").lower() or "data"
    if given and clean != name:
        raise UserError(f"--name {name}: use lower-case letters, digits and _, such as {clean}")
    built_in = any((files("conf") / group / f"{clean}.yaml").is_file() for group in ("dataset", "job", "prompt"))
    if given and built_in:
        raise UserError(f"--name {name}: rowmill has a configuration of this name; choose another, such as my_{name}")
    return f"my_{clean}" if built_in else clean


def _quoted(text: Any) -> str:
    """A value that YAML reads as that value, whatever it is."""
    return json.dumps(text, ensure_ascii=False)


def _dataset(found: Proposal) -> str:
    conf = found.conf
    gold = (
        f"gold: {_quoted(found.gold)} # the right answers, to measure the run against"
        if found.gold
        else ("# gold: COLUMN # the column with the right answers, if there is one: adds accuracy to the report")
    )
    encoding = conf.encoding if conf.encoding != "utf-8" else None
    places = {"path": conf.path, "table": conf.table, "delimiter": conf.delimiter, "encoding": encoding}
    places["document"] = conf.document
    lines = [
        f"# The rows to read: {found.rows:,} at the time of writing.",
        *([] if conf.target else [f"kind: {conf.kind}"]),
        *(f"{name}: {_quoted(value)}" for name, value in conf.own.items()),
        *(f"{name}: {_quoted(value)}" for name, value in places.items() if value),
        gold,
        "# limit: 100 # only this many rows, to try things out",
        "# shuffle_seed: 0 # with limit: a random sample instead of the first rows",
        "# where: some_column > 3 # only rows for which this holds",
    ]
    return "\n".join(lines) + "\n"


_LABELS = {  # what a row gets, and what stands before and behind the labels
    LABELS: (
        "one of these labels",
        "",
        "method: choice # all labels are scored exactly; generate: let the model write, then look for a label\n",
    ),
    MULTI: (
        "as many of these labels as fit, see `rowmill help multi`",
        "multi: true\n",
        "# threshold_for: f1 # with calibrate.rows=0.2: choose each label's threshold on a share of the rows\n",
    ),
}


def _job(found: Proposal) -> str:
    return _own_job(found) + _questions(found)


def _questions(found: Proposal) -> str:
    """The questions that all columns with answers could be, as a comment; nothing where there is one."""
    if not found.others or not found.gold:
        return ""
    lines = ["", "Other columns look like answers, too. All of them in one pass, with {{ question }} in the prompt:"]
    lines += ["questions: # in place of the keys above; see `rowmill help questions`"]
    for one in (Answers(found.gold, found.labels, found.kind), *found.others):
        keys: dict[str, Any] = {"name": re.sub(r"\W+|^(?=\d)", "_", one.column)}
        keys |= {"scale": list(map(int, one.answers))} if one.kind == SCALE else {"labels": list(one.answers)}
        keys |= {"multi": True, "ask": f"Is it {LABEL}? Answer yes or no."} if one.kind == MULTI else {}
        lines.append(f"  - {_quoted({**keys, 'gold': one.column})}")
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _own_job(found: Proposal) -> str:
    if found.kind == SCALE:
        low, high = found.labels
        return (
            "# Each row gets a level on this scale, with the expected value and the spread: `rowmill help scale`.\n"
            f"# Found in the column {found.gold!r}.\n"
            f"defaults: [label]\nscale: [{low}, {high}]\n"
        )
    if found.job == "label":
        names = "\n".join(f"  - {{name: {_quoted(label)}, description: null}}" for label in found.labels)
        what, begin, end = _LABELS[found.kind]
        return (
            f"# Each row gets {what}.\n"
            f"defaults: [label]\n{begin}"
            f"# Found in the column {found.gold!r}. A description in words helps the model; `surface` is what\n"
            "# it reads instead of the name.\n"
            f"labels:\n{names}\n{end}"
        )
    if found.job == "spans":
        names = "\n".join(f"  - {{name: {_quoted(kind)}, description: null}}" for kind in found.labels)
        return (
            f"# Mentions of these kinds are found in each row's {found.text}.\n"
            "defaults: [spans]\n"
            f"# Found in the column {found.gold!r}. A description in words helps the model; `surface` is what\n"
            "# it reads instead of the name.\n"
            f"kinds:\n{names}\n"
            f"column: {_quoted(found.text)}\n"
        )
    if found.job == "summarize":
        return (
            f"# Each row's {found.text} is summarised; half of these have over {found.median_chars:,} characters.\n"
            "defaults: [summarize]\n"
            f"column: {_quoted(found.text)}\n"
            "target_words: 100\n"
        )
    samples = "samples: 1 # answers per row; more than one needs engine.temperature above 0"
    return f"# Each row gets one answer.\ndefaults: [generate]\n{samples}\n"


def _prompt(found: Proposal) -> str:
    if found.job == "summarize":
        return "# The prompts of the job `summarize`; copy them here to change them.\ndefaults: [summarize]\n"
    if found.job == "spans":
        return (
            "# The prompt of the job `spans`; copy it here to change it.\ndefaults: [spans]\n"
            "examples_from: {select: random, k: 4} # rows with right answers, which small models need\n"
        )
    about = "# What the model is asked about a row: Jinja2 over the columns.\n"
    if found.kind != LABELS:
        low, high = found.labels[0], found.labels[-1]
        asked = (
            f"How would you rate it, from {low} (lowest) to {high} (highest)? Answer with a number."
            if found.kind == SCALE
            else "Does the label {{ label.surface }} fit? Answer yes or no."
        )
        return (
            f"{about}# The text comes first: what stands before the question is computed once.\n"
            f"user: |-\n  Text: {cell(found.text, found.columns)}\n\n  {asked}\n"
        )
    if found.job == "label":
        return (
            f"{about}# system: You label texts with care.\n"
            "user: |-\n"
            "  Choose the label that fits the text.\n"
            "  {% for label in labels %}\n"
            "  - {{ label.surface }}{% if label.description %}: {{ label.description }}{% endif %}\n"
            "  {% endfor %}\n\n"
            f"  Text: {cell(found.text, found.columns)}\n"
            "# examples: # a few help small models\n"
            f"#   - {{{_key(found.text)}: ..., answer: {_quoted(found.labels[0])}}}\n"
        )
    return (
        f"{about}# system: You answer briefly.\n"
        "user: |-\n"
        "  Say in one sentence what this is about.\n\n"
        f"  {cell(found.text, found.columns)}\n"
    )


def _key(column: str) -> str:
    return column if column.isidentifier() else _quoted(column)
