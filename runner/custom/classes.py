"""A user's job or reader, named by ``_target_`` and made from the other keys beside it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.custom.code import import_job_module
from runner.keys import fits, in_words, meant
from runner.types import UserError
from runner.words import did_you_mean


def _check_module(key: str, target: str, folders: list[str], modules: Sequence[str]) -> None:
    """Refuse, before it is imported, an installed module that nobody listed: importing is running."""
    name = target.partition(".")[0]
    own = any((Path(folder) / f"{name}{end}").exists() for folder in folders for end in ("", ".py"))
    if own or name in ("jobs", "runner", *modules) or not name.isidentifier():
        return
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        problem = "it is neither rowmill's own nor in --config-dir or this folder"
        raise UserError(key, f"{problem}; for an installed module write modules=[{name}]", value=target)


def import_class_module(key: str, target: str, folders: list[str], modules: Sequence[str]) -> None:
    """Import the module of the class that the configuration's ``key`` names; UserError where it cannot be.

    It may be one of ours, lie in one of the user's ``folders``, or be one of the installed ``modules``.
    """
    _check_module(key, target, folders, modules)
    module = target.rpartition(".")[0]
    if not module:
        raise UserError(key, "it must be module.Class, such as jobs.label.Label", value=target)
    try:
        import_job_module(module, folders)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(key, f"module {module} cannot be imported: {reason}", value=target) from error


def find_class(group: str, target: str, method: str) -> type:
    """The dataclass ``target`` of a module that is imported; classes with ``method`` are what may have been meant."""
    module_name, _, class_name = target.rpartition(".")
    module = sys.modules[module_name]
    found = getattr(module, class_name, None)
    if found is None:
        known = [name for name, value in vars(module).items() if _is_own(value, module_name, method)]
        problem = f"{module_name} has no {class_name}{did_you_mean(class_name, known)}"
        raise UserError(f"{group}._target_", problem, value=target)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{group}._target_", "it is not a class marked with @dataclass", value=target)
    return found


def _is_own(value: Any, module: str, method: str) -> bool:
    is_class = isinstance(value, type) and dataclasses.is_dataclass(value)
    return is_class and value.__module__ == module and hasattr(value, method)


def make(group: str, found: type, target: str, values: dict[str, Any], others: Iterable[str] = ()) -> Any:
    """An object of the class with these values; UserError that names the key of a value that it refuses.

    ``others`` are the keys that lie elsewhere.
    """
    values = as_taken(found, values)
    _check_values(group, found, target, values, others)
    try:
        return found(**values)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything about its values
        raise UserError(group, f"{target} does not take these values: {type(error).__name__}: {error}") from error


def as_taken(found: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the fields of the class want them; see ``runner.keys.meant``."""
    hints = _type_hints(found)
    return {name: meant(value, hints.get(name, Any)) for name, value in values.items()}


def _check_values(group: str, found: Any, target: str, values: dict[str, Any], others: Iterable[str]) -> None:
    fields = [field for field in dataclasses.fields(found) if field.init]
    taken = [field.name for field in fields]
    hints = _type_hints(found)
    for name, value in values.items():
        if name not in taken:
            raise UserError(f"{group}.{name}", f"is not a key of {target}{did_you_mean(name, taken, others)}")
        if name in hints and not fits(value, hints[name]):
            shown = "null" if value is None else value
            raise UserError(f"{group}.{name}", f"it must be {in_words(hints[name])}", value=shown)
    needed = [f for f in fields if f.default is f.default_factory is dataclasses.MISSING and f.name not in values]
    if needed:
        name = f"{group}.{needed[0].name}"
        raise UserError(name, f"is not set: {target} needs it; give {name}=...")


def _type_hints(found: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found)
    except (NameError, TypeError):  # names that are imported for type checkers only
        return {}
