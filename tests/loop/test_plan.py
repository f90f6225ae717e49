import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.loop.plan import Plan, common_prefix, plan_boundaries, sort_key
from runner.sequences import Costs, Sequence


def sequence(i, tokens, max_tokens=8):
    return Sequence((i, 0), tokens, max_tokens)


def template_rows(count, seed=0, template=100):
    draw = random.Random(seed)
    prefix = [draw.randrange(1000) for _ in range(template)]
    return [prefix + [draw.randrange(1000) for _ in range(draw.randrange(1, 30))] for _ in range(count)]


def documents(count, questions, seed=0):
    draw = random.Random(seed)
    template = [draw.randrange(1000) for _ in range(50)]
    rows = []
    for _ in range(count):
        document = template + [draw.randrange(1000) for _ in range(draw.randrange(200, 400))]
        rows += [[*document, *(draw.randrange(1000) for _ in range(12))] for _ in range(questions)]
    draw.shuffle(rows)
    return rows


def take_all(plan, step=7):
    taken = []
    while len(plan):
        taken += plan.take(step)
    return taken


def cached(taken):
    """Prompt tokens served by a cache that holds the current path only."""
    served, path = 0, []
    for one in taken:
        depth = 0
        new = [tuple(one.tokens[:b]) for b in one.boundaries]
        for prefix in new:
            if prefix in path:
                depth = len(prefix)
        served, path = served + depth, new
    return served


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=40),
    st.sampled_from([Costs(), Costs(0, 0), Costs(2, 0.1)]),
)
def test_every_sequence_is_taken_once_and_boundaries_lie_inside_it(rows, costs):
    plan = Plan(costs)
    plan.add([sequence(i, row) for i, row in enumerate(rows)])
    taken = take_all(plan, 3)
    assert sorted(one.key[0] for one in taken) == list(range(len(rows)))
    for one in taken:
        assert list(one.boundaries) == sorted(set(one.boundaries))
        assert all(0 < b < len(one.tokens) for b in one.boundaries)


@given(st.lists(st.integers(0, 300), max_size=9), st.lists(st.integers(0, 300), max_size=9))
def test_sort_keys_compare_as_tokens_do(a, b):
    assert (sort_key(a) < sort_key(b)) == (a < b)
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(sort_key(a), sort_key(b)) == n


def test_one_template_is_one_boundary():
    plan = Plan()
    plan.add([sequence(i, row) for i, row in enumerate(template_rows(50))])
    taken = take_all(plan)
    assert {one.boundaries for one in taken} == {(100,)}
    assert cached(taken) == plan.shareable == 49 * 100


def test_the_longest_come_first_and_neighbours_are_alike():
    plan = Plan()
    plan.add([sequence(i, row) for i, row in enumerate(template_rows(200))])
    lengths = [len(one.tokens) for one in take_all(plan)]
    assert lengths == sorted(lengths, reverse=True)


def test_documents_times_questions_in_shuffled_order_share_as_much_as_any_order_could():
    rows = documents(40, 8)
    plan = Plan()
    plan.add([sequence(i, row) for i, row in enumerate(rows)])
    taken = take_all(plan)
    prompt = sum(map(len, rows))
    best = 1 - len({tuple(row[: i + 1]) for row in rows for i in range(len(row))}) / prompt
    assert best > 0.8
    assert best - cached(taken) / prompt < 0.02
    assert {len(one.boundaries) for one in taken} == {2}


def test_prefixes_that_come_again_later_could_have_been_shared_while_they_are_remembered(monkeypatch):
    for remembered, again in (100, True), (3, False):
        monkeypatch.setattr("runner.loop.plan.MOST_SEEN", remembered)
        plan = Plan()
        for _ in range(2):  # the same documents in two windows
            plan.add([sequence(i, row) for i, row in enumerate(documents(8, 4))])
            taken = take_all(plan)
        first = 2 * cached(taken)
        assert (plan.shareable > first + 1000) == again
        # The bound is on memory, which shows in no order of rows.
        assert len(plan._seen) <= remembered


