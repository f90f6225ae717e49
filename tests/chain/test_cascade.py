"""Cascades: which rows the large model is asked about, and what they say of themselves."""

import math
from pathlib import Path

import numpy as np
import pytest

from runner import open_run, run
from runner.chain.cascade import RISK, choose, least_rows, lower_bound
from runner.cli import main
from runner.types import UserError
from tests.support import runs

ROWS = 80
CASCADE = """
job: label
job.labels: [a, b]
dataset: csv
dataset.path: rows.csv
dataset.gold: gold
prompt.user: "{{ text }}"
engine.backend: fake
engine.batch_size: 4
run_name: cascade
stages:
  - {name: small}
  - {name: large, prompt.user: "Again: {{ text }}", where: confidence < 0.8, merge: replace}
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = "".join(f"{i},text number {i},{'ab'[i % 2]}\n" for i in range(ROWS))
        Path("rows.csv").write_text("id,text,gold\n" + lines)
        Path("cascade.yaml").write_text(CASCADE)
        run(["job=label", "job.labels=[a,b]", "dataset=csv", "dataset.path=rows.csv", "run_name=alone",
             "engine.backend=fake", "prompt.user=Again: {{ text }}", "dataset.gold=gold"])  # fmt: skip
        yield folder


def test_the_large_model_is_asked_where_the_small_one_is_not_sure_and_the_row_says_whose_its_label_is(capsys):
    assert main(["run", "cascade.yaml"]) == 0
    said = capsys.readouterr().out
    small, large = (
        {row["id"]: row for row in open_run(f"outputs/{name}").rows()} for name in ("cascade/small", "alone")
    )
    rows = runs.rows_of("cascade")
    asked = [row["id"] for row in rows if row["stage"] == "large"]
    assert asked == [number for number, row in small.items() if row["confidence"] < 0.8]
    assert 0 < len(asked) < ROWS
    for row in rows:
        whose = large if row["stage"] == "large" else small
        assert [row[name] for name in ("label", "confidence", "probabilities", "usage")] == [
            whose[row["id"]][name] for name in ("label", "confidence", "probabilities", "usage")
        ]
    found = open_run("outputs/cascade").figures["cascade"]
    right = sum(row["label"] == row["gold"] for row in rows) / ROWS
    assert (found["escalated"], found["share"]) == (len(asked), len(asked) / ROWS)
    assert found["accuracy"]["cascade"] == open_run("outputs/cascade").figures["evaluation"]["accuracy"] == right
    assert found["accuracy"]["first"] == open_run("outputs/cascade/small").figures["evaluation"]["accuracy"]
    assert found["seconds"] > found["seconds_first"]
    assert f"escalated: {len(asked)} of {ROWS} rows" in said
    assert main(["report", "outputs/cascade"]) == 0
    assert "Cascade</h2>" in Path("outputs/cascade/report.html").read_text()


AGREE = ["cascade.yaml", "stages.large.where=null", "run_name=agree", "cascade.agree=0.6", "cascade.rows=40"]


def test_a_sample_that_both_label_chooses_the_threshold_and_is_not_computed_twice():
    figures = run(AGREE)["cascade"]
    chosen, rows = figures["threshold"], runs.rows_of("agree")
    large, small = open_run("outputs/agree/large"), {r["id"]: r for r in open_run("outputs/agree/small").rows()}
    asked = [row["row"] for row in large.rows()]
    assert len(asked) == len(set(asked)) == chosen["asked"] == figures["escalated"]
    limit = chosen["threshold"] or math.inf
    below = {number for number, row in small.items() if row["confidence"] < limit}
    assert set(asked) == below | set(asked[:40])
    alone = {row["id"]: row["label"] for row in open_run("outputs/alone").rows()}
    kept = [alone[n] == small[n]["label"] or n in below for n in asked[:40]]
    assert chosen["agreeing"] == sum(kept)
    assert chosen["at_least"] == lower_bound(sum(kept), 40) >= 0.6
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert {row["id"] for row in rows if row["stage"] == "large"} == set(asked)
    assert run(AGREE)["cascade"] == figures
    assert figures["accuracy"]["is_sample"]
    right = [alone[n] == "ab"[n % 2] for n in asked[:40]]
    assert figures["accuracy"]["last_there"] == sum(right) / 40


def test_a_cascade_that_agrees_is_refused_where_it_cannot_be_shown():
    for words, said in [
        (["cascade.agree=0.99"], "with fewer than 299 rows"),
        (["stages.large.where=confidence < 1"], "leave it out"),
        (["stages.large.merge=add"], "merge: replace"),
        (["stages.large.job=generate"], "no stage before makes text"),
    ]:
        with pytest.raises(UserError, match=said):
            run([*{w.partition("=")[0]: w for w in [*AGREE, "run_name=refused", *words]}.values()])
    assert not Path("outputs/refused").exists()


def test_the_bound_is_that_of_clopper_and_pearson():
    from scipy.stats import binom

    for agreeing, rows in ((59, 59), (95, 100), (1, 3)):
        bound = lower_bound(agreeing, rows)
        assert binom.sf(agreeing - 1, rows, bound) == pytest.approx(RISK)
    assert lower_bound(0, 10) == 0
    assert (least_rows(0.95), least_rows(0.5)) == (59, 5)
    assert lower_bound(59, 59) >= 0.95 > lower_bound(58, 58)


def test_a_chosen_threshold_agrees_too_little_in_at_most_a_twentieth_of_all_samples():
    chance = np.random.RandomState(0)
    rows, agree, missed, trials = 5_000, 0.9, 0, 100
    confidence = chance.uniform(0.5, 1, rows)
    same = chance.uniform(size=rows) < confidence
    shares = []
    for _ in range(trials):
        sampled = chance.choice(rows, 300, replace=False)
        threshold, _ = choose(confidence, sampled, same[sampled], agree)
        missed += np.mean(same | (confidence < threshold)) < agree
        shares.append(np.mean(confidence < threshold))
    assert missed / trials <= RISK + 3 * math.sqrt(RISK * (1 - RISK) / trials)
    assert 0.2 < np.mean(shares) < 0.9  # it does save the large model something
