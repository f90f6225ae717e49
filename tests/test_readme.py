"""The pages and the help topics say what the code says, and every command in them works."""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.cli import command_parser, main, topics
from runner.config import hooks
from runner.config.conf import RunConf
from runner.config.declared import declared_class
from runner.config.declared import keys as declared_keys
from runner.config.groups import group_files
from runner.config.typed import keys

ROOT = Path(__file__).parent.parent
RUN_LINE = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/rowmill run"
TEST_LINE = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "conf", "jobs", "runner", "tests", "outputs"}
SETTING_UP = {RUN_LINE, TEST_LINE}  # they make environments: .ci/run does that
PAGES = ["README.md", "conf/README.md", "tests/README.md", "tests/bench/README.md"]
NEED_A_MODEL = ("convert", "perplexity", "benchmark", "tune")


def page(name):
    return (ROOT / name).read_text()


def commands(text):
    """The command lines of shell blocks, of a page or of a topic as Markdown, continued ones joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def shown_files(text):
    """The files that a page shows in a block behind a line that ends in a colon, by the last name in that line."""
    blocks = re.findall(r"^([^\n]*`[^`\n]+`[^`\n]*):\n\n```(?!sh)\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return {re.findall(r"`([^`]+\.\w+)`", line)[-1]: content for line, content in blocks if re.search(r"\.\w+`", line)}


def typed():
    """Every command that a page or a topic shows."""
    texts = [page(name) for name in PAGES] + [topics.as_markdown(topics.blocks(name)) for name in topics.TOPICS]
    return list(dict.fromkeys(line for text in texts for line in commands(text) if line not in SETTING_UP))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where commands run: with the files that the pages show, in the order of the pages."""
    folder = tmp_path_factory.mktemp("readme")
    texts = [topics.as_markdown(topics.blocks(name)) for name in topics.TOPICS] + [page("README.md")]
    files = {name: content for text in texts for name, content in shown_files(text).items()}
    files["my_conf/job/triage.yaml"] = "_target_: triage.Triage\n"
    files["inbox.mbox"] = "From a@b.c Sat Jan  3 01:05:34 2026\nFrom: a@b.c\nSubject: Lunch\n\nAt noon?\n"
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 20}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    files["requests.jsonl"] = json.dumps(request)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@contextlib.contextmanager
def inside(folder):
    """The folder as the current one, and `rowmill` importable."""
    before, rowmill = Path.cwd(), sys.modules.get("rowmill")
    os.chdir(folder)
    if importlib.util.find_spec("rowmill") is None:
        sys.modules["rowmill"] = importlib.import_module("runner.rowmill")  # as an installation maps it
    try:
        yield
    finally:
        os.chdir(before)
        if rowmill is None:
            sys.modules.pop("rowmill", None)


def run_line(line, folder):
    """The exit code and the output of a command, without a model."""
    words = shlex.split(line)
    printed = io.StringIO()
    with inside(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if words[0] == "python":
            assert words[1] == "-c", f"{line}: no test runs this"
            exec(words[2], {})
            return 0, printed.getvalue()
        assert words[0] == "rowmill", f"{line}: no test runs this"
        fake = ["engine.backend=fake"] if words[1] in ("run", "preview") else []
        return main([*words[1:], *fake]), printed.getvalue()


def test_every_command_of_the_pages_and_the_help_works(folder):
    lines = [line for line in typed() if line.split()[1] not in NEED_A_MODEL]
    assert len(lines) >= 12
    for line in lines:
        code, printed = run_line(line, folder)
        assert code == 0, f"{line}\n{printed}"


def test_keys_of_commands_that_need_a_model_exist():
    lines = [line for line in typed() if line.split()[1] in NEED_A_MODEL]
    assert len(lines) >= 3
    known = set(topics.known_keys()) | {key.name for name in NEED_A_MODEL for key in _keys_of(name)}
    for word in [word for line in lines for word in shlex.split(line)[2:] if "=" in word]:
        name, _, value = word.partition("=")
        assert name in known or set(value.split(",")) <= set(group_files(name)), word


@pytest.mark.parametrize("command", ["run", "convert", "perplexity", "benchmark"])
def test_keys_that_the_help_of_a_command_shows_exist(command):
    options = {key.name for name in (*topics.JOBS, *NEED_A_MODEL) for key in _keys_of(name)}
    shown = re.findall(r"([a-z_]+\.[a-z_]+)=", command_parser(command).format_help())
    assert len(shown) >= 3
    assert set(shown) <= options | set(topics.known_keys())


def _keys_of(topic):
    return [key for block in topics.blocks(topic) for key in block.keys]


def test_the_own_job_of_the_readme_asks_two_questions(folder):
    (line,) = (line for line in commands(page("README.md")) if "job=triage" in line)
    assert run_line(f"{line} run_name=two", folder)[0] == 0
    import datasets

    rows = list(datasets.load_from_disk(str(folder / "outputs" / "two")))
    assert rows[0]["text"] == "Win money now, click here"
    assert all(row["topic"] and row["reply"] and not row["error"] for row in rows)


def test_the_readme_is_one_page():
    assert len(page("README.md").splitlines()) <= 150


def test_the_two_lines_stand_in_the_readme_and_in_ci():
    assert set(commands(page("README.md"))) >= SETTING_UP
    assert TEST_LINE in page(".ci/run")


def test_the_page_of_all_keys_is_that_of_the_code():
    assert page("conf/README.md") == topics.configuration_page(), topics.WRITTEN


def test_every_key_is_on_the_page_and_has_a_meaning():
    listed = topics.known_keys()
    assert set(listed) == {key for key in keys(RunConf) if key != "job"}
    assert [key.name for key in listed.values() if not key.meaning] == []
    assert all(f"| `{name}` |" in page("conf/README.md") for name in listed)


def test_defaults_and_bounds_are_those_of_the_dataclasses():
    conf = RunConf()
    for name, key in topics.known_keys().items():
        value, field = _value_and_field(conf, name)
        assert key.default == "" if value == "???" else yaml.safe_load(key.default) == value, name
        assert all(str(word) in key.kind for word in field.metadata.get("among") or ()), name
        for bound in ("least", "most"):
            assert field.metadata.get(bound) is None or str(field.metadata[bound]) in key.kind, name


def _value_and_field(conf, name):
    *groups, last = name.split(".")
    for group in groups:
        conf = getattr(conf, group)
    (field,) = (field for field in dataclasses.fields(conf) if field.name == last)
    return getattr(conf, last), field


@pytest.mark.parametrize("job", topics.JOBS)
def test_options_of_a_job_are_those_of_its_class_and_each_has_a_meaning(job):
    module, _, name = topics.commented(group_files("job")[job])["_target_"][0].rpartition(".")
    fields = [field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name)) if field.init]
    listed = {key.name.removeprefix("job."): key for key in _keys_of(job)}
    assert {option for option in listed if "." not in option} == set(fields)
    assert [option for option, key in listed.items() if not key.meaning] == []
    assert {key.name for key in declared_keys(declared_class(module, name))} == set(fields)


