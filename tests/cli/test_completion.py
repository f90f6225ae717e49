"""What Tab does: the words, and real shells that ask for them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli import main
from runner.cli.completion import FILES, FOLDERS, SCRIPTS, completions


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["sta"], ["status"]),
        (["status", "out"], [FOLDERS]),
        (["status", "--j"], ["--json"]),
        (["export", "outputs/mail", "--format", "par"], ["parquet"]),
        (["export", "outputs/mail", ""], [FILES]),
        (["completion", "z"], ["zsh"]),
        (["run", "--config-dir", ""], [FOLDERS]),
        (["run", "job=lab"], ["job=label"]),
        (["run", "dataset=m"], ["dataset=movie_reviews"]),
        (["run", "dataset.pat"], ["dataset.path="]),
        (["run", "dataset.path=ma"], [FILES]),
        (["run", "engine.backend=c"], ["engine.backend=cuda", "engine.backend=cpu"]),
        (["run", "offline="], ["offline=true", "offline=false"]),
        (["run", "output.report=t"], ["output.report=true"]),
        (["run", "job=summarize", "job.target"], ["job.target_words="]),
        (["run", "resume=e"], ["resume=errors", "resume=extend"]),
        (["new", ""], ["job"]),
        (["help", "engine.ba"], ["engine.backend", "engine.batch_size"]),
        (["wrod", ""], []),
    ],
)
def test_words_are_completed(typed, expected, cache):
    assert completions(typed) == expected
    assert completions(typed) == expected, "from the cache"


def test_own_files_are_completed(tmp_path, cache):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "triage.yaml").write_text("_target_: triage.Triage\nwords: 20\n")
    assert completions(["run", "--config-dir", str(tmp_path), "job=tri"]) == ["job=triage"]
    assert completions(["run", "--config-dir", str(tmp_path), "job=triage", "job."]) == ["job.words="]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_one_that_the_shell_reads(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("bash"), reason="bash")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("rowmill sta", ["status"]),
        ("rowmill run job=lab", ["label"]),
        ("rowmill run job=label engine.backend=me", ["metal"]),
        ("rowmill run dataset.path=ma", ["mail.csv"]),
        ("rowmill run dataset.pa", ["dataset.path="]),
        ("rowmill status ", ["outputs"]),
        ("rowmill run dataset.limit=5", []),
    ],
)
def test_bash_completes(line, replies, tmp_path, cache):
    (tmp_path / "bin").mkdir()
    (tmp_path / "work" / "outputs").mkdir(parents=True)
    (tmp_path / "work" / "mail.csv").write_text("text\n")
    program = tmp_path / "bin" / "rowmill"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner.cli "$@"\n')
    program.chmod(0o755)
    script = f'{SCRIPTS["bash"]}\nPATH="{program.parent}:$PATH" COMP_LINE="$1" COMP_POINT=${{#1}}\n_rowmill\n'
    asked = [*("bash", "--norc", "-c"), f'{script}for one in "${{COMPREPLY[@]}}"; do echo "$one"; done', "bash", line]
    done = subprocess.run(asked, cwd=tmp_path / "work", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == replies


def test_a_completion_loads_the_schema_once(cache):
    asked = "import sys, runner.cli.completion as c; c.completions(['run', 'se']); "
    asked += "print('runner.config.conf' in sys.modules)"
    root = Path(__file__).parents[2]
    said = [subprocess.check_output([sys.executable, "-c", asked], cwd=root, text=True).strip() for _ in range(2)]
    assert said == ["True", "False"]
