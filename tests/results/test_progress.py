"""The bar and the lines say how fast it is now, how fast it was overall, and when the run will be over."""

import logging
import re
import time

import pytest

from runner import words
from runner.checkpoint.counts import Totals
from runner.results import progress
from runner.results.progress import Progress
from runner.words import speed


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 1_000.0

    def perf_counter(self):
        return self.now

    def time(self):
        return self.now


class Half:
    """A store that is half way, after two hundred seconds of earlier sessions."""

    def __init__(self, clock=None, finished=50, before=200.0):
        self.clock, self.finished, self.before = clock, finished, before
        self.began = clock.now if clock else 0.0

    def totals(self):
        return Totals(self.finished, errors=2, prompt_tokens=1000, cached_tokens=250, completion_tokens=self.finished)

    def active_s(self):
        return self.before + (self.clock.now - self.began if self.clock else 0.0)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def advance(bar, store, clock, seconds, rows_per_s):
    for _ in range(seconds):
        clock.now += 1
        store.finished += rows_per_s
        # The second thread of a bar, without the thread.
        bar._remember(store.totals())


def test_the_line_of_a_minute_says_what_the_bar_says(caplog):
    caplog.set_level(logging.INFO, "rowmill")
    with Progress(100, Half(), terminal=False) as bar:
        bar.update()
        assert not caplog.messages
    (line,) = caplog.messages
    assert line.startswith("50 of 100 rows, ")
    assert "2 errors" in line
    assert line.endswith("25% cached")


def test_the_bar_says_what_is_done_before_the_first_row(clock, caplog):
    caplog.set_level(logging.INFO, "rowmill")
    store, noted = Half(clock, finished=0, before=0.0), []
    store.note = noted.append
    bar = Progress(1_000, store, terminal=False)
    bar.tell("measuring the \x1b[31mprior")
    assert bar.text().startswith("measuring the \\x1b[31mprior, 0 of 1,000 rows")
    bar.tell("computing the first rows", quietly=True)
    bar.update()
    assert bar.text().startswith("computing the first rows, 0 of 1,000 rows")
    advance(bar, store, clock, 1, 5)
    bar.update()
    assert bar.text().startswith("5 of 1,000 rows")
    assert [one["doing"] for one in noted] == ["measuring the \x1b[31mprior", "computing the first rows", None]
    assert caplog.messages == ["measuring the \\x1b[31mprior"]


def test_earlier_sessions_count_overall_and_not_now(clock):
    store = Half(clock)
    bar = Progress(10_000, store, terminal=False)
    advance(bar, store, clock, 100, 5)
    assert "550 of 10,000 rows" in bar.text()
    assert "5.0 rows/s (1.8 overall)" in bar.text()


def test_now_is_the_last_minute(clock):
    store = Half(clock)
    bar = Progress(10_000, store, terminal=False)
    advance(bar, store, clock, 100, 5)
    advance(bar, store, clock, 60, 1)
    assert "1.0 rows/s" in bar.text()
    assert "1 tokens/s" in bar.text()


def test_the_time_left_and_the_clock_at_the_end(clock):
    store = Half(clock, finished=0, before=0.0)
    bar = Progress(1_000, store, terminal=False)
    advance(bar, store, clock, 100, 5)
    assert "1 min 40 s left" in bar.text()
    assert f"({time.strftime('%H:%M', time.localtime(clock.now + 100))})" in bar.text()


def test_nothing_is_foretold_before_a_row_is_finished(clock):
    store = Half(clock, finished=0, before=0.0)
    bar = Progress(1, store, terminal=False)
    advance(bar, store, clock, 0, 100)
    assert bar.text().startswith("0 of 1 row, 0.0 rows/s")


def test_a_session_that_just_began_is_foretold_by_the_earlier_ones(clock):
    store = Half(clock, finished=500, before=100.0)
    bar = Progress(1_000, store, terminal=False)
    assert "1 min 40 s left" in bar.text()
    advance(bar, store, clock, 40, 1)
    assert "7 min 40 s left" in bar.text()


def test_narrow_terminals_lose_the_least_important_figures(clock):
    bar = Progress(100, Half(clock), terminal=False)
    assert bar.text(60).startswith("50 of 100 rows, 3 min 20 s left")
    assert len(bar.text(60)) <= 60
    assert "cached" not in bar.text(60)
    assert bar.text(3) == "50 of 100 rows"


def test_points_kept_are_few(clock):
    store = Half(clock)
    bar = Progress(10**9, store, terminal=False)
    advance(bar, store, clock, 5_000, 5)
    assert len(bar.points) <= progress.PACE_SECONDS + 2


@pytest.mark.parametrize(
    ("ahead", "pattern"), [(60, r"\d\d:\d\d"), (90_000, r"\w+ \d\d:\d\d"), (9e5, r"\d{4}-\d\d-\d\d")]
)
def test_the_clock_names_the_day_when_it_is_far(ahead, pattern):
    assert re.fullmatch(pattern, words.clock(time.time() + ahead))


def test_a_line_a_minute_tells_the_speed_of_that_minute(clock, caplog):
    caplog.set_level(logging.INFO, "rowmill")
    store = Half(clock, finished=0, before=0.0)
    with Progress(1000, store, terminal=False) as bar:
        for _ in range(3):
            clock.now += 61
            store.finished += 122
            bar.update()
    assert ["2.0 rows/s" in line for line in caplog.messages[:3]] == [True] * 3


def test_a_speed_below_one_row_a_second_is_told_by_the_minute():
    said = [speed(rows) for rows in (0, 0.02, 0.5, 1, 1234.56)]
    assert said == ["0.0 rows/s", "1.2 rows/min", "30.0 rows/min", "1.0 rows/s", "1,234.6 rows/s"]
