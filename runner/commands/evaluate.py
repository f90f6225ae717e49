"""``rowmill evaluate``: how right the labels of a run are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from runner.commands import EXIT_OK
from runner.commands.arguments import add_json, add_run_dir
from runner.show import show_evaluation
from runner.types import UserError

HELP = "how right the labels of a run are, against a column with the right ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    parser.add_argument("--gold", metavar="COLUMN", required=True, help="a column of the output or of the data set")
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    """Works at any time; rows that are not finished yet are left out."""
    from runner.evaluate import evaluate_run

    found = evaluate_run(Path(options.run_dir), options.gold)
    if not found["rows"]:
        raise UserError(f"{options.run_dir}: no finished row has a value in column {options.gold}")
    if options.json:
        print(json.dumps(found))
    else:
        show_evaluation(found)
    return EXIT_OK
