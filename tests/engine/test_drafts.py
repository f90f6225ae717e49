"""Prompt lookup: drafted tokens change no answer, and are drafted for as long as that pays."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from runner.engine import lanes
from runner.engine.attention.resident import ResidentModel
from runner.engine.drafts.gain import PLAIN, Gain
from runner.engine.drafts.lookup import Lookup, Match
from runner.engine.engine import BatchEngine
from runner.sequences import Sequence
from runner.types import Sampling
from tests.support.engines import END, finish, prompts
from tests.support.recurrent import lfm2, recurrent
from tests.support.tiny import tiny_gpt_oss, tiny_llama

SAMPLINGS = [Sampling(), Sampling(1.0), Sampling(0.7, top_p=0.9), Sampling(0.9, top_k=4), Sampling(1.2, min_p=0.1)]


@pytest.fixture
def oracle(monkeypatch):
    """Drafts from answers that are known by their prompts, of which every third token is another one."""
    answers = {}

    class Known:
        def __init__(self, prompt, room):
            self.tokens = answers[tuple(prompt)]

        def follow(self, answer):
            self.at = len(answer)

        def next(self, most):
            ahead = range(self.at, min(len(self.tokens), self.at + most))
            return Match([self.tokens[at] if at % 3 else 1 for at in ahead], 4)

    monkeypatch.setattr(lanes, "Lookup", Known)
    return answers


@pytest.mark.parametrize(
    ("make", "batch_size"),
    [
        (tiny_llama, 2),
        (partial(tiny_gpt_oss, sliding_window=24), 5),
        (partial(recurrent, lfm2), 2),
    ],
    ids=["llama", "gpt_oss", "lfm2"],
)
def test_drafts_change_no_token_at_any_temperature(make, batch_size, oracle):
    """The window of gpt_oss fills up with a row's own tokens on the way; a state cannot go back behind a guess."""
    mx.set_default_device(mx.cpu)
    resident = ResidentModel(make())
    todo = [
        Sequence((i, 0), row, 30 - i, sampling, i, boundaries=(6,))
        for i, (row, sampling) in enumerate(zip(prompts(3, 5, 6), SAMPLINGS, strict=True))
    ]
    todo[2].top_logprobs = 2
    sizes = {"batch_size": batch_size, "prefill_tokens": 30, "stopped": lambda _, tokens: tokens[-2:] == [5, 5]}
    want = finish(BatchEngine(resident, {END}, **sizes), todo)
    oracle |= {tuple(one.tokens): want[one.key].tokens for one in todo}
    engine = BatchEngine(resident, {END}, draft_tokens=4, **sizes)
    done = finish(engine, todo)
    assert {key: one.tokens for key, one in done.items()} == {key: one.tokens for key, one in want.items()}
    assert {key: one.finish_reason for key, one in done.items()} == {
        key: one.finish_reason for key, one in want.items()
    }
    found, plain = ([one.logprob for one in some[2, 0].scored] for some in (done, want))
    assert found == pytest.approx(plain, abs=1e-4)
    assert engine.work.decoded == sum(len(one.tokens) + (one.finish_reason == "stop") for one in done.values()) - 5
    assert 0.2 < engine.work.accepted / engine.work.drafted < 1


def test_a_recurrent_model_drafts_nothing_unless_told_to():
    mx.set_default_device(mx.cpu)
    resident = ResidentModel(recurrent(lfm2))
    done = finish(engine := BatchEngine(resident, {END}, draft_tokens=None), [Sequence((0, 0), [5, 6, 7] * 4, 12)])
    assert len(done[0, 0].tokens) == 12
    assert engine.work.drafted == 0


@pytest.mark.parametrize(
    ("text", "next_ones", "length"),
    [
        ([1, 2, 3, 9, 1, 2, 3], [9, 1, 2, 3], 3),  # what followed the longest match
        ([1, 2, 7, 3, 2, 8, 1, 2], [7, 3, 2, 8], 2),  # though a shorter one is nearer
        ([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2, 8], 2),  # the nearest of those
        ([4, 5, 4, 5], [4, 5, 4, 5], 2),  # a loop goes on
        ([6, 6], [6, 6, 6, 6], 1),
        ([1, 2, 3], [], 0),
        ([1], [], 0),
    ],
)
def test_a_draft_is_what_followed_where_most_of_the_latest_tokens_stood_before(text, next_ones, length):
    for prompt in range(len(text) + 1):
        lookup = Lookup(text[:prompt], 9)
        lookup.follow(text[prompt : prompt + 1])
        lookup.follow(text[prompt:])
        assert lookup.next(4) == Match(next_ones, length)


def tail(right, token_s, step_s=1.0, steps=1500, sequences=2):
    """The share of simulated steps with drafts, and tokens a second in units of those without any: guesses are right
    with a probability, and each makes a step so much longer.
    """
    gain, random, drafts, tokens, seconds = Gain(), np.random.default_rng(1), 0, 0, 0.0
    for _ in range(steps):
        if not gain.wanted(sequences, 64, False):
            gain.saw_plain(sequences, step_s)
            tokens, seconds = tokens + sequences, seconds + step_s
            continue
        drafted = accepted = 0
        for _ in range(sequences):
            length = gain.length(5, sequences)
            hits = random.random(length) < right
            found = length if hits.all() else int(hits.argmin())
            for hit in hits[: found + 1]:
                gain.saw_guess(5, bool(hit))
            drafted, accepted = drafted + length, accepted + found
        took = 1.02 * step_s + drafted * token_s
        gain.saw_drafts(sequences, drafted, accepted, took)
        drafts, tokens, seconds = drafts + 1, tokens + sequences + accepted, seconds + took
    return drafts / steps, tokens / seconds / sequences * step_s


@pytest.mark.parametrize(
    ("right", "token_s", "share", "speed"),
    [
        (0.95, 0.02, (0.9, 1), 4.0),  # copies, cheap: as on a GPU
        (0.8, 0.1, (0.9, 1), 1.5),
        (0.5, 0.2, (0, 1), 0.98),
        (0.1, 0.3, (0, 0.3), 0.98),
        (0.0, 0.01, (0, 0.3), 0.98),  # nothing is ever right
        (0.6, 1.0, (0, 0.3), 0.98),  # a step with two tokens takes twice as long as two steps: no memory is shared
    ],
)
def test_drafts_go_on_where_tokens_come_faster_and_cost_next_to_nothing_elsewhere(right, token_s, share, speed):
    drafts, rate = tail(right, token_s)
    print(right, token_s, drafts, rate)
    assert share[0] <= drafts <= share[1]
    assert rate >= speed


def test_drafts_are_for_the_end_of_a_run_and_for_single_sequences():
    gain = Gain()
    for sequences in (1, 2, 4, 32):
        assert not gain.wanted(sequences, 64, False)
        for _ in range(PLAIN):
            gain.saw_plain(sequences, 1.0)
    assert [gain.wanted(one, 64, False) for one in (1, 2, 4, 32, 33, 64)] == [True] * 4 + [False] * 2
    assert [gain.wanted(one, 64, True) for one in (1, 2, 3, 32)] == [True, True, False, False]
    assert not Gain(0).wanted(1, 64, False)
    assert Gain(3).wanted(64, 64, True) and Gain(3).length(1, 64) == 3
