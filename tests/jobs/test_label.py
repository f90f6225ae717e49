"""What the job ``label`` promises."""

import math

import pytest

from jobs.label import Label, normalise
from jobs.label.match import Matcher
from jobs.label.sources import check_tokens
from runner.text.labels import Choice
from runner.text.questions.question import LABELS, Question
from runner.types import Completion, RowError, UserError
from tests.support.jobs import scored


def answered(job, completion):
    """The columns for the row's only answer."""
    steps = job.steps({"text": "hi"})
    next(steps)
    with pytest.raises(StopIteration) as returned:
        steps.send(completion)
    return returned.value.value


# Which labels there are


@pytest.mark.parametrize(
    ("labels", "names", "surfaces"),
    [
        (["ham", "spam"], ["ham", "spam"], ["ham", "spam"]),
        ([0, 1, -1], ["0", "1", "-1"], ["0", "1", "-1"]),
        (["true", "no"], ["true", "no"], ["true", "no"]),
        ([{"name": "pos", "surface": "good"}, "neg"], ["pos", "neg"], ["good", "neg"]),
        ({"pos": {"surface": "good"}, "neg": "what displeases", "other": None}, ["pos", "neg", "other"], None),
        (["müde", "👍"], ["müde", "👍"], None),
    ],
)
def test_labels_are_called_what_the_user_typed(labels, names, surfaces):
    job = Label(labels)
    assert job.names == names
    if surfaces:
        assert [choice.surface for choice in job.choices] == surfaces


def test_the_template_sees_names_surfaces_and_descriptions():
    job = Label({"pos": {"surface": "good", "description": "praise"}, "neg": "blame"})
    assert job.variables() == {
        "labels": [
            {"name": "pos", "surface": "good", "description": "praise"},
            {"name": "neg", "surface": "neg", "description": "blame"},
        ]
    }
    assert next(job.steps({})).variables == job.variables()


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([], "has 0 labels, at least two"),
        (None, "has 0 labels"),
        (["ham"], "has 1 label, at least two"),
        ("ham,spam", "must be a list"),
        (["ham", "ham"], "name 'ham' is listed twice"),
        ([0, "0"], "name '0' is listed twice"),
        ([{"name": "a", "surface": "x"}, {"name": "b", "surface": "x"}], "surface 'x' is listed twice"),
        (["ham", ""], "name is empty"),
        (["ham", " "], "name is empty"),
        (["ham", None], "it is missing"),
        ([True, False], "YAML reads it as the bool True; put it in quotes"),
        ([1.5, "a"], "YAML reads it as the float 1.5; put it in quotes"),
        ({True: "good", False: "bad"}, "YAML reads it as the bool True"),
        ({"a": {"surface": True}, "b": None}, "a label's surface must be a text"),
        ([{"name": "a", "surface": ""}, "b"], "surface is empty"),
        ([{"name": "a", "description": False}, "b"], "description must be a text"),
        ([{"name": "a", "colour": "red"}, "b"], "unknown key 'colour'"),
        ([{"surface": "a"}, "b"], "a label's name must be a text, and it is missing"),
        ([["a"], "b"], "reads it as the list"),
    ],
)
def test_what_is_no_label_is_refused_in_one_line(labels, problem):
    with pytest.raises(UserError) as refusal:
        Label(labels)
    assert str(refusal.value).startswith("job.labels")
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match=r"job\.method=guess: it can be choice, generate"):
        Label(["a", "b"], "guess")


# Choice


def test_choice_asks_for_every_surface_with_its_end_and_gives_the_likeliest():
    job = Label([{"name": "pos", "surface": "good"}, "neg"], label_end="\n")
    assert next(job.steps({})).choices == ("good\n", "neg\n")
    columns = answered(job, scored(0.03, 0.01))
    assert columns["label"] == "pos"
    assert columns["confidence"] == pytest.approx(0.75)
    assert columns["probabilities"] == pytest.approx({"pos": 0.75, "neg": 0.25})
    assert job.schema().names == list(columns)


def test_of_equal_labels_the_first_wins():
    assert answered(Label(["a", "b", "c"]), scored(0.1, 0.3, 0.3))["label"] == "b"


def test_probabilities_of_unlikely_labels_do_not_vanish():
    assert normalise((-2000.0, -2001.0)) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
    assert normalise((0.0, -math.inf)) == [1.0, 0.0]


