"""What the evaluation of labels promises."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score

from runner import cli, run
from runner.results import scores
from runner.results.evaluate import evaluate_labels, evaluate_run
from runner.results.run import Run
from runner.results.show import confusion_table, verdict_lines
from runner.types import UserError


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    assert evaluate_labels("outputs/mail", Run("outputs/mail").source, ["ham", "spam"]) == found


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


OWN = """
from dataclasses import dataclass
import pyarrow as pa
from runner.types import Request

@dataclass
class Own:
    def schema(self):
        return pa.schema([("label", pa.string())])

    def steps(self, row):
        yield Request()
        return {"label": row["said"]}
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
    (tmp_path / "mine/job").mkdir(parents=True)
    figures = f"def figures(self, run, source):\n        nan = float('nan')\n        return {own}\n"
    (tmp_path / "mine/own.py").write_text(f"{OWN}\n    {figures}")
    (tmp_path / "mine/job/own.yaml").write_text("_target_: own.Own\n")
    words = ["job=own", "dataset=csv", "dataset.path=said.csv", "dataset.gold=kind", "engine.backend=fake"]
    words += ["prompt.user='{{ said }}'", "run_name=own", "output.report=true"]
    assert cli.main(["run", "--config-dir", "mine", *words]) == 0
    said = capsys.readouterr()
    assert "2 of 2, no errors" in said.out and "report.html" in said.out and "Traceback" not in said.err
    figures = run(words, "mine")
    assert {name: figures[name] for name in kept} == kept


def test_input_columns_called_like_a_job_s_are_taken_for_nothing_else(tmp_path, capsys):
    Path("said.csv").write_text("said,kind,confidence,abstained,probabilities\nham,ham,high,no,x\neggs,ham,low,yes,y\n")
    (tmp_path / "mine/job").mkdir(parents=True)
    (tmp_path / "mine/own.py").write_text(OWN)
    (tmp_path / "mine/job/own.yaml").write_text("_target_: own.Own\n")
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
    with pytest.raises(UserError, match="has no column label of its job"):
        evaluate_run(Path(run([*words, "run_name=mail"])["path"]), "kind")


def test_labels_of_a_job_of_ones_own_are_those_that_occur_and_the_gold_values(tmp_path, capsys):
    said, golds = ["ham", "ham", "eggs", "spam"], ["ham", "spam", "ham", "beans"]
    lines = [f"{one},{gold}" for one, gold in zip(said, golds, strict=True)]
    Path("said.csv").write_text("\n".join(["said,kind", *lines]) + "\n")
    (tmp_path / "mine/job").mkdir(parents=True)
    (tmp_path / "mine/own.py").write_text(OWN)
    (tmp_path / "mine/job/own.yaml").write_text("_target_: own.Own\n")
    words = ["job=own", "dataset=csv", "dataset.path=said.csv", "dataset.gold=kind", "engine.backend=fake"]
    figures = run([*words, "prompt.user='{{ said }}'", "run_name=own"], "mine")
    found = figures["evaluation"]
    assert (figures["finished"], found["rows"], found["accuracy"]) == (4, 4, 0.25)
    assert list(found["classes"]) == ["beans", "eggs", "ham", "spam"]
    assert found["confusion"]["spam"]["ham"] == found["confusion"]["ham"]["eggs"] == 1
    assert cli.main(["evaluate", figures["path"], "--gold", "kind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == found["confusion"]
