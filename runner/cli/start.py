"""``rowmill help init new completion``: what there is to know, files to start from, and keys in a shell."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli.commands import COMMANDS
from runner.console import say
from runner.types import EXIT_OK
from runner.words import count_of, escaped

if TYPE_CHECKING:
    from runner.config.init import Proposal


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


def init_arguments(parser: argparse.ArgumentParser) -> None:
    data = "the data: .csv .jsonl .parquet .txt .xlsx .db .mbox .pdf ..., or a folder"
    parser.add_argument("file", metavar="FILE", help=data)
    keys = (
        "how FILE is read, such as dataset=text or dataset.encoding=cp1252; options of your own reader (module.Class)"
    )
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help=keys)
    parser.add_argument("--config-dir", metavar="DIR", default="my_conf", help="where to write (default: my_conf)")
    parser.add_argument("--name", metavar="NAME", help="what to call it (default: the file's name)")
    parser.add_argument("--table", metavar="TABLE", help="the table of an SQLite file")


def init(options: argparse.Namespace) -> int:
    """Look at a data file and write a commented configuration for it: data set, job and prompt."""
    from runner.config.init import propose, write_starter_config

    folder = Path(options.config_dir)
    found = propose(options.file, options.table, folder, options.keys)
    name, written = write_starter_config(found, folder, options.name)
    say(f"{options.file}: {_seen(found)}")
    for path in written:
        print(f"written   {path}")
    keys = f"--config-dir {shlex.quote(options.config_dir)} job={name} dataset={name}"
    print(f"look at   rowmill preview {keys}")
    print(f"run       rowmill run {keys}")
    return EXIT_OK


def _seen(found: Proposal) -> str:
    """What a look at a data set found, in a line."""
    kind = "spans" if found.job == "spans" else found.kind
    what = {"multi": "several labels a row", "scale": "a level on a scale", "spans": "spans of these kinds"}
    listed = (" to " if kind == "scale" and len(found.labels) == 2 else ", ").join(found.labels)
    gold = f"; column {found.gold!r} holds {what.get(kind, 'the labels')}: {listed}"
    others = f"; answers may be in {', '.join(repr(one.column) for one in found.others)}, too" if found.others else ""
    seen = f"{count_of(found.rows, 'row')}; job {found.job} on column {found.text!r}"
    return seen + (escaped(gold + others) if found.gold else "")


def new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["job"], help="what to write")
    parser.add_argument("name", metavar="NAME", help="the job's name, such as triage")
    parser.add_argument("--data", metavar="FILE", help="say which job of rowmill's own fits its columns")
    parser.add_argument("--config-dir", metavar="DIR", default="my_conf", help="where to write (default: my_conf)")


def new(options: argparse.Namespace) -> int:
    """Write a working job of your own to start from: class, configuration, prompt and test."""
    from runner.config.new import write_starter_job

    folder = Path(options.config_dir)
    if options.data:
        from runner.config.init import propose

        found = propose(options.data, folder=folder)
        say(f"{options.data}: {_seen(found)}")
        if found.gold:
            print(f"needs no job of your own: rowmill init {shlex.quote(options.data)}")
    for path in write_starter_job(options.name, folder):
        print(path)
    print(f"try it:   rowmill run --config-dir {folder} job={options.name} dataset=csv dataset.path=FILE.csv")
    print(f"test it:  pytest {folder}/test_{options.name}.py")
    return EXIT_OK


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rowmill completion {bash,zsh}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # each command in a line
    parser.epilog = "bash: rowmill completion bash > ~/.local/share/bash-completion/completions/rowmill\n"
    parser.epilog += "zsh:  rowmill completion zsh > _rowmill, in a folder of $fpath"
    parser.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "words"], help="bash or zsh")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # what the scripts ask for


def completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands, options, keys, choices and file names in bash or zsh."""
    from runner.cli.completion import SCRIPTS, completions

    print("\n".join(completions(options.words)) if options.shell == "words" else SCRIPTS[options.shell].rstrip())
    return EXIT_OK
