"""What the loop promises: every row once, identical requests computed once, no row's failure another's."""

import pytest

from runner.loop import feed, loop
from runner.types import Completion, Request, RowError, Sampling
from tests.support.world import CountingEngine, World


def one(row):
    answer = yield Request()
    return {"text": answer.text}


def numbered(count):
    return [f"row {i}" for i in range(count)]


def say(text):
    return ({"role": "user", "content": text},)


@pytest.mark.parametrize("window", [1, 2, 7, 64, 4096])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_every_row_comes_out_once_in_order(tmp_path, count, window):
    def steps(row):
        yield Request()
        return {"text": row["text"]}

    world = World(tmp_path, numbered(count), steps, window=window)
    assert [row["text"] for row in world.run()] == numbered(count)
    assert sorted(sequence.key for sequence in world.engine.computed) == [(i, 0) for i in range(count)]


def test_the_answers_do_not_depend_on_the_window_or_the_batch(tmp_path):
    outputs = [
        World(tmp_path / f"{i}", numbered(300), one, engine=CountingEngine(batch), window=window).run()
        for i, (batch, window) in enumerate([(1, 1), (3, 40), (256, 4096)])
    ]
    texts = [[row["text"] for row in output] for output in outputs]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 200


class Ahead:
    """A job that counts rows opened, and an engine that notes how many of them are not computed yet."""

    def __init__(self, batch_size):
        self.opened, self.most = 0, 0
        self.engine = CountingEngine(batch_size)
        self.engine.step = self._step(self.engine.step)

    def steps(self, row):
        self.opened += 1
        answer = yield Request()
        return {"text": answer.text}

    def _step(self, step):
        def noting():
            self.most = max(self.most, self.opened - len(self.engine.computed))
            return step()

        return noting


@pytest.mark.parametrize("window", [1, 20, 300])
def test_the_rows_read_ahead_are_bounded_by_the_window(tmp_path, window):
    ahead = Ahead(4)
    World(tmp_path, numbered(500), ahead.steps, engine=ahead.engine, window=window).run()
    assert window / 2 < ahead.most <= window


def test_few_long_rows_are_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "READ_CHARS", 1000)
    monkeypatch.setattr(loop, "WINDOW_TOKENS", 5000)
    monkeypatch.setattr(loop, "ROW_TOKENS", 1)
    ahead = Ahead(1)
    World(tmp_path, ["x" * 900 + str(i) for i in range(100)], ahead.steps, engine=ahead.engine, window=4096).run()
    assert ahead.most <= 8


def test_a_larger_window_holds_more_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "WINDOW_TOKENS", 5000)
    ahead = Ahead(1)
    World(tmp_path, ["x" * 900 + str(i) for i in range(100)], ahead.steps, engine=ahead.engine, window=80).run()
    assert ahead.most > 40


def test_identical_prompts_are_computed_once(tmp_path):
    texts = [f"text {i % 7}" for i in range(600)]
    world = World(tmp_path, texts, one, engine=CountingEngine(2))
    output = world.run()
    assert len(world.engine.computed) == 7
    assert len({(text, row["text"]) for text, row in zip(texts, output, strict=True)}) == 7
    again = [row["usage"] for row in output[7:]]
    assert all(usage["cached_tokens"] == usage["prompt_tokens"] for usage in again)


def test_identical_prompts_are_computed_once_across_sessions(tmp_path):
    texts = [f"text {i % 50}" for i in range(200)]
    world = World(tmp_path, texts, one, engine=CountingEngine(2), window=10)
    world.run(stop_after=10)
    first = len(world.engine.computed)
    world.engine = CountingEngine(2)
    assert len(world.run()) == 200
    assert 0 < first < 50
    assert first + len(world.engine.computed) == 50


def test_requests_that_differ_in_what_matters_are_not_identical(tmp_path):
    def steps(row):
        answers = yield [
            Request(),
            Request(seed=4),  # greedy: seeds do not matter
            Request(sampling=Sampling(top_p=0.5)),  # nor what is drawn from
            Request(max_tokens=3),
            Request(choices=("a", "b")),
            Request(choices=("a", "b"), max_tokens=9),
            Request(choices=("a", "c")),
            Request(variables={"text": "other"}),
            Request(messages=say("same")),
        ]
        return {"text": str(len(answers))}

    world = World(tmp_path, ["same"], steps)
    assert world.run()[0]["text"] == "9"
    assert sorted(sequence.key[1] for sequence in world.engine.computed) == [0, 3, 4, 6, 7]


def test_samples_are_drawn_each_on_its_own_and_repeat_with_the_seed(tmp_path):
    def steps(row):
        answers = yield [Request(), Request(), Request(seed=5), Request(seed=5), Request(seed=2**80), Request(seed=-1)]
        return {"text": "|".join(answer.text for answer in answers)}

    def run(name, **more):
        world = World(tmp_path / name, ["same", "same"], steps, sampling=Sampling(1.0), **more)
        return [row["text"].split("|") for row in world.run()], world

    (first, second), world = run("a")
    assert len(world.engine.computed) == 7  # two of its own for each row, three seeds for both
    assert first[0] != first[1]
    assert first[0] != second[0]
    assert first[2] == first[3] == second[2]
    assert run("b")[0] == [first, second]
    assert run("c", seed=1)[0][0][0] != first[0]


