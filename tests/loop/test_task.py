"""What one row's generator is promised."""

import sys

import pytest

from runner.loop.task import ERROR_CHARS, Task
from runner.types import Completion, Request, RowError
from tests.support.world import FunctionJob


def task(steps):
    return Task(7, {"text": "hi"}, FunctionJob(steps))


def ask(number):
    return Request(messages=({"role": "user", "content": str(number)},))


def done(text, **fields):
    return Completion(text=text, **fields)


def test_requests_are_numbered_in_the_order_in_which_they_are_yielded():
    def steps(row):
        first = yield ask(0)
        both = yield [ask(1), ask(2)]
        return {"text": first.text + "".join(one.text for one in both)}

    row = task(steps)
    assert row.start() == [(0, ask(0))]
    assert row.answer(0, done("a")) == [(1, ask(1)), (2, ask(2))]
    assert row.answer(2, done("c")) == []
    assert row.output is None
    assert row.answer(1, done("b")) == []
    assert row.output.columns == {"text": "abc"}


def test_an_empty_list_is_answered_at_once_and_a_job_may_ask_nothing():
    def steps(row):
        nothing = yield []
        return {"text": repr(nothing)}
        yield

    def asks_nothing(row):
        return {"text": row["text"]}
        yield

    for job, text in ((steps, "[]"), (asks_nothing, "hi")):
        row = task(job)
        assert row.start() == []
        assert row.output.columns == {"text": text}


def test_a_job_that_asks_for_nothing_for_ever_fails_its_row():
    def steps(row):
        while True:
            yield []

    row = task(steps)
    assert row.start() == []
    assert "empty list 1,000 times in a row" in row.output.error


def test_sys_exit_ends_a_row_and_ctrl_c_the_run():
    def leaves(row):
        yield ask(0)
        sys.exit("no")

    def interrupted(row):
        raise KeyboardInterrupt
        yield

    row = task(leaves)
    row.start()
    row.answer(0, done("a"))
    assert row.output.error == "SystemExit: no"
    with pytest.raises(KeyboardInterrupt):
        task(interrupted).start()


def test_a_job_may_return_nothing():
    def steps(row):
        yield ask(0)

    row = task(steps)
    row.start()
    row.answer(0, done("a"))
    assert (row.output.columns, row.output.error) == ({}, None)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_failed_answer_is_raised_at_the_yield_single_or_in_a_list(as_list):
    def steps(row):
        yield [ask(0)] if as_list else ask(0)
        return {"text": "not reached"}

    row = task(steps)
    row.start()
    row.answer(0, Completion(finish_reason="error", error="too long: 900 tokens"))
    assert row.output.error == "too long: 900 tokens"
    assert row.output.usage.finish_reason == "error"


def test_a_job_may_catch_a_failure_use_the_other_answers_and_ask_again():
    def steps(row):
        try:
            yield [ask(0), ask(1), ask(2)]
        except RowError as problem:
            texts = [one.text for one in problem.completions if one.error is None]
        again = yield ask(3)
        return {"text": "".join([*texts, again.text])}

    recorded = {0: done("a"), 1: Completion(finish_reason="error", error="x"), 2: done("c")}
    row = task(steps)
    row.start()
    for number in (1, 0, 2):
        asked = row.answer(number, recorded[number])
    assert asked == [(3, ask(3))]
    row.answer(3, done("d"))
    assert row.output.columns == {"text": "acd"}


def _raises_at_once(row):
    raise KeyError("title")
    yield


def _raises_later(row):
    yield ask(0)
    raise ZeroDivisionError("by zero")


def _row_error(row):
    yield ask(0)
    raise RowError("unmatched label: none")


def _silent_row_error(row):
    raise RowError
    yield


def _no_generator(row):
    return {"text": "hi"}


def _no_steps(row):
    raise StopIteration


def _yields_text(row):
    yield "a prompt"


def _yields_none(row):
    yield


def _yields_a_mixed_list(row):
    yield [ask(0), "and"]


def _returns_text(row):
    yield ask(0)
    return "positive"


def _max_tokens_0(row):
    yield Request(max_tokens=0)


def _no_choices(row):
    yield Request(choices=())


def _empty_choice(row):
    yield Request(choices=("a", ""))


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        (_raises_at_once, "KeyError: 'title'"),
        (_raises_later, "ZeroDivisionError: by zero"),
        (_row_error, "unmatched label: none"),
        (_silent_row_error, "RowError"),
        (_no_generator, "TypeError: steps(row) must be a generator"),
        (_yields_text, "TypeError: the job yielded 'a prompt', which is neither a Request nor"),
        (_yields_none, "TypeError: the job yielded None"),
        (_yields_a_mixed_list, "TypeError: the job yielded [Request"),
        (_returns_text, "TypeError: the job returned 'positive', not a dict"),
        (_max_tokens_0, "ValueError: max_tokens=0 in a request: it must be at least 1"),
        (_no_choices, "ValueError: choices=() in a request"),
        (_empty_choice, "ValueError: choices=('a', '') in a request"),
    ],
)
def test_whatever_a_job_does_wrong_is_its_rows_error(steps, error):
    row = task(steps)
    if row.start():
        row.answer(0, done("a", prompt_tokens=5))
        assert row.output.usage.prompt_tokens == 5
    assert row.output.error.startswith(error)
    assert row.output.columns == {}


def test_an_error_is_cut_to_a_length_that_can_be_read():
    def steps(row):
        raise ValueError("x" * 10**6)
        yield

    row = task(steps)
    row.start()
    assert len(row.output.error) == ERROR_CHARS


def test_a_rows_usage_is_the_sum_over_its_answers():
    def steps(row):
        yield [ask(0), ask(1)]

    row = task(steps)
    row.start()
    row.answer(1, done("b", finish_reason="length", prompt_tokens=10, cached_tokens=8, completion_tokens=3))
    row.answer(0, done("a", prompt_tokens=5, completion_tokens=1))
    assert row.output.usage == (15, 8, 4, "length", 0, None)
