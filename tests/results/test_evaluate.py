"""What the evaluation of labels promises."""

import argparse
import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    cohen_kappa_score,
    f1_score,
    jaccard_score,
    mean_absolute_error,
    mean_squared_error,
    precision_score,
    recall_score,
)
from sklearn.preprocessing import MultiLabelBinarizer

from runner import cli, run
from runner.cli.arguments import add_decision, decision_of
from runner.data.gold import members_of
from runner.results import evaluate, scores
from runner.results.quality.rescore.decision import Decision
from runner.results.quality.values import number_figures, set_figures
from runner.results.quality.verdict import advice, verdict
from runner.results.run import Run
from runner.results.show import confusion_table, least, verdict_lines
from runner.types import UserError
from tests.support.jobs import own_job, write_own_job
from tests.support.runs import json_lines

pytestmark = pytest.mark.usefixtures("folder")


def evaluate_run(path, *asked, **options):
    return evaluate.evaluate_run(Run(path), *asked, **options)


def label(rows=60, golds=lambda i: "ham" if i % 2 else "spam", *more, empty=None):
    """A run of the fake engine over rows with these gold values (None: none); row ``empty`` will be in error."""
    texts = [f"mail {i}" if i != empty else None for i in range(rows)]
    lines = [json.dumps({"text": text, "kind": golds(i), "other": "ham"}) for i, text in enumerate(texts)]
    Path("mail.jsonl").write_text("\n".join(lines))
    words = ("engine.backend=fake", "job=label", "job.labels=[ham,spam]", "dataset=jsonl", "dataset.path=mail.jsonl")
    words += ("prompt.user='Ham or spam? {{ text }}'", "run_name=mail", "dataset.gold=kind", "output.report=false")
    keys = [word.split("=")[0] for word in more]
    return run(overrides=[word for word in words if word.split("=")[0] not in keys] + list(more))


def labels_of():
    return [row["label"] for row in Run("outputs/mail").rows()]


# Figures against scikit-learn, and intervals


def draw(rows=2000, L=4, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, L, rows)
    return gold, np.where(rng.random(rows) < 0.6, gold, rng.integers(0, L + 1, rows))


def test_figures_are_those_of_scikit_learn_over_all_rows():
    gold, label = draw()
    found = scores.label_figures(gold, label, list("abcd"))
    assert found["accuracy"] == (gold == label).mean()
    assert found["kappa"] == pytest.approx(cohen_kappa_score(gold, label))
    assert found["macro_f1"] == pytest.approx(f1_score(gold, label, labels=range(4), average="macro"))
    for at, name in enumerate("abcd"):
        one = {"labels": [at], "average": "macro", "zero_division": 0}
        assert found["classes"][name]["precision"] == pytest.approx(precision_score(gold, label, **one))
        assert found["classes"][name]["recall"] == pytest.approx(recall_score(gold, label, **one))
        assert found["confusion"][name]["(none)"] == ((gold == at) & (label == 4)).sum()


