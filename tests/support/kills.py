"""Runs in processes of their own that are killed at any moment, and what is known of them from outside."""

import dataclasses
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import datasets

STEP_SECONDS = 0.02
NOTING = """
import os, sys, time
from runner import cli
from runner.session import session

notes = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
original = session.open_engine


def open_engine(ready, share):
    engine = original(ready, share)
    step = engine.step

    def noting():
        time.sleep(float(sys.argv[2]))
        generations = step()
        os.write(notes, "".join(f"{g.key[0]} {g.key[1]}\\n" for g in generations).encode())
        return generations

    engine.step = noting
    os.write(notes, b"open\\n")
    return engine


session.open_engine = open_engine
sys.exit(cli.main(["run", *sys.argv[3:]]))
"""


@dataclasses.dataclass
class Run:
    """A command line in a folder, and what is known of its run from outside."""

    folder: Path
    name: str
    overrides: list

    def start(self, step_seconds=STEP_SECONDS):
        words = [sys.executable, "-c", NOTING, str(self.folder / f"{self.name}.notes"), str(step_seconds)]
        log = (self.folder / f"{self.name}.log").open("ab")
        with log:
            return subprocess.Popen(
                [*words, *self.overrides, f"run_name={self.name}"], cwd=self.folder, stdout=log, stderr=log
            )

    def finish(self, process=None):
        process = process or self.start(step_seconds=0)
        assert process.wait() == 0, (self.folder / f"{self.name}.log").read_text()

    def kill(self, after_s, *, at_work):
        """Start the run and kill it after this time at work, or from its start."""
        sessions = self.sessions()
        process = self.start()
        while at_work and process.poll() is None and self.sessions() == sessions:
            time.sleep(0.005)
        time.sleep(after_s)
        process.kill()
        return process.wait() == -signal.SIGKILL

    def notes(self):
        file = self.folder / f"{self.name}.notes"
        return file.read_text().splitlines() if file.exists() else []

    def sessions(self):
        return self.notes().count("open")

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
        return {file.name: file.read_bytes() for file in sorted((self.folder / "outputs" / self.name).glob("data-*"))}

    def rows(self):
        return datasets.load_from_disk(str(self.folder / "outputs" / self.name)).to_list()


def kill_until_done(run, moments):
    """Kill the run at these moments, let it finish; the numbers of completions on disk after each kill."""
    counts = []
    for after_s, at_work in moments:
        before, computed = run.committed(), len(run.computed())
        assert run.kill(after_s, at_work=at_work), "the run ended before it was killed"
        after = run.committed()
        assert before.items() <= after.items()
        assert before.keys().isdisjoint(run.computed()[computed:])
        counts.append(len(after))
    before, computed = run.committed(), len(run.computed())
    run.finish()
    assert before.items() <= run.committed().items()
    assert before.keys().isdisjoint(run.computed()[computed:])
    return counts
