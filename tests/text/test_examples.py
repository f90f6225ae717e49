"""What few-shot examples from a data set promise."""

import json
from collections import Counter
from pathlib import Path

import pytest

from runner import cli, run
from runner.config.load import load_config
from runner.results.run import Run
from runner.session.prepare import prepare
from runner.text.examples import Examples, ExamplesConf, Shot
from runner.types import UserError

pytestmark = pytest.mark.usefixtures("folder")

TEXTS = [
    "win money now",
    "win a prize",
    "lunch today?",
    "noon meeting",
    "cheap money offer",
    "dinner at eight",
    "LUNCH  Today?",
]
GOLD = ["spam", "spam", "ham", "ham", "spam", "ham", "ham"]


def examples(select, k=2, texts=TEXTS[:6], gold=GOLD, seed=0, **conf):
    shots = [
        Shot({"text": text, "id": at}, {}, kind, kind) for at, (text, kind) in enumerate(zip(texts, gold, strict=False))
    ]
    return Examples(shots, ExamplesConf(select, k, **conf), seed, ["text"], ["text", "id"])


def chosen(found, text, id=None):
    row = {"text": text, "id": id}
    return [shot.row["text"] for _, shot in found.choose(row, row)]


def test_the_nearest_examples_are_those_with_the_same_words_and_the_nearest_is_the_last():
    found = examples("nearest")
    assert chosen(found, "a cheap dinner, a prize to win")[-1] == "win a prize"
    assert chosen(found, "money money offer")[-1] == "cheap money offer"
    assert chosen(found, "dinner is today at eight?") == ["lunch today?", "dinner at eight"]


@pytest.mark.parametrize("text", ["", "???", "zebra"])
def test_a_text_that_has_nothing_in_common_is_shown_the_first_examples(text):
    assert set(chosen(examples("nearest"), text)) == {"win money now", "win a prize"}


@pytest.mark.parametrize("select", ["nearest", "random", "balanced"])
def test_a_row_is_never_among_its_examples_nor_is_its_text(select):
    found = examples(select, 5)
    for text in TEXTS[:6]:
        for spelled in (text, text.upper(), f"  {text.replace(' ', '   ')} "):
            assert len(chosen(found, spelled)) == 5
            assert text not in chosen(found, spelled)


def test_a_row_is_not_among_its_examples_where_the_question_shows_another_text_of_it():
    found = examples("nearest", 5)
    row = {"text": TEXTS[0], "id": 0}
    assert 0 not in [at for at, _ in found.choose({**row, "text": "a part of it"}, row)]


@pytest.mark.parametrize("select", ["random", "balanced"])
def test_all_rows_are_shown_the_same_examples_but_those_that_are_one(select):
    found = examples(select)
    usual = chosen(found, "new")
    assert all(chosen(found, text) == usual for text in ("other", "", "win"))
    for place, text in enumerate(usual):
        instead = chosen(found, text)
        assert [a == b for a, b in zip(usual, instead, strict=True)] == [at != place for at in range(2)]


def test_balanced_examples_are_as_many_of_each_answer_for_rows_that_are_among_them_too():
    found = examples("balanced", 4)
    answers = {shot.row["text"]: shot.answer for shot in found.shots}
    for text in ("new", *TEXTS[:6]):
        assert Counter(answers[one] for one in chosen(found, text)) == {"ham": 2, "spam": 2}


def test_groups_bound_how_many_different_sets_of_examples_there_are():
    texts = [f"word{at % 5} text {at}" for at in range(60)]
    found = examples("nearest", 3, texts, ["ham"] * 60, groups=4)
    sets = Counter(tuple(chosen(found, f"word{at % 5} other {at}")) for at in range(100))
    assert 2 <= len(sets) <= 4
    assert all(text not in chosen(found, text) and len(chosen(found, text)) == 3 for text in texts)


