"""How far a row walks through the code: the files that it enters, and the moves from one file to another.

``python -m tests.bench.walk`` runs one row of the default job with the fake engine, once whole and once counting the
loop alone, and prints both. A move is a call into, or a return to, another file of this repository than the one before.
"""

import os
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ["engine.backend=fake", "dataset.limit=1", "job=label", "job.labels=[good,bad]", "dataset=csv"]
WORDS += ["dataset.path=rows.csv", "prompt.user='Good or bad? {{ text }}'", "run_name=walk"]


class Walk:
    """Counts while it watches: ``files`` (file -> calls into it) and ``moves`` ((from, to) -> how many)."""

    def __init__(self):
        self.files, self.moves, self._last = Counter(), Counter(), None

    def _event(self, frame, event, _):
        place = frame if event == "call" else frame.f_back if event == "return" else None
        file = ours(place) if place is not None else None
        if file is None:
            return
        if event == "call":
            self.files[file] += 1
        if self._last is not None and file != self._last:
            self.moves[self._last, file] += 1
        self._last = file

    @contextmanager
    def watching(self):
        sys.setprofile(self._event)
        try:
            yield self
        finally:
            sys.setprofile(None)


def ours(frame):
    """The frame's file, from the root of the repository; None for other people's code and for modules' bodies."""
    name = frame.f_code.co_filename
    if frame.f_code.co_name == "<module>" or not name.startswith(f"{ROOT}{os.sep}"):
        return None
    file = name[len(str(ROOT)) + 1 :]
    return None if file.startswith((".", "tests")) else file


def whole(run_name):
    from runner import run

    walk = Walk()
    with walk.watching():
        run([*WORDS[:-1], f"run_name={run_name}"])
    return walk


def loop(run_name):
    """The same, watched only while the loop works."""
    from runner import run

    walk, loop_class = Walk(), class_named("Loop")

    def work(self, *given, original=loop_class.work):
        with walk.watching():
            return original(self, *given)

    loop_class.work, kept = work, loop_class.work
    try:
        run([*WORDS[:-1], f"run_name={run_name}"])
    finally:
        loop_class.work = kept
    return walk


def class_named(name):
    """The class of this name in this repository, wherever it is defined; it must have been imported."""
    for module in [*sys.modules.values()]:
        found = getattr(module, name, None)
        if isinstance(found, type) and str(getattr(module, "__file__", "")).startswith(str(ROOT)):
            return found
    raise LookupError(f"no module that a run imports has a class {name}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("rows.csv").write_text("text\nWhat a fine day\n")
        for name, walk in (("whole run", whole("whole")), ("loop", loop("loop"))):
            print(f"{name}: {len(walk.files)} files, {walk.moves.total()} moves")
            for (one, other), count in walk.moves.most_common(8):
                print(f"  {count:5} {one} -> {other}")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
