"""What a value means under its key: a text is what was typed, and a dollar sign in a prompt or a label is one.

OmegaConf takes ``${`` for the beginning of an interpolation and ``???`` for a value that is missing. Texts in which
they are neither are sealed while it holds them, with characters that Unicode keeps for a program's own use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import typing
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, Node, OmegaConf

from runner.bare import LATE, Bare, named, plain, read_yaml, schema, shown
from runner.config.groups import group_files
from runner.keys import is_union
from runner.machine.environ import REFERENCE, filled
from runner.night.notify import kept
from runner.words import composed

OPEN = "job"  # its keys are those of the job's own class, see runner.config.job.make_job
READER = "dataset"  # with a ``_target_`` its keys are also those of the reader's own class
LITERAL = (
    *("prompt", OPEN, "output.schema", "output.regex", "output.choices", "notify.command", "notify.webhook"),
    *("dataset.where", "dataset.gold", "dataset.classes"),
)
NAMES = (
    *(f"{OPEN}.labels", f"{OPEN}.scale", "dataset.classes", "output.choices", "prompt.output.choices"),
    *(f"{OPEN}.questions[].{name}" for name in ("labels", "scale", "where")),
)
COLUMNS = ("dataset.gold", "output.keep[]", f"{OPEN}.column", "perplexity.column")  # names of columns
SCHEMAS = ("output.schema", "prompt.output.schema", f"{OPEN}.questions[].schema")
_SEALS = {"$": "\ufdd1", "?": "\ufdd2"}
_SEALED, _OPENED = str.maketrans(_SEALS), str.maketrans({seal: sign for sign, seal in _SEALS.items()})
_GIVEN = re.compile("\ufdd3(.*?)\ufdd4(.*?)\ufdd5", re.DOTALL)  # by the environment: the reference, the value
_KEY = re.compile(r"\$\{([\w.]+)\}")
_CLEARED = ".cleared"  # after the name of a file: what it replaces by values of another kind, as nulls
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's takes a quarter of the time
_reading: ContextVar[type] = ContextVar("_reading")  # the schema of the files that Hydra reads


def settled(value: Any, key: str, hint: Any, root: type) -> Any:
    """A value of a key as OmegaConf can hold it until it is ``opened``; ``hint``: its type, None where it is open."""
    if key in SCHEMAS and not isinstance(value, str):
        value = schema(value)
    elif key in NAMES:
        value = named(value)
    if isinstance(value, dict):
        return {
            name: settled(one, f"{key}.{name}".lstrip("."), _inner(hint, name), root) for name, one in value.items()
        }
    if isinstance(value, list):
        inner = str if key.startswith(f"{OPEN}.attributes.") else _inner(hint)
        return [settled(one, f"{key}[]", inner, root) for one in value]
    if isinstance(value, Bare):
        value = _of_type(value, key, hint)
    if isinstance(value, str) and key in COLUMNS:
        value = composed(value)
    return _held(value, key, hint, root) if isinstance(value, str) else value


def is_text(hint: Any) -> bool:
    """Whether a key of this type takes a text (or null)."""
    return hint is str or (is_union(hint) and str in typing.get_args(hint))


@functools.lru_cache(maxsize=256)
def hints_of(schema: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name, none of another type; Python works them out each time it is asked."""
    return typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}


def field_type(root: Any, key: str) -> Any:
    """The type of a dotted key, a dataclass for a group of keys; None if there is no such key."""
    for part in key.split("."):
        root = hints_of(root).get(part)
    return root


def keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a schema, dotted."""
    for name, hint in hints_of(schema).items():
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def opened(value: Any, recorded: bool = False) -> Any:
    """What OmegaConf held, as it is meant. ``recorded``: with references to the environment in place of its values."""
    if isinstance(value, str):
        return _GIVEN.sub(r"\1" if recorded else r"\2", value).translate(_OPENED)
    if isinstance(value, dict):
        return {opened(name): opened(one, recorded) for name, one in value.items()}
    if isinstance(value, list):
        return [opened(one, recorded) for one in value]
    if dataclasses.is_dataclass(value):
        for name, one in vars(value).items():
            setattr(value, name, opened(one, recorded))
    return value


def as_object(tree: DictConfig) -> Any:
    """The tree as an instance of its schema."""
    return opened(OmegaConf.to_object(tree))


def as_plain(tree: DictConfig) -> dict[str, Any]:
    """The tree as plain values to be kept; what the environment gave is not among them."""
    found = cast(dict[str, Any], opened(OmegaConf.to_container(tree, resolve=True), recorded=True))
    return found | ({"notify": kept(found["notify"])} if "notify" in found else {})


def as_yaml(values: dict[str, Any]) -> str:
    """Plain values as a file."""
    written = yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    if "\\U" in written:  # libyaml escapes emoji
        written = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    return str(written)


def from_plain(values: dict[str, Any], root: type) -> DictConfig:
    """The inverse of ``as_plain``: a tree that may be resolved again."""
    return cast(DictConfig, OmegaConf.merge(open_schema(root), settled(values, "", root, root)))


def open_schema(root: Any) -> DictConfig:
    """The tree of a schema; to ``dataset`` keys may be added, those of a reader of the user's own."""
    node = cast(DictConfig, OmegaConf.structured(root))
    if READER in node:
        OmegaConf.set_struct(node[READER], False)
        classes = node[READER]._get_node("classes")._metadata  # job.labels begins as these, and may become a mapping
        classes.ref_type, classes.optional = Any, True
    return node


def _of_type(word: Bare, key: str, hint: Any) -> Any:
    value = plain(word)
    if is_text(hint) or key in SCHEMAS:
        return None if word == "null" else str(word)
    if key.startswith("prompt.examples[]."):
        found = shown(word)
        return str(word) if isinstance(found, bool) and key.endswith(".answer") else found
    if hint not in (None, Any):
        return value if value is None else str(word)  # OmegaConf reads it
    is_late = key.startswith(f"{OPEN}.") and (isinstance(value, bool) or shown(word) != value)
    return f"{LATE}{word}" if is_late else value


def _held(text: str, key: str, hint: Any, root: type) -> str:
    """A text sealed, where it stands for itself, or with references that can be told from what they give."""
    if key == "defaults" or _refers(text, key, root):
        return text
    if text == "???" and key.startswith(f"{OPEN}.") and _is_top(key):
        return text  # in a file: to be set by whoever uses it
    if any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in LITERAL):
        return text.translate(_SEALED)
    resolver = "rowmill.env" if hint in (None, Any) or is_text(hint) else "rowmill.plain_env"
    return REFERENCE.sub(lambda match: match[0].replace("${oc.env:", f"${{{resolver}:"), text)


def _refers(text: str, key: str, root: type) -> bool:
    """Whether a key of a job is as a whole another key, as in ``labels: ${dataset.classes}``."""
    found = _KEY.fullmatch(text)
    return bool(found and key.startswith(f"{OPEN}.") and _is_top(key) and field_type(root, found[1]))


def _is_top(key: str) -> bool:
    return key.count(".") == 1 and not key.endswith("]")


def _given(name: str, *default: str, _node_: Node) -> str:
    """What a reference to the environment resolves to: the value, behind what it was asked for by."""
    return f"\ufdd3{_reference(name, *default)}\ufdd4{_given_plainly(name, *default, _node_=_node_)}\ufdd5"


def _given_plainly(name: str, *default: str, _node_: Node) -> str:
    return str(filled(_reference(name, *default), key=_node_._get_full_key(None)))


def _reference(*words: object) -> str:
    return f"${{oc.env:{','.join(map(str, words))}}}"


OmegaConf.register_new_resolver("rowmill.env", _given, replace=True)
OmegaConf.register_new_resolver("rowmill.plain_env", _given_plainly, replace=True)