@pytest.mark.parametrize("logprobs", [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -math.inf)])
def test_scores_that_are_none_make_the_row_an_error(logprobs):
    with pytest.raises(RowError, match="no probabilities"):
        normalise(logprobs)


# Generate


@pytest.mark.parametrize(
    ("labels", "answer", "label"),
    [
        (["ham", "spam"], "spam", "spam"),
        (["ham", "spam"], " Spam.\n", "spam"),
        (["ham", "spam"], "**Spam**, because of the ham in it", "spam"),
        (["ham", "spam"], "This is clearly SPAM!", "spam"),
        (["ham", "spam"], "ham ham ham", "ham"),
        (["spam", "not spam"], "Not spam", "not spam"),
        (["spam", "not spam"], "I say it is not-spam", "not spam"),
        (["very good", "good"], "it is very_good", "very good"),
        (["C", "C++", "C#"], "C++", "C++"),
        (["C", "C++", "C#"], "I think C# fits", "C#"),
        (["C", "C++", "C#"], "c", "C"),
        (["+", "-"], "-", "-"),
        (["👍", "👎"], "👎!", "👎"),
        (["US", "us"], "us", "us"),
        (["0", "1", "10"], "10", "10"),
        (["a.b", "a"], "a.b", "a.b"),
        (["Österreich", "Schweiz"], "österreich", "Österreich"),
        (["正面", "负面"], "情感是负面。", "负面"),
        (["正面", "负面"], "正面的评价", "正面"),
        (["正面", "负面"], "我认为是【负面】", "负面"),
        (["好", "不好"], "这个不好。", "不好"),
        (["好", "坏"], "很好", "好"),
        (["正", "負"], "正解は負です", "負"),
        (["正面", "负面"], "不是正面，而是负面", "负面"),
        (["ポジティブ", "ネガティブ"], "ネガティブではなくポジティブ", "ポジティブ"),
        (["긍정", "부정"], "부정이 아니라 긍정", "긍정"),
        (["ham", "spam"], 'Not "ham" but spam.', "spam"),
        (["ham", "spam"], "spam, not ham", "spam"),
        (["ham", "spam"], "It's not clear. Spam", "spam"),
        (["ham", "not ham"], "It is not ham", "not ham"),
        (["ポジティブ", "ネガティブ"], "答えはポジティブです。", "ポジティブ"),
        (["บวก", "ลบ"], "ความรู้สึกเป็นบวกครับ", "บวก"),
        (["긍정", "부정"], "긍정입니다", "긍정"),
        (["긍정", "부정"], "이 리뷰는 부정적이다", "부정"),
        (["positive", "negative"], "这是positive的", "positive"),
        (["positive", "negative"], "답은 negative입니다", "negative"),
        (["positive", "negative"], "\uff30\uff2f\uff33\uff29\uff34\uff29\uff36\uff25", "positive"),
        (["café", "bar"], "un cafe\u0301!", "café"),
        (["cafe\u0301", "bar"], "Un CAFÉ", "cafe\u0301"),
        (["إيجابي", "سلبي"], "التقييم: إِيجَابِيّ", "إيجابي"),
        (["חיובי", "שלילי"], "זה חִיּוּבִי.", "חיובי"),
        (["Straße", "Weg"], "STRASSE", "Straße"),
        (["İyi", "kötü"], "bu iyi", "İyi"),
        (["spam", "ham"], "It does not try to sell anything, so it is ham.", "ham"),
        (["spam", "ham"], "There is no doubt that it is spam", "spam"),
        (["spam", "ham"], "No - it's ham", "ham"),
        (["spam", "ham"], "Spam? No, ham.", "ham"),
        (["spam", "ham"], "Spam: no other mail has so many links", "spam"),
        (["spam", "ham"], "spam: 0.95", "spam"),
        (["spam", "ham"], '{"spam": false, "ham": true}', "ham"),
        (["spam", "ham"], "~~spam~~ ham", "ham"),
        (["spam", "ham"], "sp\u00adam\u200b", "spam"),
        (["正面", "负面"], "毫无疑问是正面的", "正面"),
        (["positiv", "negativ"], "ohne Zweifel positiv", "positiv"),
        (["1", "2", "3", "4", "5"], "Rating: 4/5", "4"),
        (["1", "2", "3", "4", "5"], "3.0", "3"),
        (["-1", "0", "1"], "Score: -1", "-1"),
        (["positive", "negative"], "Negative? No, positive.", "positive"),
        (["positive", "negative"], "- [ ] positive\n- [x] negative", "negative"),
        (["positive", "negative"], "❌ positive ✅ negative", "negative"),
        (["positive", "negative"], "negative: never again", "negative"),
        (["positive", "negative"], "A few would call it positive", "positive"),
        (["positive", "negative"], "Few would dispute that it is positive", "positive"),
        (["positive", "negative"], "Is it negative? It is not. Positive.", "positive"),
        (["funny", "dull"], "It is too dull to be funny", "dull"),
        (["spam", "ham"], "I have no doubt it is spam", "spam"),
        (["spam", "ham"], "It is not a pitch so it is ham", "ham"),
        (["正面", "负面"], "不，正面", "正面"),
        (["esporte", "política"], "O texto se encaixa no esporte", "esporte"),
        (["esporte", "educação"], "No esporte.", "esporte"),
        (["positiv", "negativ"], "Teksten er positiv i sin holdning", "positiv"),
    ],
)
def test_an_answer_that_begins_with_a_label_or_holds_only_one_is_matched(labels, answer, label):
    assert Matcher({name: name for name in labels}).match(answer) == label


