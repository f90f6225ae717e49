"""``rowmill diff`` tells two runs apart, in what they were and in what came out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rowmill

from runner.cli import main
from runner.config.conf import EngineConf
from runner.results import compare as comparing
from runner.results.run import Run
from runner.results.scores import kappa
from runner.types import UserError

KEYS = [
    *("run", "job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake"),
    "prompt.user=Ham or spam? {{ text }}",
]


@pytest.fixture
def folder(folder):
    lines = (f"{i},mail number {i}\n" for i in range(300))
    Path("mail.csv").write_text("id,text\n" + "".join(lines))
    return folder


def run(name, *words):
    assert main([*KEYS, f"run_name={name}", *words]) in (0, 1)
    return Path("outputs") / name


def compare(a, b, **options):
    return comparing.compare(Run(a), Run(b), **options)


def test_the_same_run_twice(folder, capsys):
    figures = compare(run("a"), run("b", "output.shard_rows=7"))
    assert figures["configuration"] == []
    assert figures["versions"] == []
    assert figures["rows"] == 300
    assert figures["columns"] == {"label": 1.0}
    assert figures["kappa"] == 1.0
    assert figures["flips"] == []


def test_another_prompt_flips_rows(folder, capsys):
    keys = [word for word in KEYS if not word.startswith("prompt.user")]
    a = run("a")
    assert main([*keys, "prompt.user=Spam or ham? {{ text }}", "run_name=b", "engine.window=64"]) == 0
    figures = compare(a, Path("outputs/b"))
    assert figures["configuration"] == ['prompt.user: "Ham or spam? {{ text }}" -> "Spam or ham? {{ text }}"']
    assert f"engine.window: {EngineConf.window} -> 64" in figures["versions"]
    labels = [[row["label"] for row in _rows(name)] for name in ("a", "b")]
    flipped = [i for i, pair in enumerate(zip(*labels, strict=True)) if len(set(pair)) == 2]
    assert figures["flipped"] == len(flipped) > 10
    assert len(figures["flips"]) == 10
    assert all(flip["row"] in flipped and flip["text"] == f"mail number {flip['row']}" for flip in figures["flips"])
    assert figures["columns"]["label"] == pytest.approx(1 - len(flipped) / 300)
    capsys.readouterr()
    assert main(["diff", "outputs/a", "outputs/b"]) == 0
    said = capsys.readouterr().out
    assert "300 finished in both" in said
    assert "Cohen's kappa" in said
    assert "mail number" in said
    assert main(["diff", "outputs/a", "outputs/b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(figures))


def _rows(name):
    from runner import open_run

    return open_run(f"outputs/{name}").rows()


def test_rows_of_other_order_are_matched_by_a_column(folder, capsys):
    a, b = run("a"), run("b", "dataset.shuffle_seed=3", "dataset.limit=100")
    assert compare(a, b)["rows"] is None
    assert main(["diff", str(a), str(b)]) == 0
    assert "--by COLUMN" in capsys.readouterr().out
    figures = compare(a, b, by="id")
    assert figures["rows"] == 100
    assert figures["columns"] == {"label": 1.0}
    with pytest.raises(UserError, match=r"--by=nope: .* it has id, text"):
        compare(a, b, by="nope")


def test_a_column_that_two_rows_share_a_value_of_matches_no_rows(folder):
    Path("mail.csv").write_text("id,text\n1,a\n2,b\n1,c\n")
    a, b = run("a"), run("b", "dataset.limit=2")
    for one, other in ((a, b), (b, a)):
        with pytest.raises(UserError, match=r"--by=id: rows 0 and 2 of outputs/a both have '?1"):
            compare(one, other, by="id")


def test_properties_of_a_schema_are_compared_whatever_they_are_called_and_hold(folder):
    Path("mail.csv").write_text("id,text,good\n" + "".join(f"{i},mail {i},{'ab'[i % 2]}\n" for i in range(20)))
    label = "{type: object, properties: {x: {enum: [a, b]}}, required: [x]}"
    properties = f"{{label: {label}, confidence: {{enum: [low, high]}}}}"
    schema = f"{{type: object, properties: {properties}, required: [label, confidence]}}"
    words = ("job=generate", f"output.schema={schema}", "engine.temperature=0.9", "output.report=false")
    keys = [word for word in KEYS if not word.startswith("job")]
    for name, seed in (("a", 1), ("b", 2)):
        assert main([*keys, *words, f"run_name={name}", f"seed={seed}"]) == 0
    figures = compare(Path("outputs/a"), Path("outputs/b"))
    first, second = ([(row["label"]["x"], row["confidence"]) for row in _rows(name)] for name in "ab")
    for at, column in enumerate(("label", "confidence")):
        same = [one[at] == other[at] for one, other in zip(first, second, strict=True)]
        assert figures["columns"][column] == sum(same) / 20 < 1
    paired = compare(Path("outputs/a"), Path("outputs/b"), gold="good", column="label.x")["gold"]
    assert paired["accuracy_b"] == sum(one == "ab"[row % 2] for row, (one, _) in enumerate(second)) / 20
    with pytest.raises(UserError, match=r"--column=label\.y: label has no part 'y'; valid: x"):
        compare(Path("outputs/a"), Path("outputs/b"), gold="good", column="label.y")


def test_errors_on_one_side(folder):
    keys = [word for word in KEYS if not word.startswith("prompt.user")]
    a = run("a")
    assert main([*keys, "prompt.user={{ text[13] }}{{ text }}", "run_name=b"]) == 1
    figures = compare(a, Path("outputs/b"))
    assert figures["errors"]["in_a"] == figures["errors"]["in_both"] == 0
    assert figures["errors"]["in_b"] == 10


def test_runs_of_different_jobs_share_no_column(folder):
    keys = [word for word in KEYS if not word.startswith("job")]
    assert main([*keys, "job=generate", "run_name=b"]) == 0
    figures = compare(run("a"), Path("outputs/b"))
    assert figures["columns"] == {}
    assert figures["kappa"] is None
    assert figures["rows"] == 300


def test_no_run_is_refused(folder, capsys):
    assert main(["diff", ".", "outputs"]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_kappa_is_agreement_beyond_chance_and_none_where_chance_alone_agrees():
    labels = (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    # Half of the rows by chance (25 * 30 + 25 * 20 of 50 * 50), 35 of 50 observed.
    assert kappa(*labels, np.array([20, 5, 10, 15])) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    nothing = np.zeros(0, np.int64)
    assert kappa(nothing, nothing, nothing) is None
    assert kappa(np.array([0]), np.array([0]), np.array([3])) is None


def judged(folder, name, said, *words):
    """A label run whose labels are ``said``: by one own job that repeats a column of the input."""
    lines = [f"{i},{a},{b},{kind}" for i, (a, b, kind) in enumerate(zip(*said, strict=True))]
    Path("said.csv").write_text("\n".join(["id,a,b,kind", *lines]) + "\n")
    (folder / "mine/job").mkdir(parents=True, exist_ok=True)
    (folder / "mine/own.py").write_text(OWN)
    (folder / "mine/job/own.yaml").write_text("_target_: own.Own\nsaid: a\n")
    words = ["job=own", f"job.said={name}", "dataset=csv", "dataset.path=said.csv", "engine.backend=fake", *words]
    return Path(rowmill.run([*words, "prompt.user='{{ id }}'", f"run_name={name}"], "mine")["path"])


OWN = """
from dataclasses import dataclass
import pyarrow as pa
from rowmill import Request

