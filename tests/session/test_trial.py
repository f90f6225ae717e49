"""A trial computes rows of the run, and tells the time of the rest with a margin."""

import json
import math
import random
from pathlib import Path

import pytest

from runner.checkpoint.counts import Totals
from runner.cli import main
from runner.session.pieces import token_texts
from runner.session.preview import histogram
from runner.session.trial import Moment, Trial, foretell
from runner.text.vocabulary import ByteTokenizer, as_vocabulary

KEYS = [
    *("job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake"),
    *("run_name=mail", "prompt.user=Ham or spam? {{ text }}"),
]


@pytest.fixture
def folder(folder):
    lines = (f"{i},mail number {i},{'ham' if i % 2 else 'spam'}\n" for i in range(200))
    Path("mail.csv").write_text("id,text,kind\n" + "".join(lines))
    return folder


def figures_of(capsys, *words):
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_its_rows_are_the_run_s(folder, capsys):
    time = figures_of(capsys, "preview", *KEYS, "--trial", "20")["time"]
    assert time["trial_rows"] == 20
    assert time["left"] == 180
    assert time["seconds"] == pytest.approx(180 / time["rows_per_s"])
    status = figures_of(capsys, "status", "outputs/mail")
    assert (status["finished"], status["state"]) == (20, "interrupted")
    assert figures_of(capsys, "run", *KEYS)["finished"] == 200
    again = figures_of(capsys, "preview", *KEYS, "--trial", "20")["time"]
    assert again["left"] == 0


def test_a_second_trial_goes_on(folder, capsys):
    figures_of(capsys, "preview", *KEYS, "--trial", "20")
    assert figures_of(capsys, "preview", *KEYS, "--trial", "5")["time"]["left"] == 175


def test_what_is_said(folder, capsys):
    assert main(["preview", *KEYS, "--trial", "20"]) == 0
    said = capsys.readouterr().out
    assert "for 180 rows, give or take " in said
    assert "20 rows took " in said
    assert "kept by the run" in said
    assert "[answer: ham | spam]" in said
    assert "█" in said


@pytest.mark.parametrize("typed", ["0", "-3", "many", "2.5"])
def test_what_is_no_number_of_rows_is_refused(folder, capsys, typed):
    with pytest.raises(SystemExit) as stopped:
        main(["preview", *KEYS, f"--trial={typed}"])
    assert stopped.value.code == 2
    assert f"{typed}: it must be a number of rows" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_a_directory_of_another_run_is_refused(folder, capsys):
    assert main(["run", *KEYS]) == 0
    assert main(["preview", *KEYS, "seed=5", "--trial", "20"]) == 2
    assert "different run" in capsys.readouterr().err


def trial_of(seconds, rows, left=1000, tokens=10):
    """Steps that took so long, with so many rows each; a row has so many tokens to compute."""
    moments, at, finished = [Moment(5.0, Totals())], 5.0, 0
    for took, count in zip(seconds, rows, strict=True):
        at, finished = at + took, finished + count
        moments.append(Moment(at, Totals(finished, prompt_tokens=finished * tokens)))
    return Trial(moments, left)


def test_even_steps_have_no_margin():
    time = foretell(trial_of([9.0, 1.0, 1.0, 1.0], [5, 5, 5, 5]), [10])
    assert time["seconds"] == pytest.approx(200.0)
    assert time["margin_s"] == pytest.approx(0.0, abs=1e-9)
    assert time["trial_s"] == 12.0


def test_the_margin_covers_the_truth_nineteen_times_of_twenty():
    rng = random.Random(0)
    covered = 0
    for _ in range(400):
        rows = [rng.randint(1, 4) for _ in range(10)]
        time = foretell(trial_of([sum(rng.expovariate(1) for _ in range(n)) for n in rows], rows), [10])
        covered += abs(time["seconds"] - 1000) <= time["margin_s"]
    assert 0.86 <= covered / 400 <= 1.0


def test_longer_rows_to_come_take_longer():
    assert foretell(trial_of([1.0] * 3, [5] * 3), [20])["seconds"] == pytest.approx(400.0)


def test_one_step_has_the_margin_of_the_rows_lengths():
    time = foretell(trial_of([4.0], [16]), [5, 15])
    assert time["margin_s"] / time["seconds"] == pytest.approx(2.13 * 0.5 / math.sqrt(16), rel=2e-3)


def test_nothing_done_foretells_nothing():
    assert foretell(Trial([], 0), [1]) is None
    assert foretell(trial_of([1.0], [0]), [1]) is None


def test_the_histogram_holds_every_length():
    assert histogram([7] * 3) == [(7, 7, 3)]
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 400) for _ in range(30)]
        bins = histogram(lengths)
        assert sum(count for _, _, count in bins) == 30
        assert len(bins) <= 10
        assert (bins[0][0], bins[-1][1]) == (min(lengths), max(lengths))


def test_characters_of_several_tokens_are_one_piece():
    vocabulary = as_vocabulary(ByteTokenizer())
    tokens = vocabulary.encode(["aé€😀b"])[0]
    assert token_texts(vocabulary, tokens) == ["a", "é", "€", "😀", "b"]
    assert "".join(token_texts(vocabulary, vocabulary.encode(["xy" * 2000])[0])) == "xy" * 2000
