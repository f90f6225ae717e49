import contextlib
import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

import datasets
import pytest

from jobs.synthesize import Synthesize, read_weights
from runner import cli, open_run, run
from runner.results.diversity import diversity
from runner.types import Completion, RejectedError, UserError
from tests.support.kills import Run, kill_until_done

WORDS = ["job=synthesize", "dataset=csv", "dataset.path=rows.csv", "engine.backend=fake", "output.report=false"]
ATTRIBUTES = "job.attributes={tone: {warm: 3, dry: 1}, topic: [sea, hill]}"
OFF = ["job.filters.near=null", "job.filters.overlap=null", "job.filters.length=null"]


@pytest.fixture(autouse=True)
def folder(folder, cache):
    lines = [f"{i},this is seed text number {i} of several" for i in range(30)]
    (folder / "rows.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    return folder


def rows(figures):
    return datasets.load_from_disk(figures["path"]).to_list()


def test_exactly_the_target_is_accepted_and_all_rejected_attempts_have_a_reason():
    figures = run([*WORDS, "job.target=40", "job.ahead=32", "output.shard_rows=16"])
    accepted = rows(figures)
    rejected = list(open_run(figures["path"]).rejected())
    assert figures["finished"] == figures["rows"] == len(accepted) == 40
    assert figures["rejected"] == Counter(one["reason"].split(":")[0] for one in rejected)
    attempts = [row["attempt"] for row in accepted]
    assert attempts == sorted(attempts)
    assert sorted([*attempts, *(one["attempt"] for one in rejected)]) == list(range(attempts[-1] + 1))
    assert len({row["text"].lower() for row in accepted}) == 40
    assert all(len(row["text"].split()) >= 3 for row in accepted)
    assert all(one["text"] for one in rejected)
    assert list(accepted[0]) == ["text", "attempt", "seed_row", "error", "usage"]


def test_tokens_of_rejected_attempts_count():
    figures = run([*WORDS, "job.target=10", *OFF, "job.filters.deny={patterns: [amber]}"])
    assert figures["rejected"]["deny"] > 0
    assert figures["prompt_tokens"] > sum(row["usage"]["prompt_tokens"] for row in rows(figures))


def test_what_is_accepted_depends_on_neither_batches_nor_windows():
    outputs = []
    for number, size in enumerate(("engine.batch_size=3", "engine.batch_size=200", "engine.window=5")):
        figures = run([*WORDS, ATTRIBUTES, "job.target=24", "job.ahead=16", size, f"run_name=r{number}"])
        rejected = [(one["attempt"], one["reason"]) for one in open_run(figures["path"]).rejected()]
        outputs.append((rows(figures), rejected))
    assert outputs[0] == outputs[1] == outputs[2]


def test_another_seed_gives_other_rows():
    seeds = [rows(run([*WORDS, "job.target=10", f"seed={seed}", f"run_name=s{seed}"])) for seed in (0, 1)]
    assert len({row["text"] for accepted in seeds for row in accepted}) > 10


def test_attributes_have_their_shares_and_full_values_are_drawn_no_longer():
    figures = run([*WORDS, *OFF, ATTRIBUTES, "job.target=40", "job.ahead=4"])
    accepted = rows(figures)
    assert Counter(row["tone"] for row in accepted) == {"warm": 30, "dry": 10}
    assert Counter(row["topic"] for row in accepted) == {"sea": 20, "hill": 20}
    full = next(i for i in range(40) if sum(row["tone"] == "dry" for row in accepted[: i + 1]) == 10)
    late = [one for one in open_run(figures["path"]).rejected() if one["attempt"] >= accepted[full]["attempt"] + 4]
    assert all(one["tone"] != "dry" for one in late)


def test_a_product_goes_through_all_combinations():
    figures = run(
        [*WORDS, *OFF, "job.combine=product", "job.attributes={a: [x, y, z], b: ['1', '2']}", "job.target=12"]
    )
    counts = Counter((row["a"], row["b"]) for row in rows(figures))
    assert set(counts) == {(a, b) for a in "xyz" for b in "12"}


def test_when_attempts_are_spent_the_output_ends_short(capsys):
    words = [
        *WORDS,
        "job.target=50",
        "job.max_attempts=60",
        "job.filters.deny={patterns: [oak]}",
        "output.shard_rows=4",
    ]
    assert cli.main(["run", *words]) == 1
    printed = capsys.readouterr().out
    figures = run(words)  # again: nothing is left to do
    assert figures["state"] == "finished"
    assert 0 < figures["finished"] < 50
    assert figures["finished"] + sum(figures["rejected"].values()) == 60
    assert len(rows(figures)) == figures["finished"]
    assert f"{60 - figures['finished']} of 60 attempts, by reason:" in printed
    assert f"{figures['rejected']['deny']} x deny" in printed


def test_nothing_accepted_is_an_empty_data_set():
    figures = run([*WORDS, "job.target=5", "job.filters.length={least: 1000}"])
    assert figures["finished"] == 0
    assert figures["rejected"] == {"length": 50}
    assert len(datasets.load_from_disk(figures["path"])) == 0


def test_the_judge_asks_a_second_question_and_its_score_is_a_column():
    figures = run([*WORDS, *OFF, "job.target=10", "job.filters.judge={least: 2.9}"])
    assert all(2.9 <= row["score"] <= 5 for row in rows(figures))
    assert figures["rejected"]["judge"] == len(
        [one for one in open_run(figures["path"]).rejected() if one.get("score")]
    )


def test_without_data_there_are_attributes_and_examples_of_ones_own():
    words = ["job=synthesize", "dataset=none", "engine.backend=fake", *OFF, "job.target=6", "job.shots=1"]
    figures = run([*words, "job.examples=[{text: an example}, {text: another}]", "job.attributes={tone: [warm, dry]}"])
    assert len(rows(figures)) == 6


def test_a_filter_of_ones_own(folder):
    (folder / "own.py").write_text(
        "class Vowel:\n    def reason(self, draft):\n        return 'no' if 'o' in draft.text else None\n"
    )
    figures = run([*WORDS, *OFF, "job.target=10", "job.filters.vowel={_target_: own.Vowel}"])
    assert figures["rejected"]["vowel"] > 0
    assert not any("o" in row["text"] for row in rows(figures))
    file = folder / "own.py"
    file.write_text(file.read_text().replace("'o'", "'u'"))
    with pytest.raises(UserError, match=r'code\.own\.py: "\w+" -> "\w+"'):
        run([*WORDS, *OFF, "job.target=10", "job.filters.vowel={_target_: own.Vowel}"])
    again = run([*WORDS, *OFF, "job.target=10", "job.filters.vowel={_target_: own.Vowel}", "run_name=again"])
    assert not any("u" in row["text"] for row in rows(again))


def test_rejected_attempts_can_be_exported(capsys):
    figures = run([*WORDS, "job.target=10"])
    assert cli.main(["export", figures["path"], "rejected.jsonl", "--rejected"]) == 0
    lines = [json.loads(line) for line in open("rejected.jsonl")]  # noqa: PTH123, SIM115
    assert len(lines) == sum(figures["rejected"].values()) > 0
    assert {"attempt", "reason", "text"} <= lines[0].keys()
    assert cli.main(["export", figures["path"], "rejected.csv", "--rejected"]) == 2


def test_what_is_joined_is_the_seed_row_of_each_attempt():
    figures = run([*WORDS, "job.target=20", "dataset.shuffle_seed=3", "output.shard_rows=8"])
    accepted = rows(figures)
    assert cli.main(["export", figures["path"], "joined.jsonl", "--join"]) == 0
    lines = [json.loads(line) for line in open("joined.jsonl")]  # noqa: PTH123, SIM115
    seeds = [row["text"] for row in open_run(figures["path"]).source.rows()]
    assert [row["seed_row"] for row in accepted] == [row["attempt"] % 30 for row in accepted]
    assert [line["input_text"] for line in lines] == [seeds[row["seed_row"]] for row in accepted]
    assert len({row["attempt"] - place for place, row in enumerate(accepted)}) > 1


def test_the_data_sets_right_answers_are_not_those_of_made_rows(folder):
    lines = [f"seed text number {i} of several,{'cold' if i % 2 else 'warm'}" for i in range(30)]
    (folder / "gold.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    words = [*WORDS[:2], "dataset.path=gold.csv", "dataset.gold=label", "job.attributes={label: [warm, cold]}"]
    figures = run([*words, "engine.backend=fake", "job.target=10", "output.report=true", "run_name=gold"])
    assert "evaluation" not in figures
    report = (folder / "outputs" / "gold" / "report.html").read_text()
    assert "ow right the labels are" not in report
    assert "seed text number" not in report
    assert cli.main(["evaluate", figures["path"], "--gold", "label"]) == 2


def test_the_preview_shows_attempts(capsys):
    assert cli.main(["preview", *WORDS, "job.target=40", "job.attributes={tone: [warm]}"]) == 0
    printed = capsys.readouterr().out
    assert "Tone: warm" in printed
    assert "rows     40;" in printed


def test_steps_end_with_a_reason():
    job = Synthesize(filters={"length": {"least": 2}})
    steps = job.steps({"attributes": {}, "attempt": 3, "seed_row": 3})
    next(steps)
    with pytest.raises(RejectedError, match="length: 1 words") as caught:
        steps.send(Completion("one"))
    assert caught.value.columns == {"text": "one", "attempt": 3, "seed_row": 3}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("job.target=0", "job.target=0: it must be at least 1"),
        ("job.max_attempts=5", "job.max_attempts=5: it must be at least job.target=100"),
        ("job.combine=all", "job.combine=all: it can be sample, product"),
        ("job.column=body", "job.column=body: the examples have no such column; they have id, text"),
        ("job.filters.lenght={}", "job.filters.lenght: there is no such filter; available: complete, length"),
        ("job.filters.length={min: 3}", "job.filters.length: "),
        ("job.filters.length=5", "job.filters.length=5: it must be"),
        ("job.filters.near={threshold: 2}", "job.filters.near.threshold=2"),
        ("job.filters.balance={attributes: [x]}", "job.filters.balance.attributes: there is no 'x'"),
        (
            "job.filters.own={_target_: nowhere.Filter}",
            "nowhere.Filter: module nowhere cannot be imported",
        ),
        ("job.filters.own={_target_: jobs.label.Label}", "jobs.label.Label: it must be a class with"),
        ("job.filters.own={_target_: os.Filter}", r"write modules=\[os\]"),
        ("job.attributes={tone: warm}", "job.attributes.tone=warm: it must be a list of values"),
        ("job.attributes={text: [a]}", "'text' is an output column already"),
        ("output.keep=[id]", r"output.keep=\[id\]: this job makes rows of its own"),
    ],
)
def test_mistakes_are_named_before_the_model_loads(word, says):
    with pytest.raises(UserError, match=says):
        run([*WORDS, word])


