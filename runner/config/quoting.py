"""What a user typed: quotes and escapes in overrides, names that look like numbers, sweeps over several values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from runner.types import UserError

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_KEYS = {"job": "labels", "dataset": "classes"}
_TYPED = re.compile(r"(?<![\w.])[+-]?\d[\d_]*(?![\w.])")
_CANONICAL = re.compile(r"-?[1-9][0-9]*|0")
_INT = "tag:yaml.org,2002:int"


def refuse_retyped(value: str, key: str) -> None:
    """UserError for a number in the unquoted parts of a value that is not written as numbers are shown, as 1_0."""
    for word in _TYPED.findall(_QUOTED.sub("", value)):
        if not _CANONICAL.fullmatch(word) and not word.isdigit():  # 007 stays a text on the command line
            raise UserError(key, f"{word} is read as a number; put a name like this in quotes: ['{word}']")


def check_names(file: Path, group: str) -> None:
    """UserError naming the line for a name in a YAML file that YAML reads as a number written otherwise."""
    tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for key, value in tree.value if isinstance(tree, yaml.MappingNode) else []:
        if getattr(key, "value", None) != _KEYS.get(group):
            continue
        for node in _scalars(value):
            if node.tag == _INT and not _CANONICAL.fullmatch(node.value):
                line = node.start_mark.line + 1
                problem = f"YAML reads {node.value} as a number; put it in quotes"
                raise UserError(f"{file} line {line}: {key.value}: {problem}")


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _scalars(part)


def quoted(value: str) -> str:
    """The text in quotes as Hydra reads them: a backslash counts as one only before a quote."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    tail = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{tail * chr(92)}"'


def unescaped(value: str) -> str:
    r"""Double-quoted texts read as YAML reads them: ``\n`` and ``\t`` are a line break and a tab."""
    if value[:1] not in ('"', "[", "{"):
        return value

    def read(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        return quoted(re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[0]), match[1], flags=re.DOTALL))

    return _QUOTED.sub(read, value)


def combinations(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """``key=a,b,c`` as one command line for each combination, as Hydra's ``--multirun`` does it.

    Each run's overrides, and those of them that differ from run to run; the last key varies fastest.

    Raises UserError if nothing is swept over.
    """
    choices = [_choices(word) for word in overrides]
    if all(len(some) == 1 for some in choices):
        raise UserError("-m sweeps over values, but each key has only one: write several, such as model=a,b,c")
    return [
        (list(words), [word for word, some in zip(words, choices, strict=True) if len(some) > 1])
        for words in itertools.product(*choices)
    ]


def _choices(word: str) -> list[str]:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # a text that needs quotes: the composition takes it as it stands
        return [word]
    if not override.is_sweep_override():
        return [word]
    return [f"{override.input_line.partition('=')[0]}={value}" for value in override.sweep_string_iterator()]