@pytest.mark.parametrize(
    ("labels", "answer", "problem"),
    [
        (["ham", "spam"], "", "no label"),
        (["ham", "spam"], "hamster", "no label"),
        (["Haus", "Baum"], "Hausbau im Bäumchen", "no label"),
        (["cafe", "bar"], "cafe\u0301", "no label"),
        (["정", "반"], "긍정", "no label"),
        (["ham", "spam"], "I do not know", "no label"),
        (["ham", "spam"], "This isn't a spam", "no label"),
        (["ham", "spam"], "Das ist kein Spam", "no label"),
        (["是", "否"], "不是", "no label"),
        (["对", "错"], "对于这个", "no label"),
        (["有", "无"], "所有", "no label"),
        (["ポジティブ"], "ポジティブではない", "no label"),
        (["ถูก", "ผิด"], "ไม่ถูก", "no label"),
        (["ham", "spam"], "either ham or spam", "more than one label"),
        (["US", "us"], "Us", "more than one label"),
        (["+", "-"], "", "no label"),
        (["spam", "ham"], "This is not a very spam-like spam", "no label"),
        (["spam", "ham"], "I don't think that this is spam", "no label"),
        (["spam", "ham"], "neither spam nor ham", "no label"),
        (["spam", "ham"], "I cannot say whether this is spam or ham", "no label"),
        (["spam", "ham"], "far from spam", "no label"),
        (["spam", "ham"], "anti-spam", "no label"),
        (["spam", "ham"], "no `spam`", "no label"),
        (["spam", "ham"], "spam: no", "no label"),
        (["spam", "ham"], "Spam it is not.", "no label"),
        (["spam", "ham"], '{"spam": 0.1,\n "ham": 0.9}', "more than one label"),
        (["spam", "ham"], "spam/ham", "more than one label"),
        (["spam", "ham"], "Spam or ham?", "more than one label"),
        (["A", "B"], "A good text: B", "more than one label"),
        (["bueno", "malo"], "no es muy bueno", "no label"),
        (["positif", "négatif"], "pas du tout positif", "no label"),
        (["positiv", "negativ"], "Positiv ist das nicht.", "no label"),
        (["positive", "negative"], "not. positive", "no label"),
        (["positive", "negative"], "Few critics would call it positive.", "no label"),
        (["positive", "negative"], "It is hard to call it positive", "no label"),
        (["olumlu", "olumsuz"], "olumlu bir yorum değil", "no label"),
        (["正面", "负面"], "不能说是正面的", "no label"),
        (["正面", "负面"], "正面还是负面？", "more than one label"),
        (["ポジティブ"], "ポジティブとは言えない", "no label"),
        (["긍정", "부정"], "긍정적이라고 할 수 없다", "no label"),
        (["1", "2", "3"], "2.5", "no label"),
        (["1", "2", "3"], "1-10", "no label"),
        (["1", "2", "3"], "-1", "no label"),
        (["1", "2", "3"], "1,000", "no label"),
        (["positive", "negative"], "no: positive", "no label"),
        (["positive", "negative"], "not, positive", "no label"),
        (["positive", "negative"], "positive: not at all", "no label"),
        (["positive", "negative"], "positive - no", "no label"),
        (["positive", "negative"], "positive ❌", "no label"),
        (["positive", "negative"], "positive is wrong", "no label"),
        (["positive", "negative"], "not_positive", "no label"),
        (["positive", "negative"], "!positive", "no label"),
        (["positive", "negative"], "the opposite of positive", "no label"),
        (["positive", "negative"], "I doubt that it is positive", "no label"),
        (["positive", "negative"], "Not, in my view, positive", "no label"),
        (["正面", "负面"], "不是：正面", "no label"),
        (["esporte", "política"], "O texto não é no esporte", "no label"),
        (["deporte", "política"], "El texto no trata de deporte", "no label"),
    ],
)
def test_an_answer_without_one_clear_label_is_an_error_that_shows_it(labels, answer, problem):
    with pytest.raises(RowError) as error:
        Matcher({name: name for name in labels}).match(answer)
    assert str(error.value) == f"unmatched label: {problem} in the answer {answer!r}"


