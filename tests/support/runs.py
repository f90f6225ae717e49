"""Runs of a small table with the fake engine: their words, their processes, and what lies in their folders."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from runner import run
from runner.engine.fake import DELAY, FAULT, FakeEngine
from runner.results.status import read_status
from runner.signals import Stop
from runner.types import UserError
from tests.support.starts import PROGRAM, Popen

SECONDS = 900  # a process that takes longer hangs, however loaded the machine is


def write_rows(count, text="text number {}", path="rows.csv"):
    Path(path).write_text("id,text\n" + "".join(f"{i},{text.format(i)}\n" for i in range(count)))


def json_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def overrides(*more):
    """The words of a run of ``rows.csv``; of two about one key the later counts."""
    words = ["engine.backend=fake", "engine.batch_size=4", "job=generate", "dataset=csv", "dataset.path=rows.csv"]
    words += ["prompt.user='{{ text }}'", "run_name=run", *more]
    return list({word.partition("=")[0]: word for word in words}.values())


# Processes


def rowmill(*words, **options):
    """``rowmill`` in a process of its own, once it has ended; for the options see ``python``."""
    return ended(command(*words), **options)


def python(code, *words, **options):
    """Python with this code, once it has ended; the options are those of ``subprocess.run`` and ``environment``."""
    return ended([sys.executable, "-c", code, *words], **options)


def command(*words):
    return [*PROGRAM, *words]


def ended(command, input=None, **options):
    """A process, once it has ended, as ``subprocess.run`` says it."""
    pipe = {} if input is None else {"stdin": subprocess.PIPE}
    with Popen(command, **settings(**pipe, **options)) as process:
        try:
            return subprocess.CompletedProcess(command, *outcome(process, input))
        finally:
            process.kill()


def settings(delay=0.0, fault="", env=None, compiles=False, **options):
    """For a process whose output is text and kept, with the ``delay`` and the ``fault`` of its fake engine.

    ``compiles``: MLX compiles in it, as for users; g++ takes a second for each expression.
    """
    here = {name: value for name, value in os.environ.items() if not (compiles and name == "MLX_DISABLE_COMPILE")}
    env = {**here, DELAY: str(delay), FAULT: fault, **(env or {})}
    return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env, **options}


def outcome(process, input=None):
    """The exit code of a process, once it has ended, and what it said on stdout and on stderr."""
    out, err = process.communicate(input, timeout=SECONDS)
    return process.returncode, out, err


class StopAfter(Stop):
    """Asks for an end after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def is_asked(self):
        self.steps -= 1
        return self.steps <= 0


def interrupt(words, after=3):
    """Run in this process and get SIGINT in this step; what the user is told."""
    taken = []

    def step(self, original=FakeEngine.step):
        taken.append(1)
        if len(taken) == after:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeEngine, "step", step)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run(words)
    return str(stopped.value)


# Folders


def finished(name="run"):
    """How many rows are finished, also of a run that has not begun."""
    try:
        return read_status(Path("outputs", name))["finished"]
    except UserError:
        return 0


def rows_of(name="run", folder="outputs"):
    return datasets.load_from_disk(str(Path(folder, name))).to_list()


def shards(name="run", folder="outputs"):
    return {file.name: file.read_bytes() for file in sorted(Path(folder, name).glob("data-*.arrow"))}