def test_a_prompt_that_cannot_be_rendered_fails_its_row_only(tmp_path):
    def steps(row):
        answers = yield [Request(), Request(messages=say("fine"))]
        return {"text": answers[1].text}

    output = World(tmp_path, ["good", None, "good"], steps).run()
    assert [row["error"] is None for row in output] == [True, False, True]
    assert output[1]["error"] == "prompt.user: column text is null"
    assert output[1]["usage"]["prompt_tokens"] == 4  # of the request that was answered


def test_a_job_may_catch_a_prompt_that_cannot_be_rendered(tmp_path):
    def steps(row):
        try:
            answer = yield Request()
        except RowError:
            answer = yield Request(messages=say("instead"))
        return {"text": answer.text}

    assert [row["error"] for row in World(tmp_path, ["a", None], steps).run()] == [None, None]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(variables=7), "wrong request: TypeError"),
        (Request(messages=("hi",)), "wrong request: "),
        (Request(messages=7), "wrong request: TypeError"),
        (Request(messages=say("")), "empty prompt: it has no tokens"),
        (Request(choices=(7, 8)), "wrong request: TypeError"),
    ],
)
def test_a_malformed_request_fails_its_row_only(tmp_path, request_, error):
    def steps(row):
        answer = yield request_ if row["text"] == "row 1" else Request()
        return {"text": answer.text}

    output = World(tmp_path, numbered(3), steps).run()
    assert output[0]["error"] is output[2]["error"] is None
    assert output[1]["error"].startswith(error)


def test_a_failed_answer_is_given_to_all_that_asked_the_same_and_not_kept_for_others(tmp_path):
    fails = CountingEngine(1, fails=lambda sequence: "too long: 9 tokens")
    world = World(tmp_path, ["same", "same", "same"], one, engine=fails)
    assert [row["error"] for row in world.run()] == ["too long: 9 tokens"] * 3
    assert len(fails.computed) == 1
    assert world.totals.errors == 3


def test_all_rows_may_fail_and_the_first_traceback_is_shown_once(tmp_path, caplog):
    def steps(row):
        raise ValueError("no")
        yield

    output = World(tmp_path, numbered(700), steps, window=50).run()
    assert [row["error"] for row in output] == ["ValueError: no"] * 700
    assert [(r.levelname, r.exc_info[0]) for r in caplog.records] == [("WARNING", ValueError)]


def test_a_row_error_is_no_mistake_and_shows_no_traceback(tmp_path, caplog):
    def steps(row):
        raise RowError("unmatched label: none")
        yield

    World(tmp_path, numbered(3), steps).run()
    assert not caplog.records


def test_columns_that_the_job_did_not_name_or_that_do_not_fit_fail_the_row_only(tmp_path):
    columns = {"a": {"other": 1}, "b": {"text": object()}, "c": {0: "x"}, "d": {"text": 5}, "e": {"text": "fine"}}

    def steps(row):
        return columns[row["text"]]
        yield

    output = World(tmp_path, list(columns), steps).run()
    assert [row["error"] is None for row in output] == [False, False, False, False, True]
    assert all(row["error"].startswith("output type: ") for row in output[:4])


def test_nothing_is_computed_again_after_a_stop_at_any_step(tmp_path):
    def steps(row):
        first = yield Request()
        both = yield [Request(messages=say(first.text + row["text"])), Request(messages=say(row["text"] * 2))]
        return {"text": first.text + both[0].text + both[1].text}

    whole = World(tmp_path / "whole", numbered(40), steps).run()
    computed, output, session = [], [], 0
    while len(output) < 40:
        world = World(tmp_path / "parts", numbered(40), steps, engine=CountingEngine(3), window=9, shard_rows=7)
        world.run(stop_after=1 + session % 3)
        computed += [sequence.key for sequence in world.engine.computed]
        output, session = world.output(), session + 1
    assert output == [row | {"usage": mine["usage"]} for row, mine in zip(whole, output, strict=True)]
    assert len(computed) == len(set(computed)) == 120
    assert session > 10


def test_a_rows_usage_tells_its_retries_and_the_seed_of_its_first_draws(tmp_path):
    def steps(row):
        yield Request()
        drawn = [Request(sampling=Sampling(1.0), retry=True), Request(sampling=Sampling(1.0))]
        yield drawn if row["text"] != "row 3" else Request(retry=True)
        return {}

    whole = World(tmp_path / "whole", numbered(20), steps)
    usage = [row["usage"] for row in whole.run()]
    seeds = {sequence.key: sequence.draw_seed for sequence in whole.engine.computed}
    assert [one["retries"] for one in usage] == [1] * 20
    assert usage[3]["seed"] is None
    assert all(usage[i]["seed"] % 2**64 == seeds[i, 1] for i in range(20) if i != 3)
    output, session = [], 0
    while len(output) < 20:
        parts = World(tmp_path / "parts", numbered(20), steps, engine=CountingEngine(3), window=9, shard_rows=7)
        parts.run(stop_after=1 + session % 3)
        output, session = parts.output(), session + 1
    told = [[(one["retries"], one["seed"]) for one in several] for several in (usage, [r["usage"] for r in output])]
    assert told[0] == told[1]
    assert session > 3


