import itertools
import random

import pytest

from jobs.summarize.split import Piece, cut, split, tail
from runner.text.scripts import sentences
from runner.text.vocabulary import ByteTokenizer


def count(texts):
    return [len(ids) for ids in ByteTokenizer().encode(texts)]


def words(texts):
    return [len(text.split()) for text in texts]


def test_a_text_that_fits_is_one_chunk():
    assert split(" Hello there.\n", 100, 0, words) == [Piece("Hello there.", 2)]
    assert split("  \n ", 100, 0, words) == []


def test_paragraphs_stay_whole_where_they_can():
    text = "One two three.\n\nFour five.\n\nSix seven eight nine.\n\nTen."
    assert [chunk.text for chunk in split(text, 5, 0, words)] == [
        "One two three.\n\nFour five.",
        "Six seven eight nine.\n\nTen.",
    ]


def test_long_paragraphs_are_cut_between_sentences():
    text = 'Dr. no one knows, e.g. this one. What is it? It is 3.5 metres long. (He said so.) "Yes!" was the end.'
    chunks = [chunk.text for chunk in split(text, 10, 0, words)]
    assert " ".join(chunks) == text
    assert all(chunk[-1] in '.?!")' for chunk in chunks)
    assert sentences('A b. C d! "E?" f. 7 is。次の文。end') == [
        "A b. ",
        "C d! ",
        '"E?" f. ',
        "7 is。",
        "次の文。",
        "end",
    ]


def test_sentences_too_long_are_cut_between_words_and_words_between_characters():
    pieces = cut("a" * 50 + " bb cc", 10, count)
    assert "".join(piece.text for piece in pieces) == "a" * 50 + " bb cc"
    assert max(piece.tokens for piece in pieces) <= 10
    assert cut("\N{GRINNING FACE}", 2, count) == [Piece("\N{GRINNING FACE}", 4)]  # a character is not cut


def test_chunks_begin_with_the_end_of_the_one_before():
    text = "\n\n".join(f"Sentence number {i} stands here. Another follows {i}." for i in range(20))
    chunks = split(text, 40, 10, words)
    for before, chunk in itertools.pairwise(chunks):
        shared = tail(before.text, 10, words).text
        assert shared
        assert chunk.text.startswith(shared)
    assert max(words([chunk.text for chunk in chunks])) <= 40
    assert tail("no end of words here", 2, words).text == "words here"
    assert tail("x y", 0, words) == Piece("", 0)


def test_no_chunk_is_a_small_rest():
    text = " ".join(f"Word{i}." for i in range(101))
    sizes = [chunk.tokens for chunk in split(text, 50, 0, words)]
    assert len(sizes) == 3
    assert min(sizes) >= 30


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_nothing_is_too_long(seed):
    chance = random.Random(seed)
    marks = [" ", " ", " ", ". ", "\n", "\n\n", "? ", "x" * 70, "é", "。"]
    text = "".join(chance.choice("abcDEF12") * chance.randint(1, 9) + chance.choice(marks) for _ in range(400))
    limit = chance.randint(8, 200)
    chunks = split(text, limit, 0, count)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert all(length <= limit for length in count([chunk.text for chunk in chunks]))
    overlap = limit // 3
    assert all(length <= limit for length in count([chunk.text for chunk in split(text, limit, overlap, count)]))


def test_the_overlap_is_at_most_half():
    with pytest.raises(ValueError, match="not between 0 and half"):
        split("text", 10, 6, words)
