"""Promises of runner/results/show.py."""

from pathlib import Path

import pytest

from runner.console import own_traceback

HERE = Path(__file__).parents[2]


def calls_in(file, call):
    """A function that calls ``call``, as if it stood in ``file``."""
    space = {"call": call}
    exec(compile("def function():\n    call()", str(file), "exec"), space)
    return space["function"]


def test_a_traceback_leaves_out_the_files_of_both_packages():
    def fails():
        raise ValueError("a wrong value")

    user = calls_in("/home/me/jobs/mine.py", fails)
    ours = calls_in(HERE / "runner" / "loop.py", calls_in(HERE / "jobs" / "label.py", user))
    with pytest.raises(ValueError, match="a wrong value") as raised:
        ours()
    text = own_traceback(raised.value)
    assert "/home/me/jobs/mine.py" in text
    assert "label.py" not in text and "loop.py" not in text
    assert text.endswith("ValueError: a wrong value")


def test_a_package_whose_name_only_begins_like_ours_is_the_users():
    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as raised:
        calls_in(HERE / "jobs_of_mine" / "a.py", fails)()
    assert "jobs_of_mine" in own_traceback(raised.value)
