"""What a session needs of a run, whatever its rows are: a job's answers, or what another command measures."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Protocol

from runner.checkpoint.deaths import Death
from runner.checkpoint.store import Store
from runner.data.source import DataSource
from runner.engine.conf import EngineConf
from runner.fleet.conf import FleetConf
from runner.night.night import Night
from runner.night.notify import NotifyConf, masked
from runner.night.schedule import ScheduleConf
from runner.results.run import Run
from runner.signals import Stop


class SessionConf(Protocol):
    """The groups of the configuration that every session uses."""

    schedule: ScheduleConf
    notify: NotifyConf
    engine: EngineConf
    fleet: FleetConf


class Runnable(Protocol):
    """A run checked and ready, its weights not yet loaded."""

    @property
    def conf(self) -> SessionConf: ...

    @property
    def run_dir(self) -> Path: ...

    @property
    def command(self) -> list[str]:
        """The command line that began it, without the program: the command, its options, the overrides."""
        ...

    @property
    def overrides(self) -> list[str]:
        """The last words of ``command``."""
        ...

    def resuming(self, words: list[str]) -> list[str]:
        """Words of a command line that began this run, changed so that they go on with it."""
        ...

    def open_store(self, death: Death | None) -> Store:
        """The run directory, leased. ``death``: how a supervisor saw the last session end."""
        ...

    def is_complete(self, store: Store) -> bool:
        """Whether there is nothing left to work on."""
        ...

    def outcome(self, store: Store) -> str:
        """What came of it, in words, once it is complete."""
        ...

    def work(self, store: Store, stop: Stop, night: Night) -> None:
        """Work until it is complete; KeyboardInterrupt if ``stop`` was asked for before."""
        ...

    def figures(self, run: Run) -> dict[str, Any]:
        """What there is to say of the finished rows, read from ``run``, beyond their status."""
        ...

    @property
    def source(self) -> DataSource: ...

    @property
    def wants_report(self) -> bool: ...


def resume_command(run: Runnable) -> str:
    """The exact command line that goes on with this run, from the same folder; ``...`` in place of secrets."""
    program, *typed = sys.argv
    if Path(program).name == "rowmill" and typed[:1] == run.command[:1]:
        program = "rowmill" if _is_on_path(program) else program
    else:
        program, typed = "rowmill", run.command
    return shlex.join([program, *map(masked, run.resuming(typed))])


def resumed(words: list[str], run_name: str | None) -> list[str]:
    """Words that begin a run changed so that they go on with it; ``run_name``: None if they choose its folder."""
    words = [word for word in words if not re.match(r"\+{0,2}resume=", word)]
    if run_name is None:
        return words
    return [word for word in words if not re.match(r"\+{0,2}run_name=", word)] + [f"run_name={run_name}"]


def _is_on_path(program: str) -> bool:
    found = shutil.which("rowmill")
    return found is not None and Path(program).exists() and Path(found).samefile(program)
