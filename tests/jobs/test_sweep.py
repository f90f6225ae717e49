"""``rowmill run -m``: several runs in one line, and a table of them."""

import json
from pathlib import Path

import pytest

from runner import open_run
from runner.cli import main
from runner.engine import weights
from tests.support.tiny import save_tiny_llama

BASE = ["run", "-m", "job=label", "job.labels=[a,b]", "dataset=csv", "dataset.path=mail.csv", "run_name=s"]
FAKE = [*BASE, "engine.backend=fake"]
PROMPTS = 'prompt.user="X {{ text }}","Y, {{ text }}"'


@pytest.fixture(autouse=True)
def folder(folder):
    Path("mail.csv").write_text("text,kind\nhello,a\nworld,b\n")
    return folder


def test_each_combination_is_a_run_and_the_same_line_goes_on(capsys):
    words = [*FAKE, "dataset.gold=kind", PROMPTS, "seed=1,2"]
    for sessions in (1, 2):
        assert main(words) == 0
        table = capsys.readouterr().out.splitlines()
        assert table[0].split() == ["run", "rows", "errors", "accuracy", "speed", "output"]
        assert {line.split()[-6] for line in table[1:]} == {"2"}
        assert [line.split()[-1] for line in table[1:]] == [f"outputs/s-{x}-text-{n}" for x in "XY" for n in (1, 2)]
        assert {open_run(f"outputs/s-{x}-text-{n}").status["sessions"] for x in "XY" for n in (1, 2)} == {sessions}
    assert open_run("outputs/s-Y-text-2").config["prompt"]["user"] == "Y, {{ text }}"
    assert open_run("outputs/s-Y-text-2").config["seed"] == 2


def test_one_that_fails_stops_no_other_and_the_exit_code_is_the_worst(capsys):
    assert main([*FAKE, "prompt.user={{ text }}", "dataset.gold=nope,kind"]) == 2
    said = capsys.readouterr().out
    assert "dataset.gold=nope: dataset.gold: no column 'nope'" in said
    assert open_run("outputs/s-kind").status["state"] == "finished"
    assert main([*FAKE, "prompt.user={{ text }}", "job.method=choice,generate", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["run"], one["errors"]) for one in found] == [("job.method=choice", 0), ("job.method=generate", 2)]


def test_long_values_are_told_apart_by_numbers():
    assert main([*FAKE, f'prompt.user="{{{{ text }}}}{"x" * 50}","{{{{ text }}}}{"x" * 51}"']) == 0
    assert {path.name for path in Path("outputs").iterdir()} == {"s-1", "s-2"}


@pytest.mark.parametrize("words", [["seed=1"], ["seed=1,2", "resume=force"], ["seed=1,x"], ["seed=1,2", "jbo=x"]])
def test_what_cannot_be_swept_is_refused_before_any_run(words):
    assert main([*FAKE, "prompt.user={{ text }}", *words]) == 2
    assert not Path("outputs").exists()


def test_runs_that_share_a_model_load_it_once(monkeypatch, capsys):
    save_tiny_llama(Path("tiny"))
    loaded = []
    load = weights.load_lazily
    monkeypatch.setattr(weights, "load_lazily", lambda folder, **how: loaded.append(folder) or load(folder, **how))
    tiny = ["model.path=tiny", "engine.backend=cpu", "prompt.chat=false"]
    assert main([*BASE, *tiny, PROMPTS]) == 0
    assert len(loaded) == 1
    assert capsys.readouterr().err.count("the model is loaded already") == 1
    first = list(open_run("outputs/s-Y-text").rows())
    alone = [word for word in BASE if word not in ("-m", "run_name=s")]
    assert main([*alone, *tiny, "prompt.user=Y, {{ text }}"]) == 0
    again = list(open_run("outputs/label-csv").rows())
    assert [row["probabilities"] for row in first] == [row["probabilities"] for row in again]
    assert len(loaded) == 2
