import pytest

from jobs.synthesize.filters import Complete, Deny, Draft, Judge, Language, Length, Overlap, Schema
from jobs.synthesize.ordered import Balance, Exact, Near
from runner.text.scripts import ngrams, words
from runner.types import UserError

SEEN = "The quick brown fox jumps over the lazy dog near the river bank."


def reason(one, text, finish_reason="stop", **row):
    return one.reason(Draft(text, row, finish_reason))


def test_what_was_cut_off_is_rejected():
    assert reason(Complete(), "It goes on and", "length") == "cut off at engine.max_tokens"
    assert reason(Complete(), "It ends.") is None


def test_length_counts_words_or_characters():
    assert reason(Length(3, 5), "one two") == "2 words"
    assert reason(Length(3, 5), "one two three") is None
    assert reason(Length(1, 5, "characters"), "too long") == "8 characters"
    assert reason(Length(3), "今天天气很好，我们一起去公园散步吧。") is None
    assert reason(Length(1, 1, "sentences"), "One. Two.") == "2 sentences"


def test_deny_names_what_it_found():
    assert reason(Deny(["(?i)as an ai", r"\d{3}"]), "Well, As an AI I") == "contains 'As an AI'"
    assert reason(Deny(["(?i)as an ai"]), "fine") is None


def test_schema_takes_json_that_fits():
    one = Schema({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
    assert reason(one, '{"age": 3}') is None
    assert reason(one, '{"age": "x"}') == "$.age: 'x' is not of type 'integer'"
    assert reason(one, "{age}").startswith("not JSON")
    assert reason(one, "[" * 100_000).startswith("not JSON")


def test_n_grams_of_scripts_without_spaces_are_letters():
    shown = {"shots": [{"text": "今天天气很好，我们去公园"}]}
    why = Overlap(3, 0.4).reason(Draft("今天天气很好，他们去学校", shown))
    assert why == "44% of its 3-grams are from the examples"


def test_language_knows_german_from_english():
    assert reason(Language(["en"]), "This is a plain sentence about the weather.") is None
    assert reason(Language(["en"]), "Das ist ein einfacher Satz über das Wetter.") == "its language is de"


def test_overlap_with_the_examples_is_a_share_of_ngrams():
    shots = [{"text": SEEN, "label": 1}]
    assert reason(Overlap(3, 0.5), SEEN.upper(), shots=shots) == "100% of its 3-grams are from the examples"
    assert reason(Overlap(3, 0.5), "Something else entirely stands in this text.", shots=shots) is None
    assert reason(Overlap(3, 0.5), "so short", shots=shots) is None
    assert list(ngrams(words("A b, c!"), 2)) == [("a", "b"), ("b", "c")]


def test_the_judge_scores_numbers_by_their_probabilities():
    judge = Judge(least=3, scale=3, prompt="{{ topic }}: {{ text }} 1 to {{ scale }}?")
    request = judge.request(Draft("t", {"topic": "x"}))
    assert request.messages[0]["content"] == "x: t 1 to 3?"
    assert request.choices == ("1", "2", "3")
    assert judge.score((-1000.0, 0.0, 0.0)) == pytest.approx(2.5)


def test_exact_duplicates_but_for_case_and_space():
    one = Exact()
    one.seed([SEEN])
    assert one.reason({"text": f" {SEEN.upper()}\n"})
    assert one.reason({"text": "new"}) is None
    one.keep(0, {"text": "New"})
    assert one.reason({"text": "new"}) == "the text exists already"


def test_near_duplicates_of_accepted_and_seed_texts():
    one = Near(0.7)
    one.seed([SEEN])
    assert float(one.reason({"text": SEEN.replace("dog", "cat")}).split()[0]) >= 0.7
    other = "Nothing of the kind was ever said by anybody in this house."
    assert one.reason({"text": other}) is None
    one.keep(3, {"text": other})
    assert one.reason({"text": other.upper()}).startswith("1.00")
    assert one.reason({"text": ""}) is None
    one.keep(4, {"text": "🎉🎉🎉"})
    assert one.reason({"text": "🎉 🎉 🎉🎉"}) is None is one.reason({"text": "!!! ???"})
    assert one.reason({"text": "🎉🎉🎉 "}).startswith("1.00")


def test_balance_fills_up_and_remembers_when():
    one = Balance()
    one.set_shares({"tone": {"a": 2.0, "b": 1.0}, "topic": {"x": 1.0}}, 3)
    row = {"tone": "a", "topic": "x", "text": "t"}
    one.keep(0, row)
    assert one.reason(row) is None
    one.keep(4, row)
    assert one.reason(row) == "tone=a has reached its share"
    assert one.full(4) == frozenset()
    assert one.full(5) == one.full(99) == {("tone", "a")}
    one.keep(7, {**row, "tone": "b"})
    assert one.full(8) == {("tone", "a"), ("tone", "b"), ("topic", "x")}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Length(unit="tokens"), "unit=tokens: it must be words or characters or sentences"),
        (lambda: Deny(["("]), "patterns="),
        (lambda: Schema({"type": 5}), "it is not a JSON Schema"),
        (lambda: Judge(scale=10), "scale=10"),
        (lambda: Judge(prompt="{{ text"), "job.filters.judge.prompt"),
        (lambda: Near(0.2), "threshold=0.2: it must be between 0.5 and 1"),
        (lambda: Balance(["x"]).set_shares({"tone": {"a": 1.0}}, 3), "there is no 'x'; available: tone"),
    ],
)
def test_options_without_sense_are_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
