"""Sweeps: one command line with ``key=a,b,c`` becomes one for each combination, as Hydra's ``--multirun`` has it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from runner.types import UserError


def combinations(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Each run's overrides, and those of them that differ from run to run; the last key varies fastest.

    Raises UserError if nothing is swept over.
    """
    choices = [_choices(word) for word in overrides]
    if all(len(some) == 1 for some in choices):
        raise UserError("-m sweeps over values, and there are none: write several with commas, such as model=a,b,c")
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
