"""Words, lengths and sentences in scripts with and without spaces."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.text.scripts import (
    count_characters,
    count_words,
    first_words,
    folded,
    middle,
    sentences,
    words,
)

CHINESE = "今天天气很好，我们一起去公园散步吧。"


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_where_there_are_spaces_words_are_what_they_always_were(text):
    assert words(text) == re.findall(r"\w+", text.lower())
    assert count_words(text) == len(text.split())
    assert count_characters(text) == len(text)
    assert first_words(text, 3) == " ".join(text.split()[:3])
    assert middle(text) == len(text) // 2
    assert folded(text) == text.casefold()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("北京很大", ["北", "京", "很", "大"]),
        ("我用iPhone 15。", ["我", "用", "iphone", "15"]),
        ("ポジティブです", ["ポジティブ", "で", "す"]),
        ("ﾎﾟｼﾞﾃｨﾌﾞ", ["ポジティブ"]),
        ("ฉันรัก", ["ฉั", "น", "รั", "ก"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 größe", ["café", "größe"]),
        ("긍정입니다", ["긍정입니다"]),
        ("ＡＢＣ", ["abc"]),
    ],
)
def test_letters_of_scripts_without_spaces_stand_for_themselves(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        (CHINESE, 8, 12),
        ("ฉันรักคุณมาก", 3, 5),
        ("これは良い映画でした", 4, 7),
        ("ສະບາຍດີເຈົ້າ", 2, 4),
        ("ខ្ញុំស្រឡាញ់អ្នក", 2, 4),
        ("Ich mag 北京 sehr", 4, 4),
        ("Straßenbahnhaltestelle", 1, 1),
        ("안녕하세요 세계", 2, 2),
    ],
)
def test_lengths_in_words_are_about_those_that_readers_count(text, least, most):
    assert least <= count_words(text) <= most


def test_the_first_words_have_no_more_words_than_asked_for():
    for most in range(1, 11):
        begin = first_words(CHINESE, most)
        assert CHINESE.startswith(begin)
        assert count_words(begin) <= most
    assert first_words(CHINESE, 4) == "今天天气很好"


def test_characters_are_those_that_people_see():
    assert count_characters("cafe\u0301") == 4
    assert count_characters("👩\u200d👩\u200d👧!") == 2


@pytest.mark.parametrize(
    "parts",
    [
        ["他说：「好！」", "她走了。", "真的？！", "是的。"],
        ["これはペンです。", "はい！", "end"],
        ["ਸਭ ਠੀਕ ਹੈ। ", "हाँ। ", "नहीं।"],
        ["هل هذا جيد؟ ", "نعم، جيد."],
        ["One. ", '"Two!" ', "Three, e.g. four"],
    ],
)
def test_sentences_end_where_the_script_ends_them(parts):
    assert sentences("".join(parts)) == parts


def test_no_character_is_cut_in_two():
    text = "e\u0301" * 5
    assert middle(text) == 4
    assert middle("e\u0301") == 0
    assert middle("") == 0
