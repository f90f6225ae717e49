"""Promises of runner/models/gguf/tokens/{tokenizer,splits,check}.py: a text's tokens are those of the model's own."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from runner.models.gguf.file import GGUFFile
from runner.models.gguf.tokens.check import TEXT, check
from runner.models.gguf.tokens.splits import SPLITS
from runner.models.gguf.tokens.tokenizer import Vocabulary, build, tokenizer_config
from runner.types import UserError
from tests.support import ggufs

SPECIAL = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁the", "▁of", "▁boat", "the", "he", "th", "er", "▁t", "▁a", "in", "on", "▁▁", "ou", "at", "ea"]
PIECES = [*WORDS, "▁", *sorted({char for char in TEXT + "abcxyz" if char.isalnum() and char.isascii()}), ",", ".", "é"]
SPM_TOKENS = [*SPECIAL, *BYTES, *PIECES]
SCORES = [0.0] * (len(SPECIAL) + 256) + [-float(at) for at in range(len(PIECES))]
SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": SPM_TOKENS,
    "tokenizer.ggml.scores": SCORES,
    "tokenizer.ggml.token_type": [2, 3, 3, 3, 3] + [6] * 256 + [1] * len(PIECES),
}


def opened(tmp_path, architecture="llama", **changes):
    keys = {key: value for key, value in changes.items() if value is not None}
    return GGUFFile(ggufs.write(tmp_path / "t.gguf", architecture, keys, {}))


def made(tmp_path, keys, architecture="llama", rows=None, **changes):
    vocabulary = Vocabulary(opened(tmp_path, architecture, **{**keys, **changes}))
    tokenizer = build(vocabulary)
    check(tokenizer, vocabulary, rows or len(vocabulary.tokens))
    return tokenizer, vocabulary


def sentence_piece(prefix, user_defined=()):
    """SentencePiece's own model of the same pieces."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    model.trainer_spec.pad_id = -1
    spec = model.normalizer_spec
    spec.name, spec.add_dummy_prefix = "identity", prefix
    spec.remove_extra_whitespaces, spec.escape_whitespaces = False, True
    kinds = [2, 3, 3, 3, 3] + [6] * 256 + [1] * len(PIECES)
    for token, score, kind in zip(SPM_TOKENS, SCORES, kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=4 if token in user_defined else kind)
    return SentencePieceProcessor(model_proto=model.SerializeToString())


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("text", [TEXT, "  the  boat of   tea\n\n at", "the", " the", "naïve 🐟"])
def test_a_sentencepiece_vocabulary_gives_sentencepieces_tokens(tmp_path, prefix, text):
    tokenizer, _ = made(tmp_path, SPM, **{"tokenizer.ggml.add_space_prefix": prefix})
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == sentence_piece(prefix).encode(text)
    assert tokenizer.decode(ids) == text


def test_runs_of_spaces_that_are_tokens_of_their_own_are_found_before_words(tmp_path):
    """As Gemma's files have them: written with spaces, and marked as user-defined."""
    tokens = ["  " if token == "▁▁" else token for token in SPM_TOKENS]
    kinds = [4 if token == "  " else kind for token, kind in zip(tokens, SPM["tokenizer.ggml.token_type"], strict=True)]
    changes = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    tokenizer, _ = made(tmp_path, SPM, **changes, **{"tokenizer.ggml.add_space_prefix": False})
    for text in ("the   boat", "  the", "a  b    c\n  d"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == sentence_piece(False, {"▁▁"}).encode(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["the boat of  the\n\nthere, é 漢 <end_of_turn>\nthe", " a\tthe", "", "\n \n"])
def test_a_vocabulary_of_gemma_4_merges_as_the_file_lists(tmp_path, text):
    """Gemma 4's own tokenizer: spaces spelled as a sign, no prefix, bytes for what is no token."""
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

    merges = ["t h", "th e", "▁ t", "▁t h", "▁th e", "o f", "▁ of", "i n", "▁ ▁", "\n \n"]
    tokens = [*SPECIAL, *BYTES, *dict.fromkeys([*PIECES, "▁th", "of", "\n", "\n\n", *"tofheina"])]
    kinds = [2, 3, 3, 3, 3] + [6] * 256 + [1] * (len(tokens) - len(SPECIAL) - 256)
    keys = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }
    ids = {token: at for at, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    own = Tokenizer(models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL[1:]])
    tokenizer, _ = made(tmp_path, keys, "gemma4")
    found = tokenizer.encode(text)
    assert found.ids == [1, *own.encode(text).ids]
    assert tokenizer.decode(found.ids[1:], skip_special_tokens=False) == text


