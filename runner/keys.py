"""The values that a configuration key takes, stated where the key is declared."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from runner.bare import LATE, Bare, plain
from runner.types import UserError

_WORDS = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "a text"},
    **{dict: "{name: value, ...}", Any: "{name: value, ...} or a file"},
}

AnyMapping = Any  # with any keys, which OmegaConf would take for a dataclass's

_TRUTH = {
    "true": True,
    "True": True,
    "yes": True,
    "on": True,
    "false": False,
    "False": False,
    "no": False,
    "off": False,
}


def key(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    among: tuple[Any, ...] = (),
    later: bool = False,
) -> Any:
    """A dataclass field with bounds, or with the values it can have (and null if that is the default).

    ``later``: runs of earlier versions do not have it, so that a run with its default is one without it.
    """
    metadata = {"least": least, "most": most, "among": among, "later": later}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: [*default], metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def later_keys(conf: Any) -> dict[str, Any]:
    """The keys of a dataclass that earlier versions do not have, with their defaults."""
    return {f.name: _default(f) for f in dataclasses.fields(conf) if f.metadata.get("later")}


def said(conf: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass without the defaults of keys that came ``later``."""
    unsaid = later_keys(conf)
    return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_keys(conf: Any, prefix: str = "") -> None:
    """Check every value of a configuration tree against its ``key``. Raises UserError that names the key."""
    for field in dataclasses.fields(conf):
        name, value = prefix + field.name, getattr(conf, field.name)
        if dataclasses.is_dataclass(value):
            check_keys(value, f"{name}.")
        elif value is not None:
            _check_value(name, value, **field.metadata)


def _check_value(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    among: tuple[Any, ...] = (),
    later: bool = False,
) -> None:
    if among and value not in among:
        raise UserError(name, f"it can be {', '.join(map(str, among))}", value=value)
    if least is not None and not value >= least:
        raise UserError(name, f"it must be at least {least}", value=value)
    if most is not None and not value <= most:
        percent = (
            f", as a fraction of 1: {value / 100:g} is {value:g}%" if least == 0 and most <= 1 < value <= 100 else ""
        )
        raise UserError(name, f"it must be at most {most}{percent}", value=value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(name, "it must be a finite number", value=value)


def in_words(hint: Any) -> str:
    """A type for people: ``a whole number or null``."""
    if is_union(hint):
        return " or ".join("null" if one is type(None) else in_words(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        inner = (typing.get_args(hint) or (str,))[0]
        return "a list such as [{text: ..., answer: ...}]" if typing.get_origin(inner) is dict else "a list like [a,b]"
    return _WORDS.get(typing.get_origin(hint) or hint, "of another type")


def meant(value: Any, hint: Any) -> Any:
    """A value as a field of this type wants it: a bare word becomes the text that was typed, or the number."""
    hints = typing.get_args(hint) if is_union(hint) else (hint,)
    names = {typing.get_origin(one) or one: typing.get_args(one) for one in hints}
    if isinstance(value, list):
        inner = (names.get(list) or (Any,))[-1]
        return [meant(one, inner) for one in value]
    if isinstance(value, dict):
        inner = (names.get(dict) or (Any,))[-1]
        return {key: meant(one, inner) for key, one in value.items()}
    if str in names:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and not {int, float} & names.keys()
        return str(value) if is_number else value.removeprefix(LATE) if isinstance(value, str) else value
    if not isinstance(value, str):
        return value
    word = value.removeprefix(LATE)
    for kind, read in ((int, int), (float, float), (bool, _TRUTH.__getitem__)):
        with contextlib.suppress(ValueError, KeyError):
            if kind in names:
                return read(word)
    return plain(Bare(word)) if value.startswith(LATE) else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; True for types that YAML knows nothing of."""
    if is_union(hint):
        return any(fits(value, one) for one in typing.get_args(hint))
    hint = typing.get_origin(hint) or hint
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, list, dict, type(None)) else True


def is_union(hint: Any) -> bool:
    """Whether a type is one of several, as ``int | None`` is."""
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
