"""What a model thinks and what it answers, told apart: harmony's channels, tags around thoughts.

Harmony, as OpenAI's cookbook defines it: an answer is a chain of messages ``<|channel|>NAME<|message|>BODY``, each
closed by ``<|end|>`` and followed by ``<|start|>assistant``; ``analysis`` holds reasoning, ``final`` the answer, which
``<|return|>`` ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runner.text.vocabulary import Vocabulary
from runner.types import UserError

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
_FINAL = "<|channel|>final<|message|>"
_HARMONY_GRAMMAR = """start: analysis? answer
analysis: <|channel|> "analysis" <|message|> {thought} <|end|> <|start|> "assistant"
answer: <|channel|> "final" <|message|> body
TEXT: /(.|\\n)*/
"""
_THINK_GRAMMAR = """start: {think} body
think: {begin} {thought} {end} SPACE
TEXT: /(.|\\n)*/
SPACE: /\\n{{0,2}}/
"""


class Tags(NamedTuple):
    """Two control tokens around thoughts; an empty thought is ``begin + inside + end + after``.

    ``title`` stands at the beginning of thoughts and is none of them.
    """

    begin: str
    end: str
    inside: str = ""
    after: str = ""
    title: str = ""


TAGS = (
    Tags("<think>", "</think>", "\n\n", "\n\n"),
    Tags("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Tags("<|channel>", "<channel|>", "thought\n", title="thought\n"),  # Gemma 4
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Tags("<|begin_of_thought|>", "<|end_of_thought|>", "\n\n", "\n\n"),
    Tags("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL
    Tags("<longcat_think>", "</longcat_think>", "\n", "\n"),
    Tags("<thought>", "</thought>", "\n", "\n"),  # EXAONE
    Tags("<thinking>", "</thinking>", "\n", "\n"),
    Tags("<reasoning>", "</reasoning>", "\n", "\n"),
)


class Answer(NamedTuple):
    """A generated text. ``complete``: the answer itself had begun; without it the reasoning (not None) was cut off."""

    text: str
    reasoning: str | None = None
    complete: bool = True


class Channels:
    """The channels of one model's answers; ``kind`` is harmony, think or None (all is answer)."""

    def __init__(
        self, vocabulary: Vocabulary, chat: bool, tags: Sequence[str] = (), think_tokens: int | None = None
    ) -> None:
        """Raw prompts (``chat`` False) are continued without channels.

        ``tags``: the control tokens around thoughts, if they are none of TAGS. Raises UserError unless they are two.
        ``think_tokens``: how many a thought may have in a grammar; None: any number.
        """
        self.vocabulary = vocabulary
        self.think_tokens = think_tokens
        self.id = {name: token.id for name, token in vocabulary.control.items()}
        known = [Tags(*self._two(tags))] if tags else TAGS
        found = next((one for one in known if {one.begin, one.end} <= self.id.keys()), None) if chat else None
        is_harmony = chat and not tags and set(HARMONY) <= self.id.keys()
        self.kind = "harmony" if is_harmony else "think" if found else None
        self._tags = found or TAGS[0]
        self._is_text = chat and self.kind is None  # such tags may be plain text, of several tokens
        self._begin, self._end = (self.id.get(name, -1) for name in self._tags[:2])

    def _two(self, tags: Sequence[str]) -> Sequence[str]:
        if len(tags) != 2:
            raise UserError("prompt.thinking_tags", "it must be the two tokens that begin and end thoughts")
        if unknown := [tag for tag in tags if tag not in self.id]:
            raise UserError("prompt.thinking_tags", f"the model's tokenizer has no control token {unknown[0]!r}")
        return tags

    def is_open(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends inside of a thought."""
        return self.kind == "think" and self._last_tag(prompt) == self._begin

    def _last_tag(self, prompt: Sequence[int]) -> int | None:
        return next((token for token in reversed(prompt[-8:]) if token in (self._begin, self._end)), None)

    def skip(self, prompt: str) -> str:
        """What to append to a prompt's text so that the answer follows at once, without reasoning."""
        if self.kind == "harmony":
            return _FINAL
        if self.kind != "think" or prompt.rstrip().endswith(self._tags.end):
            return ""
        begin, end, inside, after, _ = self._tags
        _, opened, thought = prompt[-40:].rpartition(begin)
        if opened and inside.startswith(thought):
            return inside.removeprefix(thought) + end + after
        return end + after if opened and not thought.strip() else begin + inside + end + after

    def grammar(self, body: str, prompt: Sequence[int]) -> str:
        """Lark for an answer after the prompt: reasoning is free, and ``body`` (the rule of that name) its answer."""
        thought = "TEXT" if self.think_tokens is None else "thought"
        limit = "" if self.think_tokens is None else f"thought[max_tokens={self.think_tokens}]: TEXT\n"
        if self.kind == "harmony":
            return _HARMONY_GRAMMAR.format(thought=thought) + limit + body
        if self.kind != "think" or self._last_tag(prompt) == self._end:
            return "start: body\n" + body
        is_open = self.is_open(prompt)
        begin, end = "" if is_open else f"<[{self._begin}]>", f"<[{self._end}]>"
        think = "think" if is_open else "think?"
        return _THINK_GRAMMAR.format(think=think, thought=thought, begin=begin, end=end) + limit + body

    def was_ended(self, ids: Sequence[int], prompt: Sequence[int]) -> bool:
        """Whether the thought among generated ids has all the tokens that it may have, and an answer behind it."""
        if self.think_tokens is None or self.kind is None:
            return False
        first, last = ("<|message|>", "<|end|>") if self.kind == "harmony" else self._tags[:2]
        end = self.id[last]
        begin = -1 if self.is_open(prompt) or self.id[first] not in ids else list(ids).index(self.id[first])
        return end in ids and list(ids).index(end) - begin - 1 >= self.think_tokens

    def read(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> Answer:
        """The answer among generated ids and its reasoning, control tokens left out."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony(list(ids))
        if self.kind == "think":
            return self._think(list(ids), self.is_open(prompt))
        text = self.vocabulary.decode(ids)
        return self._plain(text, prompt) if self._is_text else Answer(text)

    def _plain(self, text: str, prompt: Sequence[int]) -> Answer:
        """An answer whose tags are plain text."""
        begin, end = self._tags[:2]
        begun = text.lstrip().startswith(begin)
        thought, closed, answer = text.lstrip().removeprefix(begin).partition(end)
        if closed and (begun or self._opens_in_text(prompt)):
            return Answer(answer.lstrip("\n"), thought.strip())
        return Answer("", thought, False) if begun else Answer(text)  # what a grammar made holds no tags

    def _opens_in_text(self, prompt: Sequence[int]) -> bool:
        return self.vocabulary.decode(prompt[-8:], control=True).rstrip().endswith(self._tags.begin)

    def span(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> slice:
        """Where the answer's tokens lie among generated ids; an empty slice where it never began."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony_span(list(ids))
        if self.kind != "think":
            return self._plain_span(ids, prompt) if self._is_text else slice(0, len(ids))
        if self._end in ids:
            return slice(list(ids).index(self._end) + 1, len(ids))
        return slice(0, 0 if self.is_open(prompt) or self._begin in ids[:4] else len(ids))

    def _plain_span(self, ids: Sequence[int], prompt: Sequence[int]) -> slice:
        answer = self._plain(self.vocabulary.decode(ids), prompt)
        if answer.reasoning is None or not answer.complete:
            return slice(0, len(ids) if answer.complete else 0)
        ends = (at for at in range(len(ids)) if self._tags.end in self.vocabulary.decode(ids[:at]))
        return slice(next(ends, len(ids)), len(ids))

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
        start = ids.index(self._begin) + 1 if self._begin in ids[:4] else 0
        if self._end not in ids:
            text = self.vocabulary.decode(ids[start:])
            return Answer("", self._thought(text), False) if is_open or start else Answer(text)
        at = ids.index(self._end)
        thought = self._thought(self.vocabulary.decode(ids[start:at]))
        return Answer(self.vocabulary.decode(ids[at + 1 :]).lstrip("\n"), thought.strip())

    def _thought(self, text: str) -> str:
        return text.removeprefix(self._tags.title)
