"""What tokens are called: their bytes where the vocabulary tells, the answer's tokens alone."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runner.sequences import Generation, Scored
from runner.text.channels import Channels
from runner.text.spelling import LEAST, spell, up_to
from runner.text.vocabulary import ByteTokenizer, TransformersVocabulary


def vocabulary(*control, byte_level=True):
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    if byte_level:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(control))
    return TransformersVocabulary(PreTrainedTokenizerFast(tokenizer_object=backend))


def spelt(known, tokens, prompt=(), top=()):
    scored = tuple(Scored(-float(place), top) for place in range(len(tokens)))
    return spell(Generation((0, 0), tokens, scored=scored), prompt, Channels(known, chat=True))


def test_every_byte_of_a_byte_level_vocabulary_is_known():
    known = vocabulary()
    text = "caf\u00e9 \u2713\n\t~ \U0001f600"
    told = spelt(known, known.encode_plain(text))
    assert bytes(byte for one in told for byte in one["bytes"]).decode() == text
    assert sorted(known.spell(i) for i in range(256)) == [bytes([i]) for i in range(256)]
    assert vocabulary(byte_level=False).spell(5) is None


def test_alternatives_are_spelt_and_the_impossible_has_a_number():
    told = spelt(ByteTokenizer(), [104, 105], top=((104, -0.5), (256, float("-inf"))))
    assert told[1] == {
        "token": "i",
        "logprob": -1.0,
        "bytes": [105],
        "top_logprobs": [
            {"token": "h", "logprob": -0.5, "bytes": [104]},
            {"token": "", "logprob": LEAST, "bytes": []},
        ],
    }
    assert spell(Generation((0, 0), [104]), (), Channels(ByteTokenizer(), chat=True)) is None


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (["<think>", "</think>"], "<think>hm</think>\n\nyes"),
        (
            ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes",
        ),
    ],
)
def test_what_was_thought_is_left_out(control, said):
    known = vocabulary(*control)
    (ids,) = known.encode([said])
    assert "".join(one["token"] for one in spelt(known, ids)) == "yes" == Channels(known, chat=True).read(ids).text
    (ids,) = known.encode([said[: said.index("hm") + 1]])
    assert spelt(known, ids) == ()


def test_a_text_takes_the_tokens_that_it_takes_to_write_it():
    tokens = [{"token": text, "bytes": None} for text in (" Hel", "lo", " w", "orld")]
    assert [len(up_to(tokens, text)) for text in ("", "Hel", "Hell", "Hello", " Hello", " Hello w")] == [
        0,
        1,
        2,
        2,
        2,
        3,
    ]
