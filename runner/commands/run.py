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
    once = "keep the model in this process, for debuggers; nothing starts it again when it dies"
    parser.add_argument("--no-supervise", action="store_true", help=once)


def main(options: argparse.Namespace) -> int:
    """Exit code 1 when rows are in error."""
    from runner.worker import Link

    if options.is_program and not options.no_supervise:
        from runner.supervise import supervise

        folder = ["--config-dir", options.config_dir] if options.config_dir else []
        return supervise(["run", *folder, *(["--json"] if options.json else [])], options.overrides)
    from runner import run_linked

    figures = run_linked(options.overrides, options.config_dir, Link.current)
    if options.json:
        print(json.dumps(figures))
    else:
        show_run(figures)
    short = figures["state"] == "finished" and figures["finished"] < figures["rows"]  # attempts were spent
    return EXIT_ROW_ERRORS if figures["errors"] or short else EXIT_OK
