"""What is checked and opened before weights load: the data set, the tokenizer, the prompt, the labels."""

from __future__ import annotations

import datetime
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from runner.chain.plan import is_chain
from runner.checkpoint.lease import fresh_dir
from runner.config.conf import RunConf
from runner.config.hooks import Hooks, MakesAttempts, calling
from runner.config.job import job_folders
from runner.config.load import Config
from runner.data.conf import STDIN
from runner.data.kept import Kept, choose
from runner.data.source import DataSource, open_source
from runner.data.survey import NO_GOLD
from runner.disk.errors import disk_errors
from runner.engine.conf import EngineConf
from runner.engine.masks import trial
from runner.loop.examples import open_examples
from runner.loop.prelude import open_job
from runner.loop.retrying import Retrying
from runner.results.run import Run
from runner.text.examples import ExamplesConf
from runner.text.prompter import Prompter
from runner.text.structure import Structure, read_structure
from runner.text.vocabulary import ByteTokenizer
from runner.types import Attempts, Job, UserError

log = logging.getLogger("rowmill")
T = TypeVar("T")
NO_TAGS = (
    "no tags around thoughts that are known in this model's tokenizer or chat template; "
    "prompt.thinking_tags=[BEGIN, END] names others"
)


@dataclass(frozen=True)
class Prepared:
    """A run checked and ready, its weights not yet loaded. ``folder`` is the model's, None for the fake engine.

    ``device`` is None for the fake engine, and where seats compute.
    """

    config: Config
    job: Job  # asks again for what is cut off, where the configuration's own does not
    hooks: Hooks
    run_dir: Path
    source: DataSource
    prompter: Prompter
    folder: Path | None
    model_config: dict[str, Any]
    device: Any
    date: str
    keep: Kept
    structure: Structure | None = None
    attempts: Attempts | None = None  # what the rows are made from, if not from the source's

    @property
    def context(self) -> int | None:
        """How many tokens the model takes, prompt and answer together; None: not known."""
        if self.folder is None:
            return None
        from runner.models.tensors import context_length

        return context_length(self.model_config)

    @property
    def known_tokens(self) -> int | None:
        """How many different tokens the model has, where its tokenizer has more; None: as many, or not known."""
        if self.folder is None:
            return None
        from runner.models.tensors import known_tokens

        size = known_tokens(self.model_config)
        return size if size is not None and size < self.prompter.vocabulary.size else None

    @cached_property
    def weights(self) -> str | None:
        """The fingerprint of the model's files, which reads a part of them; None for the fake engine."""
        if self.folder is None:
            return None
        from runner.models.tensors import weights_hash

        return weights_hash(self.folder)

    @property
    def rows(self) -> int:
        """How many rows the output will have, at most."""
        return len(self.source) if self.attempts is None else self.attempts.target


def prepare(config: Config, standing_in: DataSource | None = None) -> Prepared:
    """Check everything that can be checked before weights load. Raises UserError.

    ``standing_in``: rows like those that the run will have, where it cannot have them yet.
    """
    conf = config.conf
    run_dir = _run_dir(config)
    before = None if conf.resume == "extend" and conf.dataset.path != STDIN else run_dir  # a named pipe is read again
    source = standing_in or open_source(
        conf.dataset, conf.offline, before, job_folders(config.config_dir), conf.modules
    )
    date = conf.date or _before(run_dir, lambda run: str(run.identity["date"])) or datetime.date.today().isoformat()
    folder, model_config, tokenizer, device = _open_tokenizer(config)
    prompter = _prompter(conf, tokenizer, date)
    hooks = Hooks.of(config.job)
    own = list(hooks.variables.variables()) if hooks.variables else []
    prompter.check_templates(source.column_names, own, source.written)
    if prompter.unread:
        log.warning("%s", prompter.unread)
    _check_job(conf, hooks)
    if hooks.checks_source:
        with calling("check_source"):
            hooks.checks_source.check_source(source, prompter)
    if conf.prompt.examples_from != ExamplesConf():
        prompter.take_examples(open_examples(conf, hooks, prompter, source))
    open_job(hooks.opens, prompter, source, model_config, conf.engine.max_tokens, conf.seed)
    attempts = _attempts(hooks.attempts) if hooks.attempts else None
    if conf.resume == "extend":
        _check_extend(conf, attempts)
    structure = _structure(config, run_dir)
    if hooks.structured:
        with calling("take_structure"):
            hooks.structured.take_structure(structure, conf.output.raw)
    job = retrying(config, structure, prompter)
    wanted = conf.output.keep if attempts is None else _refuse_keep(conf.output.keep)
    keep = choose(wanted, source, job.schema(), _before(run_dir, lambda run: run.columns.kept))
    if standing_in is None:
        log.info("%s; keeping %s", source.describe(), ", ".join(keep) or "none of them")
    opened = (source, prompter, folder, model_config, device)
    return Prepared(config, job, hooks, run_dir, *opened, date, keep, structure, attempts)