def test_the_choice_depends_on_the_seed():
    drawn = {tuple(chosen(examples("random", 3, seed=seed), "new")) for seed in range(8)}
    assert len(drawn) > 1


# Runs


def words(*more, select="nearest"):
    rows = ({"text": text, "kind": kind} for text, kind in zip(TEXTS, GOLD, strict=True))
    Path("mail.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    keys = ["job=label", "job.labels=[ham,spam]", "dataset=jsonl", "dataset.path=mail.jsonl", "dataset.gold=kind"]
    keys += ["engine.backend=fake", "run_name=mail", "prompt.user=Spam? {{ text }}", "prompt.examples_from.k=2"]
    chosen = [f"prompt.examples_from.select={select}"] if select else []
    own = [key.split("=")[0] for key in more]
    return [*(key for key in (*keys, *chosen) if key.split("=")[0] not in own), *more]


def prompts(*more, **which):
    """Every row's prompt."""
    ready = prepare(load_config(words(*more, **which)))
    found = []
    for row in ready.source.rows(0):
        request = next(ready.job.steps(row))
        found.append(ready.prompter.text(request, row))
    return found


def test_examples_are_earlier_turns_of_the_conversation():
    turns = ["user: Spam? win a prize", "assistant: spam", "user: Spam? win money now", "assistant: spam"]
    assert prompts()[3] == "\n\n".join([*turns, "user: Spam? noon meeting", "assistant:"])


def test_examples_stand_behind_those_of_the_prompt_and_in_raw_prompts():
    more = [
        "prompt.chat=false",
        "prompt.answer_prefix=' -> '",
        "prompt.examples=[{text: buy, answer: spam}]",
        "run_name=raw",
    ]
    ready = prepare(load_config(words(*more, select="balanced")))
    row = next(ready.source.rows(0, 1))
    text = ready.prompter.text(next(ready.job.steps(row)), row)
    assert text.startswith("Spam? buy -> spam\n\nSpam? ")
    assert text.count(" -> ") == 3
    assert text.endswith("\n\nSpam? win money now")


def test_another_data_set_can_give_the_examples_with_classes_and_columns_of_its_own():
    Path("gold.csv").write_text("text,label,labels\nfree money,spam,x\nsee you,ham,y\n,ham,z\nwin A prize,spam,\n")
    found = prompts("prompt.examples_from.path=gold.csv", "prompt.examples_from.gold=label", "prompt.examples_from.k=1")
    assert found[0].startswith("user: Spam? free money\n\n")
    assert "win A prize" not in found[1]


def test_the_choice_does_not_depend_on_how_many_rows_are_read(capsys):
    run(words("dataset.limit=3", select="random"))
    run(words("dataset.limit=7", select="random"))
    run(words("run_name=whole", select="random"))
    grown, whole = (list(Run(f"outputs/{name}").rows()) for name in ("mail", "whole"))
    assert [row["probabilities"] for row in grown] == [row["probabilities"] for row in whole]
    assert len(grown) == 7


def test_a_run_is_refused_where_its_examples_have_changed(capsys):
    Path("gold.csv").write_text("text,kind\nfree money,spam\nsee you,ham\n")
    run(words("prompt.examples_from.path=gold.csv"))
    run(words("prompt.examples_from.path=gold.csv"))
    Path("gold.csv").write_text("text,kind\nfree money,ham\nsee you,ham\n")
    with pytest.raises(UserError, match=r"prompt\.examples_from\.fingerprint"):
        run(words("prompt.examples_from.path=gold.csv"))


def test_preview_says_what_examples_cost(capsys):
    assert cli.main(["preview", *words()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "examples 2 a prompt, nearest among 6 rows prompts of" in shown
    assert cli.main(["preview", "--json", *words(select="balanced")]) == 0
    cheap = json.loads(capsys.readouterr().out)["examples"]
    assert cli.main(["preview", "--json", *words()]) == 0
    dear = json.loads(capsys.readouterr().out)["examples"]
    assert cheap["computed"] < dear["computed"]
    assert cheap["tokens_without"] == dear["tokens_without"] < cheap["tokens"]


def test_spans_and_texts_are_shown_as_the_model_would_write_them():
    spans = '[[7, 11, "place"], [0, 3, "person"]]'
    rows = [{"text": "Bob in\nRome 😀", "kind": spans}, {"text": "Nobody", "kind": "[]"}]
    Path("gold.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    more = ["dataset=jsonl", "dataset.path=gold.jsonl", "prompt.examples_from.select=random", "engine.backend=fake"]
    more += ["prompt.examples_from.k=1", "prompt.examples_from.gold=kind"]
    for keys, answers in (
        (["job=spans", "job.kinds=[place,person]"], {"person: Bob\nplace: Rome", "none"}),
        (["job=generate", "prompt.user={{ text }}"], {spans, "[]"}),
    ):
        ready = prepare(load_config([*keys, *more]))
        assert {shot.answer for shot in ready.prompter.examples.shots} == answers


def test_an_example_has_the_answers_to_all_questions_and_those_of_a_row_share_its_text():
    rows = [
        ("Come!", "warm", None, 2),
        ("No.", "cold", "work; home", 1),
        ("Hm.", None, None, None),
        ("Hi", "warm", "", 1),
    ]
    names = ("text", "tone", "about", "stars")
    gold = [dict(zip(names, row, strict=True)) for row in rows]
    Path("gold.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in gold))
    asked = "{name: t, ask: tone?, labels: [{name: warm, surface: kind}, cold], gold: tone}"
    asked += ", {name: a, ask: '{label}?', labels: [work, home, play], multi: true, gold: about}"
    asked += ", {name: s, ask: stars?, scale: [1, 3], gold: stars}, {name: free, ask: free?, labels: [ja, nein]}"
    more = [f"job.questions=[{asked}]", "prompt.user='{{ text }} {{ question }}'", "dataset.gold=null", "job.labels=[]"]
    ready = prepare(load_config(words(*more, "prompt.examples_from.path=gold.jsonl", "prompt.examples_from.k=3")))
    row = {"text": "Hi, no."}
    texts = [ready.prompter.text(request, row) for request in next(ready.job.steps(row))]
    told = {
        "Come!": "tone? kind|stars? 2",
        "No.": "tone? cold|work? yes|home? yes|play? no|stars? 1",
        "Hi": "tone? kind|stars? 1",
    }
    turns = [
        f"user: {text} {asked}\n\nassistant: {answer}\n\n"
        for text in ("Come!", "No.", "Hi")
        for asked, answer in (turn.split(" ") for turn in told[text].split("|"))
    ]
    assert sorted(texts[0].split("user: ")[1:-1]) == sorted(turn.removeprefix("user: ") for turn in turns)
    before = texts[0].removesuffix("tone?\n\nassistant:")
    endings = ["tone?", "work?", "home?", "play?", "stars?", "free?"]
    assert texts == [f"{before}{ending}\n\nassistant:" for ending in endings]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            ["job.labels=[]", "job.questions=[{name: a, labels: [x, y]}]", "prompt.user={{ text }} {{ question }}"],
            "none of job.questions has a column gold",
        ),
        (
            ["job.labels=[]", "job.questions=[{name: a, scale: [ham, spam], gold: kind}]",
             "prompt.examples_from.gold=kind"],
            "prompt.examples_from.gold=kind: with job.questions each question has its own gold",
        ),
        (["prompt.examples_from.select=null"], "prompt.examples_from.select is not set"),
        (["prompt.examples_from.select=near"], "it can be nearest, random, balanced"),
        (["prompt.examples_from.k=0"], "it must be at least 1"),
        (["prompt.examples_from.k=7"], "6 of 7 rows of mail.jsonl can be an example"),
        (["prompt.examples_from.gold=kin"], "no column 'kin' (did you mean 'kind'?)"),
        (["dataset.gold=null"], "prompt.examples_from.gold is not set, nor is dataset.gold"),
        (["prompt.examples_from.path=none.csv"], "prompt.examples_from.path: no such file: none.csv"),
        (["prompt.examples_from.where=text is null"], "it applies to another data set"),
        (["prompt.examples_from.groups=2", "prompt.examples_from.select=random"], "select=nearest only"),
        (["prompt.examples_from.path=other.csv"], "other.csv has no column 'text', which prompt.user uses"),
        (["prompt.examples_from.path=wrong.csv"], "0 of 1 row of wrong.csv can be an example: not among job.labels"),
        (["job=openai_batch", "job.labels=null"], "this job's requests do not come from rows"),
    ],
)  # fmt: skip
def test_examples_that_cannot_be_had_are_refused_before_weights_load(more, problem):
    Path("other.csv").write_text("body,kind\nx,ham\n")
    Path("wrong.csv").write_text("text,kind\nx,eggs\n")
    if "job=openai_batch" in more:
        Path("batch.jsonl").write_text(
            '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}'
        )
        more = [
            "job=openai_batch",
            "dataset=openai_batch",
            "dataset.path=batch.jsonl",
            "engine.backend=fake",
            "prompt.examples_from.select=random",
        ]
    else:
        more = words(*more)
    with pytest.raises(UserError) as refused:
        run(more)
    assert problem in str(refused.value)
    assert not Path("outputs").exists()


def test_a_job_of_ones_own_says_how_the_model_would_write_an_answer():
    Path("mine").mkdir()
    Path("mine/my.py").write_text(
        "from dataclasses import dataclass\nimport pyarrow as pa\nfrom rowmill import Example, Request\n"
        "@dataclass\nclass Mine:\n"
        "    def schema(self):\n        return pa.schema([('text', pa.string())])\n"
        "    def example(self, row, gold):\n        return Example(f'It is {gold}.') if gold == 'ham' else None\n"
        "    def steps(self, row):\n        answer = yield Request()\n        return {'text': answer.text}\n"
    )
    Path("mine/job").mkdir()
    Path("mine/job/my.yaml").write_text("_target_: my.Mine\n")
    keys = [word for word in words() if not word.startswith("job")]
    ready = prepare(load_config([*keys, "job=my"], "mine"))
    assert {shot.answer for shot in ready.prompter.examples.shots} == {"It is ham."}


@pytest.mark.parametrize(
    ("keys", "golds", "answers"),
    [
        (["job.multi=true", "prompt.user={{ text }} {{ label.surface }}?"], ["ham; spam", "spam", ""], ["no", "yes"]),
        (["job.labels=[]", "job.scale=[1,3]", "prompt.user={{ text }}"], ["1", "2.0", "3"], ["1", "2", "3"]),
        (["job.labels=[]", "job.scale=[low,high]", "prompt.user={{ text }}"], ["low", "high", "low"], ["high", "low"]),
    ],
)
def test_examples_of_several_labels_and_of_scales_have_the_answers_to_their_questions(keys, golds, answers):
    rows = [{"text": f"mail {at}", "gold": gold} for at, gold in enumerate(golds)]
    Path("other.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    more = [*keys, "prompt.examples_from.path=other.jsonl", "prompt.examples_from.gold=gold", "dataset.gold=null"]
    ready = prepare(load_config(words(*more, "prompt.examples_from.k=2", select="balanced")))
    row = next(ready.source.rows(0, 1))
    asked = next(ready.job.steps(row))
    found = set()
    for request in asked if isinstance(asked, list) else [asked]:
        turns = ready.prompter.text(request, row).split("\n\n")
        found |= {turn.removeprefix("assistant: ") for turn in turns if turn.startswith("assistant: ")}
    assert found <= set(answers)
    assert len(found) == 2
