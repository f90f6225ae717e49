"""``rowmill preview``: what a run would do, before it does it."""

from __future__ import annotations

import argparse
import json

from runner.commands import EXIT_CANNOT_RUN, EXIT_OK
from runner.commands.arguments import EPILOG, add_overrides
from runner.types import UserError

HELP = "show the first prompts, their lengths and what they share; loads no weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, EPILOG)


def main(options: argparse.Namespace) -> int:
    from runner.config import load_config
    from runner.preview import preview

    figures = preview(load_config(options.overrides, options.config_dir), show=not options.json)
    if options.json:
        print(json.dumps(figures))
    if why := (figures["memory"] or {}).get("refusal"):
        raise UserError(f"the model {why}", EXIT_CANNOT_RUN)
    return EXIT_OK
