"""``rowmill export`` and ``rowmill repair``: a run's rows for others, and a damaged checkpoint made whole."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from runner.cli.arguments import add_decision, add_json, add_run_dir
from runner.export import FORMATS
from runner.export import export as write
from runner.types import EXIT_OK
from runner.words import count_of


def export_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    parser.add_argument("target", metavar="TARGET", help="FILE.parquet|.jsonl|.csv|.db (.gz, .zst), hub:OWNER/NAME, -")
    parser.add_argument("--format", choices=FORMATS, help="default: by TARGET's file name")
    parser.add_argument("--where", metavar="FILTER", help="such as 'confidence >= 0.9 and error is null'")
    parser.add_argument("--columns", metavar="A,B", help="only these columns of the output")
    parser.add_argument("--join", action="store_true", help="add the input's columns, row by row")
    parser.add_argument("--data", metavar="PATH", help="where the input is now, if it has moved")
    parser.add_argument("--rejected", action="store_true", help="the rejected attempts, with reasons, as JSONL")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument("--public", action="store_true", help="make the data set on the hub public (default: private)")
    parser.add_argument("--safe-csv", action="store_true", help="an apostrophe before cells that spreadsheets compute")
    parser.add_argument("--table", metavar="NAME", help="the SQLite table (default: rows)")
    parser.add_argument("--text", metavar="COLUMN", help="the column that annotators see in Label Studio and Argilla")
    add_decision(parser)
    training = parser.add_argument_group("training data (chat, alpaca, prompt-completion)")
    training.add_argument(
        "--validation", metavar="SHARE", type=float, default=0.0, help="such as 0.1, goes to a second file"
    )
    training.add_argument("--prompt", metavar="COLUMN", help="or a template; default: the run's own prompt")
    training.add_argument("--system", metavar="COLUMN", help="or a template; default: the run's own")
    training.add_argument("--completion", metavar="COLUMN", help="or a template; default: the model's answer")


def export(options: argparse.Namespace) -> int:
    """Write a run's rows as Parquet, JSONL, CSV, SQLite or training data, or push them to the hub."""
    for line in write(options):
        print(line, file=sys.stderr if options.target == "-" else sys.stdout)
    return EXIT_OK


def repair_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    add_json(parser)


def repair(options: argparse.Namespace) -> int:
    """Rebuild a damaged run.db from the shards and whatever can still be read. Nothing is deleted."""
    from runner.chain.plan import refuse_chain
    from runner.checkpoint.repair import repair

    refuse_chain(Path(options.run_dir))
    done = repair(Path(options.run_dir))
    if options.json:
        print(json.dumps({**done._asdict(), "aside": done.aside and str(done.aside)}))
        return EXIT_OK
    kept = [count_of(done.rows, "row"), count_of(done.shards, "shard"), count_of(done.finished, "other finished row")]
    answers = count_of(done.answers, "recorded answer")
    was = "nothing is damaged" if done.aside is None else f"the damaged checkpoint is now in {done.aside}"
    print(f"{'has' if done.aside is None else 'kept'} {kept[0]} in {kept[1]}, {kept[2]} and {answers}; {was}")
    for loss in done.lost:
        print(f"lost: {loss}")
    print("run the original command again to continue")
    return EXIT_OK