def test_weights_are_lists_or_mappings():
    assert read_weights({"a": ["x", "y"], "b": {"z": 2}}) == {"a": {"x": 1.0, "y": 1.0}, "b": {"z": 2.0}}


def test_diversity_of_what_was_accepted():
    figures = run([*WORDS, *OFF, "job.target=30"])
    found = figures["diversity"]
    assert found["texts"] == 30
    assert 0 < found["distinct_1"] < found["distinct_2"] <= 1
    assert 0 < found["self_bleu"] < 1
    attempts = 30 + sum(figures["rejected"].values())
    duplicates = figures["rejected"].get("exact", 0)
    assert sum(found["duplicates"]) * attempts / 10 == pytest.approx(duplicates, rel=0.1)
    assert diversity(open_run(figures["path"])) == found


def test_kills_change_nothing_of_what_is_accepted(folder):
    overrides = [
        *(*WORDS, "job.target=300", "job.ahead=24", "engine.batch_size=4", "output.shard_rows=16"),
        *(ATTRIBUTES, "job.filters.judge={least: 2.7}"),
        "job.filters.overlap=null",
    ]
    chance = random.Random(0)
    moments = [(chance.randint(12, 60), chance.uniform(0, 0.02)) for _ in range(4)]
    with Run(folder, "whole", overrides) as whole, Run(folder, "killed", overrides) as killed:
        whole.start(step_seconds=0)
        counts = kill_until_done(killed, moments)
        whole.finish()
    assert killed.shards() == whole.shards()
    rejected = [list(open_run(folder / "outputs" / name).rejected()) for name in ("whole", "killed")]
    assert rejected[0] == rejected[1]
    assert {one["reason"].split(":")[0] for one in rejected[0]} >= {"judge", "length"}
    assert len([count for count in counts if count]) >= 3


