"""A topic in blocks, and these as text for a terminal and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runner.config.declared import Key

_INDENT = "    "
_SHELL = ("rowmill ", "python ", "pip ", "cat ")


class Block(NamedTuple):
    """``kind``: title, prose, code (its text as it stands), entries or keys."""

    kind: str
    text: str = ""
    entries: Sequence[tuple[str, str]] = ()
    keys: Sequence[Key] = ()


def as_text(content: Iterable[Block], width: int) -> str:
    """Blocks for a terminal of ``width`` columns."""
    return "\n\n".join(_plain(block, max(width, 40)) for block in content if block[1:] != Block("")[1:])


def as_markdown(content: Iterable[Block]) -> str:
    """Blocks as a Markdown page."""
    return "\n\n".join(_marked(block) for block in content if block[1:] != Block("")[1:]) + "\n"


def prose_blocks(text: str) -> Iterator[Block]:
    """A docstring in blocks: indented paragraphs are entries if each name is in double backquotes, else code."""
    indented: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(_INDENT):
            indented.append(paragraph)
            continue
        yield from _indented(indented)
        indented = []
        yield Block("prose", " ".join(paragraph.split()))
    yield from _indented(indented)


def _indented(paragraphs: list[str]) -> Iterator[Block]:
    if not paragraphs:
        return
    text = textwrap.dedent("\n\n".join(paragraphs))
    found = re.findall(r"^``(.+?)``: (.*(?:\n +.*)*)", text, re.MULTILINE)
    if found:
        yield Block("entries", entries=[(name, " ".join(meaning.split())) for name, meaning in found])
    else:
        yield Block("code", text)


def _plain(block: Block, width: int) -> str:
    if block.kind == "code":
        return textwrap.indent(block.text, _INDENT)
    if block.keys:
        block = block._replace(entries=[(f"{key.name}  ({_values(key)})", key.meaning) for key in block.keys])
    if block.entries:
        return "\n".join(_plain_entry(name, meaning, width) for name, meaning in block.entries)
    text = textwrap.fill(block.text.replace("``", ""), width, break_on_hyphens=False)
    return f"{text}\n{'-' * len(text)}" if block.kind == "title" else text


def _plain_entry(name: str, meaning: str, width: int) -> str:
    lines = textwrap.wrap(meaning.replace("``", ""), width - 6, break_on_hyphens=False, break_long_words=False)
    return "\n".join(
        [*textwrap.wrap(name, width, initial_indent="  ", subsequent_indent="  "), *(f"      {line}" for line in lines)]
    )


def _marked(block: Block) -> str:
    if block.kind == "code":
        return f"```{'sh' if block.text.startswith(_SHELL) else ''}\n{block.text}\n```"
    if block.keys:
        rows = [(f"`{key.name}`", key.kind, _default(key), key.meaning) for key in block.keys]
        return "\n".join(_row(cells) for cells in (("Key", "Values", "Default", "Meaning"), ("---",) * 4, *rows))
    if block.entries:
        return "\n".join(f"- `{name}`: {meaning.replace('``', '`')}" for name, meaning in block.entries)
    text = block.text.replace("``", "`")
    return f"## {text}" if block.kind == "title" else "\n".join(textwrap.wrap(text, 120, break_on_hyphens=False))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('``', '`') for cell in cells)} |"


def _values(key: Key) -> str:
    return f"{key.kind}; default {key.default}" if key.default else f"{key.kind}; must be set"


def _default(key: Key) -> str:
    return f"`{key.default}`" if key.default else "must be set"
