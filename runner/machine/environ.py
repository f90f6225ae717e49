"""Environment variables that a configuration names, as ``${oc.env:NAME}`` or ``${oc.env:NAME,DEFAULT}``."""

from __future__ import annotations

import os
import re
from typing import Any

from runner.types import UserError

REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*([^{}]*))?\}")


def filled(value: Any, reference: re.Pattern[str] = REFERENCE) -> Any:
    """A value whose texts have what they name in its place; UserError for a variable that is not set."""
    if isinstance(value, str):
        return reference.sub(_value, value)
    if isinstance(value, dict):
        return {name: filled(one, reference) for name, one in value.items()}
    return [filled(one, reference) for one in value] if isinstance(value, list) else value


def _value(match: re.Match[str]) -> str:
    found = os.environ.get(match[1], match[2])
    if found is None:
        raise UserError(f"the environment variable {match[1]} is not set")
    return found