def test_generate_gives_the_name_of_the_surface_it_found_and_the_text():
    job = Label([{"name": "pos", "surface": "good"}, {"name": "neg", "surface": "bad"}], method="generate")
    assert next(job.steps({})).choices is None
    assert answered(job, Completion(text="Good!")) == {"label": "pos", "text": "Good!"}
    assert job.schema().names == ["label", "text"]


# Votes


def wrote(text, mean_logprob=-1.0):
    return Completion(text=text, mean_logprob=mean_logprob)


def voted(answers, labels=("ham", "spam"), **keys):
    return answered(Label(list(labels), method="generate", votes=len(answers), **keys), answers)


def test_votes_ask_the_same_question_so_many_times():
    job = Label(["ham", "spam"], method="generate", votes=5)
    asked = next(job.steps({}))
    assert len(asked) == 5 and len({id(one) for one in asked}) == 1
    assert asked[0].mean_logprob and asked[0].seed is None  # draws of its own for each


def test_the_majority_decides_and_its_share_of_all_answers_is_the_confidence():
    columns = voted([wrote("spam"), wrote("Ham!"), wrote("who knows"), wrote("spam.")])
    assert columns == {
        "label": "spam",
        "confidence": 0.5,
        "votes": ["spam", "ham", None, "spam"],
        "text": ["spam", "Ham!", "who knows", "spam."],
    }
    assert Label(["ham", "spam"], method="generate", votes=4).schema().names == list(columns)


def test_of_labels_with_as_many_votes_the_one_written_with_more_certainty_wins():
    assert voted([wrote("ham", -0.5), wrote("spam", -0.4)])["label"] == "spam"
    assert voted([wrote("ham", -0.3), wrote("spam", -0.4)])["label"] == "ham"
    assert voted([wrote("spam", -0.5), wrote("ham", -0.5)])["label"] == "ham"  # first in job.labels
    four = [wrote("spam", -0.1), wrote("ham", -0.5), wrote("ham", -0.5), wrote("spam", -1.0)]
    assert voted(four)["label"] == "ham"


def test_answers_of_which_none_is_a_label_make_the_row_an_error():
    with pytest.raises(RowError, match="unmatched label"):
        voted([wrote("who knows"), wrote("not me")])


# Abstaining


def test_below_the_threshold_a_row_has_no_label_but_keeps_its_confidence():
    job = Label(["ham", "spam"], abstain_below=0.7)
    doubtful, sure = answered(job, scored(0.3, 0.2)), answered(job, scored(0.35, 0.15))
    assert (doubtful["label"], doubtful["abstained"]) == (None, True)
    assert doubtful["confidence"] == pytest.approx(0.6)
    assert doubtful["probabilities"] == pytest.approx({"ham": 0.6, "spam": 0.4})
    assert (sure["label"], sure["abstained"]) == ("ham", False)  # 0.7 is not below 0.7
    assert set(job.schema().names) == set(sure)


