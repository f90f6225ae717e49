"""``rowmill runs``, ``models``, ``cache`` and ``delete``: what lies here, and what is no longer needed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from runner.cli.arguments import add_json, add_run_dir
from runner.console import line
from runner.types import EXIT_OK, UserError
from runner.words import count_of, size


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


def models_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def models(options: argparse.Namespace) -> int:
    """List the models on this machine, with what ``model`` takes: converted ones, those of Ollama and LM Studio."""
    from runner.models.listing import listed_models

    found = listed_models()
    if options.json:
        print(json.dumps(found))
        return EXIT_OK
    for one in found:
        print(f"{one['model']}  {size(one['bytes'])}" + (f"\n    {one['note']}" if one["note"] else ""))
    if not found:
        print("no models were converted here, and neither Ollama nor LM Studio has any")
    return EXIT_OK


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def delete(options: argparse.Namespace) -> int:
    """Delete the files of a run. A run at work is refused, and so is a folder that holds files of others."""
    from runner.runs.delete import check_deletable, delete_run
    from runner.runs.listing import in_words, summary

    run_dir = Path(options.run_dir)
    check_deletable(run_dir)
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError(f"nobody can be asked here: `rowmill delete {run_dir} --yes` deletes it without asking")
        print(in_words(summary(run_dir, run_dir)))
        if not _agreed(f"Delete {run_dir}?"):
            print("nothing was deleted")
            return EXIT_OK
    delete_run(run_dir)
    print(f"deleted {run_dir}")
    return EXIT_OK


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


def cache_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--older-than", metavar="DAYS", type=_amount, help="delete answers not used for so many days")
    parser.add_argument("--larger-than", metavar="GB", type=_amount, help="delete the longest unused down to this size")
    add_json(parser)


def cache(options: argparse.Namespace) -> int:
    """Show how many answers runs with cache=true share, and how often they were used; prune them."""
    from runner.runs import answers

    most = None if options.larger_than is None else int(options.larger_than * 1e9)
    pruned = answers.prune(options.older_than, most) if (options.older_than, most) != (None, None) else None
    found = answers.measure()
    if options.json:
        print(json.dumps(found if pruned is None else {**found, "pruned": pruned}))
        return EXIT_OK
    if pruned is not None:
        line("pruned", count_of(pruned, "answer"))
    line("answers", f"{found['answers']:,}, used {count_of(found['hits'], 'time')} in place of computing them")
    line("size", size(found["bytes"]))
    line("path", found["path"])
    return EXIT_OK


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return amount
