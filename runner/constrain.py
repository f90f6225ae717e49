"""Constrained decoding: a grammar over token ids, and the mask of a whole step.

The masks come from llguidance: it is small, takes special tokens inside a grammar (harmony's channels need them), tells
the tokens that are forced, and its errors name a keyword. xgrammar (0.2.8, tried once) is not even imported without
PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.channels import Channels
from runner.tokens import ByteTokenizer, Vocabulary


class Vocab:
    """A vocabulary as llguidance reads it, made when it is first needed: seconds for 200,000 tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @cached_property
    def tokenizer(self) -> Any:
        """llguidance's tokenizer."""
        from llguidance import LLTokenizer

        ends = sorted(self.vocabulary.end_tokens)
        if isinstance(self.vocabulary, ByteTokenizer):
            from llguidance import TokenizerWrapper

            return LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=ends)
        return LLTokenizer(self.vocabulary.serialized(), eos_token=ends)  # type: ignore[attr-defined]

    @property
    def words(self) -> int:
        """32-bit words of a mask."""
        return -(-int(self.tokenizer.vocab_size) // 32)


class _Bytes:
    """ByteTokenizer in the shape that llguidance asks for."""

    eos_token_id = 256
    bos_token_id = None
    tokens = [*(bytes([i]) for i in range(256)), b"<end>"]  # noqa: RUF012
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@dataclass(frozen=True)
class Constraint:
    """A grammar that a sequence's completion must follow: Lark, in llguidance's dialect, over ``vocab``.

    The grammar ends by itself or at an end token, which is no part of it.
    """

    grammar: str
    vocab: Vocab = field(compare=False, repr=False)

    def start(self) -> Matching:
        """A completion that is still empty."""
        return Matching(self._matcher.deep_copy(), self.vocab)

    @cached_property
    def _matcher(self) -> Any:
        from llguidance import LLMatcher

        return LLMatcher(self.vocab.tokenizer, LLMatcher.grammar_from_lark(self.grammar), log_level=0)


class Constraints:
    """The constraints of a run's answers: ``body`` (rules, see ``runner.structure``) in the channel of the answer.

    ``prefix`` is what stands before every answer, for raw prompts.
    """

    def __init__(self, body: str, channels: Channels, prefix: str = "", vocab: Vocab | None = None) -> None:
        if prefix:
            body = f"body: {json.dumps(prefix)} bare\n{body.replace('body:', 'bare:', 1)}"
        self.body = body
        self.channels = channels
        self.vocab = vocab or Vocab(channels.vocabulary)
        self._made: dict[str, Constraint] = {}

    def behind(self, prompt: list[int]) -> Constraint:
        """The constraint of what follows a prompt."""
        grammar = self.channels.grammar(self.body, prompt)
        if grammar not in self._made:
            self._made[grammar] = Constraint(grammar, self.vocab)
        return self._made[grammar]


def constrainer(channels: Channels, prefix: str = "") -> Callable[[str], Constraints]:
    """Constraints by their rules, all over one vocabulary: a run has some, its requests may have others."""
    vocab = Vocab(channels.vocabulary)
    return lru_cache(maxsize=256)(lambda body: Constraints(body, channels, prefix, vocab))


class Matching:
    """How far a completion has come in its grammar. ``forced`` counts the tokens that the grammar left no choice of."""

    def __init__(self, matcher: Any, vocab: Vocab) -> None:
        self.matcher = matcher
        self.vocab = vocab
        self.forced = 0

    def take(self, token: int) -> None:
        """Go on by one token that was drawn."""
        self.matcher.consume_token(token)

    def force(self, room: int) -> list[int]:
        """The tokens that must come next, at most ``room``; they are taken. None if any would do."""
        tokens: list[int] = list(self.matcher.compute_ff_tokens())[:room] if room > 0 and not self.ended else []
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


def masks(matchings: list[Matching | None], size: int) -> npt.NDArray[np.uint32]:
    """Which of ``size`` tokens may come next: a bit each, [R, ceil(size / 32)]; all of them where nothing matches."""
    allowed = np.full((len(matchings), -(-size // 32)), 0xFFFFFFFF, np.uint32)
    live = [(row, one) for row, one in enumerate(matchings) if one is not None and one.problem is None]
    if not live:
        return allowed
    found = np.zeros((len(live), live[0][1].vocab.words), np.uint32)
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
