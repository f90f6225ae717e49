"""What several labels, scales and several questions a row promise."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from jobs.label import Label
from jobs.label.measure import choose, find_priors
from runner import open_run, run
from runner.cli import main
from runner.types import Completion, Request, RowError, UserError
from tests.support.jobs import scored
from tests.support.kills import Run, kill_until_done
from tests.support.runs import json_lines, shards

TOPICS = ["price", "quality", "delivery"]
MULTI = ["job=label", "job.multi=true", "job.labels=[price,quality,delivery]"]
ABOUT = 'prompt.user="Mail: {{ text }}\\n\\nIs it about {{ label.surface }}? Answer yes or no."'
ASK = 'prompt.user="Mail: {{ text }}\\n\\n{{ question }}"'


def answered(job, answer):
    """The columns of a row and the requests for them; ``answer`` makes a completion of each request."""
    steps, asked, given = job.steps({"text": "hi"}), [], None
    while True:
        try:
            new = steps.send(given)
        except StopIteration as returned:
            return returned.value, asked
        one = isinstance(new, Request)
        asked += [new] if one else new
        given = answer(new) if one else [answer(request) for request in new]


def write_rows(path="rows.jsonl", count=30, **more):
    rows = [
        {
            "text": f"mail {i} about tea",
            "topics": [name for at, name in enumerate(TOPICS) if i >> at & 1],
            "flat": "; ".join(name for at, name in enumerate(TOPICS) if i >> at & 1),
            "stars": 1 + i % 5,
            "tone": "angry" if i % 4 else "calm",
            **more,
        }
        for i in range(count)
    ]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with rows, and runs of several labels, of a scale and of questions."""
    folder = tmp_path_factory.mktemp("questions")
    rows = write_rows(folder / "rows.jsonl")
    data = ["dataset=jsonl", f"dataset.path={folder}/rows.jsonl", f"output.dir={folder}", "engine.backend=fake"]
    run([*MULTI, ABOUT, *data, "dataset.gold=topics", "run_name=multi", "job.threshold_for=f1", "calibrate.rows=0.4"])
    run(["job=label", "job.scale=[1,5]", "prompt.user={{ text }}", *data, "dataset.gold=stars", "run_name=scale"])
    questions = [
        "{name: tone, labels: [angry, calm], gold: tone}",
        "{name: topics, ask: 'Is it {label}?', labels: [price, quality, delivery], multi: true, gold: flat}",
        "{name: stars, scale: [1, 5], where: {tone: angry}, gold: stars}",
        "{name: why, schema: {type: object, properties: {n: {type: integer}}, required: [n]}, where: 'stars >= 3'}",
    ]
    run(["job=label", f"job.questions=[{', '.join(questions)}]", ASK, *data, "run_name=asked"])
    return folder, rows


# Several labels


def test_each_label_is_asked_about_and_given_from_its_threshold_on():
    job = Label(TOPICS, multi=True, threshold={"price": 0.3, "quality": 0.7})
    likely = {"price": 0.3, "quality": 0.69, "delivery": 0.5}
    columns, asked = answered(
        job, lambda request: scored(likely[n := request.variables["label"]["name"]], 1 - likely[n])
    )
    assert [request.variables["label"]["surface"] for request in asked] == TOPICS
    assert {request.choices for request in asked} == {("yes", "no")}
    assert columns["labels"] == ["price", "delivery"]
    assert columns["probabilities"] == pytest.approx(likely)
    assert columns["confidence"] == pytest.approx(0.3)  # of giving price
    assert job.schema().names == list(columns)


def test_of_many_labels_the_likeliest_are_given_in_the_jobs_order():
    likely = iter([0.6, 0.9, 0.8])
    columns, _ = answered(Label(TOPICS, multi=True, most=2), lambda _: scored(p := next(likely), 1 - p))
    assert columns["labels"] == ["quality", "delivery"]


def test_no_label_may_fit():
    assert answered(Label(TOPICS, multi=True), lambda _: scored(0.1, 0.9))[0]["labels"] == []