def test_the_bootstrap_figures_of_the_sample_itself_are_the_figures():
    gold, label = draw()
    found = scores.label_figures(gold, label, list("abcd"))
    kinds, counts = np.unique(gold * 5 + label, return_counts=True)
    drawn = scores.rates(counts[None], kinds // 5, kinds % 5, 4)
    assert drawn.kappa[0] == pytest.approx(found["kappa"])
    assert drawn.macro_f1[0] == pytest.approx(found["macro_f1"])
    assert drawn.precision[0].tolist() == pytest.approx([one["precision"] for one in found["classes"].values()])


def test_intervals_cover_the_truth_19_times_in_20():
    truth = 0.6 + 0.4 / 5
    inside = 0
    for seed in range(100):
        low, high = scores.label_figures(*draw(300, seed=seed), list("abcd"))["intervals"]["accuracy"]
        inside += low <= truth <= high
    assert 88 <= inside <= 100


def test_the_calibration_error_is_the_distance_between_confidence_and_accuracy_in_15_bins():
    rng = np.random.default_rng(1)
    confidence, right = rng.random(500), rng.random(500) < 0.5
    bins = np.ceil(confidence * 15).astype(int)
    groups = [bins == one for one in set(bins)]
    want = sum(abs(right[group].mean() - confidence[group].mean()) * group.mean() for group in groups)
    found, (low, high) = scores.calibration_error(confidence, right)
    assert found == pytest.approx(want)
    assert low < high
    sure, _ = scores.calibration_error(np.ones(10), np.ones(10, bool))
    assert sure == 0


def test_the_reliability_diagram_shows_the_bins_that_the_calibration_error_sums_up():
    rng = np.random.default_rng(2)
    confidence, right = rng.random(300), rng.random(300) < 0.5
    bins = scores.reliability(confidence, right)
    assert sum(rows for _, _, rows in bins) == 300
    error = sum(abs(share - mean) * rows for mean, share, rows in bins) / 300
    assert error == pytest.approx(scores.calibration_error(confidence, right)[0])


def test_accuracy_is_told_for_rising_thresholds_with_ties_kept_together():
    confidence = np.array([0.9, 0.9, 0.8, 0.6, 0.5])
    right = np.array([True, True, True, False, False])
    curve = scores.accuracy_by_coverage(confidence, right, 10)
    assert [(at["threshold"], at["coverage"], at["accuracy"]) for at in curve] == [
        (0.5, 0.5, 0.6),
        (0.6, 0.4, 0.75),
        (0.8, 0.3, 1.0),
        (0.9, 0.2, 1.0),
    ]


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [(0.0, "0.000"), (0.5796, "0.579"), (0.579, "0.579"), (0.99935, "0.9993"), (0.999989, "0.99998"), (1.0, "1.000")],
)
def test_the_rows_of_a_threshold_reach_what_is_shown_of_it(threshold, shown):
    assert least(threshold) == shown
    assert threshold >= float(shown)


def test_a_million_rows_take_no_more_than_their_arrays():
    gold, label = draw(1_000_000)
    found = scores.label_figures(gold, label, list("abcd"))
    low, high = found["intervals"]["accuracy"]
    assert high - low < 0.003
    assert scores.calibration_error(np.linspace(0, 1, 1_000_000), gold == label)[0] > 0


# A run's labels


def test_a_run_with_gold_tells_how_right_it_is():
    found = label()["evaluation"]
    right = [name == ("ham" if i % 2 else "spam") for i, name in enumerate(labels_of())]
    assert (found["rows"], found["labelled"], found["errors"], found["abstained"]) == (60, 60, 0, 0)
    assert found["accuracy"] == found["accuracy_labelled"] == np.mean(right)
    assert json.loads(json.dumps(found)) == found
    assert any("Cohen's kappa" in text for _, text in verdict_lines(found))


def test_gold_in_other_case_is_what_it_means_and_told(caplog):
    found = label(8, lambda i: "Ham " if i % 2 else "spam")["evaluation"]
    assert "'Ham ', which differs in case or spaces only, is taken for 'ham'" in caplog.text
    right = sum(name == ("ham" if i % 2 else "spam") for i, name in enumerate(labels_of()))
    assert (found["rows"], found["accuracy"], [*found["confusion"]]) == (8, right / 8, ["ham", "spam"])
    assert evaluate_run("outputs/mail") == found
    several = ["job.multi=true", "prompt.user='{{ label.surface }} {{ text }}'", "run_name=several"]
    found = label(4, lambda i: [["SPAM", "ham"], [], "Spam", "  "][i], *several)["evaluation"]
    assert "'SPAM', which differs in case or spaces only, is taken for 'spam', and 1 more value" in caplog.text
    assert (found["rows"], [found["classes"][name]["rows"] for name in ("ham", "spam")]) == (3, [1, 2])


def test_rows_without_gold_do_not_count():
    assert label(60, lambda i: None if i % 3 else "ham")["evaluation"]["rows"] == 20
    found = label(60, lambda i: None if i else "ham", "run_name=one")["evaluation"]
    assert found["rows"] == 1
    assert verdict_lines(found)


