"""Who computes what: every sequence once, groups together, work by speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.fleet.deal import GRAIN, Deal
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
    deal, given = Deal(), dict.fromkeys(speeds, 0)
    waiting = sequences(groups or [rows])
    total = len(waiting)
    for name in speeds:
        deal.join(name, slots)
    now, busy, done = 0.0, {}, set()
    while len(done) < total:
        room = deal.room()
        deal.add(waiting[:room])
        del waiting[:room]
        for name in speeds:
            if name not in busy:
                taken = deal.take(name)
                hand = deal.hands[name]
                some = [one.sequence for one in list(hand.flying.values())[: max(1, slots // 2)]]
                if taken or some:
                    busy[name] = (now + sum(len(one.tokens) for one in some) / speeds[name], now, some)
        name = min(busy, key=lambda one: busy[one][0])
        now, began, some = busy.pop(name)
        new = deal.end(name, answers(some), now - began, busy=0)
        forgotten = list(deal.hands[name].flying)[::-1][: deal.surplus(name)]
        deal.give_back(name, forgotten)
        assert done.isdisjoint(one.key for one in new)
        done |= {one.key for one in new}
        given[name] += len(new)
    assert len(done) == total
    return given, now, deal


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
    deal = Deal()
    for i in range(seats):
        deal.join(f"s{i}", 8)
    deal.add(sequences(groups))
    cuts = 0
    for group in range(len(groups)):
        holders = {
            name for name, hand in deal.hands.items() for dealt in hand.waiting if dealt.sequence.tokens[0] == group
        }
        cuts += len(holders) - 1
    assert cuts <= len(groups) * (seats - 1)
    works = [hand.work for hand in deal.hands.values()]
    assert max(works) - min(works) <= 100 + 15 * max(1, 8 // GRAIN) + 100


def test_a_seats_rows_go_to_others_when_it_leaves():
    deal = Deal()
    deal.join("a", 4)
    deal.join("b", 4)
    deal.add(sequences([16]))
    taken = deal.take("a")
    lost = deal.leave("a")
    assert lost == taken
    deal.add(lost, again=True)
    assert len(deal) == 16
    keys = [one.key for one in deal.take("b", 8)]
    assert set(keys[: len(lost)]) <= {one.key for one in lost}
    assert {one.sequence.key for one in deal.hands["b"].waiting} | set(keys) == {(i, 0) for i in range(16)}


def test_a_seat_without_work_takes_the_end_of_what_waits_for_another():
    deal = Deal()
    deal.join("a", 8)
    deal.add(sequences([24]))
    deal.join("b", 8)
    taken = deal.take("b")
    assert deal.thefts == 1
    assert {one.key[0] for one in taken} == set(range(12, 24))


def late(groups, own=8):
    """A seat that has taken all there is, twice what it is at, and another one that came later."""
    deal = Deal()
    deal.join("early", own)
    deal.add(sequences(groups))
    taken = deal.take("early")
    deal.end("early", [], 0.1, busy=own)
    deal.join("late", own)
    return deal, taken


def test_a_seat_gives_back_what_it_has_not_begun_with_until_both_would_be_done_at_once():
    deal, taken = late([1] * 16)
    assert deal.surplus("early") == 8
    deal.give_back("early", [one.key for one in reversed(taken[-8:])])
    assert deal.surplus("early") == 0
    assert deal.take("late") == taken[-8:]
    assert deal.take("early") == []  # nor does it take them back
    assert deal.surplus("early") == deal.surplus("late") == 0
    assert len(deal.end("early", answers(taken[:8]), 1.0)) == 8
    assert len(deal.end("late", answers(taken[-8:]), 1.0)) == 8
    assert len(deal) == 0
    assert [hand.work for hand in deal.hands.values()] == [0, 0]


def test_what_a_seat_has_computed_of_its_rows_is_no_work_that_is_left():
    deal, _ = late([1] * 16)
    deal.end("early", [], 0.1, computed=10**6, busy=8)
    assert deal.surplus("early") == 4


def test_a_seat_keeps_rows_whose_prefix_would_cost_another_one_more_than_they_do():
    deal, _ = late([16])  # 100 tokens of prefix, and 15 for each row
    assert deal.surplus("early") == 0
    deal.hands["late"].path = deal.hands["early"].path
    assert deal.surplus("early") == 8


def test_a_row_that_two_seats_have_is_given_back_by_one_and_answered_by_the_other():
    deal, taken = late([1] * 16)
    deal.hands["late"].saw(1, 1000, 0.1)
    deal.hands["early"].saw(1, 10, 0.1)
    again = deal.take("late")
    assert again == list(reversed(taken[-len(again) :]))
    assert deal.surplus("early") >= len(again)
    deal.give_back("early", [one.key for one in again])
    assert not deal.hands["early"].waiting and not deal.hands["late"].waiting
    assert len(deal.end("late", answers(again), 0.1)) == len(again)
    assert len(deal) == 16 - len(again)


def test_what_nobody_could_take_waits_for_the_next_seat():
    deal = Deal()
    deal.join("a", 4)
    deal.add(sequences([6]))
    taken = deal.take("a")
    deal.add(deal.leave("a"), again=True)
    assert deal.room() == 0
    deal.join("b", 4)
    assert {one.key for one in deal.take("b")} >= {one.key for one in taken}


def test_an_idle_seat_computes_again_what_the_slowest_would_answer_late():
    deal = Deal()
    deal.join("slow", 4)
    deal.join("fast", 4)
    deal.hands["slow"].saw(1, 1, 1.0)
    deal.hands["fast"].saw(10, 1000, 1.0)
    deal.add(sequences([4]))
    for one in list(deal.hands["fast"].waiting):
        deal.hands["fast"].waiting.remove(one)
        deal.hands["slow"].waiting.append(one)
    deal.hands["slow"].work, deal.hands["fast"].work = 60.0, 0.0
    at_slow = deal.take("slow")
    again = deal.take("fast")
    assert {one.key for one in again} <= {one.key for one in at_slow} and again
    assert len(deal.end("fast", answers(again), 0.1)) == len(again)
    assert len(deal.end("slow", answers(at_slow), 9.0)) == len(at_slow) - len(again)
    assert len(deal) == 0


def test_a_row_alone_is_at_no_other_seat():
    deal = Deal()
    for name in ("a", "b"):
        deal.join(name, 4)
        deal.hands[name].saw(1, 10, 1.0)
    (one,) = sequences([1])
    deal.alone("a", one)
    assert deal.take("b") == []
    deal.hands["a"].busy = 0
    assert deal.surplus("a") == 0
    assert deal.leave("a") == [one]


def test_what_a_row_asks_later_goes_to_the_seat_that_holds_its_text():
    deal, seats = Deal(), {}
    for name in ("a", "b"):
        deal.join(name, 8)
    deal.add([Sequence((row, 0), [row] * 111, 5, boundaries=tuple([100] * 1), ahead=100) for row in range(16)])
    for name in ("a", "b"):
        taken = deal.take(name, 8)
        seats |= {one.key[0]: name for one in taken}
        deal.end(name, answers(taken), 1.0)
    rows = sorted(seats, key=lambda row: (row % 8, seats[row] == "a"))  # by turns: both have as much to do
    deal.add([Sequence((row, 1), [*[row] * 100, 7], 5, boundaries=tuple([100] * 1)) for row in rows])
    for name in ("a", "b"):
        assert {seats[one.sequence.key[0]] for one in deal.hands[name].waiting} == {name}
    for row in range(100):
        deal.hands["a"].hold((row,))
    assert len(deal.hands["a"].held) == 32