def test_kills_of_a_real_model_change_nothing_either(folder, slow):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(folder / "tiny")
    target, kills = (12, (5, 6, 2)) if slow else (8, (5, 3))
    overrides = [
        *("job=synthesize", "dataset=csv", "dataset.path=rows.csv", "model.path=tiny", "engine.backend=cpu"),
        *(f"job.target={target}", "job.ahead=8", "job.shots=1", "job.filters.complete=null", "job.filters.length=null"),
        *("job.filters.judge={least: 3.0}", "engine.max_tokens=12", "engine.batch_size=4", "output.report=false"),
    ]
    with Run(folder, "whole", overrides) as whole, Run(folder, "killed", overrides) as killed:
        whole.start(step_seconds=0)
        kill_until_done(killed, [(answers, 0.01) for answers in kills])
        whole.finish()
    texts = [[(row["text"], row["attempt"], row["score"]) for row in run.rows()] for run in (whole, killed)]
    rejected = [list(open_run(folder / "outputs" / name).rejected()) for name in ("whole", "killed")]
    assert [one[:2] for one in texts[0]] == [one[:2] for one in texts[1]]
    assert [one[2] for one in texts[0]] == pytest.approx([one[2] for one in texts[1]], rel=1e-4)
    assert [(one["attempt"], one["text"]) for one in rejected[0]] == [
        (one["attempt"], one["text"]) for one in rejected[1]
    ]
    assert len(texts[0]) == target


