"""What is typed is what is meant: texts, numbers, lists and mappings, on the command line and in files."""

import json
import re
from pathlib import Path

import pytest

from runner import open_run, run
from runner.config.flow import combinations, read_value
from runner.config.load import load_config, recorded_config
from runner.types import UserError

TEXTS = ["2024_01", "2024.10", "1e3", "true", "4e15732", "1.10", "1_0", "007", "0x1f", "12:30", "on", "no", "inf"]
TEXTS += ["2024-01-31", "[a]", "{a: 1}", "a,b", "${x}", "$5", "???", "~", "a b", "=", "#1", '"a" or "b"', "C:\\new"]
BASE = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "prompt.user={{ text }}", "engine.backend=fake"]


@pytest.fixture(autouse=True)
def folder(folder):
    Path("mail.csv").write_text("text\nhello\n")
    return folder


def conf_of(*words, config_dir=None):
    keys = {word.partition("=")[0] for word in words}
    return load_config([word for word in BASE if word.partition("=")[0] not in keys] + list(words), config_dir).conf


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_key_takes_what_was_typed(text):
    words = [f"prompt.user={text}", f"prompt.system={text}", f"dataset.where={text}", f"dataset.gold={text}"]
    conf = conf_of(*words, f"output.regex={text}", f"prompt.answer_prefix={text}")
    texts = (conf.prompt.user, conf.prompt.system, conf.dataset.where, conf.dataset.gold, conf.output.regex)
    assert {*texts, conf.prompt.answer_prefix} == {text}


@pytest.mark.parametrize("text", [text for text in TEXTS if text not in ("${x}", "???")])
def test_so_do_names_and_places(text):
    words = [f"dataset.path={text}", f"dataset.table={text}", f"dataset.revision={text}", f"model.path={text}"]
    conf = conf_of(*words, f"output.dir={text}", f"run_name={text}")
    texts = {
        conf.dataset.path,
        conf.dataset.table,
        conf.dataset.revision,
        conf.model.path,
        conf.output.dir,
        conf.run_name,
    }
    assert texts == {text}


def test_a_file_says_the_same_as_the_command_line():
    Path("own/dataset").mkdir(parents=True)
    Path("own/prompt").mkdir(parents=True)
    Path("own/dataset/x.yaml").write_text(
        "kind: csv\npath: 2024_01\ngold: 1_0\nrevision: 4e15732\nsplit: no\nlimit: 1\n"
    )
    Path("own/prompt/x.yaml").write_text(
        "user: 007\nsystem: yes\nstop: [1.10, '${x}', 12:30, 2024-01-31]\nchat: off\nanswer_prefix: ???\n"
    )
    words = ["job=generate", "dataset=x", "prompt=x", "engine.backend=fake"]
    conf = load_config(words, "own").conf
    assert (conf.dataset.path, conf.dataset.gold, conf.dataset.revision) == ("2024_01", "1_0", "4e15732")
    assert (conf.dataset.split, conf.dataset.limit) == ("no", 1)
    assert (conf.prompt.user, conf.prompt.system, conf.prompt.answer_prefix) == ("007", "yes", "???")
    assert conf.prompt.stop == ["1.10", "${x}", "12:30", "2024-01-31"]
    assert conf.prompt.chat is False


def test_lists_of_texts_hold_what_was_typed():
    conf = conf_of("output.keep=[1_0,1.50,on,'a, b',\"c\",größe]", "prompt.stop=[${x}, '\\n', \"\\n\", 007]")
    assert conf.output.keep == ["1_0", "1.50", "on", "a, b", "c", "größe"]
    assert conf.prompt.stop == ["${x}", "\\n", "\n", "007"]


def test_numbers_and_truth_values_are_read_where_they_are_wanted():
    conf = conf_of("engine.max_tokens=0100", "engine.temperature=.5", "prompt.chat=off", "dataset.limit=null")
    assert (conf.engine.max_tokens, conf.engine.temperature, conf.prompt.chat) == (100, 0.5, False)
    assert (conf.dataset.limit, conf_of("seed=1_000").seed) == (None, 1000)


@pytest.mark.parametrize("word", ["seed=1.5", "seed=", "engine.top_p=half", "offline=maybe", "engine.batch_size=12:30"])
def test_what_is_no_number_is_refused(word):
    with pytest.raises(UserError) as refusal:
        conf_of(word)
    assert refusal.value.key == word.partition("=")[0]


@pytest.mark.parametrize("typed", ["12:30", "0.80", "1e-3", "2.0", "5"])
def test_a_job_gets_what_its_fields_say(typed):
    Path("odd.py").write_text(
        "from dataclasses import dataclass, field\nimport pyarrow as pa\n@dataclass\nclass Odd:\n"
        "    name: str = ''\n    names: list[str] = field(default_factory=list)\n    share: float | None = None\n"
        "    options: dict = field(default_factory=dict)\n"
        "    def schema(self): return pa.schema([('x', pa.string())])\n"
        "    def steps(self, row):\n        yield\n"
    )
    Path("own/job").mkdir(parents=True)
    Path("own/job/odd.yaml").write_text("_target_: odd.Odd\n")
    base = ["job=odd", *BASE[1:]]
    words = [f"job.name={typed}", f"job.names=[{typed},b]", f"job.options={{x: {typed}}}"]
    job = load_config([*base, *words], "own").job
    assert (job.name, job.names) == (typed, [typed, "b"])
    assert job.options == {"x": "12:30" if typed == "12:30" else json.loads(typed)}
    if typed != "12:30":
        assert load_config([*base, *words, f"job.share={typed}"], "own").job.share == float(typed)


