r"""The command ``perplexity``: from overrides to windows in a checkpoint to a table of variants.

``rowmill perplexity`` cuts a text into windows, commits each batch of them, and writes one table of all variants with
standard errors and the differences from the first, as text, Markdown and JSON. ``--self-check`` compares a batch with
forward passes one by one.

    rowmill perplexity -m model=gpt_oss_20b_q8g64,gpt_oss_20b_q6g32 dataset=text dataset.path=book.txt

Each variant is a run like any other: supervised, in the hours that ``schedule`` allows, with ``notify``, resumed by
the same command, in a folder with ``run.log`` and ``report.html`` that ``status``, ``watch``, ``export`` and ``diff``
read. A sweep computes its variants one after the other; an interrupted one goes on where it was. Windows in progress
when the process died are tried again, after a second death each by itself; none is ever left out, as that would change
the result. With ``fleet=local`` or ``fleet=ray`` several GPUs or machines score them (see ``rowmill help fleet``), and
the result is the same to rounding. The tables of one variant lie in its folder as ``perplexity.txt``, ``.md`` and
``.json``, those of a sweep beside its runs, under its ``run_name`` or a name made of its variants.

The output has a row for each window, with these columns beside ``error`` and ``usage``:

    ``begin``: The position of the window's first token in the text.
    ``end``: The position after its last one.
    ``tokens``: How many of them are scored: those that no window before it held, without its own first one.
    ``nll``: The sum of their negative log-likelihoods, in nats.

Figures of two programs can be compared only if both cut and score the text alike; the table says how it was done here.
What others do, and the settings that come near:

    ``mlx_lm.perplexity``: Rows in a random order, each with what the tokenizer puts around it and the end token, joined
        and cut into windows that do not overlap; the rest is left out. ``perplexity.window=512 perplexity.bos=false
        perplexity.context=1 perplexity.max_tokens=null``, on one document; the same figure where the tokenizer puts
        nothing before it.
    ``llama-perplexity``: The whole file as one text, windows that do not overlap, each begun with the token that begins
        a text in the place of the one that stands there; only the second half of a whole window is scored.
        ``perplexity.document=files perplexity.separator='' perplexity.window=512 perplexity.context=257``, half a
        window and one, and ``perplexity.max_tokens=null``; in a file of one text, whose last line feed it leaves out.
    ``WikiText``: Model cards mostly take the rows of the hub with their line ends, joined by nothing or by blank lines:
        ``perplexity.separator=''`` or ``'\n\n'``, and the card's window and stride; for WikiText as a text file also
        ``perplexity.document=lines``, whose rows are the hub's. For another text file, as it is:
        ``perplexity.document=files perplexity.separator=''``.

Modules:
check    Batches of windows held against forward passes one by one, which NumPy normalises.
conf     The configuration of ``rowmill perplexity``.
run      One variant's run: its windows scored in batches, each committed, as a session drives it.
table    The perplexities of several variants side by side, as text, Markdown and JSON.
windows  A text cut into windows of tokens.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf.errors import OmegaConfBaseException

from jobs.perplexity.check import Check
from jobs.perplexity.conf import PerplexityConf, PerplexityRunConf
from jobs.perplexity.run import Asked, PerplexityRun
from jobs.perplexity.table import Variant, as_json, as_markdown, as_text
from jobs.perplexity.windows import leading_tokens, method, read_tokens, spans, text_column
from runner.config.compose import Composer, refused
from runner.config.flow import combinations
from runner.config.job import job_folders
from runner.config.load import check_run_name
from runner.config.typed import as_object, as_plain
from runner.data.conf import STDIN
from runner.data.source import open_source
from runner.disk import write_text
from runner.disk.errors import disk_errors
from runner.keys import check_keys
from runner.night.link import Link
from runner.night.notify import check_notify
from runner.night.schedule import check_schedule
from runner.session.drive import drive
from runner.session.finish import tried
from runner.session.runnable import resume_command
from runner.signals import Stop
from runner.types import UserError
from runner.words import count_of

__all__ = ["Asked", "Measured", "PerplexityConf", "PerplexityRunConf", "run_perplexities"]

log = logging.getLogger("rowmill")
MOST_NAME = 100  # characters of a sweep's table


@dataclass
class Measured:
    """What came out. ``files``: the tables by kind of file; none if they could not be written."""

    variants: list[Variant] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)


@dataclass
class Composed:
    """A variant's configuration, typed and as plain values. ``label`` names it; ``folder`` unless it has a run_name."""

    conf: PerplexityRunConf
    config: dict[str, Any]
    dataset: str
    label: str
    folder: str
    suffix: str  # of a run_name, in a sweep

    def run_dir(self, run_name: str | None) -> Path:
        """Where it lies if the runs are called ``run_name``."""
        return Path(self.conf.output.dir) / (f"{run_name}{self.suffix}" if run_name else self.folder)


