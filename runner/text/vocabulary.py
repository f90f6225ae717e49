"""Text to token ids and back, with text from cells kept apart from control tokens.

A *control* token is one of the tokenizer's special tokens or another added token written in brackets, such as
``<|im_end|>`` or ``<think>``. ``Vocabulary.encode`` reads them in text as what they are; in text that ``encode_marked``
reads they are spelled with marks (see ``runner.text.chat.marks``), and everything else is plain characters.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from runner.text.chat.marks import control_pattern, mark
from runner.types import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

FUSE = "\ufdd0"  # a code point that Unicode reserves for inner use: breaks a control token's text in two
log = logging.getLogger("rowmill")
_BRACKETED = re.compile(r"[<\[{\u25c1].*[>\]}\u25b7]", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Ends of an answer that not every tokenizer's configuration lists.
_OTHER_TEMPLATES = ("tool_use", "rag")  # those of Command R for other tasks
_KNOWN_ENDS = ("<|return|>", "<|call|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>")
BYTE_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


# GPT-2's byte-level vocabulary: bytes that print stand for themselves, the others for characters from U+0100 on.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTED}
_BYTE_OF |= {chr(256 + at): byte for at, byte in enumerate(sorted({*range(256)} - {*_PRINTED}))}


class Control(NamedTuple):
    """A control token; ``lstrip`` and ``rstrip``: it swallows the white space on that side."""

    id: int
    lstrip: bool = False
    rstrip: bool = False


class Vocabulary(Hashable, Protocol):
    """What a prompt needs from a tokenizer of ``size`` tokens. ``bos`` are the ids that a raw text starts with."""

    control: dict[str, Control]
    bos: list[int]
    size: int
    end_tokens: frozenset[int]
    chat_template: str | None
    template_variables: dict[str, Any]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, control tokens read as such, nothing added at the ends."""
        ...

    def encode_marked(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, those control tokens read as such whose texts are marked."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of the text, all of it read as plain characters."""
        ...

    def decode(self, ids: Sequence[int], control: bool = False) -> str:
        """The text of the ids, control tokens left out unless ``control``."""
        ...

    def spell(self, id: int) -> bytes | None:
        """The bytes that the token stands for; None if the vocabulary does not say."""
        ...


class TransformersVocabulary:
    """A ``transformers`` fast tokenizer (or mlx-lm's wrapper of one)."""

    def __init__(self, tokenizer: Any) -> None:
        if type(tokenizer).__name__ == "TokenizerWrapper":
            tokenizer = tokenizer._tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("the model's tokenizer has no fast version (tokenizer.json)", exit_code=3)
        self._tokenizer = tokenizer
        self._known: dict[int, int] = {}
        self._backend = tokenizer.backend_tokenizer
        self.control = {
            token.content: Control(number, token.lstrip, token.rstrip)
            for number, token in tokenizer.added_tokens_decoder.items()
            if len(token.content) > 1 and (token.special or _BRACKETED.fullmatch(token.content))
        }
        self.bos = self._leading_ids()
        self.size = len(tokenizer)
        self.end_tokens = _end_tokens(tokenizer, self.control)
        self.template_variables = dict(tokenizer.special_tokens_map)
        self.chat_template = _chat_template(tokenizer)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """See Vocabulary."""
        # One object for each number: prompts that wait then take 8 bytes a token, not 36.
        known = self._known.setdefault
        found = [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [list(map(known, ids, ids)) for ids in found]

    def encode_marked(self, texts: list[str]) -> list[list[int]]:
        """See Vocabulary: the same pipeline, with the control tokens under their marked names."""
        twin, ids = self._twin
        results = []
        for text, found in zip(texts, twin.encode_batch(texts, add_special_tokens=False), strict=True):
            if self._forged(found):
                found = twin.encode(defuse(text, control_pattern(self.control)), add_special_tokens=False)
            pairs = zip(found.tokens, found.ids, strict=True)
            results.append([ids.get(token, id) for token, id in pairs if token != FUSE])
        return results

    @cached_property
    def _twin(self) -> tuple[Tokenizer, dict[str, int]]:
        """A tokenizer that shares the model and knows control tokens by marked names alone; what ids they have."""
        from tokenizers import AddedToken, Tokenizer

        twin = Tokenizer(self._backend.model)
        for part in ("normalizer", "pre_tokenizer"):
            if (value := getattr(self._backend, part)) is not None:
                setattr(twin, part, value)
        ids: dict[str, int] = {}
        tokens = [AddedToken(FUSE, normalized=False)]
        for number, token in self._tokenizer.added_tokens_decoder.items():
            is_control = token.content in self.control
            name = mark(token.content) if is_control else token.content
            ids[name] = number
            flags = {flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip")}
            tokens.append(AddedToken(name, normalized=token.normalized and not is_control, **flags))
        twin.add_tokens(tokens)
        return twin, ids

    def _forged(self, found: Encoding) -> bool:
        """Whether the model itself makes a control token of plain characters."""
        unknown = self._tokenizer.unk_token
        return any(token in self.control and token != unknown for token in found.tokens)

    def encode_plain(self, text: str) -> list[int]:
        """See Vocabulary: the tokenizer's pipeline without the step that looks for added tokens."""
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        words = [text]
        if self._backend.pre_tokenizer is not None:
            words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in self._backend.model.tokenize(word)]

    def decode(self, ids: Sequence[int], control: bool = False) -> str:
        """See Vocabulary."""
        return cast(str, self._backend.decode(list(ids), skip_special_tokens=not control))

    def spell(self, id: int) -> bytes | None:
        """See Vocabulary: known for byte-level vocabularies."""
        token = self._tokenizer.convert_ids_to_tokens(id)
        if token is None or "ByteLevel(" not in repr(self._backend.decoder):
            return None
        if token in self._tokenizer.get_added_vocab():
            return cast(str, token).encode()
        return bytes(_BYTE_OF[char] for char in token) if _BYTE_OF.keys() >= set(token) else None

    def serialized(self) -> str:
        """The tokenizer as the text of a ``tokenizer.json``, without padding; every control token is a special one."""
        backend = copy.copy(self._backend)
        backend.no_padding()
        backend.no_truncation()
        text = cast(str, backend.to_str())
        plain = {number for number, token in self._tokenizer.added_tokens_decoder.items() if not token.special}
        if plain.isdisjoint(token.id for token in self.control.values()):
            return text
        content = json.loads(text)
        for token in content["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self.control
        return json.dumps(content)

    def _leading_ids(self) -> list[int]:
        """What the tokenizer puts before a text; what it puts after one would end the prompt and is left out."""
        with_added = self._tokenizer("a", verbose=False)["input_ids"]  # which leaves no truncation and no padding on
        self._backend.encode_special_tokens = False
        bare = self.encode(["a"])[0]
        for at in range(len(with_added) - len(bare) + 1):
            if with_added[at : at + len(bare)] == bare:
                return list(with_added[:at])
        return []


class ByteTokenizer:
    """A vocabulary without a model: ids 0 to 255 are the UTF-8 bytes, 256 ends an answer."""

    def __init__(self) -> None:
        self.control: dict[str, Control] = {}
        self.bos: list[int] = []
        self.size = 257
        self.end_tokens = frozenset({256})
        self.chat_template: str | None = BYTE_CHAT_TEMPLATE
        self.template_variables: dict[str, Any] = {}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """See Vocabulary."""
        return [self.encode_plain(text) for text in texts]

    def encode_marked(self, texts: list[str]) -> list[list[int]]:
        """See Vocabulary: there are no control tokens to mark."""
        return self.encode(texts)

    def encode_plain(self, text: str) -> list[int]:
        """See Vocabulary."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int], control: bool = False) -> str:
        """See Vocabulary; broken UTF-8 becomes U+FFFD."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def spell(self, id: int) -> bytes | None:
        """See Vocabulary."""
        return bytes([id]) if id < 256 else b""


def as_vocabulary(tokenizer: Any) -> Vocabulary:
    """The tokenizer itself if it is a Vocabulary, else a ``transformers`` tokenizer wrapped as one."""
    return tokenizer if hasattr(tokenizer, "encode_plain") else TransformersVocabulary(tokenizer)


def plain_tail(vocabulary: Vocabulary, tail: tuple[int, ...]) -> tuple[int, ...]:
    """The longest end of a prompt's last tokens that is plain text and keeps its tokens when tokenised again."""
    control = {token.id for token in vocabulary.control.values()}
    for start in range(len(tail)):
        part = tail[start:]
        if control.isdisjoint(part) and tuple(vocabulary.encode_plain(vocabulary.decode(part))) == part:
            return part
    return ()


def clean(text: str) -> str:
    """Unpaired surrogates, which no tokenizer takes, become U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def defuse(text: str, pattern: re.Pattern[str] | None) -> str:
    """The text with every control token's text broken by FUSE, so that ``fused`` leaves it plain."""
    text = text.replace(FUSE, "\ufffd")
    while pattern is not None and pattern.search(text):
        text = pattern.sub(lambda match: match[0][0] + FUSE + match[0][1:], text)
    return text


def fused(text: str, pattern: re.Pattern[str] | None) -> str:
    """The text for ``encode_marked``: what FUSE breaks is plain, the control tokens that it left whole are marked."""
    text = pattern.sub(lambda match: mark(match[0]), text) if pattern is not None else text
    return text.replace(FUSE, "")


def _chat_template(tokenizer: Any) -> str | None:
    """The template, or of several the default; else that of older models for images, unknown to ``transformers``."""
    found = tokenizer.chat_template
    if found is None:
        file = Path(str(tokenizer.name_or_path)) / "chat_template.json"
        found = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}
    return _default(found) if isinstance(found, dict) else cast(str | None, found)


def _default(templates: dict[str, str]) -> str | None:
    """The template called so, or the only one that is for conversations."""
    found = {name: one for name, one in templates.items() if name not in _OTHER_TEMPLATES} or templates
    name = "default" if "default" in found else next(iter(found), None)
    if name is not None and len(set(found.values())) > 1 and name != "default":
        log.warning("the model has several chat templates, %s, and no default: %s is used", ", ".join(templates), name)
    return None if name is None else found[name]


def _end_tokens(tokenizer: Any, control: dict[str, Control]) -> frozenset[int]:
    ends = {tokenizer.eos_token_id, *(control[end].id for end in _KNOWN_ENDS if end in control)}
    for name in ("generation_config.json", "config.json"):
        file = Path(str(tokenizer.name_or_path)) / name
        if file.is_file():
            configured = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ends.update(configured if isinstance(configured, list) else [configured])
    return frozenset(end for end in ends if isinstance(end, int))
