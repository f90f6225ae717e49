"""The table of ``rowmill``'s commands, grouped as its help shows them.

A command lies in a module of this package: ``NAME(options)`` returns the exit code, ``NAME_arguments(parser)`` declares
its arguments. Modules import what they need when they run: ``rowmill --help`` must answer at once.
"""

from typing import NamedTuple


class Command(NamedTuple):
    """A command: its module in runner/cli, and its line in ``rowmill --help``."""

    module: str
    help: str


GROUPS: dict[str, dict[str, Command]] = {
    "Get started": {
        "help": Command("start", "explain a topic or a key of the configuration; list the topics"),
        "init": Command("start", "propose a configuration for a data file"),
        "new": Command("start", "write a job of your own: class, configuration, prompt and test"),
        "completion": Command("start", "print a completion script for bash or zsh"),
    },
    "Run": {
        "preview": Command("run", "show the first prompts and what the run will need, without loading the model"),
        "run": Command("run", "start a run; the same command resumes it after an interruption"),
    },
    "Look": {
        "status": Command("view", "show how far a run has come, also while it is running"),
        "fleet": Command("view", "show the seats of a run: device, speed, share, backlog, deaths, versions"),
        "watch": Command("view", "watch a run live: speed, memory, labels, errors and the latest rows"),
        "report": Command("view", "write report.html: the results, how far to trust them, how the run went"),
        "evaluate": Command("view", "compare a run's labels with a column of correct ones"),
        "diff": Command("view", "compare two runs: their configuration and their rows"),
        "runs": Command("manage", "list all runs of a folder: rows, errors, speed, age, size, accuracy"),
    },
    "Take away": {
        "export": Command(
            "output", "write a run's rows as Parquet, JSONL, CSV, SQLite or training data, or to the hub"
        ),
        "repair": Command("output", "rebuild a damaged run.db from the shards and whatever can still be read"),
        "cache": Command("manage", "show or prune the answers that runs with cache=true share"),
        "delete": Command("manage", "delete the files of a run, after asking"),
    },
    "Models": {
        "models": Command("manage", "list the models on this machine: converted ones, Ollama's, LM Studio's"),
        "convert": Command("model", "quantise a model into an MLX folder with a model card"),
        "perplexity": Command("model", "measure the perplexity of a text under one or several models"),
        "benchmark": Command("model", "measure how fast a model is on this machine"),
        "tune": Command("model", "measure which ways and sizes are fastest here, and keep them for later runs"),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
