"""Environment variables that a configuration names, as ``${oc.env:NAME}`` or ``${oc.env:NAME,DEFAULT}``."""

from __future__ import annotations

import os
import re
from typing import Any

from runner.types import UserError
from runner.words import withhold

REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*([^{}]*))?\}")
_PLACES = ("path", "dir", "folder", "run_name")


def filled(value: Any, reference: re.Pattern[str] = REFERENCE, key: str = "") -> Any:
    """A value whose texts have what they name in its place; UserError for a variable that is not set.

    What they name is not shown from then on, unless ``key`` is the place of a file or folder.
    """
    if isinstance(value, str):
        return reference.sub(lambda match: _value(match, key), value)
    if isinstance(value, dict):
        return {name: filled(one, reference, name) for name, one in value.items()}
    return [filled(one, reference, key) for one in value] if isinstance(value, list) else value


def _value(match: re.Match[str], key: str) -> str:
    if (found := os.environ.get(match[1])) is not None:
        if key.rpartition(".")[2] not in _PLACES:
            withhold(found, match[0])
        return found
    if match[2] is None:
        raise UserError(f"the environment variable {match[1]} is not set")
    return match[2]
