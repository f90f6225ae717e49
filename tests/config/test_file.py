"""The command line as a file: what was typed, written and read again."""

from pathlib import Path

import pytest

from runner import open_run
from runner.cli import main
from runner.config.file import as_file, expanded
from runner.config.load import load_config
from runner.types import UserError

BASE = ["dataset=csv", "dataset.path=mail.csv", "prompt.user={{ text }}", "engine.backend=fake"]


@pytest.fixture(autouse=True)
def folder(folder):
    Path("mail.csv").write_text("text,kind\nhello,a\nworld,b\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["job=label", 'job.labels=[ham, "spam, x", 007, no, "off", 1e5]', "prompt=movie_reviews"],
        ["job=label", 'job.labels=[{name: ham, surface: "a: b"}, {name: "c\\nd"}]', "+seed=3"],
        [
            "job=generate",
            "prompt.user=  two\nlines:\x85 # {{ text }} \n",
            "prompt.system=a\x85\u2028\rb",
            "dataset.where=text == 'a\\'b' and kind != \"\"",
        ],
        ["job=generate", "prompt.user='quoted ''{{ text }}'", "prompt.system=", "prompt.stop=[' ', \"\\t\", 1]"],
        ["job=generate", "date=2026-01-31", "dataset.gold=12:30", "run_name=1_0", "engine.temperature=1e-1"],
        ["job=generate", 'output.schema={type: object, properties: {a: {enum: [1, "1", yes]}}}', "dataset.path=true"],
        ["job=synthesize", "job.attributes={tone: [warm, '2', 2, 1.50, on]}", "job.target=3"],
    ],
    ids=["lists", "mappings", "lines", "quotes", "words that YAML retypes", "a schema", "attributes"],
)
def test_what_was_typed_means_the_same_in_a_file(words):
    words = list({word.partition("=")[0].lstrip("+"): word for word in [*BASE, *words]}.values())
    Path("typed.yaml").write_text(as_file(words))
    assert load_config(["typed.yaml"]).plain == load_config(words).plain
    assert expanded(["typed"]) == expanded(["typed.yaml"])


def test_a_saved_run_is_the_same_run_and_is_never_overwritten(capsys):
    words = ["run", "job=label", "job.labels=[a,b]", *BASE, "run_name=r"]
    assert main(words) == 0
    assert main([*words, "resume=extend", "--save", "conf/mail"]) == 0
    assert "rowmill run conf/mail.yaml resume=extend" in capsys.readouterr().out
    assert main(["run", "conf/mail.yaml", "resume=extend"]) == 0
    assert open_run("outputs/r").status["sessions"] == 2
    before = Path("conf/mail.yaml").read_text()
    assert main([*words, "seed=1", "--save", "conf/mail.yaml"]) == 2
    assert Path("conf/mail.yaml").read_text() == before
    assert main(["run", "conf/mail", "dataset.limit=1", "run_name=one"]) == 0
    assert open_run("outputs/one").status["rows"] == 1


@pytest.mark.parametrize(
    "wrong", [["~seed"], ["sed=1"], ["-m", "seed=1,2"], ["notify.webhook=https://a.example/token"]]
)
def test_what_cannot_run_is_not_saved(wrong):
    assert main(["run", "job=generate", *BASE, *wrong, "--save", "conf/mail"]) == 2
    assert not Path("conf").exists()


def test_a_file_without_a_name_is_refused(capsys):
    before = sorted(Path().iterdir())
    assert main(["run", "job=generate", *BASE, "--save", ""]) == 2
    assert "give the name of a file" in capsys.readouterr().err and sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "key: value"),
        ("# later\n", "key: value"),
        ("a: [", "line 1 is not YAML"),
        ("seed: 1\nseed: 2", "twice"),
        ("resume: force", "resume"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text, said):
    Path("wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        expanded(["wrong.yaml"])


def test_keys_under_their_groups_and_words_behind_the_file():
    Path("f.yaml").write_text("job: {kind: label, labels: [a, b]}\nmodel.path: tiny\nprompt: {user: X, stop: [q]}\n")
    found = expanded(["f.yaml", "model=smollm2_135m", "prompt.user=Y"])
    assert found == ["job=label", 'job.labels=["a", "b"]', 'prompt.stop=["q"]', "model=smollm2_135m", "prompt.user=Y"]
    Path("own.yaml").write_text("job: {_target_: mine.Job, kind: x}\ndataset: {kind: csv}\n")
    assert expanded(["own.yaml"]) == ['job._target_="mine.Job"', 'job.kind="x"', 'dataset.kind="csv"']
    with pytest.raises(UserError, match=r"no such file: g\.yaml"):
        expanded(["g.yaml"])


def test_two_files_are_refused_not_merged():
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"a\.yaml and b: one file describes a run"):
        expanded(["a.yaml", "seed=2", "b"])