def test_every_job_has_a_topic():
    assert set(group_files("job")) == set(topics.JOBS)


def test_the_help_on_jobs_of_ones_own_names_every_method_that_a_run_calls():
    text = topics.help_text("own-job")
    assert [name for name in hooks.NAMES if f"{name}(" not in text] == []


def test_columns_in_the_help_are_those_of_the_schema():
    from jobs.label import Label
    from jobs.summarize import Summarize

    label = dict(topics.columns(topics.job_class("label")))
    shapes = [Label(["a", "b"], logprobs=True, abstain_below=0.5), Label(["a", "b"], method="generate", votes=3)]
    shapes += [Label(["a"], multi=True), Label([], scale=[1, 5]), Label(["a", "b"], top=1)]
    assert {name for shape in shapes for name in shape.schema().names} == set(label)
    assert set(Summarize(intermediate=True).schema().names) == set(topics.columns(topics.job_class("summarize")))


@pytest.mark.parametrize("name", topics.TOPICS)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_topic_fits_the_width_and_has_no_markup(name, width):
    text = topics.help_text(name, width)
    assert len(text.splitlines()) > 3
    assert "``" not in text
    prose = [line for line in text.splitlines() if not line.startswith("    ") and "(" not in line]
    assert [line for line in prose if len(line) > width and " " in line.strip()] == []


def test_every_alias_leads_to_a_topic():
    assert set(topics.ALIASES.values()) <= set(topics.TOPICS)


def test_help_lists_the_topics(capsys):
    assert main(["help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in topics.TOPICS)


def test_help_explains_a_key(capsys):
    assert main(["help", "engine.batch_size"]) == 0
    assert capsys.readouterr().out.startswith("  engine.batch_size  (whole number from 1 or null; default null)\n")


def test_help_explains_the_keys_of_jobs_and_of_other_commands(capsys):
    for topic in (*topics.JOBS, *NEED_A_MODEL):
        for key in _keys_of(topic):
            assert main(["help", key.name]) == 0
            assert f"\n  {key.name}  (" in f"\n{capsys.readouterr().out}", key.name


def test_help_explains_a_command(capsys):
    assert main(["help", "preview"]) == 0
    assert "usage: rowmill preview" in capsys.readouterr().out


def test_help_suggests_the_topic_that_was_meant(capsys):
    assert main(["help", "nihgt"]) == 2
    assert capsys.readouterr().err == "rowmill: there is no help on 'nihgt': did you mean night?\n"


def test_help_loads_no_heavy_package():
    code = "import sys; from runner.cli import main; main(['help', 'config']); main(['help', 'label'])"
    code += "; assert not {'pyarrow', 'numpy', 'hydra', 'mlx', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_promise_names_a_test_that_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", page("tests/README.md"))
    assert len(named) >= 25
    for file, test in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert test in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_each_promise_names_a_test():
    promises = [line for line in page("tests/README.md").splitlines() if line.startswith("| ") and "---" not in line]
    assert [line for line in promises if "::test_" not in line and not line.endswith("| shown by |")] == []


def test_programs_that_a_page_names_exist():
    for name in PAGES:
        for module in re.findall(r"python -m (tests[.\w]+|runner[.\w]+)", page(name)):
            assert importlib.util.find_spec(module), f"{name}: {module}"


def test_links_of_pages_lead_to_files():
    for name in PAGES:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page(name)):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_the_top_level_holds_only_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines() if not line.startswith(".")} <= TOP_LEVEL
