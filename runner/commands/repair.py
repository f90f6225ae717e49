"""``rowmill repair``: a damaged checkpoint made anew."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from runner.commands import EXIT_OK
from runner.commands.arguments import add_json, add_run_dir

HELP = "make a damaged run.db anew from the shards and what can still be read; deletes nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    from runner.repair import repair

    done = repair(Path(options.run_dir))
    if options.json:
        print(json.dumps({**done._asdict(), "aside": str(done.aside)}))
        return EXIT_OK
    print(f"kept {done.rows:,} rows in {done.shards:,} shards, {done.finished:,} other finished rows, and", end=" ")
    print(f"{done.answers:,} recorded answers; the damaged checkpoint lies in {done.aside}")
    for loss in done.lost:
        print(f"lost: {loss}")
    print("the line that began the run goes on with it")
    return EXIT_OK