def test_the_log_probabilities_of_tokens_are_kept_over_a_stop(tmp_path):
    def steps(row):
        first = yield Request(top_logprobs=2)
        yield Request(messages=say("then " + row["text"]))
        return {"text": repr(first.tokens)}

    whole = World(tmp_path / "whole", numbered(20), steps).run()
    assert all("'top_logprobs': [{" in row["text"] for row in whole)
    computed, output = [], []
    while len(output) < 20:
        parts = World(tmp_path / "parts", numbered(20), steps, engine=CountingEngine(3), window=9, shard_rows=7)
        parts.run(stop_after=2)
        computed += [sequence.key for sequence in parts.engine.computed]
        output = parts.output()
    assert [row["text"] for row in output] == [row["text"] for row in whole]
    assert len(computed) == len(set(computed)) == 40


def test_an_answer_to_another_request_is_not_replayed(tmp_path):
    """As when a job's code or a library has changed in a way that no identity shows."""

    def asks(first):
        def steps(row):
            a = yield Request(messages=say(first + row["text"]))
            b = yield Request(messages=say("then " + row["text"]))
            return {"text": f"{a.text}; {b.text}"}

        return steps

    old = World(tmp_path / "run", numbered(20), asks("this? "), engine=CountingEngine(4))
    old.run(stop_after=6)
    new = World(tmp_path / "run", numbered(20), asks("that? "), engine=CountingEngine(4))
    fresh = World(tmp_path / "fresh", numbered(20), asks("that? "))
    others = [row["text"] != other["text"] for row, other in zip(new.run(), fresh.run(), strict=True)]
    assert 0 < sum(others) == old.totals.finished  # what was finished stays


def test_failed_answers_are_asked_again_by_the_next_session(tmp_path):
    full = CountingEngine(4, fails=lambda sequence: "too long: for this machine" if sequence.key == (9, 0) else None)

    def steps(row):
        try:
            first = yield Request()
        except RowError:
            first = yield Request(messages=say("shorter"))
        second = yield Request(messages=say("then"))
        return {"text": first.text + second.text}

    World(tmp_path / "run", numbered(12), steps, engine=full, shard_rows=12).run(stop_after=4)
    resumed = World(tmp_path / "run", numbered(12), steps, shard_rows=12).run()
    whole = World(tmp_path / "whole", numbered(12), steps).run()
    assert [row["text"] for row in resumed] == [row["text"] for row in whole]


def test_draws_belong_to_a_rows_place_in_the_data_set(tmp_path):
    order = [3, 1, 2, 0]

    def texts(path, names, origin):
        world = World(tmp_path / path, names, one, sampling=Sampling(1.0), user="the same for all")
        world.origin = origin
        return {name: row["text"] for name, row in zip(names, world.run(), strict=True)}

    straight = texts("straight", numbered(4), lambda row: row)
    assert texts("shuffled", [f"row {i}" for i in order], order.__getitem__) == straight
    assert len(set(straight.values())) == 4


def test_rows_far_behind_the_oldest_unfinished_one_wait(tmp_path):
    def steps(row):
        turns = 60 if row["text"] == "row 0" else 1
        for turn in range(turns):
            answer = yield Request(messages=say(f"{row['text']} {turn}"))
        return {"text": answer.text}

    world, ahead = World(tmp_path, numbered(400), steps, window=10), []
    step = world.engine.step
    world.engine.step = lambda: ahead.extend(sequence.key[0] for sequence in world.engine.waiting) or step()
    assert len(world.run()) == 400
    last = len(ahead) - 1 - ahead[::-1].index(0)  # the oldest row's last turn
    assert max(ahead[:last]) < 60 < max(ahead[last:])


def test_an_answer_is_on_disk_before_the_job_sees_it(tmp_path):
    seen = []

    def steps(row):
        answer = yield Request()
        import sqlite3

        with sqlite3.connect(tmp_path / "run.db") as database:
            seen.append(database.execute("SELECT count(*) FROM completions").fetchone()[0])
        return {"text": answer.text}

    World(tmp_path, numbered(6), steps, engine=CountingEngine(2)).run()
    assert seen == [2, 2, 4, 4, 6, 6]


def test_completions_survive_storage():
    full = Completion("text\ud800", "choice", 3, 2, 1, (-0.5, -1e-30), "problem")
    for completion in (Completion(), full):
        assert Completion.from_json(completion.to_json()) == completion
    assert Completion().to_json() == {}
