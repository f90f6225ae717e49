"""Promises of runner/results/show.py."""

import os
import sys
from pathlib import Path

import pytest

from runner.console import begin_in_utf8, own_traceback

HERE = Path(__file__).parents[2]


def calls_in(file, call):
    """A function that calls ``call``, as if it stood in ``file``."""
    space = {"call": call}
    exec(compile("def function():\n    call()", str(file), "exec"), space)
    return space["function"]


@pytest.mark.parametrize(
    ("encoding", "options", "begun"), [("ascii", {}, 1), ("ascii", {"utf8": "0"}, 0), ("utf-8", {}, 0)]
)
def test_the_program_begins_again_in_utf8_where_the_locale_has_another_encoding(monkeypatch, encoding, options, begun):
    again = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    # Python tells its own -X options under no other name.
    monkeypatch.setattr(sys, "_xoptions", options)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "runner.cli", "runs"])
    monkeypatch.setattr(os, "execve", lambda *words: again.append(words))
    monkeypatch.setattr("runner.console.hold", lambda: None)
    begin_in_utf8()
    assert [(words, env["PYTHONUTF8"]) for _, words, env in again] == [
        ([sys.executable, "-X", "utf8", "-m", "runner.cli", "runs"], "1")
    ] * begun


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
