"""The tokenizer of a GGUF file, built from its own vocabulary, as the files that transformers reads.

``gpt2`` vocabularies merge bytes, by the merges that the file lists; ``llama`` vocabularies (SentencePiece) merge
characters, by the scores of what comes out, and spell what is left over in bytes. ``gemma4`` vocabularies are as the
latter, but list their merges.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.tokens.splits import SPLITS, Split

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # values of tokenizer.ggml.token_type
_KINDS = ("gpt2", "llama", "gemma4")
_SPACE = "\u2581"  # SentencePiece's spelling of a space

# Ends of a turn and of a text that a file may forget to name, as llama.cpp knows them.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<end_of_utterance>", "<|eom_id|>")
_TEXT_ENDS = ("<|return|>", "<|call|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOT>")
_HARMONY = {"<|return|>", "<|call|>"}  # where these end an answer, <|end|> ends only a part of it


class Vocabulary:
    """The file's tokens: ``tokens`` and ``types`` by id, ``bos`` before each text if the model wants it."""

    def __init__(self, file: GGUFFile):
        """Raises UserError for a kind that is not known, and for a vocabulary that cannot be one."""
        self.file = file
        self.kind = file.need("tokenizer.ggml.model")
        if self.kind not in _KINDS:
            raise file.error(f"tokenizer {self.kind} is not known (known: {', '.join(_KINDS)})")
        self.tokens = [token or f"[EMPTY_{at}]" for at, token in enumerate(file.need("tokenizer.ggml.tokens"))]
        self.types = file.get("tokenizer.ggml.token_type") or [_NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise file.error(f"it has {len(self.tokens)} tokens and the types of {len(self.types)}")
        self.ids = {token: at for at, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(token for at, token in enumerate(self.tokens) if self.ids[token] != at)
            raise file.error(f"its vocabulary has the token {twice!r} twice")
        self.split = self._split()

    @property
    def guessed(self) -> bool:
        """Whether the file leaves open how words are cut, as those made before May 2024 do."""
        return self.kind == "gpt2" and self._pre() == "default"

    @property
    def bos(self) -> str | None:
        """The token that goes before each text."""
        default = self.split.adds_bos or self.kind == "llama"
        return self.special("bos") if self.file.get("tokenizer.ggml.add_bos_token", default) else None

    def special(self, name: str) -> str | None:
        """The token that the file names so: bos, eos, unknown, padding."""
        number = self.file.get(f"tokenizer.ggml.{name}_token_id", self._usual(name))
        return self.tokens[number] if number is not None and 0 <= number < len(self.tokens) else None

    def ends(self) -> list[int]:
        """The ids that end an answer, each once: those that the file names, and where no turn's end is among them,
        those that it holds under well-known names.
        """
        named = [self.file.get(f"tokenizer.ggml.{name}_token_id", self._usual(name)) for name in ("eos", "eot", "eom")]
        named += self.file.get("tokenizer.ggml.eos_token_ids") or []  # Ollama's
        found = [number for number in named if number is not None and 0 <= number < len(self.tokens)]
        if not any(self.tokens[number] in _TURN_ENDS for number in found):
            control = {token for token in (*_TURN_ENDS, *_TEXT_ENDS) if self._is_control(token)}
            control -= {"<|end|>"} if control >= _HARMONY else set()
            found += sorted(self.ids[token] for token in control)
        return list(dict.fromkeys(found))

    def _usual(self, name: str) -> int | None:
        """What llama.cpp takes where a file with a SentencePiece vocabulary names none."""
        return {"bos": 1, "eos": 2, "unknown": 0}.get(name) if self.kind == "llama" else None

    def _is_control(self, token: str) -> bool:
        return token in self.ids and self.types[self.ids[token]] == _CONTROL

    def _split(self) -> Split:
        if self.kind != "gpt2":
            return Split()
        name = self._pre()
        if name not in SPLITS:
            raise self.file.error(f"pre-tokenizer {name} is not known (known: {', '.join(sorted(SPLITS))})")
        return SPLITS[name]

    def _pre(self) -> str:
        return self.file.get("tokenizer.ggml.pre") or "default"


def build(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer, with control tokens as special ones."""
    tokenizer = _byte_level(vocabulary) if vocabulary.kind == "gpt2" else _sentence_piece(vocabulary)
    if bos := vocabulary.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def tokenizer_config(vocabulary: Vocabulary, context_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": _chat_template(vocabulary.file),
        **{f"{name}_token": vocabulary.special(kind) for name, kind in names.items()},
    }
    return {key: value for key, value in config.items() if value is not None}


def _chat_template(file: GGUFFile) -> str | list[dict[str, str]] | None:
    """The template, or all of them by name where the file has several."""
    template: str | None = file.get("tokenizer.chat_template")
    names = file.get("tokenizer.chat_templates") or []
    others = {name: file.get(f"tokenizer.chat_template.{name}") for name in names}
    named = [{"name": name, "template": one} for name, one in others.items() if one]
    if not named:
        return template
    return [*([{"name": "default", "template": template}] if template else []), *named]


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    file, split = vocabulary.file, vocabulary.split
    whole = {"ignore_merges": True} if split.whole else {}
    tokenizer = Tokenizer(models.BPE(vocabulary.ids, _listed_merges(file, vocabulary.ids), **whole))
    if normalizer := split.normalizer():
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split.pre_tokenizer(bool(file.get("tokenizer.ggml.add_space_prefix", False)))
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, vocabulary)
    return tokenizer


def _listed_merges(file: GGUFFile, ids: dict[str, int]) -> list[tuple[str, str]]:
    found = []
    for merge in file.need("tokenizer.ggml.merges"):
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= ids.keys():
            raise file.error(f"its merge {merge!r} is not of tokens that make a token")
        found.append((first, second))
    return found


def _sentence_piece(vocabulary: Vocabulary) -> Tokenizer:
    ids = {_spaced(vocabulary, at): at for at in range(len(vocabulary.tokens))}
    listed = vocabulary.kind == "gemma4"
    merges = _listed_merges(vocabulary.file, ids) if listed else _merges(vocabulary, ids)
    model = models.BPE(ids, merges, unk_token=vocabulary.special("unknown"), fuse_unk=True)
    model.byte_fallback = True
    tokenizer = Tokenizer(model)
    prefix = bool(vocabulary.file.get("tokenizer.ggml.add_space_prefix", not listed))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    back = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    _add_tokens(tokenizer, vocabulary)
    return tokenizer


def _spaced(vocabulary: Vocabulary, at: int) -> str:
    """A token of nothing but spaces as the model sees them."""
    token = vocabulary.tokens[at]
    spaced = token.replace(" ", _SPACE)
    return spaced if not token.strip(" ") and spaced not in vocabulary.ids else token


def _merges(vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that are together a token, the best score first."""
    scores = vocabulary.file.need("tokenizer.ggml.scores")
    found = []
    for token, at in ids.items():
        if vocabulary.types[at] in (_NORMAL, _USER_DEFINED):
            pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
            found += [(-scores[at], at, pair) for pair in pairs if pair[0] in ids and pair[1] in ids]
    return [pair for _, _, pair in sorted(found)]


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Control tokens, and those that a text is searched for before anything is merged."""
    swallows = vocabulary.file.architecture in ("phi3", "phimoe") and vocabulary.kind == "llama"
    control, others = [], []
    for at, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if kind == _CONTROL:
            # Phi-3's own swallow the line break behind them; a file cannot say so.
            behind = {"rstrip": True} if swallows and token not in ("<s>", "<|endoftext|>") else {}
            control.append(AddedToken(token, normalized=False, special=True, **behind))
        elif kind == _USER_DEFINED:
            spaced = _spaced(vocabulary, at) if vocabulary.kind != "gpt2" else token
            others.append(AddedToken(spaced, normalized=spaced != token))
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(others)