def _inner(hint: Any, name: str | None = None) -> Any:
    """The type of a part of a value: of the key ``name``, or of a list's items."""
    if found := hints_of(hint):
        return found.get(str(name))
    if is_union(hint):
        return next((inner for one in typing.get_args(hint) if (inner := _inner(one, name)) is not None), None)
    parts = typing.get_args(hint)
    return parts[-1] if parts else None


def in_quotes(text: str) -> str:
    """A text as a value that Hydra reads as that text, whatever letters it has."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), text) + "'"


@contextlib.contextmanager
def own_files(folder: str | None, root: type) -> Iterator[list[str]]:
    """What makes Hydra search a user's folder, whose files then mean what they would on the command line."""
    token = _reading.set(root)
    try:
        yield [f"hydra.searchpath=[{in_quotes(f'{OwnFiles.scheme()}://{Path(folder).resolve()}')}]"] if folder else []
    finally:
        _reading.reset(token)


class OwnFiles(FileConfigSource):  # type: ignore[misc]  # Hydra has no types for it
    """A folder of a user's own configuration files."""

    @staticmethod
    def scheme() -> str:
        """See ConfigSource."""
        return "rowmill"

    def is_config(self, config_path: str) -> bool:
        """See ConfigSource."""
        return bool(super().is_config(config_path.removesuffix(_CLEARED)))

    def load_config(self, config_path: str) -> ConfigResult:
        """See ConfigSource."""
        name = config_path.removesuffix(".yaml").removesuffix(_CLEARED)
        file = Path(self.path, self._normalize_file_name(name))
        if not file.exists():
            raise ConfigLoadError(f"Config not found : {file}")
        text = file.read_text(encoding="utf-8")
        header = ConfigSource._get_header_dict(text)
        group, _, own = name.partition("/")
        package = header.get("package") or group
        key = "" if package == "_global_" else package
        root = _reading.get()
        content = settled(read_yaml(text) or {}, key, field_type(root, key) if key else root, root)
        others = _other_kinds(content, group_files(group, self.path)) if own and isinstance(content, dict) else []
        if config_path.removesuffix(".yaml").endswith(_CLEARED):
            content = dict.fromkeys(others)
        elif others:
            before, own_place, after = _around(content["defaults"], "_self_")
            content["defaults"] = [*before, f"{own}{_CLEARED}", *(own_place or ["_self_"]), *after]
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(content), header)


def _other_kinds(content: dict[str, Any], files: Mapping[str, Path]) -> list[str]:
    """The keys with a mapping or a list where the files that this one builds on have something else.

    OmegaConf cannot merge the two: they have to be cleared in between.
    """
    bases: dict[str, Any] = {}
    for base in content.get("defaults") or []:
        bases |= _whole(base, files) if isinstance(base, str) else {}
    kinds = {name: type(value) for name, value in content.items() if isinstance(value, dict | list)}
    return [
        name for name, kind in kinds.items() if name in bases and name != "defaults" and type(bases[name]) is not kind
    ]


def _whole(name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """A file's content with what it builds on; {} for one that cannot be read, which Hydra will say."""
    with contextlib.suppress(KeyError, OSError, ValueError, yaml.YAMLError):
        content = read_yaml(files[name].read_text(encoding="utf-8"))
        others = {key: file for key, file in files.items() if key != name}
        found: dict[str, Any] = {}
        for base in content.get("defaults") or [] if isinstance(content, dict) else []:
            found |= _whole(base, others) if isinstance(base, str) else {}
        return found | content if isinstance(content, dict) else found
    return {}


def _around(values: list[Any], mark: str) -> tuple[list[Any], list[Any], list[Any]]:
    at = values.index(mark) if mark in values else len(values)
    return values[:at], values[at : at + 1], values[at + 1 :]


Plugins.instance().register(OwnFiles)
