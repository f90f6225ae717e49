"""Chains: ``stages`` in a file, each of which asks about the rows that the one before it answered.

``my_conf/mails.yaml``:

    dataset: csv
    dataset.path: mail.csv
    run_name: mails
    stages:
      - {name: sorted, job: label, job.labels: [spam, ham], prompt.user: "Ham or spam? {{ text }}"}
      - {name: why, job: generate, where: label == spam, prompt.user: "Why is this spam? {{ text }}"}
      - {name: urgent, job: label, job.labels: ['yes', 'no'], prompt.user: "Is {{ why_text }} urgent? {{ text }}"}

Then:

    rowmill preview my_conf/mails.yaml
    rowmill run my_conf/mails.yaml
    rowmill status outputs/mails
    rowmill export outputs/mails mails.csv

A stage has a ``name`` and any keys of the groups job, prompt, model, engine, output and calibrate, and ``seed``; those
that stand outside of it count for all stages. All other keys belong to the chain: ``schedule`` and ``notify`` are for
all of it. On the command line, ``stages.why.model=NAME`` sets a key of a stage. Stages run one after the other, with
one model in memory at a time, and a model that two of them share stays. ``outputs/mails/why`` is the run of a stage: it
resumes by itself when the same command is run again. A stage that is added behind the others leaves them as they are.
With ``resume=extend``, ``resume=errors`` or a larger ``dataset.limit`` a stage asks about what is new or has changed
before it, and about nothing else.

A later stage reads the rows that the one before it answered:

    ``where``: A filter over the columns of the data and of all stages before, as in ``dataset.where``. Without one, all
        rows but those in error.
    ``merge``: add, the default, puts its columns beside the others; replace puts them in the place of the columns of
        the same name, as in a cascade (``rowmill help cascade``).
    ``dataset.gold``: The column with the right answers to its question; the chain's own is for the first stage and for
        those that replace its answers.

The output in ``outputs/mails`` has every row once, with the columns of all stages. One whose name is taken, by the data
or by an earlier stage, is called ``STAGE_NAME``, such as ``why_text`` above. The column ``stage`` says which stage
answered a row last; ``error`` and ``usage`` are of that one. Where a stage has not asked, its columns are null.

``status``, ``watch``, ``report``, ``export``, ``evaluate``, ``diff``, ``runs``, ``delete`` and ``open_run`` take the
folder of the chain as well as that of a stage. All stages are checked before the first one begins. With ``-m`` each
combination of values is a chain of its own:

    rowmill run -m my_conf/mails.yaml stages.why.seed=1,2

``preview --trial`` is for one run: which rows a later stage has, and so how long it takes, is known only when those
before it have answered. To try a chain, run it with ``dataset.limit=20``; the same command without the limit goes on
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from runner.chain.cascade import least_rows
from runner.chain.plan import ADD, REPLACE, Stage
from runner.config.conf import RunConf
from runner.config.file import expanded, key_of, over, words_of
from runner.config.flow import read_value
from runner.config.load import Config, load_config
from runner.types import UserError
from runner.words import did_you_mean

T = TypeVar("T")
_OWN = ("job", "prompt", "model", "engine", "output", "calibrate", "seed")  # groups and keys that a stage may set
_GOLD = ("dataset.gold", "dataset.classes")
_WORDS = ("name", "where", "merge")
_OF_CHAIN = ("output.dir", "output.shared", "output.report", "engine.stall_minutes", "engine.max_restarts")


@dataclass(frozen=True)
class StageConf:
    """A stage and its configuration, the data set still that of the chain. ``own``: the keys that it sets itself."""

    stage: Stage
    config: Config
    own: frozenset[str]


@dataclass(frozen=True)
class ChainConf:
    """``common``: the chain's own configuration, as if its first stage were all of it."""

    common: Config
    stages: tuple[StageConf, ...]
    overrides: list[str]
    config_dir: str | None

    @property
    def conf(self) -> RunConf:
        return self.common.conf

    @property
    def run_name(self) -> str:
        return self.common.run_name

    @property
    def folder(self) -> Path:
        """Where it lies, unless it starts over."""
        return Path(self.conf.output.dir) / self.common.run_name


def load_chain(overrides: Sequence[str], config_dir: str | None = None) -> ChainConf | None:
    """The chain that a command line describes; None where it has no ``stages``. UserError for what is wrong in it."""
    words = expanded(overrides)
    typed = [word for word in words if key_of(word) == "stages" or key_of(word).startswith("stages.")]
    if not typed:
        return None
    rest = [word for word in words if word not in typed]
    listed = _with_later(_listed([word for word in typed if key_of(word) == "stages"]), typed)
    common = named(listed[0][0], lambda: load_config(over(rest, listed[0][1]), config_dir))
    folder = Path(common.conf.output.dir) / common.run_name
    resume = "auto" if common.conf.resume == "force" else common.conf.resume
    rest = [word for word in rest if key_of(word) not in ("run_name", "output.dir", "resume")]
    stages = []
    for at, (stage, own) in enumerate(listed):
        words = [*over(rest, own), f"output.dir={folder}"]
        config = common if at == 0 else named(stage, partial(load_config, words, config_dir))
        stages.append(
            StageConf(stage, with_keys(config, run_name=stage.name, resume=resume), frozenset(map(key_of, own)))
        )
    _check_cascade(common.conf, [stage for stage, _ in listed])
    return ChainConf(common, tuple(stages), list(overrides), config_dir)


