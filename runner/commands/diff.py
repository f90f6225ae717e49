"""``rowmill diff``: two runs side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from runner.commands import EXIT_OK
from runner.commands.arguments import add_json

HELP = "what differs between two runs: in their configuration, and in their rows (agreement, kappa, flips)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="RUN_A", help="the folder of a run")
    parser.add_argument("b", metavar="RUN_B", help="the folder of another")
    parser.add_argument("--by", metavar="COLUMN", help="match rows by this column of both outputs, not by position")
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    from runner.compare import compare, show_comparison

    figures = compare(Path(options.a), Path(options.b), options.by)
    if options.json:
        print(json.dumps(figures))
    else:
        show_comparison(figures)
    return EXIT_OK
