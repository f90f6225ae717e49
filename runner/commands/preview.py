"""``rowmill preview``: what a run would do, before it does it."""

from __future__ import annotations

import argparse
import json

from runner.commands import EXIT_CANNOT_RUN, EXIT_OK
from runner.commands.arguments import EPILOG, add_overrides
from runner.types import UserError

HELP = "show the first prompts, their lengths and what they share; loads no weights but for --trial"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, EPILOG)
    more = "compute N rows of the run with its model and foretell the time of the rest; the run keeps them"
    parser.add_argument("--trial", metavar="N", type=_rows, default=0, help=more)


def main(options: argparse.Namespace) -> int:
    from runner.config import load_config
    from runner.interrupt import stop_on_signals
    from runner.preview import preview

    config = load_config(options.overrides, options.config_dir)
    with stop_on_signals() as stop:
        figures = preview(config, show=not options.json, trial=options.trial, stop=stop)
    if options.json:
        print(json.dumps(figures))
    if why := (figures["memory"] or {}).get("refusal"):
        raise UserError(f"the model {why}", EXIT_CANNOT_RUN)
    return EXIT_OK


def _rows(typed: str) -> int:
    if not typed.isdecimal() or not int(typed):
        raise argparse.ArgumentTypeError(f"{typed}: it must be a number of rows, such as 20")
    return int(typed)