def with_keys(config: Config, **values: Any) -> Config:
    """The configuration with other values of some keys that are in no group."""
    return replace(config, conf=replace(config.conf, **values), plain={**config.plain, **values})


def named(stage: Stage, make: Callable[[], T]) -> T:
    """What ``make`` returns; a UserError says in which stage it was."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}", exit_code=error.exit_code) from error


def _listed(words: list[str]) -> list[tuple[Stage, list[str]]]:
    """The stages with their own words. UserError."""
    if not words:
        raise UserError("stages", "is not set: list the stages, such as stages=[{name: first}, {name: second}]")
    try:
        found = read_value(words[-1].partition("=")[2])
    except ValueError as error:
        raise UserError("stages", f"the list cannot be read: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise UserError("stages", "it must be a list of stages, each with a name, such as [{name: first}]")
    stages = [_stage(at, one) for at, one in enumerate(found)]
    names = [stage.name for stage, _ in stages]
    folders = [name.casefold() for name in names]  # which some disks do not tell apart by case
    if twice := next((name for name in names if folders.count(name.casefold()) > 1), None):
        raise UserError("stages", f"two stages are called {twice}")
    return stages


def _stage(at: int, given: dict[str, Any]) -> tuple[Stage, list[str]]:
    name = str(given.get("name", ""))
    if not name.isidentifier():
        raise UserError("stages", f"stage {at + 1} needs a name of letters, digits and _", value=name or None)
    key = f"stages.{name}"
    where, merge = given.get("where"), str(given.get("merge", ADD))
    if merge not in (ADD, REPLACE):
        raise UserError(f"{key}.merge", f"it must be {ADD} or {REPLACE}", value=merge)
    if at == 0 and ("where" in given or "merge" in given):
        raise UserError(f"{key}.{'where' if 'where' in given else 'merge'}", "the first stage reads dataset.where")
    words = words_of({name: value for name, value in given.items() if name not in _WORDS})
    for word in words:
        _check_key(key, key_of(word), at)
    return Stage(name, None if where is None else str(where), merge), words


def _check_key(stage: str, key: str, at: int) -> None:
    group = key.partition(".")[0]
    if at and key == "output.keep":
        raise UserError(f"{stage}.{key}", "a later stage keeps the row's number; the chain's output has the rest")
    if key in _OF_CHAIN or (group not in _OWN and not (at and key in _GOLD)):
        why = "the rows of a later stage are those of the one before" if group == "dataset" and at else ""
        known = [*_WORDS, *_OWN, *(_GOLD if at else ())]
        raise UserError(f"{stage}.{key}", why or f"it is set for the whole chain, if at all{did_you_mean(key, known)}")


def _with_later(stages: list[tuple[Stage, list[str]]], typed: Sequence[str]) -> list[tuple[Stage, list[str]]]:
    """The stages with what ``stages.NAME.KEY=VALUE`` sets in them."""
    for word in typed:
        key, _, value = word.partition("=")
        _, _, rest = key_of(key).partition("stages.")
        name, _, inner = rest.partition(".")
        if not rest:
            continue
        at = next((at for at, (stage, _) in enumerate(stages) if stage.name == name), None)
        if at is None or not inner:
            raise UserError(key, f"there is no such stage{did_you_mean(name, [stage.name for stage, _ in stages])}")
        stage, words = stages[at]
        if inner in ("where", "merge"):
            text = read_value(value) if value[:1] in ("'", '"') else value
            given = {"name": name, "where": stage.where, "merge": stage.merge, inner: None if text == "null" else text}
            stages[at] = (_stage(at, {key: one for key, one in given.items() if one is not None})[0], words)
        else:
            _check_key(f"stages.{name}", inner, at)
            stages[at] = (stage, over(words, [f"{inner}={value}"]))
    return stages


def _check_cascade(conf: RunConf, stages: list[Stage]) -> None:
    agree, rows = conf.cascade.agree, conf.cascade.rows
    if agree is None:
        return
    if len(stages) != 2 or stages[1].merge != REPLACE:
        raise UserError("cascade.agree", "it needs two stages, the second with merge: replace", value=agree)
    if stages[1].where is not None:
        raise UserError(f"stages.{stages[1].name}.where", "cascade.agree says which rows are asked again: leave it out")
    if rows < (least := least_rows(agree)):
        raise UserError("cascade.rows", f"{agree} cannot be shown with fewer than {least:,} rows", value=rows)
