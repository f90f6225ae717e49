"""Training data: three formats, the run's own prompt, splits that do not leak."""

import json
from pathlib import Path

import pytest

import runner
from runner.cli import main
from tests.support.runs import json_lines

MAIL = "id,text,kind\n1,win money now,spam\n2,see you at lunch,ham\n3,,spam\n4,meeting at 3,ham\n"
FAKE = ["dataset=csv", "dataset.path=mail.csv", "engine.backend=fake"]
LABELS = "job.labels=[{name: ham, surface: good}, {name: spam, surface: bad}]"


@pytest.fixture
def folder(folder):
    Path("mail.csv").write_text(MAIL)
    return folder


@pytest.fixture
def labelled(folder):
    system = "prompt.system=Choose {% for label in labels %}{{ label.surface }} {% endfor %}"
    example = "prompt.examples=[{text: an example, answer: good}]"
    runner.run(["job=label", LABELS, *FAKE, "prompt.user=Mail: {{ text }}", system, example, "run_name=mail"])
    return folder


def export(run, *words):
    assert main(["export", f"outputs/{run}", *words]) == 0


def test_chat_has_the_prompt_without_examples_and_the_labels_surface(labelled, capsys):
    export("mail", "out.jsonl", "--format", "chat")
    assert capsys.readouterr().out == "3 examples written to out.jsonl\n"
    first = json_lines("out.jsonl")[0]["messages"]
    assert [message["role"] for message in first] == ["system", "user", "assistant"]
    assert first[0]["content"] == "Choose good bad "
    assert first[1]["content"] == "Mail: win money now"
    assert first[2]["content"] in ("good", "bad")


def test_labels_of_a_file_have_their_surfaces_even_if_it_is_gone(folder):
    (folder / "labels.csv").write_text("name,surface\nham,good\nspam,bad\n")
    runner.run(["job=label", "job.labels_file=labels.csv", *FAKE, "prompt.user=Mail: {{ text }}", "run_name=filed"])
    (folder / "labels.csv").unlink()
    export("filed", "out.jsonl", "--format", "chat")
    assert {one["messages"][-1]["content"] for one in json_lines("out.jsonl")} <= {"good", "bad"}


def test_alpaca_and_prompt_completion(labelled):
    export("mail", "a.jsonl", "--format", "alpaca")
    export("mail", "p.jsonl", "--format", "prompt-completion")
    alpaca, pair = json_lines("a.jsonl")[1], json_lines("p.jsonl")[1]
    answer = alpaca["output"]
    assert alpaca == {"instruction": "Choose good bad ", "input": "Mail: see you at lunch", "output": answer}
    assert pair == {"prompt": "Choose good bad \n\nMail: see you at lunch", "completion": answer}


def test_columns_and_templates_for_both_sides(labelled):
    words = ["--format", "chat", "--prompt", "{{ kind }} {{ id }}", "--completion", "kind", "--system", "text"]
    export("mail", "out.jsonl", *words)
    assert json_lines("out.jsonl")[0]["messages"] == [
        {"role": "system", "content": "win money now"},
        {"role": "user", "content": "spam 1"},
        {"role": "assistant", "content": "spam"},
    ]


def test_every_sample_is_an_example(folder):
    words = ["job=generate", "job.samples=3", "engine.temperature=1", "prompt.user=Answer {{ id }}", "run_name=texts"]
    runner.run([*FAKE, *words])
    export("texts", "out.jsonl", "--format", "alpaca")
    found = json_lines("out.jsonl")
    assert len(found) == 12
    assert found[0]["instruction"] == "Answer 1"
    assert found[0]["input"] == ""
    assert len({line["output"] for line in found[:3]}) == 3


def test_a_column_of_the_outputs_name_is_the_inputs_in_the_prompt(folder):
    runner.run([*FAKE, "job=generate", 'prompt.user="Answer: {{ text or id }}"', "run_name=texts"])
    export("texts", "out.jsonl", "--format", "prompt-completion")
    assert json_lines("out.jsonl")[1]["prompt"] == "Answer: see you at lunch"


def test_the_split_is_by_prompt_and_stays_when_rows_come(folder):
    def split(count, name):
        rows = "".join(json.dumps({"text": f"row {i % 150}"}) + "\n" for i in range(count))
        Path(f"{name}.jsonl").write_text(rows)
        words = ["job=generate", "dataset=jsonl", f"dataset.path={name}.jsonl", "prompt.user={{ text }}"]
        runner.run([*words, f"run_name={name}", "engine.backend=fake"])
        export(name, f"{name}/train.jsonl", "--format", "chat", "--validation", "0.2")
        return [
            {line["messages"][0]["content"] for line in json_lines(f"{name}/{side}.jsonl")}
            for side in ("train", "valid")
        ]

    train, valid = split(200, "more")
    assert not train & valid
    assert len(train | valid) == 150
    assert 15 <= len(valid) <= 45
    fewer_train, fewer_valid = split(100, "fewer")
    assert fewer_train <= train
    assert fewer_valid <= valid


