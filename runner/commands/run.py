"""``rowmill run``: run, or resume what was interrupted."""

from __future__ import annotations

import argparse
import json

from runner.commands import EXIT_OK, EXIT_ROW_ERRORS
from runner.commands.arguments import EPILOG, add_overrides
from runner.show import show_run

HELP = "run, or resume what was interrupted: the same command line resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, EPILOG)


def main(options: argparse.Namespace) -> int:
    """Exit code 1 when rows are in error."""
    from runner import run

    figures = run(options.overrides, options.config_dir)
    if options.json:
        print(json.dumps(figures))
    else:
        show_run(figures)
    return EXIT_ROW_ERRORS if figures["errors"] else EXIT_OK
