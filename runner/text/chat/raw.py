"""Raw prompts: parts joined into one text, and the spaces at its end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.text.vocabulary import clean
from runner.types import UNKNOWN_TOKEN, RowError


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


def known_ids(ids: Sequence[int], size: int) -> list[int]:
    """A prompt that is given as token ids; RowError for one that is not below ``size``."""
    unknown = next((id for id in ids if not 0 <= id < size), None)
    if unknown is not None:
        raise RowError(UNKNOWN_TOKEN, f"{unknown} is not an id of this model's vocabulary, 0 to {size - 1}")
    return list(ids)


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
