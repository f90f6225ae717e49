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
_MARKED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_MARKED_OR_SIGNS = rf"{_MARKED}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = (r"\p{N}{1,3}", _CJK, _MARKED_OR_SIGNS)
# Letters with case, but for those that Unicode has had since 2018 or calls so since then, and mathematical ones.
_CASED = (
    r"[\p{Lu}\p{Ll}\p{Lt}&&[^\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c88\u2d00-\u2d2d\ua790-\ua7fa\uab30-\uab68"
    r"\x{10570}-\x{105bc}\x{16e40}-\x{1dfff}]]"
)
_DEEPSEEK = (
    r"[\r\n]",
    rf"\s?{_CASED}+",
    r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _CODER[3],
    r"\p{N}+",
)
_NOT_HAN = r"&&[^\p{Han}]]"
_UPPER_NOT_HAN, _LOWER_NOT_HAN = _UPPER[:-1] + _NOT_HAN, _LOWER[:-1] + _NOT_HAN
_KIMI = (
    rf"\p{{Han}}+|{_BEFORE}{_UPPER_NOT_HAN}*{_LOWER_NOT_HAN}+{_SUFFIX}?"
    rf"|{_BEFORE}{_UPPER_NOT_HAN}+{_LOWER_NOT_HAN}*{_SUFFIX}?|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
)
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_IN_THREES = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"  # from the end
_ASIAN = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    r"\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_YOUTU = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    rf"|[\u3105-\u312f]+|{_CJK}",
    _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}"),
)
_JAIS = "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
_CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
)
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE}\p{{L}}+|\p{{N}}|{_SIGNS}|\s*[\r\n]|\s+(?!\S)|\s+"
_EXAONE = (
    rf"{_SUFFIX}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
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
    Split(): "gpt-2 phi-2 mpt olmo jais exaone4 mellum trillion granite-docling gigachat a.x-4.0",
    Split(digits=True): "smollm starcoder refact codeshell command-r exaone minerva-7b mellum2",
    Split((_LLAMA3,), whole=True, adds_bos=True): "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    Split((_LLAMA3,)): "dbrx smaug-bpe chatglm-bpe glm4",
    Split((_QWEN2,), composed=True): "qwen2",
    Split((_QWEN2,)): "deepseek-r1-qwen stablelm2 hunyuan solar-open megrez kormo grok-2",
    Split((_QWEN35,), composed=True): "qwen35",
    Split((_TEKKEN,), whole=True, adds_bos=True): "tekken",
    Split((_GPT4O,)): "gpt-4o llama4 kanana2 talkie minimax-m2",
    Split(_DEEPSEEK3): "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    Split(_CODER): "deepseek-coder",
    Split(_DEEPSEEK): "deepseek-llm",
    Split((_KIMI,)): "kimi-k2",
    Split((_BLOOM,)): "bloom gpt3-finnish poro-chat",
    Split((_BLOOM, r"\p{N}")): "viking",
    Split((r"\p{N}+", r"(?=(\d{3})+(?!\d))")): "superbpe",
    Split((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), whole=True): "minicpm5",
    Split((rf"{_LLAMA3.removesuffix(_SPACES)}\s*[\r\n]+{_JAIS}|\s",)): "jais-2",
    Split(_CHAMELEON, adds_bos=True): "chameleon",
    Split((_BAILING,)): "bailingmoe bailingmoe2 llada-moe",
    Split((_EXAONE,)): "exaone-moe",
    Split(_YOUTU, whole=True): "youtu",
    Split((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)): "tiny_aya cohere2moe",
    Split((_IN_THREES, _ASIAN, _MARKED_OR_SIGNS)): "afmoe",
    Split((r"[^\n]+|\n+", _QWEN2)): "laguna",
    Split((_QWEN2.removeprefix(f"{_SUFFIX}|"),)): "ufakzeka",
    Split((_SEED,)): "seed-coder",
    Split((rf"[{_PUNCTUATION}`]+", _GPT2, "[0-9]{3}")): "falcon",
    # What llama.cpp does where nobody has said how.
    Split((rf"[{_PUNCTUATION}]+", _GPT2, r"\p{N}+", "[0-9]{3}")): "default",
}
SPLITS = {name: way for way, names in _WAYS.items() for name in names.split()}
