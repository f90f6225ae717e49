"""The command line: a word, then Hydra overrides or a run directory. Heavy packages load late."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from runner.commands import EXIT_CANNOT_RUN, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from runner.show import mute, muted, open_streams, own_traceback, shown, tell
from runner.types import UserError

COMMANDS = (
    "init",
    "run",
    "preview",
    "status",
    "evaluate",
    "watch",
    "report",
    "diff",
    "export",
    "new",
    "repair",
    "benchmark",
    "convert",
    "perplexity",
)  # a file each in runner/commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (0 fine, 1 rows in error, 2 wrong input, 3 cannot run here, 130 interrupted).

    Without ``arguments`` this is the program itself: they are those of the process, and `run` is supervised.
    """
    if arguments is None:
        open_streams()
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    options.is_program = arguments is None
    _log_to_stderr()
    code = EXIT_OK
    try:
        code = int(options.command(options))
        sys.stdout.flush()  # here, where it is known what a failure means
        return code
    except UserError as error:
        tell(f"rowmill: {shown(str(error))}")
        return error.exit_code
    except KeyboardInterrupt as stop:
        tell(f"\nrowmill: {stop}" if str(stop) else "\nrowmill: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        mute(sys.stdout)
        return code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        tell(f"rowmill: the disk is full: {error}")
        mute(sys.stdout)
        return EXIT_CANNOT_RUN


class StderrHandler(logging.Handler):
    """Log lines for people, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message; of a traceback what the user's own files have to do with it."""
        line = shown(record.getMessage())
        if record.exc_info and record.exc_info[1]:
            line += "\n" + own_traceback(record.exc_info[1]) + "\n(the whole traceback is in run.log)"
        bars = sys.modules.get("tqdm")
        if bars is None:
            tell(line)
            return
        with muted(sys.stderr):
            bars.tqdm.write(line, file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("rowmill")
    log.setLevel(logging.DEBUG)  # run.log keeps it all
    handler = StderrHandler(logging.INFO)
    log.handlers[:] = [*(old for old in log.handlers if not isinstance(old, StderrHandler)), handler]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"rowmill: {message}; see {self.prog} --help\n")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Options may stand between overrides, which argparse alone does not read."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    wrong = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if wrong:
        own = "; overrides are KEY=VALUE without dashes" if hasattr(options, "overrides") else ""
        parser.error(f"unknown argument {wrong[0]}{own}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rowmill", description="Put a prompt through every row of a data set.")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(command=lambda options: _version(options, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        command = importlib.import_module(f"runner.commands.{name}")
        added = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(added)
        added.set_defaults(command=command.main)
    return parser


def _version(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not options.version:
        parser.print_help()
        return EXIT_USAGE
    from runner import __version__

    print(f"rowmill {__version__}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
