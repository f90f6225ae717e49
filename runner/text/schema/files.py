"""A schema's file, JSON or YAML, read so that no value becomes another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from runner.bare import read_yaml, schema
from runner.text.schema.check import once_each
from runner.types import UserError


def read_schema_file(key: str, name: str, folders: list[Path]) -> Any:
    """The schema ``FILE`` or ``FILE#/pointer``, looked for in ``folders``; UserError naming ``key``.

    A schema within a document may refer to the document's ``$defs``, ``definitions`` and ``components``.
    """
    path, found = name, _find(name, folders)
    pointer = ""
    if found is None:
        path, _, pointer = name.partition("#")
        found = _find(path, folders)
    if found is None:
        raise UserError(key, f"there is no such file in {' or '.join(map(str, folders))}", value=name)
    document = _parse(key, name, found)
    if not pointer:
        return _no_document(key, name, document)
    if not isinstance(_at(document, pointer), dict):
        raise UserError(key, f"{path} holds no schema at {pointer}", value=name)
    shared = {word: document[word] for word in ("$defs", "definitions", "components") if word in document}
    return {"$ref": f"#{pointer}", **shared}


def _find(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _parse(key: str, name: str, path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text, object_pairs_hook=once_each)
        except json.JSONDecodeError as problem:
            if path.suffix.lower() == ".json":
                raise UserError(key, f"{path} is not JSON: {problem}", value=name) from problem
            return schema(read_yaml(text))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        first = str(getattr(problem, "problem", None) or problem).splitlines()[0]
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(key, f"{path}{line} is neither JSON nor YAML: {first}", value=name) from problem


def _no_document(key: str, name: str, document: Any) -> Any:
    """The document, unless it is one of OpenAPI: that has many schemas."""
    if not isinstance(document, dict) or not {"openapi", "swagger"} & document.keys():
        return document
    place = "components/schemas" if "openapi" in document else "definitions"
    names = list(_at(document, f"/{place}") or {})
    asked = f": {name}#/{place}/{names[0]}" if names else ""
    raise UserError(key, f"it is an OpenAPI document; name one of its schemas{asked}", value=name)


def _at(document: Any, pointer: str) -> Any:
    for part in pointer.strip("/").split("/"):
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        document = document.get(part) if isinstance(document, dict) else None
    return document