def run_perplexities(asked: Asked, stop: Stop, link: Link | None = None) -> Measured:
    """Evaluate, or go on; one variant after the other. Raises UserError, and KeyboardInterrupt if ``stop`` was asked.

    ``link``: the supervisor, if this is its worker.
    """
    runs = prepare_all(asked)
    done = [drive(run, stop, link, is_last=run is runs[-1]) for run in runs]
    reports = [figures["report"] for figures in done if "report" in figures]
    checks = [check for run in runs for check in run.checks]
    found = tried("table", resume_command(runs[-1]), lambda: _tables(runs))
    variants, files = found or ([], {})
    return Measured(variants, checks, files, reports)


def prepare_all(asked: Asked) -> list[PerplexityRun]:
    """All variants, checked before anything is computed."""
    each = combinations(asked.overrides) if asked.sweep else [(asked.overrides, [])]
    composed = [compose(words, asked.config_dir, differing) for words, differing in each]
    last = composed[-1]
    name = asked_name = last.conf.run_name
    if last.conf.resume == "force":
        base = name or (f"perplexity-{last.dataset}" if asked.sweep else last.folder)
        name = _fresh_name(base, name, lambda name: [one.run_dir(name) for one in composed])
    folders = [one.run_dir(name) for one in composed]
    _check_folders(asked, name, folders, composed)
    new_name = name if name != asked_name else None
    return [prepare(asked, one, folder, new_name) for one, folder in zip(composed, folders, strict=True)]


def _fresh_name(base: str, first: str | None, folders: Callable[[str | None], list[Path]]) -> str | None:
    """``first`` if none of its folders exists, else the first of ``base-2``, ``base-3``... of which that is true."""
    names = itertools.chain([first], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not any(folder.exists() for folder in folders(name)))


def _check_folders(asked: Asked, name: str | None, folders: list[Path], composed: list[Composed]) -> None:
    if name:
        check_run_name(name)
    if len(set(folders)) < len(folders):
        raise UserError("run_name", "is not set: without it some variants have the same name")
    if asked.sweep and any(one.conf.dataset.path == STDIN and not one.conf.dataset.target for one in composed):
        raise UserError("dataset.path=-: the standard input can be read once; put the text of a sweep into a file")


def compose(overrides: Sequence[str], config_dir: str | None, differing: Sequence[str]) -> Composed:
    """A variant's configuration, checked; ``differing`` overrides go into its name."""
    tree, choices = Composer(PerplexityRunConf, "perplexity", config_dir).compose(overrides)
    try:
        conf, config = cast(PerplexityRunConf, as_object(tree)), as_plain(tree)
    except OmegaConfBaseException as error:
        raise refused(error, PerplexityRunConf) from error
    check_keys(conf)
    if conf.perplexity.document is not None:
        config["dataset"]["document"] = conf.dataset.document = conf.perplexity.document
    check_schedule(conf.schedule)
    check_notify(conf.notify)
    conf.engine.refuse_fake("perplexity")
    typed_path = any(word.startswith("model.path=") for word in overrides)
    model = Path(str(conf.model.path).partition("#")[0]).name if typed_path else choices["model"]
    others = [word for word in differing if not word.startswith(("model=", "model.path="))]
    folder = _file_name("-".join(["perplexity", model, choices["dataset"], *others]))
    suffix = _file_name("-" + "-".join(word.partition("=")[2] for word in differing)) if differing else ""
    return Composed(conf, config, choices["dataset"], " ".join([model, *others]), folder, suffix)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text)