def test_rows_in_error_and_abstained_rows_have_no_label_and_count_as_wrong():
    found = label(50, lambda i: "ham", "job.abstain_below=0.55", empty=7)["evaluation"]
    rows = list(Run("outputs/mail").rows())
    abstained = sum(row["abstained"] is True for row in rows)
    assert 0 < abstained < 49
    assert found["abstained"] == abstained
    assert (found["labelled"], found["errors"]) == (49 - abstained, 1)
    assert found["accuracy"] == sum(row["label"] == "ham" for row in rows) / 50
    assert found["confusion"]["ham"]["(none)"] == abstained + 1
    assert found["coverage"][0]["coverage"] == pytest.approx((49 - abstained) / 50)
    assert any("abstained, 1 in error" in text for _, text in verdict_lines(found))


def test_the_effect_of_the_prior_and_of_the_temperature_is_that_of_a_run_without_them():
    plain = label(200)["evaluation"]
    found = label(200, lambda i: "ham" if i % 2 else "spam", "run_name=b", "job.prior=batch", "calibrate.rows=0.3")
    prior, calibration = found["evaluation"]["prior"], found["evaluation"]["calibration"]
    assert prior["accuracy_without"] == plain["accuracy"]
    assert prior["accuracy"] == found["evaluation"]["accuracy"]
    assert (calibration["fitted_on"], calibration["rows"]) == (60, 140)
    assert calibration["ece"] == found["evaluation"]["ece"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_effect_is_told_of_runs_that_keep_the_likeliest_labels_only():
    more = ["job.prior=batch", "calibrate.rows=0.3", "job.probabilities=false", "job.top=1"]
    found = label(60, lambda i: "ham" if i % 2 else "spam", *more)["evaluation"]
    assert not {"prior", "calibration"} & found.keys()
    assert {"ece", "reliability", "coverage"} <= found.keys()


def test_a_temperature_that_was_not_kept_is_told_with_what_it_made_worse():
    found = label(200, lambda i: "ham" if i % 2 else "spam", "calibrate.rows=0.3")["evaluation"]
    found["calibration"] |= {"temperature": 1.0, "fitted": 2.5, "left_out": 3}
    for name, worse in (
        ("ece", {"ece": [0.156, 0.194], "loss": [0.7, 0.6]}),
        ("loss", {"ece": [0.2, 0.1], "loss": [0.6, 0.7]}),
    ):
        found["calibration"]["held_out"] = worse
        told = dict(verdict_lines(found))["calibr."]
        assert told.startswith(
            "kept the plain probabilities: temperature 2.50, fitted on 60 rows (3 left out), was no better"
        )
        shown = (
            "(calibration error 0.156 without it, 0.194 with it)"
            if name == "ece"
            else "(log loss 0.600 without it, 0.700"
        )
        assert shown in told


def test_the_error_before_calibration_is_over_the_rest_of_the_rows_only():
    label(200, lambda i: "ham" if i % 2 else "spam", "run_name=plain")
    found = label(200, lambda i: "ham" if i % 2 else "spam", "calibrate.rows=0.3")["evaluation"]["calibration"]
    rows = list(Run("outputs/plain").rows())
    with sqlite3.connect("outputs/mail/run.db") as database:
        share = json.loads(database.execute("SELECT found FROM prelude").fetchone()[0])["calibration"]["rows"]
    rest = [row for row in rows if row["row"] not in set(share)]
    right = np.array([row["label"] == ("ham" if row["row"] % 2 else "spam") for row in rest])
    before, _ = scores.calibration_error(np.array([row["confidence"] for row in rest]), right)
    assert found["ece_before"] == pytest.approx(before)


def test_evaluate_takes_any_column_afterwards(capsys):
    first = label()["evaluation"]
    assert evaluate_run("outputs/mail", "kind") == first
    assert evaluate_run("outputs/mail", "other")["accuracy"] == labels_of().count("ham") / 60
    assert cli.main(["evaluate", "outputs/mail", "--gold", "kind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert cli.main(["evaluate", "outputs/mail", "--gold", "kind"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_column_that_the_output_kept_does_when_the_data_are_gone(tmp_path):
    first = label(60, lambda i: "ham", "output.keep=[other]")["evaluation"]
    (tmp_path / "mail.jsonl").unlink()
    assert evaluate_run("outputs/mail", "other") == first
    with pytest.raises(UserError, match="--gold=kind: there is no such column"):
        evaluate_run("outputs/mail", "kind")


def test_a_column_that_the_figures_need_anyway_may_be_asked_for():
    label(4, empty=2)
    with pytest.raises(UserError, match=r"the gold value '.*column text is null' is not among the labels"):
        evaluate_run(Path("outputs/mail"), "error")
    with pytest.raises(UserError, match=r"the gold value '0.* is not among the labels"):
        evaluate_run(Path("outputs/mail"), "confidence")


def test_what_cannot_be_compared_is_refused_in_one_line():
    label()
    with pytest.raises(UserError, match=r"--gold=kid: there is no such column; valid: .*kind"):
        evaluate_run("outputs/mail", "kid")
    with pytest.raises(UserError, match=r"'mail 0' is not among the labels \(ham, spam\)"):
        evaluate_run("outputs/mail", "text")


def test_gold_numbers_are_named_by_the_classes():
    found = label(40, lambda i: i % 2, "dataset.classes=[spam,ham]")["evaluation"]
    assert found["accuracy"] == np.mean([name == ("ham" if i % 2 else "spam") for i, name in enumerate(labels_of())])
    kept = Run("outputs/mail")
    assert evaluate.evaluate_labels(kept, kept.source, ["ham", "spam"]) == found


def test_a_row_without_a_label_is_not_taken_for_a_label_named_none():
    found = label(10, lambda i: "None", "job.labels=['None',spam]", "job.abstain_below=1")["evaluation"]
    assert (found["labelled"], found["abstained"], found["accuracy"]) == (0, 10, 0)
    assert found["confusion"]["None"] == {"None": 0, "spam": 0, "(none)": 10}


def test_without_any_gold_there_is_no_accuracy():
    found = label(10, lambda i: None)["evaluation"]
    assert (found["rows"], found["accuracy"]) == (0, None)


def test_the_table_shows_rows_without_a_label_only_if_there_are_some():
    confusion = {"ham": {"ham": 12, "spam": 3, "(none)": 0}, "spam": {"ham": 1, "spam": 9, "(none)": 0}}
    assert " ".join(confusion_table(confusion).split()) == "gold / label ham spam ham 12 3 spam 1 9"
    confusion["spam"]["(none)"] = 2
    assert " ".join(confusion_table(confusion).split()) == "gold / label ham spam (none) ham 12 3 0 spam 1 9 2"


OWN = own_job('{"label": row["said"]}', '[("label", pa.string())]')
JUDGED = """
    def figures(self, run, source):
        return rowmill.label_evaluation(run, source)
"""


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ({"evaluation": 0.5, "rouge": 0.5, "diversity": 3}, {"evaluation": 0.5, "rouge": 0.5, "diversity": 3}),
        ({"evaluation": {"rows": 3}, "rouge": {"rows": 3}}, {"evaluation": {"rows": 3}, "rouge": {"rows": 3}}),
        ({"mean": float("nan")}, {"mean": None}),
    ],
)
def test_a_job_of_ones_own_calls_its_figures_as_it_likes(own, kept, tmp_path, capsys):
    Path("said.csv").write_text("said,kind\nham,ham\neggs,ham\n")
    figures = f"def figures(self, run, source):\n        nan = float('nan')\n        return {own}\n"
    write_own_job(f"{OWN}\n    {figures}", tmp_path / "mine")
    words = ["job=own", "dataset=csv", "dataset.path=said.csv", "dataset.gold=kind", "engine.backend=fake"]
    words += ["prompt.user='{{ said }}'", "run_name=own", "output.report=true"]
    assert cli.main(["run", "--config-dir", "mine", *words]) == 0
    said = capsys.readouterr()
    assert "2 of 2, no errors" in said.out and "report.html" in said.out and "Traceback" not in said.err
    figures = run(words, "mine")
    assert {name: figures[name] for name in kept} == kept


def test_input_columns_called_like_a_job_s_are_taken_for_nothing_else(tmp_path, capsys):
    Path("said.csv").write_text("said,kind,confidence,abstained,probabilities\nham,ham,high,no,x\neggs,ham,low,yes,y\n")
    write_own_job(OWN, tmp_path / "mine")
    words = ["job=own", "dataset=csv", "dataset.path=said.csv", "engine.backend=fake", "prompt.user='{{ said }}'"]
    path = run([*words, "run_name=own"], "mine")["path"]
    assert evaluate_run(Path(path), "kind")["accuracy"] == 0.5
    for kind in ("label-studio", "argilla", "chat"):
        assert cli.main(["export", path, f"{kind}.json", "--format", kind]) == 0
    assert '<Choice value="eggs"/>' in Path("label-studio.xml").read_text()
    assert json.loads(Path("chat.json").read_text().splitlines()[0])["messages"][1]["content"] == "ham"


def test_an_input_column_called_label_is_no_answer():
    Path("mail.csv").write_text("text,label,kind\nwin,spam,spam\n")
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "prompt.user='{{ text }}'"]
    assert evaluate_run(Path(run([*words, "run_name=mail"])["path"]), "kind")["column"] == "text"