def _run_dir(config: Config) -> Path:
    """Where the run lies, or with resume=force is to begin anew."""
    run_dir = Path(config.conf.output.dir) / config.run_name
    if config.conf.resume == "force":
        with disk_errors(run_dir):
            run_dir = fresh_dir(run_dir)
        log.info("resume=force: starting over in %s", run_dir)
    if is_chain(run_dir):
        raise UserError(f"{run_dir} belongs to a chain: choose another run_name")
    return run_dir


def _prompter(conf: RunConf, tokenizer: Any, date: str) -> Prompter:
    variables = {"reasoning_effort": conf.engine.reasoning_effort} if conf.engine.reasoning_effort else {}
    prompter = Prompter(conf.prompt, tokenizer, date, variables, conf.engine.think_tokens)
    _check_thinking(conf.engine, prompter)
    return prompter


def job_columns_before(run_dir: Path) -> dict[str, str]:
    """The types of the job's columns in the run that lies there, perhaps by an earlier version."""
    return _before(run_dir, lambda run: run.columns.job) or {}


def _before(run_dir: Path, read: Callable[[Run], T]) -> T | None:
    """What ``read`` finds in the run that lies there; None where there is none, or none that says it."""
    try:
        return read(Run(run_dir))
    except (UserError, sqlite3.Error, OSError, TypeError, KeyError, ValueError):
        return None


def _refuse_keep(wanted: list[str] | None) -> list[str]:
    if wanted:
        raise UserError(f"output.keep=[{', '.join(wanted)}]: this job makes rows of its own; it keeps no input columns")
    return []


def _structure(config: Config, run_dir: Path) -> Structure | None:
    """What answers must look like, if the configuration says so; in a run begun before, as they did then."""
    folders = [Path.cwd(), *([Path(config.config_dir)] if config.config_dir else [])]
    structure = read_structure(config.conf.output, config.conf.prompt.output, folders)
    if structure is None:
        return None
    for note in structure.notes:
        log.warning("%s", note)
    if problem := trial(structure.body):
        raise UserError(structure.key, f"it is too complex to follow, so that rows would fail: {problem}")
    return structure.as_recorded(job_columns_before(run_dir))


def retrying(config: Config, structure: Structure | None, prompter: Prompter) -> Job:
    """The configuration's job, asking again for answers that were cut off or are not valid where that can be told."""
    conf = config.conf
    reasoning = conf.output.reasoning
    if reasoning and not prompter.channels.kind:
        log.warning("output.reasoning=true: %s", NO_TAGS)
    if structure is None and not reasoning and not prompter.channels.kind:
        return config.job
    made = Retrying(config.job, conf.engine.max_tokens, structure is not None, reasoning)
    if structure is not None:
        made.problem, made.sampling = structure.problem, conf.engine.sampling()
    return made


def _open_tokenizer(config: Config) -> tuple[Path | None, dict[str, Any], Any, Any]:
    conf = config.conf
    if conf.engine.backend == "fake":
        return None, {}, ByteTokenizer(), None
    from runner.engine import weights
    from runner.machine import device
    from runner.models import resolve

    folder = resolve.model_folder(conf.model, conf.offline)
    model_config = resolve.read_config(folder)
    if conf.fleet.kind != "none":
        return folder, model_config, weights.load_plain_tokenizer(folder), None
    found = device.set_up(conf.engine.backend, conf.engine.costly(model_config))
    return folder, model_config, weights.load_tokenizer(folder, model_config), found


def _check_thinking(engine: EngineConf, prompter: Prompter) -> None:
    if engine.think_tokens is None:
        return
    if engine.think_tokens >= engine.max_tokens:
        room = f"it must be less than engine.max_tokens={engine.max_tokens}, which counts the answer, too"
        raise UserError("engine.think_tokens", room, value=engine.think_tokens)
    if not prompter.channels.kind:
        log.warning("engine.think_tokens: %s", NO_TAGS)


def _check_job(conf: RunConf, hooks: Hooks) -> None:
    """Fail early on settings of the run that its job cannot use."""
    if hooks.checks_run:
        with calling("check_run"):
            hooks.checks_run.check_run(conf)
    if conf.calibrate.rows and hooks.surveys is None:
        raise UserError("calibrate.rows", "this job has no confidences to calibrate", value=conf.calibrate.rows)
    if conf.calibrate.rows and conf.dataset.gold is None and not hooks.checks_run:
        raise UserError("calibrate.rows", NO_GOLD, value=conf.calibrate.rows)


def _check_extend(conf: RunConf, attempts: Attempts | None) -> None:
    """Refuse to add rows where all others would change with them."""
    if attempts is not None:
        raise UserError("resume", "this job makes its own rows: there are none to add", value="extend")
    if conf.dataset.shuffle_seed is not None:
        raise UserError(
            "resume",
            "with more rows, dataset.shuffle_seed gives another order, in which the earlier rows would be others: "
            "leave one of the two out (a larger dataset.limit of the same data needs no resume=extend)",
            value="extend",
        )


def _attempts(job: MakesAttempts) -> Attempts:
    with calling("attempts"):
        found = job.attempts()
        for name in ("target", "most", "ahead", "row", "judge"):
            if not hasattr(found, name):
                raise TypeError(f"it returns {found!r:.80}, which has no {name}")
        return found