def test_votes_abstain_as_well():
    columns = voted([wrote("spam"), wrote("ham"), wrote("ham")], abstain_below=0.7)
    assert (columns["label"], columns["abstained"]) == (None, True)
    assert columns["votes"] == ["spam", "ham", "ham"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"votes": 0}, r"job\.votes=0: .* at least 1"),
        ({"votes": 3}, r"add job\.method=generate"),
        ({"prior": "some"}, r"job\.prior=some: it can be none, content_free, batch"),
        ({"prior_rows": 0}, r"job\.prior_rows=0"),
        ({"abstain_below": 70}, "it must be at most 1, as a fraction of 1: 0.7 is 70%"),
        ({"abstain_below": 0.5, "method": "generate"}, "one answer has no confidence"),
        ({"prior": "batch", "method": "generate"}, r"only with job\.method=choice"),
        ({"logprobs": True, "method": "generate"}, r"only with job\.method=choice"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(keys, problem):
    with pytest.raises(UserError, match=problem):
        Label(["ham", "spam"], **keys)


# Prior and temperature


def test_the_prior_and_the_temperature_change_confidence_and_distribution_not_the_log_probabilities():
    job = Label(["ham", "spam"], logprobs=True)
    raw = scored(0.3, 0.2)
    job.begin({"prior": {"logprobs": {"ham": math.log(0.75), "spam": math.log(0.25)}}})
    columns = answered(job, raw)
    assert columns["label"] == "spam"
    assert columns["probabilities"] == pytest.approx({"ham": 1 / 3, "spam": 2 / 3})
    assert tuple(columns["logprobs"].values()) == raw.logprobs
    job.begin({"calibration": {"temperature": 2.0}})
    assert answered(job, raw)["confidence"] == pytest.approx(2**0.5 / (1 + 2**0.5))


# Thousands of labels


@pytest.mark.parametrize(
    ("name", "text", "column", "names"),
    [
        ("zips.txt", "\ufeff00501\n\n  10001 \r\nA > B > C\n", None, ["00501", "10001", "A > B > C"]),
        ("zips", "00501\nno\n1.0", None, ["00501", "no", "1.0"]),
        ("lines.txt", "a\u2028b\nc\x85d\x0ce\n", None, ["a\u2028b", "c\x85d\x0ce"]),
        ("lines.csv", "name\na\u2028b\nc\x85d\n", None, ["a\u2028b", "c\x85d"]),
        ("codes.csv", 'code,name\nA00.0,Cholera\nA01,\nB99,"a, b"\n', None, ["Cholera", "a, b"]),
        ("codes.csv", "code,name\nA00.0,Cholera\nA00.0,Again\nA01,Typhoid\n", "code", ["A00.0", "A01"]),
        ("one.tsv", "zip\n00501\n00501\n10001\n", None, ["00501", "10001"]),
        ("codes.yaml", "- 00501\n- no\n- {name: on, description: 1.0}\n", None, ["00501", "no", "on"]),
        ("codes.yml", "labels: {00501: Holtsville, 10001: null}\n", None, ["00501", "10001"]),
        ("codes.json", '["00501", {"name": "x", "surface": "y"}]', None, ["00501", "x"]),
    ],
)
def test_labels_come_from_a_file_as_they_are_written_there(tmp_path, name, text, column, names):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8", newline="")
    job = Label(labels_file=str(file), labels_column=column)
    assert job.names == names
    before = job.fingerprint()
    file.write_text("c\nd\n" if not file.suffix or file.suffix == ".txt" else '["c", "d"]')
    if column is None and file.suffix not in (".csv", ".tsv"):
        assert Label(labels_file=str(file)).fingerprint() not in (before, None)
    assert Label(names).fingerprint() is None


@pytest.mark.parametrize(
    ("name", "text", "column", "problem"),
    [
        ("gone.txt", None, None, r"job\.labels_file=.*gone\.txt: cannot be read: No such file"),
        ("one.txt", "a\n", None, r"job\.labels_file=.*one\.txt: it has 1 label; at least 2 are needed"),
        ("none.txt", "", None, r"job\.labels_file=.*none\.txt: it has 0 labels"),
        ("twice.txt", "a\nb\na\n", None, r"job\.labels_file=.*twice\.txt: name 'a' is listed twice"),
        ("codes.csv", "code,text\nA,b\n", None, "has no column name or label; it has the columns code, text"),
        ("codes.csv", "code,text\nA,b\n", "kind", "has no column kind; it has the columns code, text"),
        ("empty.csv", "", None, "it is empty"),
        ("codes.txt", "a\nb\n", "code", r"job\.labels_column=code: only tables have columns"),
        ("codes.json", "[", None, "it is not JSON"),
        ("codes.yaml", "a", None, "neither a list of labels nor names"),
    ],
)
def test_a_file_without_labels_is_refused_by_name(tmp_path, name, text, column, problem):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=problem):
        Label(labels_file=str(file), labels_column=column)


