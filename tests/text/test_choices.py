"""Choices as a trie, and how far each has to be scored."""

import pytest

from jobs.label import MANY, Label
from runner.loop.requests import Defaults, sequence_of
from runner.text.choices import beginnings, choice_tree
from runner.types import Request, Sampling, UserError


@pytest.mark.parametrize(
    ("choices", "beginning"),
    [
        (((1, 2, 3), (1, 4, 5, 6), (7, 8)), ((1, 2), (1, 4), (7,))),
        (((1, 2), (1, 2, 3, 4), (1, 2, 5)), ((1, 2), (1, 2, 3), (1, 2, 5))),  # one is another's beginning
        (((1,), (2,)), ((1,), (2,))),
        (((1, 2), (1, 2)), ((1, 2), (1, 2))),
        (((1, 2, 3),), ((1,),)),
    ],
)
def test_a_choices_beginning_is_what_tells_it_from_all_others(choices, beginning):
    assert beginnings(choices) == beginning


def test_the_beginnings_of_many_choices_need_a_node_only_where_they_part():
    words = tuple((10 + i // 11, 30 + i % 11, 50, 51, 52) for i in range(77))
    assert len(choice_tree(words).tokens) == 7 + 3 * 77
    assert len(choice_tree(beginnings(words)).tokens) == 7


def test_a_request_that_is_not_whole_scores_beginnings():
    def tokens(prompt, choices):
        return tuple(tuple(choice.encode()) for choice in choices)

    def choices(**keys):
        request = Request({}, choices=("card lost", "card late", "loan"), **keys)
        return sequence_of((0, 0), 0, request, [1], Defaults(9, Sampling(), 0), tokens).choices

    assert choices() == tokens([], ("card lost", "card late", "loan"))
    assert choices(whole=False) == tokens([], ("card lo", "card la", "l"))


@pytest.mark.parametrize(("whole", "few", "many"), [(None, True, False), (True, True, True), (False, False, False)])
def test_many_labels_are_scored_by_their_beginnings(whole, few, many):
    for count, expected in ((MANY, few), (MANY + 1, many)):
        assert next(Label([f"label {i}" for i in range(count)], whole=whole).steps({})).whole is expected


def test_whole_is_yes_no_or_left_open():
    with pytest.raises(UserError, match=r"job\.whole=some: .*true, false or null"):
        Label(["a", "b"], whole="some")
