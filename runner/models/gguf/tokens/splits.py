"""How byte-level tokenizers cut a text into words, by llama.cpp's names.

The names are those of ``tokenizer.ggml.pre`` (llama-vocab.cpp); the patterns are those of the models' own tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3 = rf"{_SUFFIX}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_SUFFIX}|{_BEFORE}\p{{L}}+|\p{{N}}|{_SIGNS}|{_SPACES}"
_QWEN35 = rf"{_SUFFIX}|{_BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_SUFFIX}?|{_BEFORE}{_UPPER}+{_LOWER}*{_SUFFIX}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_PUNCTUATION = r"\p{P}\$+<=>\^~|"
_SEED = rf"{_SUFFIX}|{_BEFORE}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)


@dataclass(frozen=True)
class Split:
    """``patterns``: applied one after the other; none: GPT-2's own. ``digits``: each is a word of its own before.

    ``whole``: a word that is a token is taken as it is, whatever the merges say. ``adds_bos``: unless the file says
    otherwise. ``composed``: characters are composed (NFC) before.
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    whole: bool = False
    adds_bos: bool = False
    composed: bool = False

    def pre_tokenizer(self, prefix: bool) -> pre_tokenizers.PreTokenizer:
        """``prefix``: a space is put before the text."""
        parts: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns
        ]
        if self.digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        # GPT-2's own split is ByteLevel's; what is said of it by default stays unsaid.
        own = {"use_regex": False} if self.patterns else {}
        return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=prefix, **own)])

    def normalizer(self) -> normalizers.Normalizer | None:
        """What is done to the text before."""
        return normalizers.NFC() if self.composed else None


_WAYS = {
    Split(): "gpt-2 phi-2 mpt olmo exaone4 mellum trillion granite-docling gigachat a.x-4.0",
    Split(digits=True): "smollm starcoder refact codeshell command-r exaone minerva-7b mellum2",
    Split((_LLAMA3,), whole=True, adds_bos=True): "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    Split((_LLAMA3,)): "dbrx smaug-bpe chatglm-bpe glm4",
    Split((_QWEN2,), composed=True): "qwen2",
    Split((_QWEN2,)): "deepseek-r1-qwen stablelm2 hunyuan solar-open megrez kormo grok-2",
    Split((_QWEN35,), composed=True): "qwen35",
    Split((_TEKKEN,), whole=True, adds_bos=True): "tekken",
    Split((_GPT4O,)): "gpt-4o llama4 kanana2",
    Split(_DEEPSEEK3): "deepseek-v3 hunyuan-dense",
    Split(_CODER): "deepseek-coder",
    Split((_SEED,)): "seed-coder",
    Split((rf"[{_PUNCTUATION}`]+", _GPT2, "[0-9]{3}")): "falcon",
    # What llama.cpp does where nobody has said how.
    Split((rf"[{_PUNCTUATION}]+", _GPT2, r"\p{N}+", "[0-9]{3}")): "default",
}
SPLITS = {name: way for way, names in _WAYS.items() for name in names.split()}