def prepare(asked: Asked, composed: Composed, run_dir: Path, new_name: str | None) -> PerplexityRun:
    """Open the text and the tokenizer, and check what can be checked before weights load. Raises UserError."""
    conf = composed.conf
    from runner.engine import weights
    from runner.machine import device
    from runner.models import resolve
    from runner.models.tensors import context_length
    from runner.text.vocabulary import as_vocabulary

    try:
        source = open_source(conf.dataset, conf.offline, run_dir, job_folders(asked.config_dir), conf.modules)
    except UserError as error:
        is_ours = error.key == "dataset.document" and conf.perplexity.document is not None
        raise (error.at("perplexity.document") if is_ours else error) from None
    column = text_column(source, conf.perplexity.column)
    folder = resolve.model_folder(conf.model, conf.offline)
    config, is_here = resolve.read_config(folder), conf.fleet.kind == "none"
    if asked.checked and not is_here:
        raise UserError("fleet", "--self-check compares passes of one process: leave it out", value=conf.fleet.kind)
    found = device.set_up(conf.engine.backend, conf.engine.costly(config)) if is_here else None
    tokenizer = weights.load_tokenizer(folder, config) if is_here else weights.load_plain_tokenizer(folder)
    end = tokenizer.eos_token_id
    if end is None and conf.perplexity.separator is None:
        raise UserError("this model has no end token: give perplexity.separator=..., such as a line break")
    vocabulary = as_vocabulary(tokenizer)
    tokens = read_tokens(source, column, vocabulary, end, conf.perplexity)
    bos = leading_tokens(tokenizer, vocabulary, conf.perplexity.bos)
    cut, stride = spans(conf.perplexity, len(tokens), len(bos))
    _check_context(conf, context_length(config))
    log.info("%s: %s tokens in %s", source.describe(), f"{len(tokens):,}", count_of(len(cut), "window"))
    place = (run_dir, new_name, folder, config, found)
    how = method(conf.perplexity, conf.dataset.document, stride, tokenizer.convert_ids_to_tokens(bos))
    return PerplexityRun(asked, conf, composed.config, composed.label, *place, source, tokens, cut, bos, how)


def _check_context(conf: PerplexityRunConf, context: int | None) -> None:
    if context is not None and conf.perplexity.window > context:
        raise UserError("perplexity.window", f"the model's context has {context} tokens", value=conf.perplexity.window)


def _tables(runs: list[PerplexityRun]) -> tuple[list[Variant], dict[str, Path]]:
    """The variants, and their tables: in the run's folder, or beside those of a sweep."""
    variants = [run.variant() for run in runs]
    place = _table_place(runs)
    written = {}
    with disk_errors(place.parent):
        for ending, text in (("txt", as_text), ("md", as_markdown), ("json", as_json)):
            written[ending] = place.with_name(f"{place.name}.{ending}")
            write_text(written[ending], text(variants) + "\n")
    return variants, written


def _table_place(runs: list[PerplexityRun]) -> Path:
    """The path of the tables without their endings."""
    last = runs[-1]
    if not last.asked.sweep:
        return last.run_dir / "perplexity"
    name = last.new_name or last.conf.run_name
    if name is None:
        folders = [run.run_dir.name for run in runs]
        name = "-".join([folders[0], *(folder.removeprefix("perplexity-") for folder in folders[1:])])
        if len(name) > MOST_NAME:
            name = f"{name[:MOST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(last.conf.output.dir) / name
