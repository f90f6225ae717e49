r"""The command line as a file: ``rowmill run FILE.yaml`` reads one, ``--save`` writes it.

    rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv \
        'prompt.user=Ham or spam? {{ text }}' run_name=saved --save my_conf/saved
    rowmill run my_conf/saved.yaml

``--save`` computes nothing. The file holds the keys as they were typed, a line each; the run is the same one. What is
typed behind a file, such as ``dataset.limit=2``, counts instead of what it says; another choice for a group, such as
``model=NAME``, takes the place of all its keys of that group. Keys may also stand under their group, whose choice is
its ``kind``, as in ``my_conf/grouped.yaml``:

    job: {kind: label, labels: [ham, spam]}
    dataset: {kind: csv, path: mail.csv}
    prompt:
      user: "Ham or spam? {{ text }}"
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from runner.bare import Bare, Loader, read_yaml
from runner.checkpoint.identity import difference
from runner.config.compose import yaml_problem
from runner.config.conf import RunConf
from runner.config.flow import read_value
from runner.config.groups import GROUPS
from runner.config.typed import OPEN, field_type, is_text
from runner.disk import write_text
from runner.disk.errors import disk_errors
from runner.night.notify import masked
from runner.types import UserError
from runner.words import first_line

SUFFIXES = (".yaml", ".yml")
CHOICE, RESUME = "kind", "resume"
_BREAKS = re.compile("[\r\x85\u2028\u2029]")  # YAML takes them for ends of lines, which it joins
_SIGNS = re.compile(r"([,:\[\]{}\\\s])")


def key_of(word: str) -> str:
    """The key of an override as typed, without ``+``."""
    return word.partition("=")[0].lstrip("+")


def expanded(overrides: Sequence[str]) -> list[str]:
    """The overrides with files among them replaced by what these say and no later word does."""
    files = {word: path for word in overrides if (path := _file(word)) is not None}
    if len(files) > 1:
        raise UserError(f"{' and '.join(files)}: one file describes a run; run them one after the other")
    typed = [word for word in overrides if word not in files]
    return over([word for path in files.values() for word in read_words(path)], typed)


def over(words: Iterable[str], later: Sequence[str]) -> list[str]:
    """``later`` words behind those whose key they leave alone: a group's new file takes all of the group's keys."""
    keys = {key_of(word) for word in later}
    groups = tuple(f"{key}." for key in keys if key in GROUPS)
    return [word for word in words if key_of(word) not in keys and not key_of(word).startswith(groups)] + list(later)


def _file(word: str) -> Path | None:
    if "=" in word or word.startswith("~"):
        return None
    found = [path for path in (Path(word), *(Path(word + suffix) for suffix in SUFFIXES)) if path.suffix in SUFFIXES]
    there = next((path for path in found if path.is_file()), None)
    if there is None and word.endswith(SUFFIXES):
        raise UserError(f"no such file: {word}")
    return there


def read_words(path: Path) -> list[str]:
    """The overrides that a file holds. UserError if it is not a mapping in YAML."""
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(yaml_problem(error, path)) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} has no `key: value` lines, such as `job: label`")
    words = words_of(found)
    if any(key_of(word) == RESUME for word in words):
        raise UserError(f"{path}: {RESUME} is no part of a configuration: give it on the command line")
    return words


def words_of(values: Mapping[str, Any]) -> list[str]:
    """A mapping of keys as overrides; UserError for a key that stands in it twice."""
    words = [f"{name}={value if name in GROUPS else typed(value)}" for name, value in _flat(values)]
    keys = [key_of(word) for word in words]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"{twice} is set twice; keep one of them")
    return words


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (key == OPEN or dataclasses.is_dataclass(field_type(RunConf, key))):
            inner = dict(value)
            if _names_choice(key, inner):
                yield key, inner.pop(CHOICE)
            yield from _flat(inner, f"{key}.")
        else:
            yield key, value


def _names_choice(group: str, values: Mapping[str, Any]) -> bool:
    """Whether ``kind`` among a group's keys is the group's choice, and no key of its own or of a user's own class."""
    known = "_target_" in values or field_type(RunConf, f"{group}.{CHOICE}") is not None
    return group in GROUPS and CHOICE in values and not known


def typed(value: Any, inside: bool = False) -> str:
    """A value as it would be typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, Bare):
        return _SIGNS.sub(r"\\\1", value) if inside else str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{typed(str(name), True)}: {typed(one, True)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(typed(one, True) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)


class _Dumper(yaml.SafeDumper):
    """Writes bare words without quotes where they are read as such, and long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _bare(dumper: _Dumper, word: Bare) -> yaml.Node:
    if not word or _BREAKS.search(word):
        return _text(dumper, str(word))
    kind = Loader("").resolve(yaml.ScalarNode, str(word), (True, False))  # type: ignore[no-untyped-call]
    return dumper.represent_scalar(kind, str(word))


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = '"' if _BREAKS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.yaml_implicit_resolvers = Loader.yaml_implicit_resolvers
_Dumper.add_representer(Bare, _bare)
_Dumper.add_representer(str, _text)


def as_file(words: Sequence[str]) -> str:
    """Overrides, checked before, as the text of a file that means the same."""
    values = {key_of(word): _value(key_of(word), word.partition("=")[2]) for word in words}
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=110) if values else "{}\n"


def _value(key: str, text: str) -> Any:
    try:
        value = read_value(text)
    except ValueError:
        return text
    return value if isinstance(value, str) or not is_text(field_type(RunConf, key)) else text


def save(words: Sequence[str], target: str, config_dir: str | None, same: Any) -> str:
    """Write what was typed to ``target``, and return the command that runs it: resume is no part of a configuration.

    ``same(words)``: the configuration that words give, to compare. UserError for a file that exists, and for what a
    file cannot say.
    """
    if not Path(target).name:
        raise UserError(f"--save={target}: give the name of a file, such as my_conf/mail.yaml")
    path = Path(target if target.endswith(SUFFIXES) else f"{target}{SUFFIXES[0]}")
    if path.exists():
        raise UserError(f"{path} exists already: choose another name; nothing was written")
    if any(masked(word) != word for word in words):
        raise UserError("secrets are not written down: name environment variables, as in notify.webhook='${HOOK}'")
    how = [word for word in words if key_of(word) == RESUME]
    kept = [word for word in words if word not in how]
    meant, text = same(kept), as_file(kept)
    found = same(words_of(read_yaml(text)))
    if lines := difference(meant, found):
        raise UserError(f"{lines[0]}: a file cannot say that; put the value in quotes of its own")
    command = ["rowmill", "run", *(["--config-dir", config_dir] if config_dir else []), str(path), *how]
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"# {shlex.join(command)}\n{text}")
    return shlex.join(command)