@pytest.mark.parametrize(("goal", "at"), [("f1", 0.0), ("precision", 0.8), ("coverage", 0.75)])
def test_a_threshold_is_the_best_for_its_goal(goal, at):
    rng = np.random.default_rng(3)
    likely = np.round(rng.random(80), 2)  # with ties
    right = rng.random(80) < likely
    found = choose(likely, right, goal, at)
    given = likely >= found["threshold"]
    assert found["precision"] == pytest.approx(precision_score(right, given))
    assert found["coverage"] == pytest.approx(recall_score(right, given))
    all_of_them = [(likely >= t) for t in np.unique(likely)]
    precisions = [precision_score(right, one) for one in all_of_them]
    recalls = [recall_score(right, one) for one in all_of_them]
    if goal == "f1":
        best = max(2 * p * r / (p + r) for p, r in zip(precisions, recalls, strict=True))
        assert found["f1"] == pytest.approx(best)
    elif goal == "precision":
        assert found["coverage"] == pytest.approx(max(r for p, r in zip(precisions, recalls, strict=True) if p >= at))
    else:
        assert given.sum() == min(one.sum() for one, r in zip(all_of_them, recalls, strict=True) if r >= at)


def test_a_label_that_never_is_precise_enough_is_not_given():
    found = choose(np.array([0.9, 0.8]), np.array([False, True]), "precision", 0.9)
    assert found["threshold"] is None
    job = Label(["a", "b"], multi=True, threshold_for="precision")
    job.begin({"thresholds": {"columns": {"labels": {"a": found}}}})
    assert answered(job, lambda _: scored(0.999, 0.001))[0]["labels"] == ["b"]


def test_rows_that_thresholds_are_chosen_on_are_not_evaluated(folder):
    path, rows = folder
    made = open_run(path / "multi")
    chosen = made.prelude["thresholds"]
    assert len(chosen["rows"]) == 12
    found = made.figures["evaluation"]
    assert found["rows"] == 18
    for row in made.rows():
        for name in TOPICS:
            threshold = chosen["columns"]["labels"][name]["threshold"]
            assert (name in row["labels"]) == (row["probabilities"][name] >= threshold)
    rest = [row for row in made.rows() if row["row"] not in chosen["rows"]]
    right = [set(row["labels"]) == set(rows[row["row"]]["topics"]) for row in rest]
    assert found["exact"] == pytest.approx(sum(right) / 18)


def same_answers(path, options, other):
    """Whether an export with these options has what another run answered."""
    table = path.parent / "anew.jsonl"
    assert main(["export", str(path), str(table), *options, "--overwrite"]) == 0
    rows = json_lines(table)
    for row, same in zip(rows, open_run(other).rows(), strict=True):
        for name in set(row) - {"usage"}:
            known = isinstance(same[name], float | dict)
            assert row[name] == (pytest.approx(same[name]) if known else same[name]), name


