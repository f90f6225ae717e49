"""What a run of very many rows takes: rows/s, memory, the size of its checkpoint, and the seconds of each command.

``python -m tests.bench.scale FOLDER --rows 1000000``: labels that many rows with the fake engine, interrupts the run in
its middle and goes on, looks at it, exports it, and adds 1,000 rows with ``resume=extend``. FOLDER, on a disk with some
0.6 kB a row to spare, is emptied before and after. Memory is that of all processes together, what they share counted
once, at its peak in each third of the time; ``mapped`` is the part of it that the system takes back when it needs it:
pages of files. Prints lines of JSON.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

WORDS = ["engine.backend=fake", "job=label", "job.labels=[good,bad]", "dataset=csv", "dataset.path=rows.csv"]
WORDS += ["prompt.user='Good or bad? {{ text }}'", "run_name=scale"]
PROGRAM = [sys.executable, "-m", "runner.cli"]
RUN = "outputs/scale"
SECONDS = 1.0  # between two looks at a run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    if given.rows < 20_000:
        parser.error("--rows: at least 20,000, or a run has ended before it was looked at")
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    os.environ["ROWMILL_CACHE"] = str(given.folder / "cache")
    os.chdir(given.folder)
    write_rows(0, given.rows)
    tell("input", rows=given.rows, bytes=size("rows.csv"))
    tell("first half", **watched(given.rows // 2))
    look("half")
    tell("second half", **watched(None))
    look("end")
    measured("resume of a finished run", "run", *WORDS)
    measured("export", "export", RUN, "all.parquet")
    write_rows(given.rows, given.rows + 1000)
    measured("extend by 1,000 rows", "run", *WORDS, "resume=extend")
    os.chdir("/")
    shutil.rmtree(given.folder)


def tell(what, **figures):
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def write_rows(start, stop):
    with Path("rows.csv").open("a") as file:
        file.write("" if start else "id,text\n")
        file.writelines(f"{n},this is text number {n}\n" for n in range(start, stop))


def look(when):
    """The commands that show a run, and its files."""
    measured(f"status at the {when}", "status", RUN)
    measured(f"runs at the {when}", "runs")
    tell(f"files at the {when}", checkpoint=checkpoint_size(), output=sum(map(size, Path(RUN).glob("data-*.arrow"))))


def measured(what, *words):
    """Run a command, and tell its seconds and its peak memory."""
    began = time.perf_counter()
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        family = Family(process.pid)
        peak, spent = 0, processor_seconds()
        while process.poll() is None:
            peak = max(peak, family.memory()[0])
            time.sleep(SECONDS / 10)
        problem = process.stderr.read().decode()
    if process.returncode:
        sys.exit(f"{what}: exit code {process.returncode}: {problem[-2000:]}")
    seconds = {"seconds": time.perf_counter() - began, "processor_s": processor_seconds() - spent}
    tell(what, **seconds, memory_mib=peak / 2**20)


def watched(until):
    """Run until so many rows are finished, or all are: seconds to the first row, rows/s, memory, largest checkpoint."""
    began, before, spent = time.perf_counter(), finished(), processor_seconds()
    first, memory, largest, marks = None, [], 0, []
    with subprocess.Popen([*PROGRAM, "run", *WORDS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        family = Family(process.pid)
        while process.poll() is None:
            rows, now = finished(), time.perf_counter()
            first = now if first is None and rows > before else first
            memory.append(family.memory())
            largest = max(largest, checkpoint_size())
            marks.append((now, rows))
            if until is not None and rows >= until:
                process.send_signal(signal.SIGINT)
                until = None
            time.sleep(SECONDS if first else SECONDS / 20)
    ended = time.perf_counter()
    marks = [mark for mark in marks if first is not None and mark[0] >= first]
    (start, at_start), (stop, at_stop) = marks[0], marks[-1]
    parts = [memory[len(memory) * part // 3 : len(memory) * (part + 1) // 3] for part in range(3)]
    return {
        "seconds_to_first_row": first - began,
        "rows_per_s": (at_stop - at_start) / (stop - start),
        "memory_mib": [max(own for own, _ in part) >> 20 for part in parts],
        "mapped_mib": [max(mapped for _, mapped in part) >> 20 for part in parts],
        "checkpoint": largest,
        "seconds_to_end": ended - stop,
        "processor_s": processor_seconds() - spent,
    }


def processor_seconds():
    """Of all processes that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def finished():
    """How many rows the run has told of; cheap, also of a very large one."""
    with contextlib.suppress(sqlite3.Error, FileNotFoundError):
        path = Path(RUN, "run.db").resolve(strict=True)
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT max(finished) FROM progress").fetchone()[0] or 0
    return 0


def checkpoint_size():
    return sum(map(size, Path(RUN).glob("run.db*")))


def size(path):
    with contextlib.suppress(FileNotFoundError):
        return Path(path).stat().st_size
    return 0


class Family:
    """A process and those that it started."""

    def __init__(self, pid):
        self.pid = pid

    def memory(self):
        """Bytes of their own, and of mapped files."""
        return tuple(map(sum, zip((0, 0), *map(self._share, self._members()), strict=True)))

    def _members(self):
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    @staticmethod
    def _share(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
            return found["Pss_Anon"], found["Pss_File"]
        return 0, 0


if __name__ == "__main__":
    main()
