"""Choices as a trie, and how far each has to be scored."""

import numpy as np
import pytest

from jobs.label import MANY, Label
from runner.loop.requests import Defaults, sequence_of
from runner.text.choices import FEW_NODES, LEAST, LIKELIEST, Choices, Walk, beginnings, choice_tree
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


def digits(count):
    """Codes of five digits that share their beginnings."""
    codes = np.random.default_rng(0).choice(100_000, count, replace=False)
    return choice_tree(beginnings(Choices(tuple(10 + int(digit) for digit in f"{code:05d}") for code in codes)))


def walked(tree, alike, room, **keys):
    """A way through a tree whose digits are the more alike: the scores, those of all choices, the nodes computed."""
    chance = np.random.default_rng(3)
    after = np.log(chance.dirichlet([alike] * 10, len(tree.tokens) + 1))
    edges = np.array([after[node, token - 10] for node, token in tree.edges])
    walk, nodes = Walk(tree, cut=True, **keys), 0
    while not walk.ended:
        piece = walk.next(room)
        walk.take(piece, edges[piece.edges])
        nodes += len(piece.tokens)
    return walk.scores(), np.append(edges, 0.0)[tree.steps].sum(axis=1), nodes


@pytest.mark.parametrize("alike", [0.3, 1, 100])
def test_codes_that_share_beginnings_and_are_all_alike_take_few_nodes_and_the_likeliest_are_found(alike):
    scores, want, nodes = walked(digits(2000), alike, 1000)
    scored = np.isfinite(scores)
    assert scores[scored] == pytest.approx(want[scored])
    likely = np.argsort(-want)[:LIKELIEST]
    assert scored[likely[want[likely] >= want.max() + LEAST]].all()
    assert FEW_NODES < nodes < 400 < len(digits(2000).tokens) / 2
    more = np.argsort(-want)[:30]
    assert np.isfinite(walked(digits(2000), alike, 1000, top=30)[0])[more[want[more] >= want.max() + LEAST]].all()


def test_a_walk_does_not_depend_on_the_room_of_its_pieces():
    scores = [walked(digits(2000), 1, room)[0] for room in (5, 40, 1000)]
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()