def test_of_thousands_of_labels_the_likeliest_are_kept():
    names = [f"{number:05}" for number in range(1001)]
    job = Label(names)
    assert job.schema().names == ["label", "confidence", "top"]
    request = next(job.steps({}))
    assert (request.cut, request.whole, request.top_choices) == (True, False, 10)
    likeliest = ((7, math.log(0.5)), (3, math.log(0.25)))
    columns = answered(job, Completion(finish_reason="choice", likeliest=likeliest, others=math.log(0.05)))
    assert columns["label"] == "00007" and columns["confidence"] == pytest.approx(0.625)
    assert [one["label"] for one in columns["top"]] == ["00007", "00003"]
    assert columns["top"][1]["probability"] == pytest.approx(0.3125)


def test_the_list_of_all_probabilities_and_the_likeliest_go_together():
    job = Label(["a", "b", "c"], top=2)
    assert job.schema().names == ["label", "confidence", "top", "probabilities"]
    columns = answered(job, scored(0.2, 0.5, 0.3))
    assert [one["label"] for one in columns["top"]] == ["b", "c"]
    assert columns["probabilities"]["a"] == pytest.approx(0.2)
    assert Label(["a", "b"], top=1, probabilities=False).schema().names == ["label", "confidence", "top"]
    assert "probabilities" in Label([f"l{n}" for n in range(2000)], probabilities=True).schema().names


@pytest.mark.parametrize("keys", [{"whole": True}, {"prior": "batch"}, {"logprobs": True}])
def test_no_label_is_left_out_where_all_are_asked_for(keys):
    request = next(Label([f"l{number}" for number in range(2000)], **keys).steps({}))
    assert not request.cut


def test_labels_that_can_never_win_are_said_and_those_that_are_one_to_the_model_are_refused(caplog):
    question = Question("job", "", LABELS, tuple(Choice(name, name) for name in ("A00", "A00.1", "B")))
    check_tokens(question, ((1, 2), (1, 2, 3), (4,)))
    assert "'A00' is the beginning of 'A00.1'" in caplog.text and 'job.label_end="\\n"' in caplog.text
    with pytest.raises(UserError, match=r"job\.labels: 'A00' and 'B' are the same tokens"):
        check_tokens(question, ((1, 2), (1, 2, 3), (1, 2)))


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("الإيجابي", "إيجابي"),
        ("التصنيف هو: والإيجابي", "إيجابي"),
        ("الإيجابي وليس سلبي", "إيجابي"),
        ("يتعلق النص بالرياضة", "الرياضة"),
        ("ينتمي للرياضة", "الرياضة"),
        ("זה החיובי", "חיובי"),
        ("לכן", None),
        ("البسلبيون", None),
        ("ולספר", "ספר"),
        ("מספר", None),
        ("والكرة", "كرة"),
        ("للكرة", "كرة"),
        ("فكرة", None),
    ],
)
def test_labels_are_found_behind_articles_and_prepositions_written_to_them(answer, name):
    labels = ["إيجابي", "سلبي", "الرياضة", "חיובי", "כן", "ספר", "كرة"]
    matcher = Matcher({label: label for label in labels})
    if name is not None:
        assert matcher.match(answer) == name
        return
    with pytest.raises(RowError, match="no label"):
        matcher.match(answer)


def test_a_label_that_is_another_with_its_article_is_not_taken_for_it():
    matcher = Matcher({"with": "الرياضة", "without": "رياضة"})
    assert [matcher.match(answer) for answer in ("الرياضة.", "هذه الرياضة", "رياضة.", "هذه رياضة")] == ["with"] * 2 + [
        "without"
    ] * 2
