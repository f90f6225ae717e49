"""What is installed as ``rowmill`` starts Python with Ctrl-C held back, which then ends it with one line."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli import main

ROOT = Path(__file__).parents[2]
SHOW = "import _signal, sys; print(2 in _signal.pthread_sigmask(_signal.SIG_BLOCK, []), sys.argv[1:])\n"


@pytest.fixture
def installed(tmp_path):
    """The program in two folders, beside an entry point that shows what it is started with, and a link to it."""
    for folder in (tmp_path / "an odd = näme", tmp_path / "bin"):
        folder.mkdir()
        shutil.copy(ROOT / "runner/cli/shell/rowmill", folder)
        (folder / "python-rowmill").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S -c "{SHOW}" "$@"\n')
        (folder / "python-rowmill").chmod(0o755)
    (tmp_path / "bin/link").symlink_to("rowmill")
    (tmp_path / "link").symlink_to("bin/link")
    return tmp_path


def shown(program, **environment):
    words = [program, "a b", "", "é=$HOME*"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("program", ["bin/rowmill", "link", "an odd = näme/rowmill"])
def test_python_starts_with_ctrl_c_held_back(program, installed):
    assert shown(installed / program) == f"True {['a b', '', 'é=$HOME*']}\n"


@pytest.mark.parametrize("folder", ["bin", "an odd = näme"])
def test_a_shell_may_be_given_the_program_by_its_name_alone(folder, installed):
    done = subprocess.run(["sh", "rowmill", "a"], cwd=installed / folder, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True ['a']\n", "")


def test_processes_are_listed_under_the_words_that_were_typed(installed):
    (installed / "bin/python-rowmill").write_text('#!/bin/sh\necho "$0 $*"\n')
    done = subprocess.run([installed / "link", "run"], capture_output=True, text=True, check=True)
    assert "rowmill run" in done.stdout


def test_python_starts_so_where_env_cannot_hold_signals_back(installed):
    (installed / "env").write_text("#!/bin/sh\nexit 125\n")
    (installed / "env").chmod(0o755)
    path = os.pathsep.join([str(installed), os.environ["PATH"]])
    has_perl = os.access("/usr/bin/perl", os.X_OK)
    assert shown(installed / "link", PATH=path, LC_ALL="xx_YY") == f"{has_perl} {['a b', '', 'é=$HOME*']}\n"


def test_ctrl_c_while_python_starts_ends_with_one_line(tmp_path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        words = [sys.executable, "-m", "runner.cli", "status"]
        started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        started.send_signal(signal.SIGINT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert started.communicate()[1].strip() == "rowmill: interrupted"
    assert started.returncode == 130


def test_what_a_library_makes_of_ctrl_c_is_one(monkeypatch, capsys):
    def cleans_up(_):
        try:
            raise KeyboardInterrupt
        finally:
            None.cache.clear()

    monkeypatch.setattr("runner.cli.start.completion", cleans_up)
    assert main(["completion", "bash"]) == 130
    assert capsys.readouterr().err.strip() == "rowmill: interrupted"
