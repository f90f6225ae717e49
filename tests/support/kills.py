"""Runs in processes of their own that are killed at any moment, and what is known of them from outside."""

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from tests.support import runs
from tests.support.starts import CODE, Popen

STEP_SECONDS = 0.02
NOTED = """
import json, os, sys, time
from runner.cli import main
from runner.session import session

sys.path.insert(0, "")
name, step_seconds, words = json.loads(sys.argv[1])
notes, log = (os.open(f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for kind in ("notes", "log"))
os.dup2(log, 1), os.dup2(log, 2)


def open_engine(ready, share, original=session.open_engine):
    engine = original(ready, share)
    step = engine.step

    def noted():
        time.sleep(step_seconds)
        generations = step()
        os.write(notes, "".join(f"{g.key[0]} {g.key[1]}\\n" for g in generations).encode())
        return generations

    engine.step = noted
    os.write(notes, b"open\\n")
    return engine


session.open_engine = open_engine
sys.exit(main(["run", *words]))
"""


class Started(Popen):
    """What runs are compared with comes from another server: neither they nor their order of sets are the same."""

    server = "whole"


@dataclasses.dataclass
class Run:
    """A command line in a folder, and what is known of its run from outside."""

    folder: Path
    name: str
    overrides: list
    process: Popen | None = None
    compiles: bool = False  # MLX compiles, as for users

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def start(self, step_seconds=STEP_SECONDS):
        """Start the run; its process id."""
        words = [self.name, step_seconds, [*self.overrides, f"run_name={self.name}"]]
        kind = Started if self.name == "whole" else Popen
        given = runs.settings(
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=None, stderr=None, compiles=self.compiles
        )
        self.process = kind([*CODE, NOTED, json.dumps(words), *self.overrides], **given)
        return self.process.pid

    def finish(self):
        """Wait until what was started has ended."""
        assert self.exit_code() == 0, (self.folder / f"{self.name}.log").read_text()

    def exit_code(self):
        return self.process.wait(runs.SECONDS)

    def is_over(self):
        return self.process.poll() is not None

    def kill(self, answers, pause_s):
        """Start the run and kill it so long after its engine answered so many requests."""
        computed = len(self.computed())
        pid = self.start()
        while answers and len(self.computed()) < computed + answers and not self.is_over():
            time.sleep(0.005)
        time.sleep(pause_s)
        assert not self.is_over(), f"the run ended before it was killed, with {self.exit_code()}"
        os.kill(pid, signal.SIGKILL)
        assert self.exit_code() == -signal.SIGKILL

    def notes(self):
        file = self.folder / f"{self.name}.notes"
        return file.read_text().splitlines() if file.exists() else []

    def computed(self):
        """The requests that the engine answered, in all sessions, in order."""
        return [tuple(map(int, line.split())) for line in self.notes() if line != "open"]

    def committed(self):
        """All completions on disk: (row, number) -> (place in the table, body)."""
        database = self.folder / "outputs" / self.name / "run.db"
        if not database.exists():
            return {}
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT row, number, rowid, body FROM completions").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were made
            rows = []
        finally:
            connection.close()
        return {(row, number): rest for row, number, *rest in rows}

    def shards(self):
        return runs.shards(self.name, self.folder / "outputs")

    def rows(self):
        return runs.rows_of(self.name, self.folder / "outputs")


def kill_until_done(run, moments):
    """Kill the run at these moments, let it finish; the numbers of completions on disk after each kill."""
    counts = []
    for answers, pause_s in moments:
        before, computed = run.committed(), len(run.computed())
        run.kill(answers, pause_s)
        after = run.committed()
        assert before.items() <= after.items()
        assert before.keys().isdisjoint(run.computed()[computed:])
        counts.append(len(after))
    before, computed = run.committed(), len(run.computed())
    run.start(step_seconds=0)
    run.finish()
    assert before.items() <= run.committed().items()
    assert before.keys().isdisjoint(run.computed()[computed:])
    return counts