def test_template_document_and_question_are_three_levels():
    """Several samples of each question, as a job with ``samples`` asks for them."""
    draw = random.Random(5)
    rows = [row + [draw.randrange(1000) for _ in range(60)] for row in documents(12, 4)]
    rows = [row for row in rows for _ in range(5)]
    draw.shuffle(rows)
    plan = Plan()
    plan.add([sequence(i, row) for i, row in enumerate(rows)])
    taken = take_all(plan)
    assert {len(one.boundaries) for one in taken} == {3}
    assert cached(taken) == plan.shareable
    best = sum(map(len, rows)) - len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})
    assert 0 <= best - cached(taken) <= len(rows)  # the last token of each is its own


def test_rows_that_arrive_join_the_sweep_where_their_prefix_lies_ahead():
    rows = documents(10, 6, seed=3)
    plan = Plan()
    plan.add([sequence(i, row) for i, row in enumerate(rows[:30])])
    taken = plan.take(2)
    plan.add([sequence(i + 30, row) for i, row in enumerate(rows[30:])])
    taken += take_all(plan)
    assert len(taken) == 60
    prompt = sum(map(len, rows))
    best = 1 - len({tuple(row[: i + 1]) for row in rows for i in range(len(row))}) / prompt
    assert best - cached(taken) / prompt < 0.05


def test_one_template_stays_cached_while_rows_keep_arriving():
    rows = template_rows(400)
    plan, taken = Plan(), []
    plan.add([sequence(i, row) for i, row in enumerate(rows[:40])])
    for i in range(40, 400):
        taken += plan.take(1)
        plan.add([sequence(i, rows[i])])
    taken += take_all(plan)
    assert cached(taken) == 399 * 100


def test_identical_prompts_share_all_but_their_last_token():
    keys = [sort_key(list(range(1, 80)))] * 4
    assert plan_boundaries(keys, [80] * 4, Costs()) == [(78,)] * 4


def test_a_short_common_beginning_is_not_worth_a_snapshot():
    assert plan_boundaries(sorted([sort_key([1, 2, i, i, i]) for i in range(5)]), [6] * 5, Costs()) == [()] * 5


@pytest.mark.parametrize(("costs", "kept"), [(Costs(64, 0.01), True), (Costs(64, 0.5), False), (Costs(1000, 0), False)])
def test_measured_costs_decide_what_is_shared(costs, kept):
    keys = [sort_key([*range(1, 41), i]) for i in range(100, 120)]  # 40 tokens that 20 share, and 100 generated by each
    assert plan_boundaries(keys, [141] * 20, costs) == [(40,) if kept else ()] * 20


@pytest.mark.parametrize("asked", [1, 3])
def test_what_a_row_announced_comes_next_behind_the_prefix_that_is_held_for_it(asked):
    texts = [[*range(100 * row + 1, 100 * row + 100)] for row in range(12)]
    plan = Plan(Costs(holds=True))
    plan.add(
        [Sequence((row, at), [*text, 2000 + at], 1, ahead=99) for row, text in enumerate(texts) for at in range(asked)]
    )
    first = plan.take(4 * asked)
    assert {one.boundaries for one in first} == {(99,)}
    rows = list(dict.fromkeys(one.key[0] for one in first))
    plan.add([Sequence((row, asked + at), [*texts[row], 3000, at], 1) for row in rows for at in range(2)])
    later = plan.take(8)
    assert [one.key for one in later] == [(row, asked + at) for row in rows for at in range(2)]
    assert {one.boundaries for one in later} == {(99,)}
    assert plan.shareable == 99 * (4 * asked + 8 - 4)
    assert len(take_all(plan)) == 8 * asked and not len(plan)


def test_of_what_is_held_a_later_request_takes_the_part_that_it_begins_with():
    plan = Plan(Costs(holds=True))
    plan.add([Sequence((row, 0), [*range(1, 200), 500 + row], 1, ahead=199) for row in range(3)])
    plan.take(3)
    for number, tokens in ((1, [*range(1, 200), 7]), (2, [*range(1, 150), 7]), (3, [8, 9])):
        plan.add([Sequence((0, number), tokens, 1)])
        (later,) = plan.take(1)
        assert later.boundaries == ((199,) if number == 1 else ())


def test_where_nothing_is_held_a_row_that_may_ask_more_is_planned_as_any_other():
    plan = Plan(Costs())
    plan.add([Sequence((row, 0), [*range(100 * row + 1, 100 * row + 100)], 1, ahead=90) for row in range(3)])
    assert {one.boundaries for one in take_all(plan)} == {()}
