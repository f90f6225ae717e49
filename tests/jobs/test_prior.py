"""What the priors and the temperature promise."""

import math

import numpy as np
import pytest

from jobs.label import prior
from jobs.label.prior import batch_prior, calibrated, content_free_prior, fit_temperature, log_softmax, without_content
from runner.types import Completion, Request, RowError


def test_the_batch_prior_is_the_mean_log_probability():
    scores = np.log([[0.2, 0.1], [0.4, 0.05]])
    assert batch_prior(scores) == pytest.approx(log_softmax(scores.mean(axis=0)))
    assert np.diff(batch_prior(scores))[0] == pytest.approx((math.log(0.5) + math.log(0.125)) / 2)


def test_the_content_free_prior_is_the_mean_probability_among_the_labels():
    scores = np.log([[0.02, 0.06], [0.3, 0.1]])  # 0.25 and 0.75, then 0.75 and 0.25
    assert np.exp(content_free_prior(scores)) == pytest.approx([0.5, 0.5])


def test_without_content_texts_say_nothing_and_numbers_stay():
    assert without_content({"text": "fine", "stars": 3, "note": None}) == [
        {"text": text, "stars": 3, "note": text} for text in ("N/A", "[MASK]", "")
    ]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(6000, 3)) * 2
    odds = np.exp(log_softmax(scores / temperature))
    gold = (rng.random(6000)[:, None] > odds.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(scores, gold) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_a_temperature_that_helps_rows_that_it_was_not_fitted_on_is_kept(temperature):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(600, 3)) * 2
    odds = np.exp(log_softmax(scores / temperature))
    gold = (rng.random(600)[:, None] > odds.cumsum(axis=1)).sum(axis=1)
    found = calibrated(scores, gold)
    assert found["temperature"] == found["fitted"] == fit_temperature(scores, gold)
    assert found["held_out"]["loss"][1] < found["held_out"]["loss"][0]
    assert found["held_out"]["ece"][1] <= found["held_out"]["ece"][0]


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_temperature_that_does_not_help_other_rows_is_not_kept(rows):
    scores = np.log([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.1, 0.9]] * 2)[:rows]
    gold = np.array([0, 0, 1, 1, 1, 1, 0, 0])[:rows]
    found = calibrated(scores, gold)
    assert found["temperature"] == 1.0 != found["fitted"]


def test_labels_that_are_all_right_or_all_wrong_give_a_temperature_in_bounds():
    scores = np.array([[3.0, 0.0], [2.0, 0.0]])
    assert fit_temperature(scores, np.array([0, 0])) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(scores, np.array([1, 1])) == pytest.approx(20, rel=1e-3)


def exchange(steps, answers):
    """Give each yield the next answers; what is returned in the end."""
    asked = next(steps)
    while True:
        mine, answers = answers[: len(asked)], answers[len(asked) :]
        failed = next((answer for answer in mine if answer.error), None)
        try:
            asked = steps.throw(RowError.read(failed.error, mine)) if failed else steps.send(mine)
        except StopIteration as returned:
            return returned.value


def test_rows_without_scores_are_left_out_and_large_samples_are_asked_in_pieces(monkeypatch):
    monkeypatch.setattr(prior, "ASKED_TOGETHER", 2)
    fine, bad = Completion(logprobs=(-1.0, -2.0)), Completion(finish_reason="error", error="too long: 9 tokens")
    answers = [fine, bad, Completion(logprobs=(-math.inf, -1.0)), fine, fine]
    usable, scores = exchange(prior.score([Request()] * 5), answers)
    assert usable == [0, 3, 4]
    assert scores.tolist() == [[-1.0, -2.0]] * 3
    with pytest.raises(RowError, match="too long"):
        exchange(prior.score([Request()] * 3), [bad] * 3)