@pytest.mark.parametrize("judged", ["", JUDGED])
def test_a_job_of_ones_own_says_in_one_line_that_its_labels_are_judged(judged, tmp_path, capsys):
    said, golds = ["ham", "ham", "eggs", "spam"], ["ham", "spam", "ham", "beans"]
    lines = [f"{one},{gold}" for one, gold in zip(said, golds, strict=True)]
    Path("said.csv").write_text("\n".join(["said,kind", *lines]) + "\n")
    write_own_job(f"import rowmill\n{OWN}{judged}", tmp_path / "mine")
    words = ["job=own", "dataset=csv", "dataset.path=said.csv", "dataset.gold=kind", "engine.backend=fake"]
    figures = run([*words, "prompt.user='{{ said }}'", "run_name=own"], "mine")
    assert ("evaluation" in figures) is bool(judged)
    found = evaluate_run(figures["path"])
    assert figures.get("evaluation", found) == found
    assert (figures["finished"], found["rows"], found["accuracy"]) == (4, 4, 0.25)
    assert list(found["classes"]) == ["beans", "eggs", "ham", "spam"]
    assert found["baseline"] == {"label": "ham", "share": 0.5}
    assert found["confusion"]["spam"]["ham"] == found["confusion"]["ham"]["eggs"] == 1
    assert cli.main(["evaluate", figures["path"], "--gold", "kind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == found["confusion"]


# Other columns than labels


def extracted(rows, schema, tmp_path, **columns):
    """A run of a job that returns what stands in the column ``said``, as JSON, of these rows with ``gold``."""
    own = own_job('json.loads(row["said"])', schema)
    write_own_job(f"import json\n{own}", tmp_path / "mine")
    Path("said.jsonl").write_text("".join(json.dumps({"said": json.dumps(a), "gold": b}) + "\n" for a, b in rows))
    words = ["job=own", "dataset=jsonl", "dataset.path=said.jsonl", "dataset.gold=gold", "engine.backend=fake"]
    return run([*words, "prompt.user='{{ said }}'", "run_name=own"], "mine")["path"]


def test_numbers_are_judged_by_their_errors_as_scikit_learn_does(tmp_path, capsys):
    rng = np.random.default_rng(0)
    gold = rng.normal(50, 10, 80).round(2)
    said = (gold + rng.normal(1, 3, 80)).round(2)
    rows = [({"total": one}, right) for one, right in zip(said.tolist(), gold.tolist(), strict=True)]
    path = extracted([*rows, ({"total": None}, 3.0), ({"total": 5.0}, None)], '[("total", pa.float64())]', tmp_path)
    found = evaluate_run(path)
    assert (found["kind"], found["column"], found["rows"], found["answered"]) == ("numbers", "total", 81, 80)
    assert found["mae"] == pytest.approx(mean_absolute_error(gold, said))
    assert found["rmse"] == pytest.approx(np.sqrt(mean_squared_error(gold, said)))
    assert found["correlation"] == pytest.approx(np.corrcoef(gold, said)[0, 1])
    assert found["bias"] == pytest.approx((said - gold).mean())
    low, high = found["intervals"]["mae"]
    assert low < found["mae"] < high
    assert cli.main(["evaluate", path]) == 0
    shown = capsys.readouterr().out
    assert f"mean absolute {found['mae']:.4g}" in shown and "80 of 81 rows with gold have one in total" in shown
    assert evaluate_run(path, kind="labels")["accuracy"] == found["exact"]


def test_figures_of_numbers_are_right_however_large_an_answer_is():
    gold, said = [1.0, 2.0, 3.0, 4.0], [1e200, -2e200, 3e200, 4e200]
    found = number_figures("total", gold, said)
    assert (found["mae"], found["rmse"]) == (pytest.approx(2.5e200), pytest.approx(math.sqrt(7.5) * 1e200))
    assert found["correlation"] == pytest.approx(np.corrcoef(gold, [1, -2, 3, 4])[0, 1])
    assert np.isfinite(list(found["intervals"].values())).all()


def test_a_row_without_an_answer_is_not_right_by_an_empty_set_of_gold():
    found = set_figures("tags", [[], [], ["a"]], [None, [], ["a"]], ["a", "b"])
    assert (found["answered"], found["exact"], found["jaccard"]) == (2, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found["precision"], found["recall"]) == (1, 1)


def test_sets_are_judged_by_what_they_share_as_scikit_learn_does(tmp_path, capsys):
    rng = np.random.default_rng(1)
    sets = [[name for name in "abcd" if rng.random() < 0.5] or ["a"] for _ in range(120)]
    said, gold = sets[:60], sets[60:]
    rows = [({"tags": one}, right) for one, right in zip(said, gold, strict=True)]
    path = extracted(rows, '[("tags", pa.list_(pa.string()))]', tmp_path)
    found = evaluate_run(path)
    binary = MultiLabelBinarizer(classes=list("abcd"))
    theirs, ours = binary.fit_transform(gold), binary.transform(said)
    assert (found["kind"], found["rows"]) == ("sets", 60)
    assert found["jaccard"] == pytest.approx(jaccard_score(theirs, ours, average="samples"))
    assert found["micro_f1"] == pytest.approx(f1_score(theirs, ours, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(theirs, ours, average="macro"))
    by_label = f1_score(theirs, ours, average=None)
    assert [one["f1"] for one in found["classes"].values()] == pytest.approx(by_label.tolist())
    for name in ("micro_f1", "macro_f1", "jaccard", "exact"):
        low, high = found["intervals"][name]
        assert low < found[name] < high
    assert found["precision"] == pytest.approx(precision_score(theirs, ours, average="micro"))
    assert found["exact"] == pytest.approx((theirs == ours).all(axis=1).mean())
    assert cli.main(["evaluate", path, "--column", "tags"]) == 0
    assert f"{found['jaccard']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ('["a", "b; c"]', {"a", "b; c"}),
        ("a; b,c", {"a", "b,c"}),
        ("a|b", {"a", "b"}),
        (" a, b ,", {"a", "b"}),
        ("", set()),
        ("[a]", {"[a]"}),
        (["a", None, 3], {"a", "3"}),
    ],
)
def test_a_set_of_gold_may_be_a_list_or_a_text(text, members):
    assert members_of(text) == members


def test_booleans_and_parts_of_objects_are_judged_as_labels(tmp_path):
    rows = [({"ok": True, "at": {"city": "Rome"}}, "yes"), ({"ok": False, "at": {"city": "Bonn"}}, "1")]
    schema = '[("ok", pa.bool_()), ("at", pa.struct([("city", pa.string())]))]'
    path = extracted([*rows, ({"ok": None, "at": None}, "false")], schema, tmp_path)
    found = evaluate_run(path, column="ok")
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["confusion"]["true"] == {"false": 1, "true": 1, "(none)": 0}
    assert evaluate_run(path, column="at.city")["confusion"]["yes"]["Rome"] == 1
    with pytest.raises(UserError, match=r"--column=at: it has parts: at.city"):
        evaluate_run(path, column="at")
    with pytest.raises(UserError, match=r"--column=at.town: at has no part 'town'"):
        evaluate_run(path, column="at.town")
    with pytest.raises(UserError, match="--column names one of ok, at"):
        evaluate_run(path)
    with pytest.raises(UserError, match="decide labels and levels, not other columns"):
        evaluate_run(path, column="ok", decision=Decision(threshold=0.5))


def test_without_gold_of_the_run_s_own_a_column_must_be_named():
    label(6, lambda i: "ham", "dataset.gold=null")
    with pytest.raises(UserError, match=r"has no dataset\.gold: name the column"):
        evaluate_run("outputs/mail")
    assert evaluate_run("outputs/mail", "kind")["rows"] == 6


# Labels decided anew


def decided(*words):
    return label(200, lambda i: "ham" if i % 2 else "spam", *words)


def test_what_another_decision_gives_is_what_a_run_with_it_gave(tmp_path):
    plain = decided("run_name=plain")
    decided("run_name=all", "job.prior=batch", "calibrate.rows=0.3", "job.abstain_below=0.6")
    undone = evaluate_run("outputs/all", decision=Decision(prior=False, temperature=1, threshold=0))
    for name in ("accuracy", "confusion"):
        assert undone[name] == plain["evaluation"][name]
    threshold = decided("run_name=threshold", "job.abstain_below=0.7")["evaluation"]
    raised = evaluate_run("outputs/plain", decision=Decision(threshold=0.7))
    assert (raised["abstained"], raised["confusion"]) == (threshold["abstained"], threshold["confusion"])
    prior = decided("run_name=prior", "job.prior=batch")
    found = evaluate_run("outputs/prior", decision=Decision(prior=False))
    assert found["accuracy"] == prior["evaluation"]["prior"]["accuracy_without"]
    assert "prior" not in found


def test_an_export_has_the_columns_that_follow_from_another_decision(capsys):
    decided("run_name=plain")
    decided("run_name=all", "job.prior=batch", "calibrate.rows=0.3", "job.abstain_below=0.6", "job.logprobs=true")
    options = ["--no-prior", "--temperature", "1", "--threshold", "0"]
    assert cli.main(["export", "outputs/all", "all.jsonl", *options]) == 0
    assert "decided anew: without the prior, at temperature 1, all with a label" in capsys.readouterr().out
    rows = json_lines("all.jsonl")
    want = list(Run("outputs/plain").rows())
    assert [row["label"] for row in rows] == [row["label"] for row in want]
    assert [row["confidence"] for row in rows] == pytest.approx([row["confidence"] for row in want])
    assert [row["probabilities"]["ham"] for row in rows] == pytest.approx([r["probabilities"]["ham"] for r in want])
    assert not any(row["abstained"] for row in rows)
    words = ["--threshold", "0.8", "--where", "abstained = true", "--overwrite"]
    assert cli.main(["export", "outputs/plain", "all.jsonl", *words]) == 0
    rows = json_lines("all.jsonl")
    assert len(rows) == sum(row["confidence"] < 0.8 for row in want) > 0
    assert all(row["label"] is None for row in rows)


def test_rows_in_error_stay_without_a_label_whatever_is_decided():
    label(20, lambda i: "ham", "job.prior=batch", empty=7)
    found = evaluate_run("outputs/mail", decision=Decision(prior=False, threshold=0))
    assert (found["errors"], found["labelled"]) == (1, 19)


def test_what_cannot_be_decided_anew_is_refused():
    decided("run_name=plain")
    decided("run_name=votes", "job.method=generate", "job.votes=2", "engine.temperature=1", "job.abstain_below=0.9")
    for path, options, message in (
        ("plain", ["--no-prior"], "--no-prior: outputs/plain has no prior to leave out"),
        ("plain", ["--temperature", "0"], "--temperature=0.0: it must be above 0"),
        ("plain", ["--threshold", "2"], "--threshold=2.0: it must be from 0 to 1"),
        ("votes", ["--temperature", "2"], "holds no probabilities of labels"),
        ("votes", ["--threshold", "0.5"], "rows below 0.9 lost their label"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_run(f"outputs/{path}", decision=decision_of(parsed(options)))


def parsed(options):
    parser = argparse.ArgumentParser()
    add_decision(parser)
    return parser.parse_args(options)


# Words


def test_a_run_below_the_baseline_says_so_and_what_to_try(capsys):
    label(60, lambda i: "spam" if i else "ham", "job.abstain_below=1")
    assert cli.main(["evaluate", "outputs/mail"]) == 0
    said = capsys.readouterr().out
    assert "fewer than without reading them: always answering 'spam' would be right in 98.3%" in said
    assert "try " in said


def test_a_column_of_gold_without_a_value_is_told(capsys):
    Path("mail.jsonl").write_text('{"text": "a", "kind": null}\n' * 6)
    data = ["dataset=jsonl", "dataset.path=mail.jsonl", "dataset.gold=kind", "calibrate.rows=0.5"]
    job = ["engine.backend=fake", "job=label", "job.labels=[ham,spam]", "prompt.user={{ text }}"]
    assert cli.main(["run", "--no-supervise", *job, *data]) == 0
    said = "".join(capsys.readouterr())
    assert "calibrate.rows: none of the 3 rows drawn has a value in kind" in said
    assert "gold     no finished row has a value in its column of gold" in said


def test_answers_that_are_nearly_all_one_label_are_told():
    found = {"rows": 100, "accuracy": 0.5, "intervals": {"accuracy": [0.4, 0.6]}}
    found |= {"confusion": {"a": {"a": 50, "b": 0, "(none)": 0}, "b": {"a": 49, "b": 1, "(none)": 0}}}
    found |= {"baseline": {"label": "a", "share": 0.5}, "favourite": {"label": "a", "share": 0.99}}
    assert "no better than chance can explain: always answering 'a'" in verdict(found)
    assert "99% of the answers are 'a': job.prior=batch" in advice(found)[0]
    better = found | {"favourite": {"label": "a", "share": 0.55}, "accuracy": 0.9, "intervals": {"accuracy": [0.8, 1]}}
    assert advice(better) == []
    assert advice(better | {"errors": 8}) == ["8 wrong rows of 10 ended with an error: the column error says why."]
    apart = {"confusion": {"a": {"A": 5, "B": 5}, "b": {"A": 9, "B": 1}, "A": {}, "B": {}}, "accuracy": 0.0}
    assert advice(found | apart | {"favourite": None}) == [
        "No answer occurs in gold: answers are such as 'A', gold such as 'a'."
    ]
    assert verdict(better) == "90.0% of 100 rows with gold are right; always answering 'a' would be right in 50.0%."


def test_thousands_of_labels_are_judged_by_those_that_occur():
    names = [f"code {number:05}" for number in range(20_000)]
    gold = np.array([7, 7, 7, 19_000, 19_000, 500])
    label = np.array([7, 7, 19_000, 19_000, 20_000, 501])  # 20,000: none
    found = scores.label_figures(gold, label, names)
    assert list(found["confusion"]) == ["code 00007", "code 00500", "code 00501", "code 19000"]
    assert found["confusion"]["code 19000"]["(none)"] == found["confusion"]["code 00007"]["code 19000"] == 1
    assert {name: one["rows"] for name, one in found["classes"].items()} == {
        "code 00007": 3,
        "code 00500": 1,
        "code 00501": 0,
        "code 19000": 2,
    }
    assert found["macro_f1"] == pytest.approx((0.8 + 0 + 0 + 0.5) / 4)
    assert found["accuracy"] == 0.5 and found["kappa"] == pytest.approx(1 / 3.25, abs=0.1)


def test_a_confusion_of_hundreds_of_labels_has_what_occurs_only():
    found = scores.label_figures(np.array([0, 1, 150]), np.array([0, 2, 151]), [f"label {at}" for at in range(151)])
    assert len(found["confusion"]) == len(found["classes"]) == 151
    assert found["confusion"]["label 1"] == {"label 2": 1} and found["confusion"]["label 150"] == {"(none)": 1}
    assert found["confusion"]["label 3"] == {}
