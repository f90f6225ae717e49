"""The command line: a word, then Hydra overrides or a run directory. Heavy packages load late.

Modules:
__main__    ``python -m runner.cli``: the program ``rowmill`` from a checkout.
arguments   Arguments that several commands share.
commands    The table of ``rowmill``'s commands, grouped as its help shows them.
completion  Shell completion: the scripts for bash and zsh, and the words that they ask for.
manage      ``rowmill runs``, ``models``, ``cache`` and ``delete``: what lies here, and what is no longer needed.
model       ``rowmill convert perplexity benchmark tune``: commands about a model rather than about a run.
output      ``rowmill export`` and ``rowmill repair``: a run's rows for others, and a damaged checkpoint made whole.
run         ``rowmill run`` and ``rowmill preview``: what makes the rows, and what it would make of them.
start       ``rowmill help init new completion``: what there is to know, files to start from, and keys in a shell.
topics      What ``rowmill help`` and ``conf/README.md`` print: keys from their dataclasses, prose from the docstrings.
view        ``rowmill status fleet watch report evaluate diff``: what has become of a run.
worker      The worker: a process that a supervisor started to do what the command line says.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from runner.cli.commands import COMMANDS, GROUPS
from runner.console import begin_in_utf8, is_closed_terminal, mute, muted, open_streams, own_traceback, tell
from runner.disk.errors import machine_trouble
from runner.early import ignore, raise_again
from runner.types import EXIT_CANNOT_RUN, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UserError
from runner.words import AGAIN, escaped, open_words, without_hashes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (0 fine, 1 rows in error, 2 wrong input, 3 cannot run here, 130 interrupted).

    Without ``arguments`` this is the program itself: they are those of the process, and `run` is supervised.
    """
    if arguments is not None:
        return _run(arguments)
    try:
        raise_again()
        open_streams()
        begin_in_utf8()
        return _run(None)
    except KeyboardInterrupt:
        tell("\nrowmill: interrupted")
        return EXIT_INTERRUPTED
    finally:
        ignore()


def _run(arguments: Sequence[str] | None) -> int:
    _log_to_stderr()
    code = EXIT_OK
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        options.is_program = arguments is None
        code = int(options.command(options))
        sys.stdout.flush()  # here, where it is known what a failure means
        return code
    except UserError as error:
        tell(f"rowmill: {without_hashes(str(error))}")
        return error.exit_code
    except KeyboardInterrupt as stop:
        tell(f"\nrowmill: {stop}" if str(stop) else "\nrowmill: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        mute(sys.stdout)
        return code
    except OSError as error:
        if isinstance(error, PermissionError) and error.filename is not None:
            tell(f"rowmill: {error.filename} cannot be used ({error.strerror}): check its permissions and its folder's")
            return EXIT_USAGE
        if is_closed_terminal(error):
            mute(sys.stdout)
            return code
        if (trouble := machine_trouble(error)) is None and error.errno is None:
            raise
        tell(f"rowmill: {trouble or f'{error}: {AGAIN}'}")
        mute(sys.stdout)
        return EXIT_CANNOT_RUN
    except Exception as error:
        if not _comes_of_interruption(error):
            raise
        tell("\nrowmill: interrupted")
        return EXIT_INTERRUPTED


def _comes_of_interruption(error: BaseException) -> bool:
    """Whether a library met it while it cleaned up after Ctrl-C, as OmegaConf may."""
    before = error.__context__
    return before is not None and (isinstance(before, KeyboardInterrupt) or _comes_of_interruption(before))


class StderrHandler(logging.Handler):
    """Log lines for people, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message; of a traceback what the user's own files have to do with it."""
        line = without_hashes(record.getMessage())
        if record.exc_info and record.exc_info[1]:
            line += "\n" + own_traceback(record.exc_info[1]) + "\n(run.log has the whole traceback)"
        bars = sys.modules.get("tqdm")
        if bars is None:
            tell(line)
            return
        with muted(sys.stderr):
            bars.tqdm.write(escaped(open_words(line)), file=sys.stderr)


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
    if not arguments or arguments[0].startswith("-"):
        return _parse_alone(arguments)
    parser = command_parser(arguments[0])
    options, rest = parser.parse_known_args(arguments[1:])
    wrong = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if wrong:
        own = "; overrides are KEY=VALUE without dashes" if hasattr(options, "overrides") else ""
        parser.error(f"unknown argument {wrong[0]}{own}")
    if rest:
        options.overrides += rest
    return options


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, its function as the default of ``command``. UserError if there is none of the name."""
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        guess = f": did you mean {close[0]!r}?" if close else ""
        raise UserError(f"there is no command {name!r}{guess} (see rowmill --help)")
    module = importlib.import_module(f"runner.cli.{COMMANDS[name].module}")
    command = getattr(module, name)
    parser = _Parser(prog=f"rowmill {name}", description=inspect.getdoc(command))
    getattr(module, f"{name}_arguments")(parser)
    parser.set_defaults(command=command)
    return parser


def _parse_alone(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="rowmill",
        usage="rowmill COMMAND ...",
        description="Put a prompt through every row of a data set with one local LLM.",
        epilog=_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(command=lambda options: _version(options, parser))
    return parser.parse_args(arguments)


def _commands() -> str:
    lines = []
    for title, commands in GROUPS.items():
        lines += [f"{title.lower()}:", *(f"  {name:<12}{one.help}" for name, one in commands.items() if one.help), ""]
    return "\n".join([*lines, "`rowmill COMMAND --help` describes a command."])


def _version(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not options.version:
        parser.print_help()
        return EXIT_USAGE
    from runner import __version__

    print(f"rowmill {__version__}")
    return EXIT_OK
