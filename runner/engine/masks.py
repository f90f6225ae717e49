"""Constrained decoding: grammars compiled over token ids, and the mask of a whole step.

The masks come from llguidance: it is small, takes special tokens inside a grammar (harmony's channels need them), tells
the tokens that are forced, and its errors name a keyword. xgrammar (0.2.8, tried once) is not even imported without
PyTorch.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import takewhile
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runner.sequences import Sequence
from runner.text.vocabulary import ByteTokenizer, TransformersVocabulary, Vocabulary

MOST_GRAMMARS = 64  # kept compiled: one that copies from a text of 2,000 words takes 1.5 MB
_WALKS, _STEPS = (1, 7, 31), 256  # how a trial goes through a grammar: which of the allowed tokens, and how far


class Grammars:
    """The grammars of an engine's sequences over its vocabulary; each is compiled when it is first met.

    Without a ``vocabulary`` there are none. llguidance reads it when it is first needed: seconds for 200,000 tokens.
    Of its tokens the model has the first ``known``; None: all.
    """

    def __init__(self, vocabulary: Vocabulary | None = None, known: int | None = None) -> None:
        self.vocabulary = vocabulary
        self.known = known
        self._empty = lru_cache(maxsize=MOST_GRAMMARS)(self._compile)

    def start(self, sequence: Sequence) -> Matching | None:
        """The sequence's completion, still empty, in its grammar; None if it has no grammar.

        A grammar that does not compile is the matching's ``problem``. ValueError without a vocabulary.
        """
        return None if sequence.grammar is None else self._empty(sequence.grammar).copy()

    def _compile(self, grammar: str) -> Matching:
        from llguidance import LLMatcher

        if self.vocabulary is None:
            raise ValueError("this engine was opened without a vocabulary: its sequences can have no grammar")
        tokenizer = _tokenizer(self.vocabulary)
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        return Matching(matcher, -(-int(tokenizer.vocab_size) // 32), self.known)


@lru_cache(maxsize=2)  # an engine that is released and opened again has the same one
def _tokenizer(vocabulary: Vocabulary) -> Any:
    """The vocabulary as llguidance reads it."""
    from llguidance import LLTokenizer, TokenizerWrapper

    ends = sorted(vocabulary.end_tokens)
    if isinstance(vocabulary, ByteTokenizer):
        return LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=ends)
    return LLTokenizer(cast(TransformersVocabulary, vocabulary).serialized(), eos_token=ends)


class _Bytes:
    """ByteTokenizer in the shape that llguidance asks for."""

    eos_token_id = 256
    bos_token_id = None
    tokens = [*(bytes([i]) for i in range(256)), b"<end>"]  # noqa: RUF012
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Matching:
    """How far a completion has come in its grammar. ``forced`` counts the tokens that the grammar left no choice of.

    The grammar ends by itself or at an end token, which is no part of it. A mask of its vocabulary has ``words`` of 32
    bits. Only the first ``known`` tokens are forced; None: any.
    """

    def __init__(self, matcher: Any, words: int, known: int | None = None) -> None:
        self.matcher = matcher
        self.words = words
        self.known = known
        self.forced = 0

    def copy(self) -> Matching:
        """Another completion that has come as far, of which nothing was forced."""
        return Matching(self.matcher.deep_copy(), self.words, self.known)

    def guess(self, token: int) -> Matching | None:
        """Another completion that has one more token; None if that cannot come next."""
        if self.ended or not self.matcher.validate_tokens([token]):
            return None
        other = self.copy()
        other.take(token)
        return other

    def take(self, token: int) -> None:
        """Go on by one token that was drawn."""
        self.matcher.consume_token(token)

    def force(self, room: int) -> list[int]:
        """The tokens that must come next, at most ``room``; they are taken. None if any would do."""
        tokens: list[int] = list(self.matcher.compute_ff_tokens())[:room] if room > 0 and not self.ended else []
        if (known := self.known) is not None:
            tokens = list(takewhile(lambda token: token < known, tokens))
        if tokens and not self.matcher.consume_tokens(tokens):
            return []
        self.forced += len(tokens)
        return tokens

    @property
    def ended(self) -> bool:
        """Nothing can follow."""
        return bool(self.matcher.is_stopped())

    @property
    def problem(self) -> str | None:
        """What went wrong in the grammar or its limits; None if nothing did."""
        return str(self.matcher.get_error()).partition("\n")[0] if self.matcher.is_error() else None


def trial(body: str) -> str | None:
    """What goes wrong when long answers follow some rules, byte by byte; None if nothing did."""
    vocabulary = ByteTokenizer()
    grammars = Grammars(vocabulary)
    for stride in _WALKS:
        matching = grammars.start(Sequence((0, 0), [], _STEPS, grammar=f"start: body\n{body}"))
        assert matching is not None
        for step in range(_STEPS):
            allowed = np.unpackbits(bitmasks([matching], 257).view(np.uint8), bitorder="little")[:256].nonzero()[0]
            if matching.ended or not allowed.size:
                break
            matching.take(int(allowed[step * stride % allowed.size]))
        if matching.problem:
            return matching.problem
    return None


def bitmasks(matchings: list[Matching | None], size: int) -> npt.NDArray[np.uint32]:
    """Which of ``size`` tokens may come next: a bit each, [R, ceil(size / 32)]; all of them where nothing matches."""
    allowed = np.full((len(matchings), -(-size // 32)), 0xFFFFFFFF, np.uint32)
    live = [(row, one) for row, one in enumerate(matchings) if one is not None and one.problem is None]
    if not live:
        return allowed
    found = np.zeros((len(live), live[0][1].words), np.uint32)
    matchers = [(one.matcher, at) for at, (_, one) in enumerate(live)]
    _threads().unsafe_compute_mask_ptr(matchers, found.ctypes.data, found.strides[0], len(live))
    words = min(found.shape[1], allowed.shape[1])  # a model may have fewer or more logits than there are tokens
    rows = [row for row, _ in live]
    allowed[rows] = 0
    allowed[rows, :words] = found[:, :words]
    return allowed


@cache
def _threads() -> Any:
    """llguidance's own threads."""
    from llguidance import LLExecutor

    return LLExecutor()