@pytest.mark.parametrize("damaged", [None, 0, 5])
@pytest.mark.parametrize("most", [400, 60])
def test_repair_keeps_rejected_attempts(damaged, most):
    words = [*WORDS, ATTRIBUTES, "job.target=40", f"job.max_attempts={most}", "output.shard_rows=16"]
    whole = run([*words, "run_name=whole"])
    rejected = list(open_run(whole["path"]).rejected())
    made = run(words)
    if damaged is not None:
        with contextlib.closing(sqlite3.connect(f"{made['path']}/run.db", isolation_level=None)) as database:
            database.execute("UPDATE rejected SET reason = 'x' WHERE attempt = ?", (rejected[damaged]["attempt"],))
            database.execute("DELETE FROM shards WHERE shard = 0")
    assert cli.main(["repair", made["path"]]) == 0
    kept = rejected if damaged is None else rejected[:damaged]
    assert list(open_run(made["path"]).rejected()) == kept
    assert rows(run(words)) == rows(whole)
    if damaged is None or most == 60:
        assert list(open_run(made["path"]).rejected()) == rejected


def test_repair_keeps_the_last_shard_of_a_run_whose_attempts_are_spent(capsys):
    words = [*WORDS, ATTRIBUTES, "job.target=40", "job.max_attempts=60", "output.shard_rows=16"]
    figures = run(words)
    before = {path.name: path.read_bytes() for path in Path(figures["path"]).glob("data-*")}
    assert figures["finished"] % 16
    with contextlib.closing(sqlite3.connect(Path(figures["path"], "run.db"))) as database:
        database.execute("DROP TABLE seats")
    assert cli.main(["repair", figures["path"]]) == 0
    assert f"kept {figures['finished']} rows in {len(before)} shards" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in Path(figures["path"]).glob("data-*")} == before
    assert run(words)["finished"] == figures["finished"]


def test_the_user_is_told_how_many_rows_spent_attempts_came_to():
    words = [*WORDS, *OFF, "job.target=40", "job.max_attempts=50", "job.filters.deny={patterns: [amber]}"]
    figures = run([*words, "notify.command='echo $ROWMILL_MESSAGE >> told'"])
    assert 0 < figures["finished"] < 40
    told = f"synthesize-csv finished: {figures['finished']} of 40 rows; attempts are spent\n"
    assert Path("told").read_text() == told
