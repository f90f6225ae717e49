"""What a model thinks and what it answers, told apart: harmony's channels, tags around thoughts.

Harmony, as OpenAI's cookbook defines it: an answer is a chain of messages ``<|channel|>NAME<|message|>BODY``, each
closed by ``<|end|>`` and followed by ``<|start|>assistant``; ``analysis`` holds reasoning, ``final`` the answer, which
``<|return|>`` ends.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from runner.text.vocabulary import Vocabulary
from runner.types import UserError

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
_FINAL = "<|channel|>final<|message|>"
_BODY_ENDS = ("<|end|>", "<|start|>", "<|return|>", "<|call|>", "<|channel|>")  # the last where an end was left out
_HARMONY_GRAMMAR = """start: analysis? answer
analysis: <|channel|> "analysis" <|message|> thought <|end|> <|start|> "assistant"
answer: <|channel|> "final" <|message|> body
TEXT: /(.|\\n)*/
"""
_THINK_GRAMMAR = """start: {begins} body
think: {begin} thought {end} SPACE
TEXT: /(.|\\n)*/
SPACE: /\\n{{0,2}}/
"""


_TAIL = 24  # tokens at a prompt's end among which tags are looked for that are plain text


class Tags(NamedTuple):
    """What stands around thoughts: control tokens, or plain text of several tokens.

    An empty thought is ``begin + inside + end + after``. ``title`` stands at the beginning of thoughts and is none
    of them.
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
AROUND = (  # what stands before and behind answers and is none of them
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Command A
    ("<response>", "</response>"),  # ERNIE, Granite
    ("<answer>", "</answer>"),  # Hunyuan
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

        ``tags``: what stands around thoughts, if it is none of TAGS. Raises UserError unless they are two.
        ``think_tokens``: how many a thought may have in a grammar; None: any number.
        """
        self.vocabulary = vocabulary
        self.think_tokens = think_tokens
        self.id = {name: token.id for name, token in vocabulary.control.items()}
        template = vocabulary.chat_template or ""
        is_harmony = chat and not tags and set(HARMONY) <= self.id.keys()
        found = _told_of(self.id.keys(), template, tags) if chat else None
        self.kind = "harmony" if is_harmony else "think" if found else None
        self._tags = found or TAGS[0]
        self._begin, self._end = (self.id.get(name, -1) for name in self._tags[:2])
        self._is_text = chat and not is_harmony and not (found and min(self._begin, self._end) >= 0)
        self._is_expected = bool(tags) or self._tags.end in template
        self._around = next((pair for pair in AROUND if all(one in self.id or one in template for one in pair)), None)

    def is_open(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends inside of a thought."""
        if self.kind == "think" and self._is_text:
            _, opened, thought = self._tail(prompt).rpartition(self._tags.begin)
            return bool(opened) and thought.strip() in ("", self._tags.title.strip())
        return self.kind == "think" and self._last_tag(prompt) == self._begin

    def _is_closed(self, prompt: Sequence[int]) -> bool:
        if self._is_text:
            return self._tail(prompt).rstrip().endswith(self._tags.end)
        return self._last_tag(prompt) == self._end

    def _tail(self, prompt: Sequence[int]) -> str:
        return self.vocabulary.decode(prompt[-_TAIL:], control=True)

    def _last_tag(self, prompt: Sequence[int]) -> int | None:
        return next((token for token in reversed(prompt[-8:]) if token in (self._begin, self._end)), None)

    def skip(self, prompt: str) -> str:
        """What to append to a prompt's text so that the answer follows at once, without reasoning."""
        if self.kind == "harmony":
            return _FINAL
        opening = self._around[0] if self._around and self._around[0] in self.id else ""
        if self.kind != "think" or (opening and prompt.rstrip().endswith(opening)):
            return ""
        begin, end, inside, after = self._tags[:4]
        after += opening
        if prompt.rstrip().endswith(end):
            return opening
        _, opened, thought = prompt[-40:].rpartition(begin)
        if not opened and not self._is_expected:  # tokens that this model has of its family, and does not write
            return ""
        if opened and inside.startswith(thought):
            return inside.removeprefix(thought) + end + after
        return end + after if opened and not thought.strip() else begin + inside + end + after

    def grammar(self, body: str, prompt: Sequence[int]) -> str:
        """Lark for an answer after the prompt: reasoning is free, and ``body`` (the rule of that name) its answer."""
        limit = "" if self.think_tokens is None else f"[max_tokens={self.think_tokens}]"
        thought = f"thought{limit}: TEXT\n"
        if self.kind == "harmony":
            return _HARMONY_GRAMMAR + thought + body
        if self.kind != "think" or self._is_closed(prompt):
            return "start: body\n" + body
        begin, end = f"<[{self._begin}]>", f"<[{self._end}]>"
        if self._is_text:
            begin, end = json.dumps(self._tags.begin), json.dumps(self._tags.end)
            if limit:  # the lexer is greedy: what it takes for a thought must stop where the end may begin
                thought = f"thought{limit}: /[^{_same_byte(self._tags.end[0])}]*/\n"
            else:
                thought, end = f"thought[suffix={end}]: TEXT\n", ""
        begins, begin = ("think", "") if self.is_open(prompt) else ("think?", begin)
        return _THINK_GRAMMAR.format(begins=begins, begin=begin, end=end) + thought + body

    def was_ended(self, ids: Sequence[int], prompt: Sequence[int]) -> bool:
        """Whether the thought among generated ids has all the tokens that it may have, and an answer behind it."""
        if self.think_tokens is None or self.kind is None:
            return False
        if self._is_text:
            text = self.vocabulary.decode(ids)
            if self._plain(text, prompt).reasoning is None:
                return False
            thought, closed, _ = text.partition(self._tags.end)
            words = self.vocabulary.encode_plain(thought.lstrip().removeprefix(self._tags.begin))
            return bool(closed) and len(words) >= self.think_tokens
        first, last = ("<|message|>", "<|end|>") if self.kind == "harmony" else self._tags[:2]
        end = self.id[last]
        begin = -1 if self.is_open(prompt) or self.id[first] not in ids else list(ids).index(self.id[first])
        return end in ids and list(ids).index(end) - begin - 1 >= self.think_tokens

    def read(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> Answer:
        """The answer among generated ids and its reasoning, control tokens left out."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony(list(ids))
        if self._is_text:
            return self._plain(self.vocabulary.decode(ids), prompt)
        if self.kind == "think":
            return self._think(list(ids), self.is_open(prompt))
        return Answer(self.vocabulary.decode(ids))

    def _plain(self, text: str, prompt: Sequence[int]) -> Answer:
        """An answer whose tags are plain text."""
        begin, end = self._tags[:2]
        begun = text.lstrip().startswith(begin) or self.is_open(prompt)
        thought, closed, answer = text.lstrip().removeprefix(begin).partition(end)
        if closed and (begun or self._tail(prompt).rstrip().endswith(begin)):
            return Answer(self._answer(answer.lstrip("\n")), self._thought(thought).strip())
        return Answer("", self._thought(thought), False) if begun else Answer(self._answer(text))

    def may_begin(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> bool:
        """Whether all that is written may stand before a thought, or be a part of the tag that begins one."""
        if self.kind != "think" or self.is_open(prompt) or self._is_closed(prompt):
            return False
        written = self.vocabulary.decode(ids).lstrip()
        return self._tags.begin.startswith(written) if self._is_text else not written and len(ids) < 4

    def span(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> slice:
        """Where the answer's tokens lie among generated ids; an empty slice where it never began."""
        if self.kind == "harmony" and self.id["<|channel|>"] in ids:
            return self._harmony_span(list(ids))
        if self._is_text:
            return self._inside(ids, self._plain_span(ids, prompt))
        if self.kind != "think":
            return slice(0, len(ids))
        if self._end in ids:
            return self._inside(ids, slice(list(ids).index(self._end) + 1, len(ids)))
        return self._inside(ids, slice(0, 0 if self.is_open(prompt) or self._begun(list(ids)) else len(ids)))

    def _inside(self, ids: Sequence[int], span: slice) -> slice:
        """The part of an answer's span that lies between the words around it."""
        decode = self.vocabulary.decode
        text = decode(ids[span])
        if self._around is None or self._answer(text) == text:
            return span
        begin, end = self._around
        places = range(span.start, span.stop + 1)
        start, stop = span.start, span.stop
        if text.lstrip().startswith(begin):
            start = next(at for at in places if begin in decode(ids[span.start : at]))
        if text.rstrip().endswith(end):
            stop = next(at for at in reversed(places) if end in decode(ids[at : span.stop]))
        return slice(start, stop)

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
        stop = self._body_end(ids, body)
        is_final = self.vocabulary.decode(ids[head : body - 1]).strip().startswith("final")
        return slice(body, stop) if is_final else slice(0, 0)

    def _body_end(self, ids: list[int], body: int) -> int:
        ends = {self.id[name] for name in _BODY_ENDS if name in self.id}
        return next((place for place in range(body, len(ids)) if ids[place] in ends), len(ids))

    def _harmony(self, ids: list[int]) -> Answer:
        channel, message = self.id["<|channel|>"], self.id["<|message|>"]
        final: str | None = None
        thoughts: list[str] = []
        at = 0
        while channel in ids[at:] and message in ids[(head := ids.index(channel, at)) :]:
            body = ids.index(message, head) + 1
            at = self._body_end(ids, body)
            text = self.vocabulary.decode(ids[body:at])
            if self.vocabulary.decode(ids[head + 1 : body - 1]).strip().startswith("final"):
                final = text
            else:
                thoughts.append(text)
        thought = "\n\n".join(thoughts) or None
        return Answer("", thought or "", False) if final is None else Answer(final, thought)

    def _think(self, ids: list[int], is_open: bool) -> Answer:
        start = self._begun(ids)
        if self._end not in ids:
            text = self.vocabulary.decode(ids[start:])
            return Answer("", self._thought(text), False) if is_open or start else Answer(self._answer(text))
        at = ids.index(self._end)
        thought = self._thought(self.vocabulary.decode(ids[start:at]))
        return Answer(self._answer(self.vocabulary.decode(ids[at + 1 :]).lstrip("\n")), thought.strip())

    def _begun(self, ids: list[int]) -> int:
        """Where the thought begins, behind white space and its tag; 0: it has none."""
        at = ids.index(self._begin) if self._begin in ids else -1
        return 0 if at < 0 or self.vocabulary.decode(ids[:at]).strip() else at + 1

    def _answer(self, text: str) -> str:
        if self._around is None:
            return text
        begin, end = self._around
        if text.lstrip().startswith(begin):
            text = text.lstrip().removeprefix(begin).lstrip("\n")
        return text.rstrip().removesuffix(end).rstrip("\n") if text.rstrip().endswith(end) else text

    def _thought(self, text: str) -> str:
        return text.removeprefix(self._tags.title)


def _told_of(tokens: Collection[str], template: str, tags: Sequence[str]) -> Tags | None:
    """The tags that the template has, else those that are tokens; with ``tags`` these."""
    if tags:
        begin, end = _two(tags)
        return next((one for one in TAGS if one[:2] == (begin, end)), Tags(begin, end))
    are_tokens = [one for one in TAGS if {one.begin, one.end} <= set(tokens)]
    in_template = [one for one in TAGS if one.end in template]
    return next((one for one in in_template if one in are_tokens), next(iter([*in_template, *are_tokens]), None))


def _two(tags: Sequence[str]) -> tuple[str, str]:
    if len(tags) != 2 or not all(tags):
        raise UserError("prompt.thinking_tags", "it must be the two texts that begin and end thoughts")
    return tags[0], tags[1]


def _same_byte(char: str) -> str:
    """The characters whose UTF-8 begins as this one's does, as a range in a regular expression."""
    bits = 6 * (len(char.encode()) - 1)
    first = ord(char) >> bits << bits
    return f"\\x{{{first:x}}}-\\x{{{first | (1 << bits) - 1:x}}}"
