"""The grammar that an answer must follow, as text: a structure's rules in the channel of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache

from runner.text.channels import Channels

FREE = "body: ANYTHING\nANYTHING: /(.|\\n)*/\n"


class AnswerGrammar:
    """The grammars of answers with the rules ``body`` (see ``runner.text.structure``), by how the prompt ends.

    ``prefix`` comes before every answer to a raw prompt. ``stop``: texts that end an answer.
    """

    def __init__(self, body: str, channels: Channels, prefix: str = "", stop: tuple[str, ...] = ()) -> None:
        if prefix:
            body = f"body: {json.dumps(prefix)} bare\n{body.replace('body:', 'bare:', 1)}"
        self.body = body
        self.channels = channels
        self.stop = stop
        self._made: dict[str, str] = {}

    def after(self, prompt: list[int]) -> str:
        """Lark, in llguidance's dialect, for what follows a prompt; one object for all sequences that wait with it."""
        grammar = self.channels.grammar(self.body, prompt)
        return self._made.setdefault(grammar, grammar)


def free_grammar(channels: Channels, stop: tuple[str, ...]) -> AnswerGrammar | None:
    """For answers of any form whose thoughts may have so many tokens only; None where nothing limits them."""
    return None if channels.kind is None or channels.think_tokens is None else AnswerGrammar(FREE, channels, stop=stop)


def answer_grammars(channels: Channels, prefix: str = "") -> Callable[[str], AnswerGrammar]:
    """Grammars by their rules: those of the run, and of requests that bring their own."""
    return lru_cache(maxsize=256)(lambda body: AnswerGrammar(body, channels, prefix))
