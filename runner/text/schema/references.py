"""References of a JSON Schema, by address, by name or from within a part, as pointers from its root.

A reference into the middle of another schema becomes one to a copy among the definitions, as rewriting moves what lies
deeper than those.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

from runner.text.schema.nodes import children, subschemas, target

NAMES = ("$id", "id", "$anchor")
_DEFINED = re.compile(r"#/?|#/(\$defs|definitions|components/schemas)/[^/]+")  # what stays where it is
_SAFE = "#/%~!$&'()*+,;=:@?"  # in pointers
ROOT = "http://schema.invalid/"  # the address of a schema that says none


def base_of(node: Mapping[Any, Any], base: str) -> str:
    """The address that the references in a node are relative to, inside of what has the address ``base``."""
    said = next((node[word] for word in ("$id", "id") if isinstance(node.get(word), str)), "")
    return urljoin(base, urldefrag(said).url)


def places(node: Mapping[Any, Any], base: str = ROOT, pointer: str = "#") -> Iterator[tuple[str, str]]:
    """The addresses of a schema and its parts, and of what has a name in them, with their pointers."""
    own = base_of(node, base)
    if own != base or pointer == "#":
        yield own, pointer
    names = [node.get("$anchor"), *(urldefrag(str(node.get(word, ""))).fragment for word in ("$id", "id"))]
    yield from ((f"{own}#{name}", pointer) for name in names if isinstance(name, str) and name)
    for path, part in children(node):
        yield from places(part, own, "/".join([pointer, *(_escaped(str(one)) for one in path)]))


def referring(node: dict[str, Any], base: str, root: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """The node without a name, with a pointer for its reference, if that is within the document."""
    made = {word: value for word, value in node.items() if word not in NAMES or not isinstance(value, str)}
    if isinstance(reference := node.get("$ref"), str):
        made["$ref"] = _pointer(reference, base, root, known)
    return made


def with_definitions(root: dict[str, Any]) -> dict[str, Any]:
    """The schema with a definition for each place in the middle of another that it, or such a place, refers to."""
    pointers = [*dict.fromkeys(_into_others(root, root))]
    copies = {}
    for pointer in pointers:
        copies[pointer] = target(pointer, root)
        pointers += [one for one in dict.fromkeys(_into_others(copies[pointer], root)) if one not in pointers]
    if not copies:
        return root
    names = {pointer: unquote(pointer).removeprefix("#/") for pointer in copies}
    own = {**{names[pointer]: part for pointer, part in copies.items()}, **root.get("$defs", {})}
    made = copy.deepcopy({"$defs": own, **{word: value for word, value in root.items() if word != "$defs"}})
    for _, node in subschemas(made):
        if (reference := node.get("$ref")) in copies:
            node["$ref"] = quote(f"#/$defs/{_escaped(names[reference])}", safe=_SAFE)
    return made


def _into_others(schema: Any, root: dict[str, Any]) -> Iterator[str]:
    """The pointers to places in the middle of another schema."""
    given = [node["$ref"] for _, node in subschemas(schema) if isinstance(node.get("$ref"), str)]
    return (one for one in given if not _DEFINED.fullmatch(one) and isinstance(target(one, root), dict | bool))


def _pointer(reference: str, base: str, root: dict[str, Any], known: Mapping[str, str]) -> str:
    address, _, fragment = (base + reference if reference[:1] == "#" else urljoin(base, reference)).partition("#")
    if f"{address}#{fragment}" in known:
        return known[f"{address}#{fragment}"]
    found = known.get(address, "") + (f"/{fragment.lstrip('/')}" if fragment.strip("/") else "")
    # Of parts with an address of their own many programs write references from the root all the same.
    found = next((one for one in (found, reference) if target(one, root) is not None), reference)
    return quote(found, safe=_SAFE)


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