def test_the_tokenizer_splits_digits_and_knows_special_tokens(tmp_path):
    tokenizer, vocabulary = made(tmp_path, ggufs.BYTE_LEVEL)
    tokens = tokenizer.encode("<|im_start|>\n\n12 a<|im_end|>").tokens
    assert tokens == ["<|im_start|>", "ĊĊ", "1", "2", "Ġa", "<|im_end|>"]
    assert vocabulary.ends() == [2, 0] and vocabulary.bos is None
    config = tokenizer_config(vocabulary, 512)
    assert (
        config["chat_template"] == ggufs.BYTE_LEVEL["tokenizer.chat_template"] and config["eos_token"] == "<|im_end|>"
    )


def test_several_chat_templates_keep_their_names(tmp_path):
    keys = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "tools"}
    _, vocabulary = made(tmp_path, ggufs.BYTE_LEVEL, **keys)
    templates = {one["name"]: one["template"] for one in tokenizer_config(vocabulary, 1)["chat_template"]}
    assert templates == {"default": ggufs.BYTE_LEVEL["tokenizer.chat_template"], "tool_use": "tools"}


@pytest.mark.parametrize(
    ("pre", "said", "tokens"),
    [
        ("gpt-2", None, ["12"]),
        ("gpt-2", True, ["<|im_start|>", "12"]),
        ("smollm", None, ["1", "2"]),
        ("llama-bpe", None, ["<|im_start|>", "12"]),
        ("llama-bpe", False, ["12"]),
        ("qwen2", None, ["1", "2"]),
    ],
)
def test_numbers_are_cut_and_texts_begin_as_the_pre_tokenizer_says(tmp_path, pre, said, tokens):
    changes = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": said}
    tokenizer, _ = made(tmp_path, ggufs.BYTE_LEVEL, **changes)
    assert tokenizer.encode("12").tokens == tokens


# Words as llama.cpp cuts them, which cuts some of them anew, one pattern after the other.
CUT = {
    "default": ("It's 12345 cats+dogs, $7 `x`\n\n(¡no!)", "It|'|s| |123|45| cats|+|dogs|,| |$|7| `|x|`|\n\n|(¡|no|!)"),
    "falcon": ("It's 12345 cats+dogs, $7 `x`\n\n(¡no!)", "It|'|s| |123|45| cats|+|dogs|,| |$|7| |`|x|`|\n\n|(¡|no|!)"),
    "deepseek-coder": ("It's 123 cats\n\n  (no!)", "It|'|s| |1|2|3| cats|\n|\n| | (|no|!)"),
    "seed-coder": ("It's 12 {\n\n  no", "It|'s| |1|2| {|\n\n| | no"),
    "deepseek-llm": ("It's 12345 cats\n\n(no!) 中文Ⴀა  ", "It|'|s| |12345| cats|\n|\n|(|no|!)| |中文|Ⴀ|ა|  "),
    "kimi-k2": ("It's 12345中文 Cats\n(no!)", "It's| |123|45|中文| Cats|\n|(no|!)"),
    "bloom": ("It's 12345, cats (no!)", "It's| 12345|,| cats| (|no|!)"),
    "viking": ("It's 123, cats", "It's| |1|2|3|,| cats"),
    "superbpe": ("It's 12345 cats, 1234567", "It's |12|345| cats, |1|234|567"),
    "minicpm5": ("It's 12345 cats\n", "It|'s| |123|45| cats|\n"),
    "jais-2": ("It's 12345     cats\n", "It|'s| |123|45|    | cats|\n"),
    "chameleon": ("It's 123    cats  IMGIMGABZ(no!)", "It|'|s| |1|2|3|    |cats|  |IMGIMGABZ|(|no|!|)"),
    "bailingmoe": ("It's 12\n\n cats' d", "It|'s| |1|2|\n\n| cats|'| d"),
    "exaone-moe": ("It's a cat/\n\n 12", "It|'s| a cat|/\n|\n| |1|2"),
    "youtu": ("It's 12 中文。ok", "It's| |1|2| |中文|。|ok"),
    "tiny_aya": ("It's 12345 1234567x", "It's| |12|345| |123|456|7|x"),
    "afmoe": ("It's 12345 中文 1234567x", "It|'s| |12|345| |中文| |1|234|567|x"),
    "laguna": ("It's\n\n 12", "It|'s|\n\n| |1|2"),
    "ufakzeka": ("It's 12", "It|'s| |1|2"),
}


@pytest.mark.parametrize("pre", CUT)
def test_words_are_cut_as_llama_cpp_cuts_them(pre):
    text, words = CUT[pre]
    assert pieces(SPLITS[pre].pre_tokenizer(False), text) == pieces(None, *words.split("|"))


def pieces(split, *words):
    from tokenizers import pre_tokenizers

    split = split or pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [word for given in words for word, _ in split.pre_tokenize_str(given)]


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_file_that_does_not_say_how_words_are_cut_is_read_as_llama_cpp_reads_it(tmp_path, pre):
    tokenizer, vocabulary = made(tmp_path, ggufs.BYTE_LEVEL, **{"tokenizer.ggml.pre": pre})
    assert tokenizer.encode("123 a").tokens == ["12", "3", "Ġa"] and vocabulary.guessed and vocabulary.bos is None
    assert tokenizer.encode("1212 12").tokens == ["12", "1", "2", "Ġ", "12"]  # numbers are cut into threes


