"""The README's commands work, its tables are those of the code. ``python -m tests.test_readme`` writes the tables."""

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from runner.compose import field_type, in_words, keys
from runner.config import RunConf

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RUN_LINE = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/rowmill run"
TEST_LINE = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "conf", "jobs", "runner", "tests", "outputs"}
SETTING_UP = {RUN_LINE, TEST_LINE}  # they make environments: .ci/run does that


def configuration():
    """A table of keys for each group, after what the group's docstring says."""
    lines = [_paragraphs(RunConf), "", *_table([key for key in keys(RunConf) if "." not in key and key != "job"])]
    for field in dataclasses.fields(RunConf):
        group = typing.get_type_hints(RunConf)[field.name]
        if dataclasses.is_dataclass(group):
            names = [key for key in keys(RunConf) if key.startswith(f"{field.name}.")]
            lines += ["", f"### {field.name}", "", _paragraphs(group), "", *_table(names)]
    return "\n".join(lines)


def modules():
    """A line for each file in runner/ and jobs/: the first sentence of its docstring."""
    files = [file for folder in ("runner", "jobs") for file in sorted((ROOT / folder).rglob("*.py"))]
    lines = [f"| `{file.relative_to(ROOT)}` | {_first_sentence(file)} |" for file in files if file.stat().st_size]
    return "\n".join(["| File | What it holds |", "| --- | --- |", *lines])


def _table(names):
    lines = ["| Key | Type | Default |", "| --- | --- | --- |"]
    for name in names:
        kind = in_words(field_type(RunConf, name)).replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {_default(name)} |")
    return lines


def _default(name):
    value = RunConf()
    for part in name.split("."):
        value = getattr(value, part)
    if value == "???":
        return "must be set"
    written = {None: "null", True: "true", False: "false"}
    return f"`{written[value] if value is None or isinstance(value, bool) else repr(value)}`"


def _paragraphs(group):
    words = re.sub(r"``", "`", re.sub(r"[ \t]*\n[ \t]*", "\n", group.__doc__ or "")).strip()
    return words


def _first_sentence(file):
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", text)[0].replace("``", "`").replace("|", "\\|")


def with_tables(readme):
    for name, content in (("configuration", configuration()), ("modules", modules())):
        pattern = re.compile(f"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        readme = pattern.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", readme)
    return readme


def files(readme):
    """The files that the README shows, by name."""
    return dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```", readme, re.DOTALL | re.MULTILINE))


def commands(readme):
    """The command lines of the shell blocks, continued ones joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def in_the_environment(command):
    """The command with this interpreter, and without a model."""
    words = shlex.split(command)
    if words[0] == "rowmill":
        fake = ["engine.backend=fake"] if words[1] in ("run", "preview") else []
        return [sys.executable, "-m", "runner.cli", *words[1:], *fake]
    assert words[0] == "python", f"the README types {command}, which no test runs"
    return [sys.executable, *words[1:]]


@pytest.fixture
def folder(tmp_path):
    for name, content in files(README.read_text()).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_every_command_works(folder):
    typed = [command for command in commands(README.read_text()) if command not in SETTING_UP]
    assert len(typed) >= 8
    for command in typed:
        done = subprocess.run(in_the_environment(command), cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_own_job_asked_two_questions(folder):
    (command,) = (command for command in commands(README.read_text()) if "job=triage" in command)
    subprocess.run(in_the_environment(command), cwd=folder, capture_output=True, check=True)
    import datasets

    rows = list(datasets.load_from_disk(str(folder / "outputs" / "triage-csv")))
    assert len(rows) == 4
    assert all(row["topic"] in ("money", "food", "work") and row["reply"] and not row["error"] for row in rows)
    assert rows[0]["text"] == "Win money now, click here"


def test_the_python_block_works(folder):
    (script,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
        if "run(" in block
    )
    script = script.replace('"job=generate"', '"job=generate", "engine.backend=fake"')
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert "outputs/generate-csv" in done.stdout


def test_the_two_lines_stand_in_the_readme_and_in_ci():
    assert {RUN_LINE, TEST_LINE} <= set(commands(README.read_text()))
    assert TEST_LINE in (ROOT / ".ci" / "run").read_text()


def test_the_tables_are_those_of_the_code():
    readme = README.read_text()
    assert readme == with_tables(readme), "write them again: python -m tests.test_readme"


def test_every_key_is_in_the_table():
    assert all(f"| `{key}` |" in README.read_text() for key in keys(RunConf) if key != "job")


def test_the_top_level_holds_only_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines() if not line.startswith(".")} <= TOP_LEVEL


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
