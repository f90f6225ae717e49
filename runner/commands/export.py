"""``rowmill export``: the rows of a run as a file or a data set for others."""

from __future__ import annotations

import argparse
import sys

from runner.commands import EXIT_OK
from runner.commands.arguments import add_run_dir

HELP = "write the rows of a run as Parquet, JSONL, CSV, SQLite, training data, to the hub, ..."
FORMATS = [
    *("parquet", "jsonl", "csv", "sqlite"),
    *("label-studio", "argilla", "openai-batch"),
    *("chat", "alpaca", "prompt-completion"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    parser.add_argument("target", metavar="TARGET", help="FILE.parquet|.jsonl|.csv|.db (.gz, .zst), hub:OWNER/NAME, -")
    parser.add_argument("--format", choices=FORMATS, help="by default what the name of TARGET says")
    parser.add_argument("--where", metavar="FILTER", help="such as 'confidence >= 0.9 and error is null'")
    parser.add_argument("--columns", metavar="A,B", help="only these columns of the output")
    parser.add_argument("--join", action="store_true", help="add the input's columns, row by row")
    parser.add_argument("--data", metavar="PATH", help="where the input lies now, if it has moved")
    parser.add_argument("--rejected", action="store_true", help="the rejected attempts, with reasons, as JSONL")
    parser.add_argument("--overwrite", action="store_true", help="replace what TARGET holds")
    parser.add_argument("--public", action="store_true", help="let all read the data set on the hub (else private)")
    parser.add_argument("--table", metavar="NAME", default="rows", help="of the SQLite database (rows)")
    parser.add_argument("--text", metavar="COLUMN", help="what people see in Label Studio and Argilla")
    training = parser.add_argument_group("training data (chat, alpaca, prompt-completion)")
    training.add_argument(
        "--validation", metavar="SHARE", type=float, default=0.0, help="such as 0.1, to a second file"
    )
    training.add_argument("--prompt", metavar="COLUMN", help="or a template; by default the run's own prompt")
    training.add_argument("--system", metavar="COLUMN", help="or a template; by default the run's own")
    training.add_argument("--completion", metavar="COLUMN", help="or a template; by default the model's answer")


def main(options: argparse.Namespace) -> int:
    from runner.export import export

    for line in export(options):
        print(line, file=sys.stderr if options.target == "-" else sys.stdout)
    return EXIT_OK