def test_the_ways_to_cut_words_are_those_that_transformers_knows():
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    both = GGUF_PRE_TOKENIZER_SPLITS.keys() & SPLITS.keys()
    assert {"llama-bpe", "qwen2", "gpt-4o", "tekken"} <= both
    for name in both:
        cut = {tuple(word for word, _ in cut_by(pattern, TEXT)) for pattern in SPLITS[name].patterns}
        assert cut == {tuple(word for word, _ in cut_by(GGUF_PRE_TOKENIZER_SPLITS[name], TEXT))}, name


def cut_by(pattern, text):
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)


def test_ends_that_a_file_does_not_name_are_found_by_their_well_known_names(tmp_path):
    gemma = made(tmp_path, SPM)[1]
    assert {SPM_TOKENS[end] for end in gemma.ends()} == {"</s>", "<end_of_turn>"}
    names = ["<|return|>", "<|call|>", "<|end|>"]
    harmony = [*names, *ggufs.TOKENS[3:]]
    changes = {"tokenizer.ggml.tokens": harmony, "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": None}
    vocabulary = made(tmp_path, ggufs.BYTE_LEVEL, **changes)[1]
    assert {harmony[end] for end in vocabulary.ends()} == {"<|return|>", "<|call|>"}  # <|end|> ends a part of an answer


@pytest.mark.parametrize("architecture", ["phi3", "phimoe"])
def test_control_tokens_of_phi_3_swallow_the_line_break_behind_them(tmp_path, architecture):
    tokenizer, _ = made(tmp_path, SPM, architecture)
    plain, _ = made(tmp_path, SPM)
    text = "<end_of_turn>\nthe"
    ids = [SPM_TOKENS.index(token) for token in ("<end_of_turn>", "▁the")]
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids
    assert plain.encode(text, add_special_tokens=False).tokens[1:3] == ["▁", "<0x0A>"]


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({"tokenizer.ggml.tokens": [*ggufs.TOKENS[:-1], "12"]}, 999, "has the token '12' twice"),
        ({}, 5, r"its vocabulary has 262 tokens, its embedding 5"),
        ({"tokenizer.ggml.token_type": [3, 3]}, 999, "262 tokens and the types of 2"),
        ({"tokenizer.ggml.merges": None}, 999, "lacks tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["1 2", ""]}, 999, "its merge '' is not of tokens that make a token"),
        ({"tokenizer.ggml.merges": ["1 2", "1 3"]}, 999, "its merge '1 3' is not of"),
        ({"general.type": "adapter"}, 999, "it is an adapter of a model, not a model; give the file of the model"),
        ({"general.type": "imatrix"}, 999, "importance of weights"),
    ],
)
def test_a_tokenizer_that_is_not_the_files_is_refused(tmp_path, changes, rows, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, ggufs.BYTE_LEVEL, rows=rows, **changes)


def test_a_vocabulary_that_does_not_give_a_text_back_is_refused(tmp_path):
    kinds = [3] * 3 + [1] * (len(ggufs.TOKENS) - 3)
    lame = ["[x]" if token == "Ã" else token for token in ggufs.TOKENS]  # the first byte of é
    with pytest.raises(UserError, match="does not give a text back"):
        made(tmp_path, ggufs.BYTE_LEVEL, **{"tokenizer.ggml.tokens": lame, "tokenizer.ggml.token_type": kinds})


GPT_OSS = Path(__file__).parents[4] / "shared" / "gpt-oss-20b" / "tokenizer.json"


@pytest.mark.slow
def test_the_tokenizer_of_gpt_oss_made_from_a_gguf_is_the_models_own(tmp_path, slow):
    if not slow or not GPT_OSS.is_file():
        pytest.skip("needs the tokenizer of gpt-oss")
    own, content = Tokenizer.from_file(str(GPT_OSS)), json.loads(GPT_OSS.read_text())
    keys = as_gguf(content)
    tokenizer, _ = made(tmp_path, keys)
    for text in (TEXT, "<|start|>user<|message|>Don't!  1234567<|end|>\n\n", "ÀÉ ǅungla iPhone's HELLO'LL x\u0301"):
        assert tokenizer.encode(text).ids == own.encode(text, add_special_tokens=False).ids


def as_gguf(content):
    """A byte-level tokenizer.json as llama.cpp's converter writes it."""
    vocabulary = {**content["model"]["vocab"], **{one["content"]: one["id"] for one in content["added_tokens"]}}
    size = max(vocabulary.values()) + 1
    names = {at: token for token, at in vocabulary.items()}
    added = {one["id"] for one in content["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.tokens": [names.get(at, f"[PAD{at}]") for at in range(size)],
        "tokenizer.ggml.token_type": [3 if at in added else 1 if at in names else 5 for at in range(size)],
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
        ],
    }
