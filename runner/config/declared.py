"""Configuration keys as their dataclasses declare them, read from the source without importing it."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from runner.config.groups import group_files

ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^(?:Attributes|Columns):\n", re.MULTILINE)
_ENTRY = re.compile(r"^    (\S[^:\n]*): (.*(?:\n {8,}.*)*)", re.MULTILINE)
_WORDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "Any": "mapping or file",
    "keys.AnyMapping": "mapping",
}
_TARGET = re.compile(r"^_target_: (.*)\.(\w+)$", re.MULTILINE)
_EMPTY = {"list": "[]", "dict": "{}"}


class Key(NamedTuple):
    """``default`` as it is typed, "" where a value must be given."""

    name: str
    kind: str
    default: str
    meaning: str


class Class(NamedTuple):
    """A class statement, and the name and source of the module that it stands in."""

    module: str
    tree: ast.Module
    node: ast.ClassDef

    @property
    def prose(self) -> str:
        """The docstring up to its section ``Attributes:``."""
        return _SECTION.split(ast.get_docstring(self.node) or "")[0].strip()


def declared_class(module: str, name: str) -> Class:
    """The class that ``module`` defines or imports under this name. KeyError if there is none."""
    tree = parse(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(module, tree, node)
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return declared_class(node.module, name)
    raise KeyError(f"{module}.{name}")


@cache
def parse(module: str) -> ast.Module:
    """The source of a module of ours."""
    stem = ROOT.joinpath(*module.split("."))
    file = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def prose(module: str) -> str:
    """A module's docstring, without the list of modules that a package's may end with."""
    return (ast.get_docstring(parse(module)) or "").partition("\nModules:\n")[0].strip()


def groups(found: Class) -> dict[str, Class]:
    """The fields that are groups of keys themselves, by name."""
    names = {name: ast.unparse(node.annotation) for name, node in _fields(found).items()}
    return {
        name: declared_class(found.module, kind)
        for name, kind in names.items()
        if kind.endswith("Conf") and kind.isidentifier()
    }


def keys(found: Class, prefix: str = "") -> list[Key]:
    """All keys of a configuration class, dotted, those of nested groups included."""
    inner = groups(found)
    meanings = _meanings(found)
    listed: list[Key] = []
    for name, node in _fields(found).items():
        if name in inner:
            listed += keys(inner[name], f"{prefix}{name}.")
        elif (value := _value(found.tree, node.value)) is not None:
            default, bounds = value
            listed.append(Key(prefix + name, _kind(node, bounds), default, meanings.get(name, "")))
    return listed


def job_keys() -> list[str]:
    """The keys of our jobs, each once."""
    targets = [_TARGET.search(file.read_text(encoding="utf-8")) for file in group_files("job").values()]
    listed = [keys(declared_class(*match.groups()), "job.") for match in targets if match]
    return list(dict.fromkeys(key.name for one in listed for key in one))


def columns(found: Class) -> dict[str, str]:
    """What a job's ``schema`` says about its output columns."""
    schema = next(node for node in found.node.body if isinstance(node, ast.FunctionDef) and node.name == "schema")
    return _entries(ast.get_docstring(schema) or "")


def commented(file: Path) -> dict[str, tuple[str, str]]:
    """The keys of a YAML file, dotted: each with its value and the comment behind it."""
    found: dict[str, tuple[str, str]] = {}
    outer = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"( *)(\w+):\s*(.*?)(?:\s*# (.*))?", line)
        if match:
            outer = outer if match[1] else f"{match[2]}."
            found[(outer if match[1] else "") + match[2]] = (match[3] or "{}", match[4] or "")
    return found


def _entries(docstring: str) -> dict[str, str]:
    sections = _SECTION.split(docstring)[1:]
    return {name: " ".join(text.split()) for section in sections for name, text in _ENTRY.findall(section)}


def _meanings(found: Class) -> dict[str, str]:
    own = _entries(ast.get_docstring(found.node) or "")
    return {name: text for base in _bases(found) for name, text in _meanings(base).items()} | own


def _bases(found: Class) -> list[Class]:
    names = [base.id for base in found.node.bases if isinstance(base, ast.Name)]
    return [declared_class(found.module, name) for name in names]


def _fields(found: Class) -> dict[str, ast.AnnAssign]:
    inherited = {name: field for base in _bases(found) for name, field in _fields(base).items()}
    own = {
        node.target.id: node
        for node in found.node.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return inherited | own


def _value(tree: ast.Module, node: ast.expr | None) -> tuple[str, dict[str, Any]] | None:
    """A field's default as it is typed, and its bounds; None for one that is no key."""
    if node is None:
        return "", {}
    if not isinstance(node, ast.Call):
        return _typed(_constant(tree, node)), {}
    given = {str(one.arg): one.value for one in node.keywords}
    if "init" in given:
        return None
    if "default_factory" in given:
        return _EMPTY[ast.unparse(given["default_factory"])], {}
    return _typed(_constant(tree, node.args[0])), {name: _constant(tree, value) for name, value in given.items()}


def _constant(tree: ast.Module, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        assigned = {ast.unparse(one.targets[0]): one.value for one in tree.body if isinstance(one, ast.Assign)}
        return _constant(tree, assigned[node.id])
    return ast.literal_eval(node)


def _typed(value: Any) -> str:
    if value == "???":
        return ""
    plain = isinstance(value, str) and re.fullmatch(r"[\w-]+", value)
    return str(value) if plain else json.dumps(value)


def _kind(node: ast.AnnAssign, bounds: dict[str, Any]) -> str:
    """The type in words, with the values or the bounds that it has."""
    words = [_word(part) for part in ast.unparse(node.annotation).split(" | ") if part != "None"]
    if bounds.get("among"):
        words = [", ".join(map(str, bounds["among"]))]
    limits = [f"{word} {bounds[name]}" for name, word in (("least", "from"), ("most", "to")) if name in bounds]
    null = [" or null"] if "None" in ast.unparse(node.annotation) else []
    return "".join([*words, *(f" {limit}" for limit in limits), *null])


def _word(annotation: str) -> str:
    name = annotation.partition("[")[0]
    return _WORDS.get(name, {"list": "list", "dict": "mapping"}.get(name, annotation))
