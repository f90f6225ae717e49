"""``rowmill run -m``: runs that differ in some keys, one after the other, on one resident model if they can."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.flow import combinations
from runner.config.load import Config, load_config
from runner.data.conf import STDIN
from runner.engine.weights import keeping
from runner.night.link import Link
from runner.results.status import accuracy_of
from runner.session.drive import drive
from runner.session.finish import exit_code
from runner.session.prepare import prepare
from runner.session.session import JobRun
from runner.signals import Stop
from runner.stages.chain import run_chain
from runner.stages.conf import ChainConf, load_chain
from runner.types import EXIT_OK, UserError
from runner.words import aligned, speed

_HEAD = ("run", "rows", "errors", "accuracy", "speed", "output")
_LONGEST = 40  # characters of a value in a name

log = logging.getLogger("rowmill")


@dataclass(frozen=True)
class Swept:
    """One run of a sweep: what it differs in, and its ``figures``, or why it has none."""

    label: str
    run_dir: Path
    figures: dict[str, Any] | None = None
    error: UserError | None = None

    @property
    def code(self) -> int:
        """The exit code that it would have had alone."""
        if self.error is not None:
            return self.error.exit_code
        return exit_code(self.figures) if self.figures else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """Its figures, or the error, for ``--json``."""
        return {"run": self.label, "path": str(self.run_dir), "error": str(self.error) if self.error else None} | (
            self.figures or {}
        )


@dataclass
class Sweep:
    """The runs of a command line whose keys have several values. The same line goes on with them."""

    overrides: Sequence[str]
    config_dir: str | None = None

    def run(self, stop: Stop, link: Link | None = None) -> list[Swept]:
        """Run or resume all of them; one that fails stops no other.

        Raises UserError for a configuration that is wrong, before any run begins, and KeyboardInterrupt.
        """
        configs = self._configs()
        with keeping():
            return [
                self._one(label, config, stop, link, is_last=number == len(configs))
                for number, (label, config) in enumerate(configs, 1)
            ]

    def _configs(self) -> list[tuple[str, Config | ChainConf]]:
        each = combinations(self.overrides)
        suffixes = _suffixes([differing for _, differing in each])
        found: list[tuple[str, Config | ChainConf]] = []
        for (words, differing), suffix in zip(each, suffixes, strict=True):
            config = self._loaded(words)
            if config.conf.resume == "force":
                raise UserError("resume", "a sweep starts over under another run_name", value="force")
            if config.conf.dataset.path == STDIN and not config.conf.dataset.target:
                raise UserError("dataset.path", "what is piped in can be read once: give a file", value=STDIN)
            named = [word for word in words if word.partition("=")[0] != "run_name"]
            is_named = any(word.startswith("run_name=") for word in differing)
            name = config.run_name if is_named else f"{config.run_name}-{suffix}"
            found.append((", ".join(differing), self._loaded([*named, f"run_name={name}"])))
        return found

    def _loaded(self, words: list[str]) -> Config | ChainConf:
        return load_chain(words, self.config_dir) or load_config(words, self.config_dir)

    def _one(self, label: str, config: Config | ChainConf, stop: Stop, link: Link | None, *, is_last: bool) -> Swept:
        run_dir = Path(config.conf.output.dir) / config.run_name
        log.info("%s: %s", run_dir, label)
        try:
            if isinstance(config, ChainConf):
                figures = run_chain(config, stop, link, is_last=is_last)
            else:
                figures = drive(_SweptRun(prepare(config), self), stop, link, is_last=is_last)
        except UserError as error:
            log.error("%s: %s", run_dir, error)
            return Swept(label, run_dir, error=error)
        return Swept(label, run_dir, figures)


@dataclass
class _SweptRun(JobRun):
    """A run whose command line is that of its sweep."""

    sweep: Sweep

    @property
    def command(self) -> list[str]:
        folder = ["--config-dir", self.sweep.config_dir] if self.sweep.config_dir else []
        return ["run", "-m", *folder, *self.overrides]

    @property
    def overrides(self) -> list[str]:
        return list(self.sweep.overrides)

    def resuming(self, words: list[str]) -> list[str]:
        return words


def worst(swept: Sequence[Swept]) -> int:
    """The exit code of a sweep."""
    return max(one.code for one in swept)


def as_table(swept: Sequence[Swept]) -> str:
    """A line for each run, and one for each error."""
    lines = aligned([_HEAD, *map(_cells, swept)], left=(0, 5))
    return "\n".join([*lines, *(f"{one.label}: {one.error}" for one in swept if one.error)])


def _cells(one: Swept) -> tuple[str, ...]:
    found = one.figures
    label = one.label if len(one.label) <= 2 * _LONGEST else f"{one.label[: 2 * _LONGEST]}…"
    if found is None:
        return (label, "failed", "", "", "", str(one.run_dir))
    accuracy = accuracy_of(found)
    known = f"{accuracy:.3f}" if accuracy is not None else ""
    pace = speed(found["rows_per_s"]) if found["rows_per_s"] else ""
    return (label, f"{found['finished']:,}", f"{found['errors']:,}", known, pace, str(one.run_dir))


def _suffixes(differing: list[list[str]]) -> list[str]:
    """What tells the runs' folders apart: their values, or numbers where these are long or look alike."""
    found = [_suffix(words) for words in differing]
    if len(set(found)) == len(found) and all(0 < len(one) <= _LONGEST for one in found):
        return found
    return [str(number) for number in range(1, len(found) + 1)]


def _suffix(words: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.]+", "-", word.partition("=")[2]).strip("-") for word in words)
