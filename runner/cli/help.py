"""``rowmill help``: every key, job, file and message, by topic."""

from __future__ import annotations

import argparse
import shutil

from runner.cli.commands import COMMANDS
from runner.types import EXIT_OK


def help_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC", nargs="*", help="such as config, label, night, engine.batch_size")


def help(options: argparse.Namespace) -> int:
    """Explain a topic, a command or a key of the configuration; without one, list the topics."""
    from runner.cli.topics import TOPICS, help_text, topics

    topic, width = " ".join(options.topic), min(shutil.get_terminal_size().columns, 120)
    if topic in COMMANDS and topic not in TOPICS:
        from runner.cli import command_parser

        print(command_parser(topic).format_help(), end="")
    else:
        print(help_text(topic, width) if topic else topics())
    return EXIT_OK