@dataclass
class Own:
    said: str

    def schema(self):
        return pa.schema([("label", pa.string())])

    def steps(self, row):
        yield Request()
        return {"label": row[self.said]}
"""


@pytest.mark.parametrize("by", [None, "id"])
def test_two_runs_with_gold_are_compared_in_pairs(folder, by, capsys):
    rng = np.random.default_rng(0)
    kinds = ["ham" if one else "spam" for one in rng.random(120) < 0.5]
    other = {"ham": "spam", "spam": "ham"}
    said = [[kind if rng.random() < share else other[kind] for kind in kinds] for share in (0.6, 0.8)]
    golds = [None if i % 10 == 0 else kind for i, kind in enumerate(kinds)]
    columns = (*said, ["" if gold is None else gold for gold in golds])
    a, b = (judged(folder, name, columns, "dataset.gold=kind") for name in "ab")
    found = compare(a, b, by=by)["gold"]
    there = [i for i, gold in enumerate(golds) if gold]
    right = [[said[run][i] == golds[i] for i in there] for run in (0, 1)]
    righted = [i for i, one, two in zip(there, *right, strict=True) if two and not one]
    broken = [i for i, one, two in zip(there, *right, strict=True) if one and not two]
    assert (found["rows"], found["righted"], found["broken"]) == (len(there), len(righted), len(broken))
    assert (found["righted_rows"], found["broken_rows"]) == (righted[:10], broken[:10])
    assert (found["accuracy_a"], found["accuracy_b"]) == pytest.approx(np.mean(right, axis=1).tolist())
    assert found["difference"] == pytest.approx(found["accuracy_b"] - found["accuracy_a"])
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    differing, least = len(righted) + len(broken), min(len(righted), len(broken))
    tail = sum(math.comb(differing, k) for k in range(least + 1)) / 2**differing
    assert found["p"] == pytest.approx(min(1, 2 * tail))
    capsys.readouterr()
    assert main(["diff", str(a), str(b), *(["--by", by] if by else [])]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy {found['accuracy_a']:.3f} -> {found['accuracy_b']:.3f} in label" in shown
    assert f"McNemar's p = {found['p']:.3g}" in shown
    assert f"broken   {len(broken)} rows: {broken[0]}" in shown


def test_runs_without_gold_are_compared_with_a_column_that_is_named(folder):
    a, b = run("a"), run("b")
    assert compare(a, b)["gold"] is None
    found = compare(a, b, gold="text", column="label")["gold"]
    assert (found["p"], found["righted"], found["broken"], found["accuracy_a"]) == (1.0, 0, 0, 0.0)
    with pytest.raises(UserError, match="--gold=nope: there is no such column"):
        compare(a, b, gold="nope")
