"""By what a row is known again: what its cells show, and nothing else."""

import pyarrow as pa
import pytest

from runner.data.rowhash import HASH_BYTES, hash_table


def hashes(**columns):
    found = hash_table(pa.table(columns))
    return [found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [1]}, {"a": ["1"]}),  # a text was added to a column of numbers
        ({"a": [1]}, {"a": [1], "b": pa.array([None], pa.string())}),  # a column was added
        ({"a": [1], "b": [2]}, {"b": [2], "a": [1]}),
        ({"a": pa.array([0.1], pa.float32())}, {"a": [0.10000000149011612]}),  # as earlier versions have hashed it
    ],
)
def test_a_row_that_shows_the_same_is_the_same(one, other):
    assert hashes(**one) == hashes(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": ["x"], "b": ["y"]}, {"a": ["x\x1fy"], "b": [""]}),
        ({"a": ["x", None]}, {"b": ["x", None]}),
        ({"a": [""]}, {"a": pa.array([None], pa.string())}),
        ({"a": [[1, 2]]}, {"a": [[1, 3]]}),
        ({"a": ["x"], "b": pa.array([None], pa.string())}, {"a": pa.array([None], pa.string()), "b": ["x"]}),
    ],
)
def test_a_row_that_shows_something_else_is_another(one, other):
    assert hashes(**one)[0] != hashes(**other)[0]


def test_a_cell_that_python_cannot_hold_can_be_known_again_too():
    table = {"a": pa.array([0, 10**7], pa.date32())}
    first, second = hashes(**table)
    assert [first, second] == hashes(**table) and first != second