def test_made_rows_have_their_prompt_without_the_examples(folder):
    words = ["job=synthesize", *FAKE, "job.target=60", "job.attributes={tone: [warm, dry]}", "run_name=made"]
    runner.run([*words, "job.filters={exact: {}}"])
    export("made", "out.jsonl", "--format", "prompt-completion")
    rows = list(runner.open_run("outputs/made").rows())
    assert json_lines("out.jsonl") == [
        {"prompt": f"Tone: {row['tone']}\nText:", "completion": row["text"]} for row in rows
    ]

    export("made", "made/train.jsonl", "--format", "alpaca", "--validation", "0.2")
    assert 40 <= len(json_lines("made/train.jsonl")) < 60
    assert len(json_lines("made/train.jsonl")) + len(json_lines("made/valid.jsonl")) == 60


def test_messages_of_a_batch_file(folder):
    body = {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    Path("requests.jsonl").write_text(json.dumps(line) + "\nnope\n")
    runner.run(["dataset=openai_batch", "dataset.path=requests.jsonl", "engine.backend=fake", "run_name=batch"])
    export("batch", "out.jsonl", "--format", "chat")
    (example,) = json_lines("out.jsonl")
    assert example["messages"][:2] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validation", "1"], "--validation=1: it must be at least 0 and below 1"),
        (["--completion", "lable"], "--completion: no column 'lable' (did you mean 'label'?)"),
        (["--prompt", "{{ txet }}"], "--prompt: no column 'txet'"),
        (["--prompt", "{{ text"], "--prompt: no column '{{ text'"),
        (["--where", "error is not null"], "has no rows with an answer to train on"),
    ],
)
def test_mistakes(labelled, capsys, words, message):
    assert main(["export", "outputs/mail", "out.jsonl", "--format", "chat", *words]) == 2
    said = capsys.readouterr().err
    assert message in said or "--prompt: line 1" in said
    assert len(said.splitlines()) == 1
    assert not Path("out.jsonl").exists()


def test_a_prompt_that_the_job_filled_in_has_to_be_said(folder, capsys):
    Path("own").mkdir()
    Path("own/twice.py").write_text(
        "from dataclasses import dataclass\nimport pyarrow as pa\nfrom runner.types import Request\n\n"
        "@dataclass\nclass Twice:\n    def schema(self):\n        return pa.schema([('answer', pa.string())])\n\n"
        "    def variables(self):\n        return {'question': ''}\n\n    def steps(self, row):\n"
        "        first = yield Request({'question': 'one'})\n        return {'answer': first.text}\n"
    )
    Path("own/job").mkdir()
    Path("own/job/twice.yaml").write_text("_target_: twice.Twice\n")
    runner.run([*FAKE, "job=twice", 'prompt.user="{{ id }} {{ question }}"', "run_name=own"], config_dir="own")
    assert main(["export", "outputs/own", "out.jsonl", "--format", "chat"]) == 2
    assert "--prompt TEMPLATE is needed: the job of outputs/own filled in 'question'" in capsys.readouterr().err
    export("own", "out.jsonl", "--format", "chat", "--prompt", "{{ id }}?")
    assert json_lines("out.jsonl")[0]["messages"][0]["content"] == "1?"


@pytest.mark.parametrize(
    ("name", "text", "prompt", "asked"),
    [
        ("a.jsonl", '{"x": 5, "y": {"a": 1}}\n{"x": 0.5, "y": "t"}\n', "{{ x }} {{ y | tojson }}", '5 {"a": 1}'),
        (
            "a.jsonl",
            '{"x": [1, 2], "answer": "mine"}\n{"x": "t", "answer": "no"}\n',
            "{{ x[1] }} {{ answer }}",
            "2 mine",
        ),
        ("a.csv", "x,y\n5,1.50\nN/A,1\n", "{{ 2 * y }} {% if x == 5 %}five{% endif %}", "3.0 five"),
        ("a.csv", "x,answer\n5,mine\n6,his\n", "{{ x }} {% if answer == 'mine' %}m{% endif %}", "5 m"),
    ],
)
def test_the_runs_own_prompt_is_the_one_that_it_saw(folder, name, text, prompt, asked):
    Path(name).write_text(text)
    runner.run(["job=generate", f"dataset.path={name}", f'prompt.user="{prompt}"', "engine.backend=fake", "run_name=r"])
    export("r", "out.jsonl", "--format", "prompt-completion")
    assert json_lines("out.jsonl")[0]["prompt"] == asked
