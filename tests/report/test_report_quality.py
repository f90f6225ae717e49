"""What a report says of summaries, made-up texts and labels, whoever computed the figures."""

import csv
import re

import pytest

from runner import open_run
from runner.cli import main
from runner.report.charts import coverage
from runner.report.quality import label_facts
from runner.results.diversity import diversity
from tests.support.page import Page


@pytest.fixture
def folder(folder):
    with (folder / "data.csv").open("w", newline="") as file:
        rows = ((i, f"A document about thing {i}. " * 20, "amber birch cedar") for i in range(30))
        csv.writer(file).writerows([("id", "text", "reference"), *rows])
    return folder


def text_of(folder, *words):
    keys = ["dataset=csv", "dataset.path=data.csv", "engine.backend=fake", "output.report=true", "run_name=x"]
    assert main(["run", *keys, *words]) == 0
    return " ".join("".join(Page((folder / "outputs/x/report.html").read_text()).text).split())


def test_summaries_have_compression_and_rouge(folder):
    said = text_of(folder, "job=summarize", "dataset.gold=reference")
    assert re.search(r"ROUGE-1 ?0\.\d{3} \(95%: 0\.\d{3} to 0\.\d{3}\)", said)
    assert re.search(r"the median document is \d+\.\d times as long as its summary", said)


def test_generated_texts_have_their_diversity(folder):
    said = text_of(folder, "job=generate", "prompt.user={{ text }}", "engine.temperature=1")
    assert re.search(r"distinct-2 ?[01]\.\d{3} of the 2-grams of 30 texts", said)
    assert re.search(r"\d+ of 30 texts repeat an earlier one", said)
    assert "Summaries" not in said


def test_the_diversity_in_the_report_is_that_of_the_run(folder):
    words = ("job=synthesize", "job.target=20", "prompt.user=Write a text.", "engine.temperature=1")
    said = text_of(folder, *words)
    found = diversity(open_run(folder / "outputs/x"))
    assert f"distinct-1{found['distinct_1']:.3f} of the 1-grams of 20 texts" in said
    assert f"self-BLEU{found['self_bleu']:.3f}" in said


def test_label_figures_are_taken_as_they_come():
    assert label_facts({}) == label_facts({"rows": 0}) == []
    assert label_facts({"rows": 3, "accuracy": 0.5}) == []
    known = {
        "rows": 3,
        "accuracy": 0.5,
        "kappa": None,
        "ece": 0.1,
        "intervals": {"accuracy": [0.25, 0.75]},
        "intervals_ece": [0.0, None],
        "abstained": 2,
        "classes": {"ham": {"precision": 1.0, "recall": 0.5, "f1": 2 / 3}},
    }
    assert label_facts(known) == [
        ("accuracy", "0.500 (95%: 0.250 to 0.750)"),
        ("calibration error (ECE)", "0.100"),
        ("abstained", "2 rows"),
    ]


def test_accuracy_by_coverage():
    assert coverage([]) == coverage([{"coverage": 0.5, "accuracy": None}]) == ""
    assert "<svg" in coverage([{"coverage": 0.5, "accuracy": 0.9}, {"coverage": 1.0, "accuracy": 0.8}])
