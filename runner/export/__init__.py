"""Runs out: tables, hub data sets, pre-annotations, training data, results as the OpenAI API writes them.

    rowmill export outputs/mail mail.parquet --where 'confidence >= 0.5 and error is null'
    rowmill export outputs/mail mail.db --join
    rowmill export outputs/mail train.jsonl --format chat --validation 0.2

The name of the target determines the format: ``.parquet``, ``.jsonl``, ``.csv`` (the last two also as ``.gz`` or
``.zst``), ``.db`` for an SQLite database that Datasette can show, or ``hub:OWNER/NAME`` for Parquet with a data set
card, private unless ``--public`` is given. ``--join`` puts the input's columns beside the output's; if the input has
moved, ``--data PATH`` says where it is now.

    ``label-studio, argilla``: Tasks and records with pre-annotations, for people to check.
    ``chat, alpaca, prompt-completion``: Training data. ``--validation`` puts a share of the examples into a second
        file, split by a hash of the prompt (of a made-up row: of prompt and text). ``train.jsonl`` and ``valid.jsonl``
        are what ``mlx_lm.lora --data`` reads.
    ``openai-batch``: Results as the OpenAI Batch API writes them, errors in a file beside them.

Modules:
annotate  Labels, spans and texts as pre-annotations, for people to check: tasks for Label Studio, records for Argilla.
files     Rows as a file: Parquet, JSON lines, CSV or an SQLite database, written beside its place and renamed.
hub       A run as a data set on the Hugging Face hub: Parquet files and a card that says how they were made.
openai    Results as the OpenAI Batch API writes them: a file of responses and one of errors, an object a request.
plain     Tables with the flat cells that CSV and SQLite can hold.
select    Which rows and columns of a run are exported: joined to the input, filtered, chosen.
training  Rows as training data: chat messages, Alpaca's instruction and output, or prompt and completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.types import UserError
from runner.words import count_of, listed

_SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_SUFFIXES |= {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite"}
_TABLES, _TASKS = ("parquet", "jsonl", "csv", "sqlite"), ("label-studio", "argilla")
_RECORDS = ("chat", "alpaca", "prompt-completion")
FORMATS = (*_TABLES, *_TASKS, "openai-batch", *_RECORDS)
_FOR = {"columns": _TABLES, "safe_csv": ("csv",), "table": ("sqlite",), "text": _TASKS}  # that an option is for
_FOR |= dict.fromkeys(("validation", "prompt", "system", "completion"), _RECORDS)
_OF_ROWS = ("where", "columns", "join", "data", "no_prior", "temperature", "threshold")


def export(options: Any) -> Iterator[str]:
    """Write the rows of a run to ``target``; yields messages for the user. ``options``: see ``rowmill export --help``.

    Raises UserError for whatever is wrong; an existing file is then left untouched.
    """
    from runner.chain.folder import Chain, open_folder
    from runner.export.hub import HUB, push
    from runner.export.select import Selection
    from runner.export.training import RECORDS, Sides, write_training
    from runner.results.quality.rescore.decision import AS_RUN, Decision

    kind = options.format or _by_name(options.target)
    _refuse_idle(options, kind)
    if options.rejected:
        yield _write_rejected(kind, options)
        return
    run = open_folder(options.run_dir, options.data)
    columns = [name.strip() for name in options.columns.split(",")] if options.columns else []
    decision = Decision(not options.no_prior, options.temperature, options.threshold)
    status = run.status
    selection = Selection(run, options.join or options.data is not None, options.where, columns, decision)
    anew = [f"labels are decided anew: {decision}"] if decision != AS_RUN else []
    if options.target.startswith(HUB):
        if kind != "parquet":
            raise UserError("--format", "data sets on the hub are written as parquet", value=kind)
        count = push(options.target, selection, public=options.public, overwrite=options.overwrite)
    elif kind == "openai-batch":
        from runner.export.openai import errors_file, write_openai_batch

        count, failed = write_openai_batch(options.target, selection, overwrite=options.overwrite)
        if failed:
            yield f"{count_of(failed, 'error')} written to {errors_file(options.target)}"
    elif kind in RECORDS:
        sides = Sides(run, options.system, options.prompt, options.completion)
        share = options.validation
        counts = write_training(options.target, selection, kind, sides, share, overwrite=options.overwrite)
        yield from anew
        yield from (f"{count_of(count, 'example')} written to {name}" for name, count in counts.items())
        return
    else:
        notes: list[str] = []
        count = _write(kind, selection, options, notes.append)
        yield from notes
    yield from anew
    left = status["rows"] - (status["finished"] if isinstance(run, Chain) else selection.read)
    unfinished = f"; {left:,} unfinished" if left else ""
    yield f"{count:,} of {count_of(status['rows'], 'row')} written to {options.target}{unfinished}"


def _refuse_idle(options: Any, kind: str) -> None:
    """Raise UserError for an option that would change nothing."""
    for name, kinds in _FOR.items():
        if getattr(options, name) and kind not in kinds:
            raise UserError(_typed(name), f"it is for {listed(kinds)}, and {options.target} is written as {kind}")
    if options.public and not options.target.startswith("hub:"):
        raise UserError("--public", f"it is for the hub, and {options.target} is a file")
    if options.rejected and (idle := [name for name in _OF_ROWS if getattr(options, name)]):
        raise UserError(_typed(idle[0]), "it is for rows, and --rejected writes attempts that became none")


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _write_rejected(kind: str, options: Any) -> str:
    from runner.chain.folder import open_folder
    from runner.export.files import write_lines

    if kind != "jsonl":
        raise UserError("--rejected", f"attempts are written as JSON lines, so {options.target} must end in .jsonl")
    count = write_lines(options.target, open_folder(options.run_dir).rejected(), overwrite=options.overwrite)
    return f"{count_of(count, 'rejected attempt')} written to {options.target}"


def _write(kind: str, selection: Any, options: Any, say: Callable[[str], None]) -> int:
    from runner.export.annotate import ANNOTATORS
    from runner.export.files import STDOUT, TABLE, WRITERS, Writing
    from runner.export.select import position_column

    if kind in ANNOTATORS:
        return ANNOTATORS[kind](options.target, selection, options.text, overwrite=options.overwrite)
    if options.target == STDOUT and kind in ("parquet", "sqlite"):
        raise UserError("--format", "it needs a file, not the standard output", value=kind)
    tables = selection.gathered() if kind == "parquet" else selection.tables()
    how = Writing(options.overwrite, options.safe_csv, options.table or TABLE, position_column(selection.run), say)
    return WRITERS[kind](options.target, tables, how)


def _by_name(target: str) -> str:
    if target.startswith("hub:"):
        return "parquet"
    if target == "-":
        return "jsonl"
    name = target.removesuffix(".gz").removesuffix(".zst")
    kind = _SUFFIXES.get(Path(name).suffix)
    if kind is None:
        known = ", ".join(_SUFFIXES)
        raise UserError(f"{target}: the name implies no format ({known}, hub:OWNER/NAME): give --format")
    if name != target and kind not in ("jsonl", "csv"):
        raise UserError(f"{target}: {kind} files are not compressed as a whole; leave out {Path(target).suffix}")
    return kind
