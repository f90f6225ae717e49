"""What a model thinks and what it answers, told apart by token ids: harmony's channels, <think> tags.

Harmony, as OpenAI's cookbook defines it: an answer is a chain of messages ``<|channel|>NAME<|message|>BODY``, each
closed by ``<|end|>`` and followed by ``<|start|>assistant``; ``analysis`` holds reasoning, ``final`` the answer, which
``<|return|>`` ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runner.text.vocabulary import Vocabulary

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
THINK = ("<think>", "</think>")
_FINAL = "<|channel|>final<|message|>"
_HARMONY_GRAMMAR = """start: analysis? answer
analysis: <|channel|> "analysis" <|message|> TEXT <|end|> <|start|> "assistant"
answer: <|channel|> "final" <|message|> body
TEXT: /(.|\\n)*/
"""
_THINK_GRAMMAR = """start: {think} body
think: {begin} TEXT </think> SPACE
TEXT: /(.|\\n)*/
SPACE: /\\n{{0,2}}/
"""


class Answer(NamedTuple):
    """A generated text. ``complete``: the answer itself had begun; without it the reasoning (not None) was cut off."""

    text: str
    reasoning: str | None = None
    complete: bool = True


class Channels:
    """The channels of one model's answers; ``kind`` is harmony, think or None (all is answer)."""

    def __init__(self, vocabulary: Vocabulary, chat: bool) -> None:
        """Raw prompts (``chat`` False) are continued without channels."""
        self.vocabulary = vocabulary
        self.id = {name: token.id for name, token in vocabulary.control.items()}
        found = [kind for kind, names in (("harmony", HARMONY), ("think", THINK)) if set(names) <= self.id.keys()]
        self.kind = found[0] if chat and found else None

    def is_open(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends inside an open <think>."""
        if self.kind != "think":
            return False
        tags = [token for token in prompt[-8:] if token in (self.id["<think>"], self.id["</think>"])]
        return tags[-1:] == [self.id["<think>"]]

    def skip(self, prompt: str) -> str:
        """What to append to a prompt's text so that the answer follows at once, without reasoning."""
        if self.kind == "harmony":
            return _FINAL
        if self.kind != "think":
            return ""
        is_open = prompt.rstrip().endswith("<think>")
        return "\n</think>\n\n" if is_open else "<think>\n\n</think>\n\n" if not _closed(prompt) else ""

    def grammar(self, body: str, prompt: Sequence[int]) -> str:
        """Lark for an answer after the prompt: reasoning is free, and ``body`` (the rule of that name) its answer."""
        if self.kind == "harmony":
            return _HARMONY_GRAMMAR + body
        if self.kind != "think" or _closed_ids(prompt, self.id):
            return "start: body\n" + body
        is_open = self.is_open(prompt)
        return _THINK_GRAMMAR.format(think="think" if is_open else "think?", begin="" if is_open else "<think>") + body

    def read(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> Answer:
        """The answer among generated ids and its reasoning, control tokens left out."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony(list(ids))
        if self.kind == "think":
            return self._think(list(ids), self.is_open(prompt))
        return Answer(self.vocabulary.decode(ids))

    def span(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> slice:
        """Where the answer's tokens lie among generated ids; an empty slice where it never began."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony_span(list(ids))
        if self.kind != "think":
            return slice(0, len(ids))
        if self.id["</think>"] in ids:
            return slice(list(ids).index(self.id["</think>"]) + 1, len(ids))
        return slice(0, 0 if self.is_open(prompt) or self.id["<think>"] in ids[:4] else len(ids))

    def _harmony_span(self, ids: list[int]) -> slice:
        head = len(ids) - ids[::-1].index(self.id["<|channel|>"])
        if self.id["<|message|>"] not in ids[head:]:
            return slice(0, 0)
        body = ids.index(self.id["<|message|>"], head) + 1
        ends = {self.id[name] for name in ("<|end|>", "<|start|>", "<|return|>", "<|call|>") if name in self.id}
        stop = next((place for place in range(body, len(ids)) if ids[place] in ends), len(ids))
        is_final = self.vocabulary.decode(ids[head : body - 1]).strip().startswith("final")
        return slice(body, stop) if is_final else slice(0, 0)

    def _harmony(self, ids: list[int]) -> Answer:
        channel, message = self.id["<|channel|>"], self.id["<|message|>"]
        ends = {self.id[name] for name in ("<|end|>", "<|start|>", "<|return|>", "<|call|>") if name in self.id}
        final: str | None = None
        thoughts: list[str] = []
        at = 0
        while channel in ids[at:] and message in ids[(head := ids.index(channel, at)) :]:
            body = ids.index(message, head) + 1
            at = next((place for place in range(body, len(ids)) if ids[place] in ends), len(ids))
            text = self.vocabulary.decode(ids[body:at])
            if self.vocabulary.decode(ids[head + 1 : body - 1]).strip().startswith("final"):
                final = text
            else:
                thoughts.append(text)
        thought = "\n\n".join(thoughts) or None
        return Answer("", thought or "", False) if final is None else Answer(final, thought)

    def _think(self, ids: list[int], is_open: bool) -> Answer:
        begin, end = self.id["<think>"], self.id["</think>"]
        start = ids.index(begin) + 1 if begin in ids[:4] else 0
        if end not in ids:
            text = self.vocabulary.decode(ids[start:])
            return Answer("", text, False) if is_open or start else Answer(text)
        at = ids.index(end)
        return Answer(self.vocabulary.decode(ids[at + 1 :]).lstrip("\n"), self.vocabulary.decode(ids[start:at]).strip())


def _closed(prompt: str) -> bool:
    return prompt.rstrip().endswith("</think>")


def _closed_ids(prompt: Sequence[int], ids: dict[str, int]) -> bool:
    tags = [token for token in prompt[-8:] if token in (ids["<think>"], ids["</think>"])]
    return tags[-1:] == [ids["</think>"]]