def test_json_is_read_as_json():
    schema = {"type": "object", "properties": {"größe": {"enum": ['a "b", c', "$x", "${y}", "2024-01-31"]}}}
    schema |= {"required": ["größe"], "additionalProperties": False, "minProperties": 1}
    assert conf_of(f"output.schema={json.dumps(schema)}").output.schema == schema
    assert conf_of(f"output.schema={json.dumps(schema, ensure_ascii=False, indent=1)}").output.schema == schema
    examples = [{"text": "a: {b}, [c] \\ \n \U0001f600 $", "n": 3, "b": True, "answer": "x"}]
    assert conf_of(f"prompt.examples={json.dumps(examples)}").prompt.examples == examples


def test_examples_hold_what_was_typed():
    conf = conf_of("prompt.examples=[{text: 1.10, stars: 5, good: true, answer: 007}, {text: on, answer: true}]")
    assert conf.prompt.examples[0] == {"text": "1.10", "stars": 5, "good": True, "answer": "007"}
    assert conf.prompt.examples[1] == {"text": "on", "answer": "true"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("[a,b", "] is missing"),
        ("[a] b", "'b' follows its end"),
        ("[a,,b]", "an empty place"),
        ("{a}", "a has no value"),
        ("{a: 1, a: 2}", "'a' occurs twice"),
        ('["a" b]', "where , or ] should be"),
        ("{", "it is not closed"),
        ("[{]", "has no value"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(typed, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_value(typed)


def test_a_constant_prompt_needs_no_column():
    words = ["run_name=constant", "prompt.system=You write tickets.", "prompt.user=Write one."]
    run([*(word for word in BASE if not word.startswith("prompt.user")), *words])
    assert open_run("outputs/constant").config["prompt"]["system"] == "You write tickets."


def test_what_was_typed_is_recorded_and_read_again():
    words = [f"prompt.system={'${x} ??? $'}", "prompt.stop=[???]", "output.choices=[${y}, 007]", "run_name=007"]
    run([*BASE, *words])
    found = open_run("outputs/007").config
    assert (found["prompt"]["system"], found["prompt"]["stop"]) == ("${x} ??? $", ["???"])
    assert recorded_config(found).conf.prompt == load_config([*BASE, *words]).conf.prompt
    figures = run([*BASE, *words])
    assert figures["sessions"] == 2


def test_a_job_may_refer_to_another_key_but_not_to_the_environment():
    words = ["job=label", "job.label_end=${oc.env:HOME}", "dataset.classes=[${a},b]"]
    config = load_config([*(word for word in BASE if not word.startswith("job")), *words])
    assert config.job.names == ["${a}", "b"]
    assert config.job.label_end == "${oc.env:HOME}"


def test_a_sweep_takes_its_values_as_typed():
    assert combinations(["run_name=1_0,2.50", "seed=1"]) == [
        (["run_name=1_0", "seed=1"], ["run_name=1_0"]),
        (["run_name=2.50", "seed=1"], ["run_name=2.50"]),
    ]
    prompts = 'prompt.user="A, b: {{ text }}","C: {{ text }}"'
    assert [words for words, _ in combinations([prompts])] == [
        ['prompt.user="A, b: {{ text }}"'],
        ['prompt.user="C: {{ text }}"'],
    ]
    several = combinations(["prompt.user=Ham, or spam? {{ text }}", "job.labels=[a,b],[c,d]"])
    assert [differing for _, differing in several] == [["job.labels=[a,b]"], ["job.labels=[c,d]"]]


@pytest.mark.parametrize(
    ("labels", "base", "names"),
    [
        ("{ham: fine, spam: bad}", "label", ["ham", "spam"]),
        ("[x, y, z]", "mapped", ["x", "y", "z"]),
        ("{a: x, b: y}", "listed", ["a", "b"]),
    ],
)
def test_labels_of_a_file_take_the_place_of_those_that_it_builds_on_as_a_list_or_a_mapping(folder, labels, base, names):
    (folder / "own" / "job").mkdir(parents=True)
    for name, on, content in (
        ("mapped", "label", "{u: v, w: x}"),
        ("listed", "mapped", "[p, q]"),
        ("mine", base, labels),
    ):
        (folder / "own" / "job" / f"{name}.yaml").write_text(f"defaults: [{on}]\nlabels: {content}\n")
    config = load_config([*BASE[1:], "job=mine"], "own")
    assert [choice.name for choice in config.job.choices] == names