def test_several_labels_are_decided_anew_from_what_is_on_disk(folder, tmp_path, capsys):
    path, _ = folder
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    words = [*MULTI, ABOUT, *data, "dataset.gold=topics", "output.report=false"]
    run([*words, "run_name=prior", "job.prior=batch"])
    low = run([*words, "job.threshold=0.2", "job.most=3", "run_name=low"])["evaluation"]
    options = ["--no-prior", "--threshold", "0.2"]
    assert main(["evaluate", f"{tmp_path}/prior", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {what: found[what] for what in ("exact", "classes")} == {w: low[w] for w in ("exact", "classes")}
    same_answers(tmp_path / "prior", options, tmp_path / "low")


def test_the_answers_to_all_questions_are_decided_anew_without_their_priors(folder, tmp_path, capsys):
    path, _ = folder
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    asked = "{name: tone, labels: [angry, calm], gold: tone}, {name: stars, scale: [1, 12], gold: stars}"
    topics = "{name: topics, ask: 'Is it {label}?', labels: [price, quality, delivery], multi: true, gold: topics}"
    words = ["job=label", f"job.questions=[{asked}, {topics}]", ASK, *data, "output.report=false"]
    plain = run([*words, "run_name=plain"])["evaluations"]
    prior = run([*words, "run_name=prior", "job.prior=batch"])["evaluations"]
    assert {prior[name] != plain[name] for name in ("tone", "stars", "topics")} == {True}
    assert prior["tone"]["prior"]["accuracy_without"] == plain["tone"]["accuracy"]
    same_answers(tmp_path / "prior", ["--no-prior"], tmp_path / "plain")
    capsys.readouterr()
    for name, figure in (("tone", "ece"), ("stars", "mae_expected"), ("topics", "micro_f1")):
        assert main(["evaluate", f"{tmp_path}/prior", "--no-prior", "--column", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[figure] == pytest.approx(plain[name][figure])


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("multi", ["--no-prior"], "multi has no prior to leave out"),
        ("multi", ["--temperature", "2"], "--temperature=2.0: several labels a row are not calibrated"),
        ("scale", ["--threshold", "0.5"], "--threshold=0.5: levels on a scale have none"),
        ("scale", ["--no-prior"], "scale has no prior to leave out"),
        ("asked", ["--no-prior"], "--column is not set: which question is to be decided anew? (tone, topics, stars)"),
        ("asked", ["--no-prior", "--column", "tone"], "asked has no prior to leave out"),
    ],
)
def test_what_has_nothing_to_be_decided_anew_says_so(folder, capsys, name, options, problem):
    assert main(["evaluate", str(folder[0] / name), *options]) == 2
    assert problem in capsys.readouterr().err


def test_thresholds_of_a_question_are_chosen_on_its_own_gold(folder, tmp_path):
    path, _ = folder
    topics = "name: topics, ask: 'Is it {label}?', labels: [price, quality, delivery], multi: true"
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    words = [
        "job=label",
        ASK,
        *data,
        "job.threshold_for=f1",
        "calibrate.rows=0.4",
        "run_name=chosen",
        "output.report=false",
    ]
    more = "{name: more, ask: 'Is it {label}?', labels: [a], multi: true}"
    run([f"job.questions=[{{{topics}, gold: flat}}, {more}]", *words])
    found = open_run(tmp_path / "chosen")
    assert list(found.prelude["thresholds"]["columns"]) == ["topics"]
    assert found.figures["evaluations"]["topics"]["rows"] == 17  # of the 18 others one has an empty cell
    with pytest.raises(UserError, match=r"threshold_for=f1: job.questions\[0\]\.gold must name the column"):
        run([f"job.questions=[{{{topics}}}, {more}]", *words, "dataset.gold=topics"])


# Scales


def test_a_level_comes_with_the_expected_value_and_the_spread():
    columns, asked = answered(Label([], scale=[1, 5]), lambda _: scored(0.1, 0.2, 0.4, 0.2, 0.1))
    assert asked[0].choices == ("1", "2", "3", "4", "5")
    assert columns["level"] == 3 and isinstance(columns["level"], int)
    assert columns["expected"] == pytest.approx(3)
    assert columns["spread"] == pytest.approx(math.sqrt(1.2))
    assert columns["confidence"] == pytest.approx(0.4)
    assert Label([], scale=[1, 5]).schema().names == list(columns)


@pytest.mark.parametrize(
    ("scale", "names", "level", "expected"),
    [
        (["low", "mid", "high"], ["low", "mid", "high"], "high", 2.6),
        ({"bad": "worse than others", "good": None}, ["bad", "good"], "good", 1.7),
        ([0, 0.5, 1], ["0", "0.5", "1"], 1.0, 0.8),
        ([-1, 1], ["-1", "0", "1"], 1, 0.6),
        (["1", "2"], ["1", "2"], 2, 1.7),
    ],
)
def test_levels_are_numbers_or_names_from_the_lowest_to_the_highest(scale, names, level, expected):
    job = Label([], scale=scale)
    likely = (0.1, 0.2, 0.7) if len(names) == 3 else (0.3, 0.7)
    columns, _ = answered(job, lambda _: scored(*likely))
    assert job.names == names
    assert columns["level"] == level and type(columns["level"]) is type(level)
    assert columns["expected"] == pytest.approx(expected)


def test_a_level_does_not_count_what_a_longer_one_that_begins_with_it_has():
    job = Label([], scale=[0, 100])
    level = job._questions.all[0]  # what check_source gives it follows from a tokenizer
    level.take_tokens([tuple(map(int, name)) for name in job.names])
    logprobs = dict.fromkeys(job.names, -50.0) | {"1": math.log(0.5), "10": math.log(0.4), "100": math.log(0.3)}
    logprobs |= {"7": math.log(0.25)}
    columns = level.read([Completion(finish_reason="choice", logprobs=tuple(logprobs.values()))])
    shares = {"1": 0.1, "10": 0.1, "100": 0.3, "7": 0.25}
    whole = sum(shares.values())
    assert columns["level"] == 100
    assert {name: columns["probabilities"][name] for name in shares} == pytest.approx(
        {name: share / whole for name, share in shares.items()}
    )


def test_a_prior_of_levels_is_measured_without_what_longer_ones_have():
    job = Label([], scale=[1, 10], prior="batch")
    level, *_ = job._questions.all  # what check_source gives it follows from a tokenizer
    level.take_tokens([tuple(map(int, name)) for name in job.names])
    logprobs = dict.fromkeys(job.names, math.log(0.05)) | {"1": math.log(0.6), "10": math.log(0.5)}
    answer = Completion(finish_reason="choice", logprobs=tuple(logprobs.values()))
    measuring = find_priors([level], SimpleNamespace(sample=lambda *_: {0: {}}), "batch", 1)
    next(measuring)
    with pytest.raises(StopIteration) as found:
        measuring.send([answer])
    job.begin({"priors": found.value.value})
    assert level.read([answer])["probabilities"] == pytest.approx(dict.fromkeys(job.names, 0.1))


# Several questions


def test_a_question_is_asked_only_where_an_earlier_one_has_the_answer(folder):
    path, _ = folder
    rows = list(open_run(path / "asked").rows())
    asked = {row["row"]: row["stars"] is not None for row in rows}
    assert asked == {row["row"]: row["tone"] == "angry" for row in rows}
    assert {row["why"] is not None for row in rows if row["stars"] is None} == {False}
    assert all((row["why"] is not None) == (row["stars"] >= 3) for row in rows if row["stars"] is not None)
    assert {True, False} == set(asked.values()) == {row["why"] is not None for row in rows if asked[row["row"]]}
    assert all(isinstance(row["why"]["n"], int) for row in rows if row["why"] is not None)
    assert all(row["topics"] is not None and row["tone_confidence"] >= 0.5 for row in rows)


def test_all_that_can_be_asked_at_once_is_and_nothing_that_is_not_wanted():
    stars = {"name": "stars", "scale": [1, 2], "where": {"tone": "bad"}}
    job = Label([], questions=[{"name": "tone", "labels": ["bad", "good"]}, stars, {"name": "t", "scale": [1, 3]}])
    for bad, asked in ((0.9, ["tone", "t", "stars"]), (0.1, ["tone", "t"])):
        likely = {"tone": (bad, 1 - bad), "t": (0.1, 0.2, 0.7), "stars": (0.4, 0.6)}
        columns, requests = answered(job, lambda one, all=likely: scored(*all[one.variables["question"]]))
        assert [one.variables["question"] for one in requests] == asked
        assert columns["stars"] == (2 if "stars" in asked else None)
        assert job.schema().names == list(columns)
        assert next(job.steps({})) == requests[:2]


def structured(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


ORDER = structured(
    n={"type": "integer"},
    of=structured(kind={"enum": ["x", "y"]}),
    parts={"type": "array", "items": structured(p={"type": "number"})},
)


@pytest.mark.parametrize(
    ("where", "found", "holds"),
    [
        ("{tone: bad}", {"tone": "bad"}, True),
        ("{tone: [bad, mixed]}", {"tone": "mixed"}, True),
        ("{tone: [bad, mixed]}", {"tone": "good"}, False),
        ("{tone: bad}", {"tone": None}, False),
        ("stars <= 2", {"stars": 2}, True),
        ("stars <= 2", {"stars": 3}, False),
        ("not stars <= 2", {"stars": None}, False),
        ("tone == bad and stars in [1, 5]", {"tone": "bad", "stars": 5}, True),
        ("{topics: price}", {"topics": ["quality", "price"]}, True),
        ("{topics: price}", {"topics": []}, False),
        ("topics != price", {"topics": []}, True),
        ("tone_confidence >= 0.8 or stars_expected > 3", {"tone_confidence": 0.5, "stars_expected": 3.5}, True),
        ("stars is null", {"stars": None}, True),
        ("why.n >= 3 and why.of.kind == x", {"why": {"n": 3, "of": {"kind": "x"}}}, True),
        ("why.n >= 3", {"why": {"n": 2, "of": {"kind": "x"}}}, False),
        ("why.of is null", {"why": None}, True),
        ("why is not null and why.parts is not null", {"why": {"n": 2, "parts": [{"p": 1.5}]}}, True),
    ],
)
def test_conditions_look_at_all_that_earlier_questions_found(where, found, holds):
    import yaml

    job = Label(
        [],
        questions=[
            {"name": "tone", "labels": ["bad", "mixed", "good"]},
            {"name": "topics", "labels": TOPICS, "multi": True},
            {"name": "stars", "scale": [1, 5]},
            {"name": "why", "schema": ORDER},
            {"name": "last", "labels": ["a", "b"], "where": yaml.safe_load(where)},
        ],
    )
    condition = job._questions._conditions["last"]  # of a table of cases; the runs above show it in use
    assert condition.holds(found) is holds


def test_an_answer_with_a_schema_that_is_cut_off_is_asked_for_once_more():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    job = Label([], questions=[{"name": "why", "schema": schema, "max_tokens": 5}])
    answers = iter([Completion('{"n"', "length"), Completion('{"n": 3}')])
    columns, asked = answered(job, lambda _: next(answers))
    assert columns == {"why": {"n": 3}}
    assert [request.max_tokens for request in asked] == [5, 10] and asked[1].retry
    with pytest.raises(RowError, match="cut off: no complete answer to why in 5 tokens"):
        answered(job, lambda _: Completion('{"n"', "length"))


# What is refused


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"multi": True}, r"job\.labels has 0 labels, at least one is needed"),
        ({"labels": TOPICS, "most": 2}, r"job\.most=2: it is for several labels a row: add multi=true"),
        ({"labels": TOPICS, "multi": True, "threshold": 1.5}, r"job\.threshold=1\.5: .* from 0 to 1"),
        ({"labels": TOPICS, "multi": True, "threshold": {"prize": 0.5}}, r"no label 'prize' \(did you mean 'price'"),
        ({"labels": TOPICS, "multi": True, "method": "generate"}, r"job\.method=generate: it goes with one label"),
        ({"labels": TOPICS, "multi": True, "answers": ["yes"]}, r"job\.answers=.*: it must be the two texts"),
        ({"labels": TOPICS, "threshold_for": "f1"}, r"job\.threshold_for=f1: only several labels .* job\.multi=true"),
        ({"labels": TOPICS, "multi": True, "threshold_at": 0.8}, r"job\.threshold_at=0\.8: it applies to .*=precision"),
        ({"multi": True, "scale": [1, 5]}, r"job\.multi=true: several labels a row and a scale are two questions"),
        ({"scale": [5, 1]}, r"job\.scale=\[5, 1\]: it must be \[lowest, highest\]"),
        ({"scale": [1, 500]}, r"at most 101 levels"),
        ({"scale": 5}, r"job\.scale=5: it must be"),
        ({"scale": ["low", "low"]}, r"job\.scale: name 'low' is listed twice"),
        ({"questions": []}, r"job\.questions=\[\]: it must be a list of at least one question"),
        ({"questions": ["tone"]}, r"job\.questions\[0\]: it must be a question with its keys"),
        ({"questions": [{"labels": ["a", "b"]}]}, r"job\.questions\[0\]\.name is not set"),
        ({"questions": [{"name": "a b", "scale": [1, 5]}]}, r"job\.questions\[0\]\.name=a b: it must be a word"),
        ({"questions": [{"name": "tone"}]}, r"needs one of labels, scale and schema, and has none of them"),
        ({"questions": [{"name": "t", "scale": [1, 2], "schema": {"type": "object"}}]}, r"has scale and schema"),
        ({"questions": [{"name": "t", "label": ["a"]}]}, r"no key 'label' \(did you mean 'labels'"),
        ({"questions": [{"name": "t", "scale": [1, 2]}] * 2}, r"the name 't' is given twice"),
        ({"questions": [{"name": "t", "schema": {"type": "objec"}}]}, r"job\.questions\[0\]\.schema"),
        ({"questions": [{"name": "t", "scale": [1, 2], "where": {"u": 1}}]}, r"where: no earlier question 'u'"),
        ({"questions": [{"name": "t", "scale": [1, 2]}], "multi": True}, r"job\.multi=True: with job\.questions"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_in_one_line(keys, problem):
    with pytest.raises(UserError, match=problem) as refusal:
        Label(keys.pop("labels", []), **keys)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ({"tone": "angy"}, r"where: the question tone has no label 'angy' \(did you mean 'angry'"),
        ("tone == angy", r"has no label 'angy'"),
        ({"stars": 7}, r"levels from 1 to 5, and never '7'"),
        ("stars = high", r"column 'stars' holds int64, not 'high'"),
        ("tone ~ 3", r"expected ==, "),
        ("why.of.kind == z or stars >= 2", r"why\.of\.kind has no value 'z'; valid: x, y"),
        ("why.of.kind not in [x, 5]", r"why\.of\.kind has no value '5'"),
        ("why.m > 3", r"no earlier question 'why\.m' \(did you mean 'why\.n'"),
        ("why.of == x", r"column 'why\.of' holds struct<kind: .*, not 'x'"),
        ({}, r"it must be \{name of an earlier question: answer\}"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(where, problem):
    questions = [{"name": "tone", "labels": ["angry", "calm"]}, {"name": "stars", "scale": [1, 5]}]
    questions += [{"name": "why", "schema": ORDER}, {"name": "last", "labels": ["a", "b"], "where": where}]
    with pytest.raises(UserError, match=problem) as refusal:
        Label([], questions=questions)
    assert str(refusal.value).startswith("job.questions[3].where")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (MULTI, "prompt.user: it does not use label"),
        (["job=label", "job.questions=[{name: a, scale: [1,2]}, {name: b, scale: [1,2]}]"], "does not use question"),
        (
            [
                "job=label",
                f"job.questions=[{{name: a, scale: [1,2]}}, {{name: b, labels: {TOPICS}, multi: true}}]",
                ABOUT,
            ],
            "it uses label, which the question a has none of",
        ),
        ([*MULTI, ABOUT, "dataset.gold=tone"], "dataset.gold=tone: the label 'calm' in it is not among job.labels"),
        (["job=label", "job.scale=[1,3]", "dataset.gold=stars"], "the value 4 is not on job.scale, 1 to 3"),
        (["job=label", "job.scale=[1,3]", "job.labels=[a,b]"], "job.labels=['a', 'b']: job.scale is set, too"),
        ([*MULTI, ABOUT, "job.threshold_for=f1"], "job.threshold_for: thresholds are chosen on calibrate.rows"),
        ([*MULTI, ABOUT, "calibrate.rows=0.2", "dataset.gold=topics"], "or chooses job.threshold_for=f1"),
        (
            ["job=label", "job.questions=[{name: a, scale: [1,2], gold: star}]"],
            "job.questions[0].gold: no column 'star'",
        ),
    ],
)
def test_what_does_not_fit_data_or_prompt_is_refused_before_the_model(folder, words, problem, tmp_path):
    path, _ = folder
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    with pytest.raises(UserError) as refusal:
        run([*data, *words, *([] if ABOUT in words else ["prompt.user={{ text }}"])])
    assert problem in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_question_before_the_text_is_told(folder, tmp_path, caplog):
    path, _ = folder
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    run([*MULTI, 'prompt.user="{{ label.surface }}? {{ text }}"', *data, "dataset.limit=3"])
    assert "the question stands before the row's text, which is computed 3 times" in caplog.text
    caplog.clear()
    run([*MULTI, ABOUT, *data, "dataset.limit=3", "run_name=behind"])
    assert "stands before" not in caplog.text


# Through a whole run


def test_scores_are_those_of_a_plain_forward_pass(tiny_model_folder, tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import load

    texts = [f"mail {i} about " + "tea and rain, " * 10 for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["dataset=jsonl", f"dataset.path={tmp_path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=cpu"]
    questions = "[{name: t, labels: [ab, q], multi: true}, {name: s, scale: [8, 12], where: 't_confidence >= 0'}]"
    prompt = 'prompt.user="{{ text }} is it {% if label %}{{ label.surface }}{% endif %}?"'
    words += [f"model.path={tiny_model_folder}", "prompt.chat=false", "run_name=scored"]
    figures = run(["job=label", f"job.questions={questions}", prompt, *words])
    model, tokenizer = load(str(tiny_model_folder))
    own = [len(tokenizer.encode(" is it ")) + 3] * 3  # of each request, as two ask about labels and one about the level
    assert figures["prompt_tokens"] - figures["cached_tokens"] <= sum(
        len(tokenizer.encode(t)) + sum(own) for t in texts
    )

    def score(text, choice):
        ids, more = tokenizer.encode(text), tokenizer.encode(choice)
        logits = model(mx.array([[*ids, *more]]))[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return sum(float(logprobs[len(ids) - 1 + at, token]) for at, token in enumerate(more))

    rows = list(open_run(tmp_path / "scored").rows())
    for row in rows:
        for name in ("ab", "q"):
            yes, no = (math.exp(score(f"{row['text']} is it {name}?", one)) for one in ("yes", "no"))
            assert row["t_probabilities"][name] == pytest.approx(yes / (yes + no), rel=1e-5)
        if row["s"] is not None:
            levels = {name: math.exp(score(f"{row['text']} is it ?", name)) for name in ("8", "9", "10", "11", "12")}
            whole = sum(levels.values())
            assert row["s_probabilities"] == pytest.approx({name: p / whole for name, p in levels.items()}, rel=1e-5)
    assert any(row["s"] is not None for row in rows)


def test_kills_lose_nothing_and_ask_nothing_again(tmp_path, monkeypatch, cache):
    write_rows(tmp_path / "rows.jsonl", count=40)
    questions = "[{name: tone, labels: [a, b]}, {name: t, ask: 'Is it {label}?', labels: [price, late], multi: true},"
    questions += " {name: stars, scale: [1, 5], where: {tone: a}}]"
    words = ["job=label", f"job.questions={questions}", ASK, "dataset=jsonl", "dataset.path=rows.jsonl"]
    words += [
        "engine.backend=fake",
        "engine.batch_size=4",
        "engine.window=16",
        "output.shard_rows=16",
        "job.prior=batch",
    ]
    monkeypatch.chdir(tmp_path)
    with Run(tmp_path, "killed", words) as killed:
        kill_until_done(killed, [(30, 0), (50, 0.01)])
    run([*words, "run_name=whole"])
    assert killed.shards() == shards("whole", tmp_path / "outputs")
    assert len(killed.committed()) == sum(4 if row["stars"] is not None else 3 for row in killed.rows()) + 160


# What is said of a run


def test_levels_are_judged_as_scikit_learn_and_scipy_judge_them(folder, capsys):
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score, mean_absolute_error

    path, rows = folder
    made = list(open_run(path / "scale").rows())
    gold, said = [row["stars"] for row in rows], [row["level"] for row in made]
    found = open_run(path / "scale").figures["evaluation"]
    assert found["mae"] == pytest.approx(mean_absolute_error(gold, said))
    assert found["mae_expected"] == pytest.approx(mean_absolute_error(gold, [row["expected"] for row in made]))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(gold, said, weights="quadratic", labels=[1, 2, 3, 4, 5]))
    assert found["spearman"] == pytest.approx(spearmanr(gold, said).statistic)
    assert found["accuracy"] == pytest.approx(np.mean(np.array(gold) == said))
    for name in ("mae", "mae_expected", "kappa", "spearman", "accuracy"):
        low, high = found["intervals"][name]
        assert low < found[name] < high
    assert main(["evaluate", str(path / "scale"), "--gold", "stars"]) == 0
    assert f"quadratic kappa {found['kappa']:.3f}" in capsys.readouterr().out


def test_intervals_of_kappa_and_spearman_are_those_of_resampled_rows():
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    from runner.results.quality.scale import spearmans, weighted_kappas

    rng = np.random.default_rng(0)
    pairs = np.array(list(itertools.product(range(4), repeat=2)))
    counts = rng.multinomial(50, np.ones(16) / 16, 3)
    kappas, ranks = weighted_kappas(counts, *pairs.T, 4), spearmans(counts, *pairs.T.astype(float))
    for sample, count in enumerate(counts):
        a, b = np.repeat(pairs, count, axis=0).T
        assert kappas[sample] == pytest.approx(cohen_kappa_score(a, b, weights="quadratic", labels=range(4)))
        assert ranks[sample] == pytest.approx(spearmanr(a, b).statistic)


def test_each_question_has_its_figures_everywhere(folder, capsys):
    path, _ = folder
    asked = str(path / "asked")
    figures = open_run(asked).figures["evaluations"]
    assert {name: one["kind"] for name, one in figures.items()} == {
        "tone": "labels",
        "topics": "sets",
        "stars": "scale",
    }
    assert main(["status", asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == figures
    assert main(["evaluate", asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == figures
    assert main(["evaluate", asked, "--column", "stars", "--gold", "stars", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures["stars"]
    assert main(["evaluate", asked]) == 0
    shown = capsys.readouterr().out
    assert f"{figures['topics']['macro_f1']:.3f}" in shown and f"{figures['stars']['kappa']:.3f}" in shown
    assert main(["report", asked]) == 0
    page = (path / "asked" / "report.html").read_text()
    assert f"{figures['topics']['micro_f1']:.3f}" in page and f"{figures['stars']['spearman']:.3f}" in page


def test_a_report_shows_lists_of_gold_as_it_shows_answers(folder, capsys):
    path, _ = folder
    assert main(["report", str(path / "multi")]) == 0
    page = (path / "multi" / "report.html").read_text()
    assert "[&#34;price&#34;, &#34;quality&#34;]" in page and "[&#39;price" not in page and "['price" not in page


def exported(run_dir, kind, folder):
    target = folder / f"{run_dir.name}.{kind}.json"
    assert main(["export", str(run_dir), str(target), "--format", kind, "--overwrite"]) == 0
    return target.read_text()


def test_annotators_get_each_answer_in_its_own_kind(folder, tmp_path):
    path, _ = folder
    rows = list(open_run(path / "asked").rows())
    tasks = json.loads(exported(path / "asked", "label-studio", tmp_path))
    for task, row in zip(tasks, rows, strict=True):
        found = {one["from_name"]: one["value"] for one in task["predictions"][0]["result"]}
        assert found["tone"] == {"choices": [row["tone"]]}
        assert found.get("topics", {"choices": []}) == {"choices": row["topics"]}
        assert found.get("stars") == (None if row["stars"] is None else {"rating": row["stars"]})
    sure = [min(v for name, v in row.items() if name.endswith("confidence") and v is not None) for row in rows]
    assert [task["predictions"][0]["score"] for task in tasks] == sure
    xml = (tmp_path / "asked.label-studio.xml").read_text()
    assert '<Choices name="topics" toName="text" choice="multiple">' in xml and 'maxRating="5"' in xml
    records = json.loads(exported(path / "asked", "argilla", tmp_path))
    for record, row in zip(records, rows, strict=True):
        said = record["suggestions"]
        assert said["topics"]["value"] == row["topics"]
        assert said["topics"]["score"] == [row["topics_probabilities"][name] for name in row["topics"]]
        assert ("stars" in said) == (row["stars"] is not None)
        assert "stars" not in said or said["stars"]["value"] == row["stars"]


def test_training_data_has_an_example_for_each_thing_asked(folder, tmp_path):
    path, _ = folder
    made = list(open_run(path / "multi").rows())
    examples = [json.loads(line)["messages"] for line in exported(path / "multi", "chat", tmp_path).splitlines()]
    wanted = [(row["text"], name, name in row["labels"]) for row in made for name in TOPICS]
    for (user, assistant), (text, name, given) in zip(examples, wanted, strict=True):
        assert user["content"] == f"Mail: {text}\n\nIs it about {name}? Answer yes or no."
        assert assistant["content"] == ("yes" if given else "no")
    asked = exported(path / "asked", "prompt-completion", tmp_path).splitlines()
    made = list(open_run(path / "asked").rows())
    assert len(asked) == sum(4 + (row["stars"] is not None) + (row["why"] is not None) for row in made)


def test_rows_are_selected_by_their_labels_and_levels(folder, tmp_path):
    path, _ = folder
    rows = list(open_run(path / "asked").rows())
    where = "topics == price and stars >= 3"
    target = tmp_path / "some.jsonl"
    assert main(["export", str(path / "asked"), str(target), "--where", where]) == 0
    found = json_lines(target)
    wanted = [row["row"] for row in rows if "price" in row["topics"] and (row["stars"] or 0) >= 3]
    assert [row["row"] for row in found] == wanted and found[0]["topics"] == rows[wanted[0]]["topics"]


def test_two_runs_are_compared_by_the_figures_of_the_question(folder, tmp_path, capsys):
    path, _ = folder
    data = ["dataset=jsonl", f"dataset.path={path}/rows.jsonl", f"output.dir={tmp_path}", "engine.backend=fake"]
    run(["job=label", "job.scale=[1,5]", "prompt.user=How? {{ text }}", *data, "dataset.gold=stars", "run_name=scale"])
    run([*MULTI, ABOUT, *data, "dataset.gold=topics", "run_name=multi"])
    for name, shown in (("scale", ["mae", "kappa", "spearman"]), ("multi", ["micro_f1", "macro_f1", "jaccard"])):
        assert main(["diff", str(path / name), str(tmp_path / name), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["gold"]
        assert list(found["figures"]) == shown
        first, second = (open_run(where / name).figures["evaluation"] for where in (path, tmp_path))
        for figure, one in found["figures"].items():
            assert one["difference"] == pytest.approx(one["b"] - one["a"])
            assert one["interval"][0] <= one["difference"] <= one["interval"][1]
            if name == "scale":
                assert (one["a"], one["b"]) == pytest.approx((first[figure], second[figure]))
            else:  # without the rows that thresholds were chosen on
                assert found["rows"] == 18 and one["a"] == pytest.approx(first[figure])
        assert main(["diff", str(path / name), str(tmp_path / name)]) == 0
        assert f"{found['figures'][shown[0]]['a']:.3f} -> " in capsys.readouterr().out
