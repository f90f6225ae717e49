"""``rowmill runs`` and ``rowmill delete``: all runs of a folder, and one that is no longer needed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from runner.cli.arguments import add_json, add_run_dir
from runner.types import EXIT_OK, UserError


def runs_arguments(parser: argparse.ArgumentParser) -> None:
    from runner.runs.listing import COLUMNS

    parser.add_argument("folder", metavar="DIR", nargs="?", default="outputs", help="where the runs lie (outputs)")
    parser.add_argument("--sort", choices=COLUMNS, default="name", help="the column to sort by (name)")
    add_json(parser)


def runs(options: argparse.Namespace) -> int:
    """List all runs of a folder, those in folders inside of it included."""
    from runner.runs.listing import list_runs, show_runs

    found = list_runs(Path(options.folder), options.sort)
    if options.json:
        print(json.dumps(found))
    elif found:
        show_runs(found)
    else:
        print(f"{options.folder} holds no runs")
    return EXIT_OK


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def delete(options: argparse.Namespace) -> int:
    """Delete the files of a run. A run at work is refused, and so is a folder that holds files of others."""
    from runner.runs.delete import delete_run
    from runner.runs.listing import in_words, summary

    run_dir = Path(options.run_dir)
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError(f"nobody can be asked here: `rowmill delete {run_dir} --yes` deletes it without asking")
        print(in_words(summary(run_dir, run_dir)))
        if input(f"Delete {run_dir}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return EXIT_OK
    delete_run(run_dir)
    print(f"deleted {run_dir}")
    return EXIT_OK
