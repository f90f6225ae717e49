"""Raw prompts: parts joined into one text, and the spaces at its end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from runner.text.vocabulary import clean


def join_raw(messages: Iterable[Mapping[str, Any]], separator: str, answer_prefix: str) -> str:
    """The messages as one text, each answer behind its question."""
    pieces: list[str] = []
    for message in messages:
        content = clean(str(message.get("content") or ""))
        if message.get("role") == "assistant" and pieces:
            pieces[-1] += answer_prefix + content
        else:
            pieces.append(content)
    return separator.join(pieces)


def without_end_spaces(user: str, chat: bool) -> tuple[str, str]:
    """The user template and, in raw mode, the spaces at its end, which move to the answers."""
    if chat:
        return user, ""
    source = user.removesuffix("\n")
    bare = source.rstrip(" \t")
    return bare, source[len(bare) :]


def literal_text(system: str | None, user: str, rest: str) -> str:
    """The raw prompt's text that does not come from cells."""
    return re.sub(r"\{\{.*?\}\}|\{#.*?#\}", " ", f"{system or ''} {user}", flags=re.DOTALL) + rest
