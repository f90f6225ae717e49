"""Who computes what: every sequence once, groups together, work by speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.fleet.dispatch import GRAIN, Dispatch
from runner.sequences import Generation, Sequence


def sequences(groups, start=0):
    """So many of each group, whose prefix has 100 tokens."""
    made, number = [], start
    for group, count in enumerate(groups):
        boundaries = tuple([100] * (count > 1))
        for _ in range(count):
            made.append(Sequence((number, 0), [group] * 100 + [number] * 10, 5, boundaries=boundaries))
            number += 1
    return made


def answers(taken):
    return [Generation(one.key, [1, 2, 3]) for one in taken]


def simulate(speeds, rows, slots=8, groups=None, events=()):
    """Seats of so many tokens a second until every row is answered: how many each answered, by a clock of our own."""
    dispatch, given = Dispatch(), dict.fromkeys(speeds, 0)
    waiting = sequences(groups or [rows])
    total = len(waiting)
    for name in speeds:
        dispatch.join(name, slots)
    now, busy, done = 0.0, {}, set()
    while len(done) < total:
        room = dispatch.room()
        dispatch.add(waiting[:room])
        del waiting[:room]
        for name in speeds:
            if name not in busy:
                taken = dispatch.take(name)
                load = dispatch.loads[name]
                some = [one.sequence for one in list(load.flying.values())[: max(1, slots // 2)]]
                if taken or some:
                    busy[name] = (now + sum(len(one.tokens) for one in some) / speeds[name], now, some)
        name = min(busy, key=lambda one: busy[one][0])
        now, began, some = busy.pop(name)
        new = dispatch.end(name, answers(some), now - began, busy=0)
        forgotten = list(dispatch.loads[name].flying)[::-1][: dispatch.surplus(name)]
        dispatch.give_back(name, forgotten)
        assert done.isdisjoint(one.key for one in new)
        done |= {one.key for one in new}
        given[name] += len(new)
    assert len(done) == total
    return given, now, dispatch


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
    st.lists(st.sampled_from([1.0, 3.0, 10.0]), min_size=1, max_size=4),
    st.integers(1, 16),
)
def test_every_sequence_is_answered_once(groups, speeds, slots):
    given, _, _ = simulate({f"s{i}": speed for i, speed in enumerate(speeds)}, 0, slots, groups)
    assert sum(given.values()) == sum(groups)


def test_seats_at_one_to_ten_get_shares_of_one_to_ten():
    given, _, _ = simulate({"slow": 1.0, "fast": 10.0}, 5000)
    assert given["slow"] / 5000 == pytest.approx(1 / 11, rel=0.2)


def test_nobody_waits_for_the_slowest():
    _, took, _ = simulate({"slow": 1.0, "fast": 100.0}, 400)
    ideal = 400 * 110 / 101
    assert took < 1.3 * ideal


@given(st.lists(st.integers(2, 40), min_size=2, max_size=12), st.integers(2, 4))
def test_a_group_is_cut_no_more_often_than_there_are_seats_and_thefts(groups, seats):
    dispatch = Dispatch()
    for i in range(seats):
        dispatch.join(f"s{i}", 8)
    dispatch.add(sequences(groups))
    cuts = 0
    for group in range(len(groups)):
        holders = {
            name
            for name, load in dispatch.loads.items()
            for assigned in load.waiting
            if assigned.sequence.tokens[0] == group
        }
        cuts += len(holders) - 1
    assert cuts <= len(groups) * (seats - 1)
    works = [load.work for load in dispatch.loads.values()]
    assert max(works) - min(works) <= 100 + 15 * max(1, 8 // GRAIN) + 100


def test_a_seats_rows_go_to_others_when_it_leaves():
    dispatch = Dispatch()
    dispatch.join("a", 4)
    dispatch.join("b", 4)
    dispatch.add(sequences([16]))
    taken = dispatch.take("a")
    lost = dispatch.leave("a")
    assert lost == taken
    dispatch.add(lost, again=True)
    assert len(dispatch) == 16
    keys = [one.key for one in dispatch.take("b", 8)]
    assert set(keys[: len(lost)]) <= {one.key for one in lost}
    assert {one.sequence.key for one in dispatch.loads["b"].waiting} | set(keys) == {(i, 0) for i in range(16)}


def test_a_seat_without_work_takes_the_end_of_what_waits_for_another():
    dispatch = Dispatch()
    dispatch.join("a", 8)
    dispatch.add(sequences([24]))
    dispatch.join("b", 8)
    taken = dispatch.take("b")
    assert dispatch.thefts == 1
    assert {one.key[0] for one in taken} == set(range(12, 24))


def late(groups, own=8):
    """A seat that has taken all there is, twice what it is at, and another one that came later."""
    dispatch = Dispatch()
    dispatch.join("early", own)
    dispatch.add(sequences(groups))
    taken = dispatch.take("early")
    dispatch.end("early", [], 0.1, busy=own)
    dispatch.join("late", own)
    return dispatch, taken


def test_a_seat_gives_back_what_it_has_not_begun_with_until_both_would_be_done_at_once():
    dispatch, taken = late([1] * 16)
    assert dispatch.surplus("early") == 8
    dispatch.give_back("early", [one.key for one in reversed(taken[-8:])])
    assert dispatch.surplus("early") == 0
    assert dispatch.take("late") == taken[-8:]
    assert dispatch.take("early") == []  # nor does it take them back
    assert dispatch.surplus("early") == dispatch.surplus("late") == 0
    assert len(dispatch.end("early", answers(taken[:8]), 1.0)) == 8
    assert len(dispatch.end("late", answers(taken[-8:]), 1.0)) == 8
    assert len(dispatch) == 0
    assert [load.work for load in dispatch.loads.values()] == [0, 0]


def test_what_a_seat_has_computed_of_its_rows_is_no_work_that_is_left():
    dispatch, _ = late([1] * 16)
    dispatch.end("early", [], 0.1, computed=10**6, busy=8)
    assert dispatch.surplus("early") == 4


def test_a_seat_keeps_rows_whose_prefix_would_cost_another_one_more_than_they_do():
    dispatch, _ = late([16])  # 100 tokens of prefix, and 15 for each row
    assert dispatch.surplus("early") == 0
    dispatch.loads["late"].path = dispatch.loads["early"].path
    assert dispatch.surplus("early") == 8


def test_a_row_that_two_seats_have_is_given_back_by_one_and_answered_by_the_other():
    dispatch, taken = late([1] * 16)
    dispatch.loads["late"].saw(1, 1000, 0.1)
    dispatch.loads["early"].saw(1, 10, 0.1)
    again = dispatch.take("late")
    assert again == list(reversed(taken[-len(again) :]))
    assert dispatch.surplus("early") >= len(again)
    dispatch.give_back("early", [one.key for one in again])
    assert not dispatch.loads["early"].waiting and not dispatch.loads["late"].waiting
    assert len(dispatch.end("late", answers(again), 0.1)) == len(again)
    assert len(dispatch) == 16 - len(again)


def test_what_nobody_could_take_waits_for_the_next_seat():
    dispatch = Dispatch()
    dispatch.join("a", 4)
    dispatch.add(sequences([6]))
    taken = dispatch.take("a")
    dispatch.add(dispatch.leave("a"), again=True)
    assert dispatch.room() == 0
    dispatch.join("b", 4)
    assert {one.key for one in dispatch.take("b")} >= {one.key for one in taken}


def test_an_idle_seat_computes_again_what_the_slowest_would_answer_late():
    dispatch = Dispatch()
    dispatch.join("slow", 4)
    dispatch.join("fast", 4)
    dispatch.loads["slow"].saw(1, 1, 1.0)
    dispatch.loads["fast"].saw(10, 1000, 1.0)
    dispatch.add(sequences([4]))
    for one in list(dispatch.loads["fast"].waiting):
        dispatch.loads["fast"].waiting.remove(one)
        dispatch.loads["slow"].waiting.append(one)
    dispatch.loads["slow"].work, dispatch.loads["fast"].work = 60.0, 0.0
    at_slow = dispatch.take("slow")
    again = dispatch.take("fast")
    assert {one.key for one in again} <= {one.key for one in at_slow} and again
    assert len(dispatch.end("fast", answers(again), 0.1)) == len(again)
    assert len(dispatch.end("slow", answers(at_slow), 9.0)) == len(at_slow) - len(again)
    assert len(dispatch) == 0


def test_a_row_alone_is_at_no_other_seat():
    dispatch = Dispatch()
    for name in ("a", "b"):
        dispatch.join(name, 4)
        dispatch.loads[name].saw(1, 10, 1.0)
    (one,) = sequences([1])
    dispatch.alone("a", one)
    assert dispatch.take("b") == []
    dispatch.loads["a"].busy = 0
    assert dispatch.surplus("a") == 0
    assert dispatch.leave("a") == [one]


def test_what_a_row_asks_later_goes_to_the_seat_that_holds_its_text():
    dispatch, seats = Dispatch(), {}
    for name in ("a", "b"):
        dispatch.join(name, 8)
    dispatch.add([Sequence((row, 0), [row] * 111, 5, boundaries=tuple([100] * 1), ahead=100) for row in range(16)])
    for name in ("a", "b"):
        taken = dispatch.take(name, 8)
        seats |= {one.key[0]: name for one in taken}
        dispatch.end(name, answers(taken), 1.0)
    rows = sorted(seats, key=lambda row: (row % 8, seats[row] == "a"))  # by turns: both have as much to do
    dispatch.add([Sequence((row, 1), [*[row] * 100, 7], 5, boundaries=tuple([100] * 1)) for row in rows])
    for name in ("a", "b"):
        assert {seats[one.sequence.key[0]] for one in dispatch.loads[name].waiting} == {name}
    for row in range(100):
        dispatch.loads["a"].hold((row,))
    assert len(dispatch.loads["a"].held) == 32
