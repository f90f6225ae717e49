"""What the job ``spans`` promises."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.spans import Spans
from jobs.spans.copying import Mention, Pieces, located, rules
from runner import cli, run
from runner.data.gold import gold_spans
from runner.engine.masks import Grammars, bitmasks
from runner.results.quality.spans import span_figures
from runner.results.run import Run
from runner.sequences import Sequence
from runner.text import channels
from runner.text.vocabulary import ByteTokenizer
from runner.types import Completion, RowError, UserError
from tests.support import kills
from tests.support.runs import shards
from tests.support.world import World

KINDS = ["person", "place"]
ODD = (
    "Alice went to Paris, and Alice’s friend Bob stayed in New\r\n York-based 😀 café \t n\u0303a 👨‍👩‍👧 \x00x "
    '"q\\u" 東京タワー وباريس <|end|>'
)


def found(text, *answers, **keys):
    """The spans of a text, as (words, kind, start), after these answers of the model."""
    steps = Spans(KINDS, **keys).steps({"text": text})
    try:
        next(steps)
        for answer in answers:
            steps.send(answer if isinstance(answer, Completion) else Completion(answer))
    except StopIteration as returned:
        spans = returned.value["spans"]
        assert all(text[one["start"] : one["end"]] == one["text"] for one in spans)
        return [(one["text"], one["kind"], one["start"]) for one in spans]
    pytest.fail("the job asks for more")


def can_write(text, answer, end="", most=50, **keys):
    """Whether the rules of a text allow an answer, byte by byte, and its end there."""
    body = rules(Pieces(text, keys.get("whole_words", True)), KINDS, most, end)
    matching = Grammars(ByteTokenizer()).start(Sequence((0, 0), [], 10, grammar=f"start: body\n{body}"))
    assert matching.problem is None
    for byte in [*answer.encode(), 256]:
        allowed = np.unpackbits(bitmasks([matching], 257).view(np.uint8), bitorder="little")
        if byte == 256:
            return bool(matching.ended or allowed[256])
        if matching.ended or not allowed[byte]:
            return False
        matching.take(byte)


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ("none", True),
        ("person: Alice\nperson: Alice\nplace: New York-based", True),
        ("place: New York", True),
        ("place: 京タワー", True),
        ("place: n\u0303a", True),
        ("place: 👨‍👩‍👧", True),
        ('place: "q\\u"', True),
        ("place: \x00x", True),
        ("place: <|end|>", True),
        ("person: lice", False),
        ("person: Ali", False),
        ("person: alice", False),
        ("person: Alice ", False),
        ("person:  Alice", False),
        ("person: ", False),
        ("person: to Bob", False),
        ("place: 👨", False),
        ("place: باريس", False),
        ("country: Paris", False),
        ("none\nperson: Alice", False),
        ("person: Alice\n", False),
    ],
)
def test_a_model_can_write_nothing_but_whole_words_of_the_text(answer, allowed):
    assert can_write(ODD, answer) is allowed


def test_without_whole_words_mentions_begin_and_end_anywhere_but_inside_of_a_character():
    assert can_write(ODD, "place: باريس", whole_words=False)
    assert can_write(ODD, "person: lic", whole_words=False)
    assert not can_write(ODD, "place: 👨", whole_words=False)
    assert found(ODD, "place: باريس", whole_words=False) == [("باريس", "place", ODD.index("باريس"))]


def test_a_model_that_goes_round_in_a_circle_comes_to_an_end():
    assert can_write("Bob", "person: Bob\nplace: Bob")
    assert not can_write("Bob", "person: Bob\nplace: Bob\nperson: Bob")
    assert not can_write("a b c", "person: a\nperson: b", most=1)


def test_no_rule_has_the_name_of_one_of_a_models_channels():
    # Private names: the rules that stand before those of an answer where a model thinks first.
    theirs = channels._HARMONY_GRAMMAR + channels._THINK_GRAMMAR
    names = [set(re.findall(r"(?m)^(\w+):", text)) for text in (theirs, rules(Pieces(ODD, True), KINDS, 5, ""))]
    assert names[0] & names[1] == set()


def test_a_raw_answer_may_end_as_the_examples_before_it_do():
    assert can_write("Bob", "person: Bob\n\n", end="\n\n")
    assert can_write("Bob", "none\n\n", end="\n\n")
    assert not can_write("Bob", "none\n\n")


@pytest.mark.parametrize(
    ("text", "answer", "spans"),
    [
        ("Bob", "none", []),
        ("Bob", "person: Bob", [("Bob", "person", 0)]),
        ("Bob, Bob and Bob", "person: Bob\nperson: Bob", [("Bob", "person", 0), ("Bob", "person", 5)]),
        ("Bob", "person: Bob\nperson: Bob", [("Bob", "person", 0)]),
        ("Bob", "person: Bob\nplace: Bob", [("Bob", "person", 0), ("Bob", "place", 0)]),
        (
            "Paris Hilton flew to Paris",
            "person: Paris Hilton\nplace: Paris",
            [("Paris Hilton", "person", 0), ("Paris", "place", 21)],
        ),
        (
            "Bank of Rome",
            "person: Bank of Rome\nplace: Rome",
            [("Bank of Rome", "person", 0), ("Rome", "place", 8)],
        ),
        ("Rome and Bob in Rome", "person: Bob\nplace: Rome", [("Bob", "person", 9), ("Rome", "place", 16)]),
        ("Rome and Bob", "person: Bob\nplace: Rome", [("Rome", "place", 0), ("Bob", "person", 9)]),
        ("😀😀 New\r\n\tYork", "place: New York", [("New\r\n\tYork", "place", 3)]),
        ("start with art", "place: art", [("art", "place", 11)]),
        ("\n Bob \n", "person: Bob", [("Bob", "person", 2)]),
    ],
)
def test_each_mention_has_a_place_of_its_own_in_the_order_of_the_text(text, answer, spans):
    assert found(text, answer) == spans


@settings(max_examples=40)
@given(st.text("aé😀\u0301 \n\r東b.", max_size=12), st.booleans(), st.integers(0, 11), st.integers(0, 11))
def test_whatever_the_rules_allow_is_found_where_it_stands(text, whole_words, first, last):
    pieces = Pieces(text, whole_words)
    mention = "".join(pieces.texts[first : last + 1]).strip()
    if mention:
        (span,), left = located(pieces, [Mention("person", mention)])
        assert not left
        assert " ".join(text[span.start : span.end].split()) == " ".join(mention.split())


@pytest.mark.parametrize("text", ["", "  \r\n "])
def test_a_text_without_words_has_no_spans_and_asks_for_nothing(text):
    assert found(text) == []


def test_a_row_without_a_text_is_in_error():
    with pytest.raises(RowError, match="no text: column text is null"):
        next(Spans(KINDS).steps({"text": None}))


def test_an_answer_that_was_cut_off_is_asked_for_again_and_then_an_error():
    cut = Completion("person: Bob\nplace: Ro", finish_reason="length")
    assert found("Bob in Rome", cut, "person: Bob\nplace: Rome") == [("Bob", "person", 0), ("Rome", "place", 7)]
    with pytest.raises(RowError, match="cut off"):
        found("Bob in Rome", cut, cut)
    circle = Completion("person: Bob\nperson: Bob\nperson: B", finish_reason="length")
    assert found("Bob in Rome", circle) == [("Bob", "person", 0)]


def test_kinds_are_called_by_their_names_whatever_the_model_reads():
    job = Spans({"PER": {"surface": "person", "description": "people"}, "LOC": "places"})
    steps = job.steps({"text": "Bob in Rome"})
    assert [one["surface"] for one in next(steps).variables["kinds"]] == ["person", "LOC"]
    with pytest.raises(StopIteration) as returned:
        steps.send(Completion("person: Bob\nLOC: Rome"))
    assert [one["kind"] for one in returned.value.value["spans"]] == ["PER", "LOC"]


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        (None, "job.kinds has 0 kinds, at least one is needed"),
        ("person", "it must be a list, such as 'job.kinds=\\[person,place\\]'"),
        (["a", "a"], "job.kinds: name 'a' is listed twice"),
        ([{"name": "a", "colour": "b"}], "a kind has name, surface, description"),
        (["a: b"], "a kind's text can have no line break or colon"),
        (["a\nb"], "a kind's text can have no line break or colon"),
    ],
)
def test_kinds_that_no_line_could_tell_apart_are_refused(kinds, problem):
    with pytest.raises(UserError, match=problem):
        Spans(kinds)


# Runs

ROWS = [
    {"text": "Alice flew to Paris. Bob met Alice.", "gold": [[0, 5, "person"], [14, 19, "place"]]},
    {"text": "Nothing 😀 at all.", "gold": []},
    {"text": "Emoji 😀 in Berlin\r\nfor Carl", "gold": [[11, 17, "place"], [23, 27, "person"]]},
    {"text": None, "gold": None},
]


def words(*more, rows=ROWS):
    Path("news.jsonl").write_text(
        "".join(
            json.dumps({**row, "gold": json.dumps(row["gold"]) if row["gold"] is not None else None}) + "\n"
            for row in rows
        )
    )
    keys = ("job=spans", "job.kinds=[person,place]", "dataset=jsonl", "dataset.path=news.jsonl", "dataset.gold=gold")
    return [*keys, "engine.backend=fake", "run_name=news", "prompt.user={{ passage }}", *more]


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """The fake engine gives these answers, by the text they are about."""
    monkeypatch.chdir(tmp_path)
    said = {}

    def answer(self, sequence):
        prompt = bytes(token for token in sequence.tokens if token < 256).decode()
        text = next((text for about, text in said.items() if about in prompt), "none")
        return replace(real(self, sequence), tokens=list(text.encode()))

    from runner.engine.fake import FakeEngine

    real = FakeEngine.answer
    monkeypatch.setattr(FakeEngine, "answer", answer)
    return said


def test_a_run_ends_with_exact_and_partial_f1_in_figures_report_and_evaluate(answers, capsys):
    answers |= {"Alice": "person: Alice\nplace: Paris. Bob", "Berlin": "place: Berlin\nplace: Carl"}
    figures = run(words("output.report=true"))
    assert (figures["finished"], figures["errors"]) == (4, 1)
    evaluation = figures["evaluation"]
    assert (evaluation["rows"], evaluation["found"], evaluation["gold"]) == (3, 4, 4)
    assert [evaluation[name] for name in ("f1", "precision", "partial_f1", "exact")] == [0.5, 0.5, 0.625, 1 / 3]
    assert cli.main(["evaluate", "outputs/news", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == evaluation
    page = Path("outputs/news/report.html").read_text(encoding="utf-8")
    assert "F1, partial" in page
    assert "0.625" in page


def test_spans_are_exported_to_label_studio_and_argilla_with_their_places(answers, capsys):
    answers |= {"Alice": "person: Alice\nplace: Paris", "Berlin": "place: Berlin"}
    run(words())
    for target in ("label-studio", "argilla"):
        assert cli.main(["export", "outputs/news", f"{target}.json", "--format", target]) == 0
    tasks, records = (json.loads(Path(f"{name}.json").read_text()) for name in ("label-studio", "argilla"))
    value = {"start": 11, "end": 17, "text": "Berlin", "labels": ["place"]}
    names = {"from_name": "spans", "to_name": "text", "type": "labels"}
    assert tasks[2]["predictions"] == [{"model_version": "fake", "result": [{**names, "value": value}]}]
    assert tasks[2]["data"]["text"][11:17] == "Berlin"
    assert tasks[1]["predictions"] == [{"model_version": "fake", "result": []}]
    assert tasks[3]["predictions"] == []
    config = Path("label-studio.xml").read_text()
    assert '<Labels name="spans" toName="text">' in config
    assert '<Label value="place"/>' in config
    spans = [{"start": 0, "end": 5, "label": "person"}, {"start": 14, "end": 19, "label": "place"}]
    assert records[0]["suggestions"] == {"spans": {"value": spans, "agent": "fake"}}
    assert cli.main(["export", "outputs/news", "x.json", "--format", "argilla", "--text", "gold"]) == 2


def test_diff_shows_the_spans_f1_of_both_runs(answers, capsys):
    run(words())
    answers |= {"Alice": "person: Alice\nplace: Paris", "Berlin": "place: Berlin"}
    run([*words()[:-2], "run_name=other", words()[-1]])
    assert cli.main(["diff", "outputs/news", "outputs/other", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gold"]
    assert (found["accuracy_a"], found["accuracy_b"]) == (1 / 3, 2 / 3)
    assert (found["spans"]["f1_a"], found["spans"]["f1_b"]) == (0.0, 6 / 7)
    assert found["spans"]["f1_difference"] == 6 / 7
    assert cli.main(["diff", "outputs/news", "outputs/other"]) == 0
    assert "0.000 -> 0.857 of exact spans" in capsys.readouterr().out


def test_gold_of_other_kinds_is_refused_before_weights_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the kind 'animal' is not among"):
        run(words(rows=[{**ROWS[0], "gold": [[0, 5, "animal"]]}]))
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("gold", "problem"),
    [
        ([[0, 50, "place"]], "a span ends at 50, and the text has 5 characters"),
        ([{"start": 0, "end": 5, "kind": "place", "text": "Alic"}], "'Alice' stands from 0 to 5, not 'Alic'"),
        ([[5, 5, "place"]], "a span from 5 to 5 has no characters"),
        ([["Alice", "person"]], "it is no span such as"),
        ("person", "it is no list of spans such as"),
        ('"person"', "it is no list of spans such as"),
        ({"label": "person"}, "it is no list of spans such as"),
    ],
)
def test_gold_that_cannot_be_right_is_told(gold, problem):
    with pytest.raises(ValueError, match=problem):
        gold_spans(gold, "Alice")


@pytest.mark.parametrize(
    "gold",
    [
        [{"start": 0, "end": 5, "kind": "place"}],
        [{"start": 0, "end": 5, "label": "place", "kind": None, "text": "Alice"}],
        '[{"start": 0, "end": 5.0, "entity_group": "place"}]',
        '[[0, 5, "place"], [0, 5, "place"]]',
        {"entities": [(0, 5, "place")]},
        [{"value": {"start": 0, "end": 5, "labels": ["place"]}}],
    ],
)
def test_gold_spans_are_read_as_other_tools_write_them(gold):
    assert gold_spans(gold, "Alice") == [(0, 5, "place")]


def test_an_unknown_column_is_refused_before_weights_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"job\.column: no column 'body'; valid: text, gold"):
        run(words("job.column=body"))


def test_a_run_that_is_stopped_goes_on_to_the_same_spans(tmp_path):
    texts = ["Bob met Alice.", "", "no one 😀", "Rome and Bob in Rome"]
    jobs = [Spans(KINDS) for _ in range(3)]
    worlds = [World(tmp_path / name, texts, job.steps, job.schema()) for name, job in zip("aab", jobs, strict=True)]
    worlds[0].engine.batch_size = 1
    worlds[0].run(stop_after=2)
    assert worlds[1].run() == worlds[2].run()
    assert 0 < len(worlds[1].engine.computed) < 3


def test_spans_of_a_model_with_random_weights_stand_in_their_texts(tmp_path, monkeypatch, tiny_model_folder):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": text, "gold": None} for text in (ODD, "Bob", "Bob, Bob\r\n and 😀 Rome")]
    more = [f"model.path={tiny_model_folder}", "engine.backend=cpu", "prompt.chat=false", "engine.max_tokens=40"]
    keys = [word for word in words(rows=rows) if word != "engine.backend=fake"]
    figures = run([*keys, *more, "job.most=3", "output.report=false", "engine.temperature=1"])
    assert figures["finished"] == 3
    assert set(figures["error_kinds"]) <= {"cut off"}
    for row in Run(figures["path"]).rows():
        for one in row["spans"] or ():
            assert row["text"][one["start"] : one["end"]] == one["text"]


def test_figures_are_those_of_nervaluate():
    """The numbers are those that nervaluate 1.2 gives: its scheme strict, and partial of the only kind."""
    gold = [[[0, 5, "a"], [10, 15, "a"], [20, 30, "a"]], [[0, 4, "a"]], []]
    said = [[[0, 5, "a"], [11, 15, "a"], [40, 44, "a"]], [[0, 4, "a"]], [[3, 6, "a"]]]
    found = span_figures("spans", gold, said)
    assert (found["precision"], found["recall"], found["exact"]) == (2 / 5, 2 / 4, 1 / 3)
    assert found["f1"] == pytest.approx(0.4444444444)
    assert found["partial_f1"] == pytest.approx(0.5555555556)
    low, high = found["intervals"]["f1"]
    assert 0 <= low < found["f1"] < high <= 1


def test_kills_lose_no_span_and_ask_nothing_again(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    texts = [f"Ann {i} and Bob {i} met in Rome" if i % 7 else "" for i in range(30)]
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["job=spans", "job.kinds=[person,place]", "dataset=jsonl", "dataset.path=rows.jsonl", "output.report=false"]
    words += ["engine.backend=fake", "engine.batch_size=4", "engine.window=16", "output.shard_rows=8"]
    with kills.Run(tmp_path, "killed", words) as killed:
        kills.kill_until_done(killed, [(12, 0.01)])
    run([*words, "run_name=whole"])
    assert killed.shards() == shards("whole", tmp_path / "outputs")
    assert {row for row, _ in killed.committed()} == {row for row, text in enumerate(texts) if text}
