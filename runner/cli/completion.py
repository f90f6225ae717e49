"""Shell completion: the scripts for bash and zsh, and the words that they ask for."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.cache import cache_dir
from runner.config.groups import GROUPS, group_files

FILES, FOLDERS = ":files", ":folders"  # in place of a word: what the shell itself completes
_SCHEMAS = {
    "run": "runner.config.conf.RunConf",
    "preview": "runner.config.conf.RunConf",
    "perplexity": "jobs.perplexity.PerplexityRunConf",
    "convert": "jobs.convert.ConvertRunConf",
    "benchmark": "jobs.benchmark.BenchmarkRunConf",
    "tune": "jobs.tune.TuneRunConf",
}

_BASH = r"""_rowmill() {
    local line=${COMP_LINE:0:COMP_POINT} cur reply file
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
    COMPREPLY=()
    while IFS= read -r reply; do
        case $reply in
            :files|:folders)
                compopt -o filenames 2> /dev/null
                while IFS= read -r file; do COMPREPLY+=("$file"); done \
                    < <(compgen "$([[ $reply == :files ]] && echo -f || echo -d)" -- "${cur##*=}") ;;
            ?*)
                [[ $reply == *= ]] && compopt -o nospace 2> /dev/null
                COMPREPLY+=("${reply#"${cur%"${cur##*[=:]}"}"}") ;;
        esac
    done < <("${words[0]}" completion words "${words[@]:1}" 2> /dev/null)
}
complete -F _rowmill rowmill
"""
_ZSH = r"""#compdef rowmill
_rowmill() {
    local reply
    for reply in "${(@f)$(rowmill completion words "${(@)words[2,CURRENT]}" 2> /dev/null)}"; do
        case $reply in
            :files) compset -P '*='; _files ;;
            :folders) _files -/ ;;
            *=) compadd -S '' -- "$reply" ;;
            ?*) compadd -- "$reply" ;;
        esac
    done
}
if [ "$funcstack[1]" = "_rowmill" ]; then _rowmill "$@"; else compdef _rowmill rowmill; fi
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH}


def completions(words: list[str]) -> list[str]:
    """What the last of the words after ``rowmill`` can become: whole words, ``KEY=``, FILES or FOLDERS."""
    from runner.cli.commands import COMMANDS

    *before, word = words or [""]
    if not before:
        return [name for name in (*COMMANDS, "--help", "--version") if name.startswith(word)]
    if before[0] not in COMMANDS:
        return []
    found = _argument(before, word)
    return [one for one in found if one.startswith(word) or one in (FILES, FOLDERS)]


def _argument(before: list[str], word: str) -> list[str]:
    from runner.cli import command_parser

    usage = command_parser(before[0]).format_usage()
    options = re.findall(r"--[\w-]+", usage)
    if before[-1] == "--config-dir":
        return [FOLDERS]
    after = rf"{re.escape(before[-1])} (?:\[.*\] )?" if len(before) == 1 else f"{re.escape(before[-1])} "
    if choices := re.search(rf"{after}\{{([^}}]*)\}}", " ".join(usage.split())):
        return choices[1].split(",")
    if word.startswith("-"):
        return ["--help", *options]
    if before == ["help"]:
        from runner.cli.commands import COMMANDS
        from runner.cli.topics import TOPICS, known_keys

        return [*dict.fromkeys([*TOPICS, *COMMANDS, *known_keys()])]
    if before[0] in _SCHEMAS:
        return _override(before, word)
    return [FOLDERS] if ("RUN_DIR" in usage and len(before) == 1) or "RUN_B" in usage else [FILES]


def _override(before: list[str], word: str) -> list[str]:
    config_dir = next((b for a, b in itertools.pairwise(before) if a == "--config-dir"), None)
    keys = _keys(before[0])
    name, equals, _ = word.partition("=")
    if equals and name in GROUPS:
        return [f"{name}={file}" for file in group_files(name, config_dir)]
    if equals:
        return [f"{name}={value}" for value in keys.get(name, [])] or [FILES] * name.endswith((".path", ".schema"))
    job = next((one.removeprefix("job=") for one in before if one.startswith("job=")), "label")
    return [*(f"{key}=" for key in keys), *(f"job.{key}=" for key in _job_keys(job, config_dir) if "job" in keys)]


def _job_keys(job: str, config_dir: str | None) -> list[str]:
    """The keys that a job's file has."""
    file = group_files("job", config_dir).get(job)
    return re.findall(r"^([a-z]\w*):", file.read_text(encoding="utf-8"), re.M) if file else []


def _keys(command: str) -> dict[str, list[str]]:
    """A command's keys with their values where these are few; kept in a file, for the schema takes a second to load."""
    folder = Path(__file__).parents[1]
    stamp = str(sorted((str(file), file.stat().st_mtime_ns) for file in folder.rglob("*.py")))
    kept = cache_dir() / "completion" / f"{command}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    module, _, schema = _SCHEMAS[command].rpartition(".")
    keys = dict(_values(getattr(importlib.import_module(module), schema)))
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(keys), encoding="utf-8")
    return keys


def _values(schema: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    from typing import get_type_hints

    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from ([(name, [])] if name in GROUPS else [])
            yield from _values(hint, f"{name}.")
        else:
            switch = ["true", "false"] if bool in (hint, *getattr(hint, "__args__", ())) else []
            yield name, [str(value) for value in field.metadata.get("among") or switch]
