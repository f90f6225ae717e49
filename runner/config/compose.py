"""From words on the command line to one typed tree: Hydra's composition, with every mistake as one line.

Overrides are checked against the schema before Hydra sees them, so that a message can name the key and what would be
valid; what Hydra and OmegaConf then still find is a mistake in a user's own file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.bare import Bare, read_yaml
from runner.config.declared import job_keys
from runner.config.flow import read_value, values
from runner.config.groups import GROUPS, group_files
from runner.config.typed import (
    OPEN,
    READER,
    as_object,
    field_type,
    hints_of,
    in_quotes,
    is_text,
    keys,
    open_schema,
    opened,
    own_files,
    settled,
)
from runner.data.load import kind_of
from runner.keys import in_words
from runner.night.notify import masked
from runner.types import UserError
from runner.words import did_you_mean, first_line

# Of a model, for which there is no file in the group.
_ADDRESS = re.compile(r"(ollama|lmstudio|wheel|https?):|(hf\.co|huggingface\.co)/")
_ORDER = re.compile(r"(\+\+|\+|~)?([^=]*?)(=.*)?", re.DOTALL)


@dataclass
class Composer:
    """One composition of ``conf/NAME.yaml``; ``schema`` is the dataclass that says which keys there are."""

    schema: type
    name: str
    config_dir: str | None

    def typed(self, overrides: Sequence[str]) -> tuple[Any, dict[str, str]]:
        """``compose``, the tree as an instance of the schema. UserError for what its dataclasses refuse."""
        composed, choices = self.compose(overrides)
        try:
            return as_object(composed), choices
        except OmegaConfBaseException as error:
            raise refused(error, self.schema) from error

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """The tree and which file each group took; UserError for every mistake.

        A job with the data set's name is used if no job is given, and a prompt with the job's name if no prompt is.
        """
        given = [self._checked(word) for word in overrides]
        _refuse_twice(overrides)
        words = [f"{key}={value}" for key, value in given if key in GROUPS]
        composed, choices = self._compose(words)
        if told := self._told_kind(dict(given), words, composed):
            words.append(told)
            composed, choices = self._compose(words)
        if OPEN in choices and not _asks(words, OPEN) and choices["dataset"] in self.options(OPEN):
            words.append(f"{OPEN}={choices['dataset']}")
            composed, choices = self._compose(words)
        if (
            OPEN in choices
            and not _asks(words, "prompt")
            and choices.get("prompt") == choices["dataset"]
            and choices[OPEN] in self.options("prompt")
        ):
            composed, choices = self._compose([*words, f"prompt={choices[OPEN]}"])
        for key, typed in given:
            if key not in GROUPS:
                self._set(composed, key, typed)
        self._refuse_unknown(composed, self.schema, "", choices)
        return composed, choices

    def _told_kind(self, given: dict[str, str], words: list[str], composed: DictConfig) -> str | None:
        """The kind of rows of one's own where it is not given: nothing of a default data set applies to them."""
        if _asks(words, "dataset") or not OmegaConf.select(composed, "dataset.path", throw_on_missing=False):
            return None
        if "dataset._target_" in given:
            return "dataset=own"
        path = given.get("dataset.path", "").strip("'\"")
        return f"dataset={kind_of(path)}" if path not in ("", "null") else None

    def _set(self, tree: DictConfig, key: str, typed: str) -> None:
        hint = field_type(self.schema, key)
        value = settled(self._read(key, typed, hint), key, hint, self.schema)
        try:
            OmegaConf.update(tree, key, value, force_add=hint is None)
        except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
            problem = opened(str(error)).splitlines()[0] if hint is None else f"it must be {in_words(hint)}"
            raise UserError(key, problem, value=typed) from error

    def _read(self, key: str, typed: str, hint: Any) -> Any:
        """A text is what was typed, without quotes around all of it."""
        if typed[:1] in ("'", '"') and typed[0] not in typed[1:]:
            raise UserError(f"{key}={typed}: the quote {typed[0]} is not closed at the end of the value")
        try:
            value = read_value(typed)
        except ValueError as error:
            if is_text(hint):
                return Bare(typed)
            remedy = f"are all brackets closed? Texts with special characters need quotes: '{key}=[\"a, b\",c]'"
            raise UserError(f"{key}={typed}: the value cannot be read ({error}); {remedy}") from error
        if is_text(hint):
            return value if isinstance(value, str) else Bare(typed)
        if isinstance(value, Bare) and len(values(typed)) > 1:
            several = "put a text with commas in quotes, a list in brackets"
            raise UserError(f"{key}={typed}: {several}, such as '{key}=[{typed}]'; several runs are -m {key}={typed}")
        return value

    def options(self, group: str) -> dict[str, Path]:
        """The files that a group can be set to, by name."""
        return group_files(group, self.config_dir)

    def own_file(self, group: str, name: str) -> Path | None:
        """The user's own file that a group took, None for one of ours."""
        file = self.options(group).get(name)
        return file if file and self.config_dir and file.is_relative_to(self.config_dir) else None

    def _compose(self, words: list[str]) -> tuple[DictConfig, dict[str, str]]:
        return self._by_hydra(words) if self.config_dir else pickle.loads(_packaged(self.schema, self.name, *words))

    def _by_hydra(self, words: list[str]) -> tuple[DictConfig, dict[str, str]]:
        ConfigStore.instance().store(name=f"{self.name}_schema", node=open_schema(self.schema))
        own = own_files(self.config_dir, self.schema)
        chosen = [f"{group}={in_quotes(name)}" for group, _, name in (word.partition("=") for word in words)]
        with _own_hydra(), hydra.initialize_config_module("conf", version_base="1.3"), own as searched:
            try:
                composed = cast(DictConfig, hydra.compose(self.name, chosen + searched, return_hydra_config=True))
                choices = dict(composed.hydra.runtime.choices)
            except yaml.YAMLError as error:
                raise UserError(yaml_problem(error)) from error
            except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
                raise self._explained(error, words) from error
        OmegaConf.set_struct(composed, False)
        del composed.hydra
        return composed, choices

    def _checked(self, word: str) -> tuple[str, str]:
        """The override's key and value as typed; UserError for a key or a choice that does not exist."""
        sign, key, value = _parts(word)
        if not key:
            raise UserError(f"{word!r} is not KEY=VALUE: the key is missing")
        if key == "model" and _ADDRESS.match((value or "").lstrip("'\"")):
            key = "model.path"
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            raise UserError(key, "Hydra's own settings do not apply; output.dir and run_name say where a run goes")
        if value is None and sign != "~":
            raise UserError(self._no_value(word, key))
        if sign == "~":
            raise UserError(f"{word}: a key cannot be removed; set it to null or to another value")
        if key in GROUPS and key in hints_of(self.schema):
            self._check_choice(key, value or "")
        elif not key.startswith((f"{OPEN}.", f"{READER}.")) or field_type(self.schema, key):
            self._check_key(key, value or "")
        return key, value or ""

    def _no_value(self, word: str, key: str) -> str:
        close = get_close_matches(key.partition(":")[0], list(keys(self.schema)), n=1)
        hint = f"write {close[0]}=VALUE" if close else "such as run_name=mail; see rowmill run --help"
        return f"{word!r} is not KEY=VALUE: {hint}"

    def _check_choice(self, group: str, value: str) -> None:
        options = self.options(group)
        if value not in options:
            is_place = group in ("dataset", "model") and value and ("/" in value or Path(value).exists())
            kinds = "a file, a folder or an id of the hub" if "/" in value else "a file or a folder"
            hint = f": for {kinds}, write {group}.path={value}" if is_place else ""
            raise UserError(group, f"there is no such {group}{hint}{did_you_mean(value, list(options))}", value=value)
        if self.config_dir:  # ours are checked by tests
            self._check_file(group, options[value])

    def _check_file(self, group: str, file: Path, seen: tuple[Path, ...] = ()) -> None:
        try:
            content = read_yaml(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(yaml_problem(error, file)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} has no `key: value` lines; {self._valid(group)}")
        options = self.options(group)
        for base in content.get("defaults") or []:
            if isinstance(base, str) and base in options and options[base] not in (*seen, file):
                self._check_file(group, options[base], (*seen, file))

    def _check_key(self, key: str, value: str) -> None:
        found = field_type(self.schema, key)
        if found is None:
            raise UserError(key, f"is not a configuration key{self._alternatives(key)}")
        if dataclasses.is_dataclass(found):
            raise UserError(masked(f"{key}={value}"), f"it is a group of keys; {self._valid(key)}")

    def _refuse_unknown(self, node: DictConfig, schema: Any, prefix: str, choices: dict[str, str]) -> None:
        """Refuse what ``+`` or a file's ``@package`` has added to the tree."""
        known, names = hints_of(schema), list(map(str, node))
        for name in names:
            key = f"{prefix}{name}"
            if name not in known and not (prefix == f"{READER}." and "_target_" in names):
                place = self._place(READER, choices, name) if prefix == f"{READER}." else ""
                raise UserError(key, f"is not a configuration key{self._alternatives(key)}{place}")
            if dataclasses.is_dataclass(known.get(name)) and isinstance(node._get_node(name), DictConfig):
                self._refuse_unknown(node[name], known[name], f"{key}.", choices)

    def _place(self, group: str, choices: dict[str, str], name: str) -> str:
        own = self.own_file(group, choices[group])
        return f"; it is in {own}" if own and f"{name}:" in own.read_text(encoding="utf-8") else ""

    def _alternatives(self, key: str) -> str:
        group, _, name = key.rpartition(".")
        node = field_type(self.schema, group) if group else self.schema
        others = list(keys(self.schema))
        if OPEN in hints_of(self.schema) and not any(one.endswith(f".{name}") for one in others):
            others += job_keys()
        if not dataclasses.is_dataclass(node):  # there is no such group
            name, node = name if any(one.endswith(f".{name}") for one in others) else key.partition(".")[0], self.schema
        return did_you_mean(name, [field.name for field in dataclasses.fields(node)], others)

    def _valid(self, group: str) -> str:
        node = field_type(self.schema, group)
        names = [field.name for field in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else ["_target_"]
        return f"valid: {', '.join(f'{group}.{name}' for name in names)}"

    def _explained(self, error: Exception, words: list[str]) -> UserError:
        """Hydra's or OmegaConf's error as one line that names the key, the file and what would be right."""
        text = opened(_chain(error))
        absent = re.search(r"In '([^']+)': Could not (?:find|load) '([^']+)'", text)
        if absent:
            group, _, name = absent[2].rpartition("/")
            guess = did_you_mean(name, list(self.options(group)))
            return UserError(f"{self._file(absent[1])}: there is no {absent[2]}{guess}")
        merged = re.search(r"Error merging override (?:\+\+)?([^=\s]+)=", text)
        full = re.search(r"full_key: (\S+)", text)
        where = re.search(r"In '([^']+)': \w+ raised while composing", text)
        place = f"; it is in {self._file(where[1])}" if where else ""
        key = merged[1] if merged else full[1] if full else ""
        expected = field_type(self.schema, re.sub(r"\[\d+\]$", "", key)) if key else None
        if expected is not None:
            value = re.search(r"[Vv]alue '([^']*)'", text)
            typed = dict(_parts(word)[1:] for word in words)
            given = typed.get(key) or (value[1] if value else None)
            problem = f"it must be {in_words(expected)}{place}"
            return UserError(key, problem) if given is None else UserError(key, problem, value=given)
        if key and "not in" in text:
            return UserError(key, f"is not a configuration key{self._alternatives(key)}{place}")
        lines = [line.strip() for line in opened(str(error)).splitlines() if line.strip()]
        if key:
            return UserError(key, f"{lines[0]}{place}")
        return UserError(" ".join(lines[:2]) or type(error).__name__)

    def _file(self, name: str) -> str:
        group, _, stem = name.partition("/")
        return str(self.options(group).get(stem, f"{name}.yaml"))


@functools.lru_cache
def _packaged(schema: type, name: str, *words: str) -> bytes:
    """A composition of our own files only, which stay what they are while a process runs.

    Pickled: a copy made from that takes a quarter of the time of ``copy.deepcopy``.
    """
    return pickle.dumps(Composer(schema, name, None)._by_hydra(list(words)))


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """A Hydra of our own inside; the calling program's Hydra and its version base are restored afterwards."""
    host, version = GlobalHydra.instance(), VersionBase.instance()
    before = host.hydra, version.version_base
    host.clear()
    try:
        yield
    finally:
        GlobalHydra.set_instance(host)
        host.hydra, version.version_base = before


def _parts(word: str) -> tuple[str | None, str, str | None]:
    match = _ORDER.fullmatch(word)
    assert match is not None
    return match[1], match[2], None if match[3] is None else match[3][1:]


def _asks(words: list[str], group: str) -> bool:
    return any(word.startswith((f"{group}=", f"~{group}")) for word in words)


def _refuse_twice(words: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for word in words:
        key = _parts(word)[1]
        if key in seen:
            raise UserError(f"{key} is set twice: {masked(seen[key])} and {masked(word)}; keep one of them")
        seen[key] = word


def refused(error: OmegaConfBaseException, schema: type) -> UserError:
    """What the dataclasses of a tree refuse, as one line that names the key and what it was given."""
    key, text = error.full_key, first_line(error)
    given = re.search(r"interpolation '\$\{rowmill\.plain_env:(.*?)\}': Value", text)
    if key and given:
        return UserError(key, f"it must be {in_words(field_type(schema, key))}", value=f"${{oc.env:{given[1]}}}")
    return UserError(key, text) if key else UserError(text)


def _chain(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return "\n".join(texts)


def yaml_problem(error: yaml.YAMLError, file: Path | None = None) -> str:
    """Where a file is not YAML, and why."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    at = f"{file or (mark.name if mark else 'a configuration file')}{f' line {mark.line + 1}' if mark else ''}"
    problem = getattr(error, "problem", None) or first_line(error)
    return f"{at} is not YAML: {problem}; texts with {{ }} : or # need quotes"
