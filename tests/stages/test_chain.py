"""Chains: several stages in one file, one command, one folder, and what a kill leaves of them."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest

from runner import disk, open_run, run
from runner.checkpoint.lease import Lease
from runner.cli import main
from runner.engine.fake import FakeEngine
from runner.session import session
from runner.stages import chain as stages
from runner.types import UserError
from tests.support import runs
from tests.support.fleets import install
from tests.support.forks import Fork
from tests.support.runs import json_lines

ROWS = 30
CHAIN = """
dataset: csv
dataset.path: rows.csv
engine.backend: fake
engine.batch_size: 4
output.shard_rows: 8
run_name: mails
stages:
  - {name: sorted, job: {kind: label, labels: [a, b]}, prompt.user: "{{ text }}"}
  - {name: why, job: generate, where: label == a, prompt.user: "Why {{ label }}: {{ text }}"}
  - {name: kind, job: label, job.labels: [x, y], prompt.user: "What is {{ why_text }}? {{ text }}"}
"""


def write(folder):
    (folder / "rows.csv").write_text("id,text,gold\n" + "".join(f"{i},text number {i},a\n" for i in range(ROWS)))
    (folder / "mails.yaml").write_text(CHAIN)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished chain, not to be changed, computed by a fleet of one seat."""
    folder = write(tmp_path_factory.mktemp("done"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        install(patch, {"one": [{}]})
        assert main(["run", "mails.yaml", "dataset.gold=gold", "fleet=local"]) == 0
    return folder


@pytest.fixture
def mails(done, monkeypatch):
    monkeypatch.chdir(done)
    return open_run("outputs/mails")


def test_the_output_has_every_row_once_with_the_columns_of_all_stages(mails):
    rows = datasets.load_from_disk("outputs/mails").to_list()
    assert rows == [{name: value for name, value in row.items() if name != "row"} for row in mails.rows()]
    assert [row["id"] for row in rows] == list(range(ROWS))
    first, why, kind = (open_run(f"outputs/mails/{name}") for name in ("sorted", "why", "kind"))
    assert [row["label"] for row in rows] == [row["label"] for row in first.rows()]
    asked = [row["id"] for row in rows if row["label"] == "a"]
    assert 0 < len(asked) < ROWS
    assert [row["row"] for row in why.dataset] == [row["row"] for row in kind.dataset] == asked
    assert [row["why_text"] for row in rows if row["stage"] == "kind"] == [row["text"] for row in why.rows()]
    assert {row["stage"]: row["kind_label"] is None for row in rows} == {"sorted": True, "kind": False}
    assert open_run("outputs/mails/kind").config["prompt"]["user"] == "What is {{ why_text }}? {{ text }}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "why     finished"),
        (["status", "--json"], '"stages": [{"name": "sorted", "state": "finished", "rows": 30'),
        (["watch"], "why     finished"),
        (["evaluate"], "on 30 rows with a gold label"),
        (["export", "-"], '"stage": "kind"'),
        (["export", "-", "--join", "--where", "stage == sorted", "--columns", "row,text,label"], '"label": "b"'),
        (["fleet"], "kind    one"),
        (["fleet", "--json"], '"stage": "kind", "seat": 1'),
        (["diff", "outputs/mails/sorted"], "100.00% in label"),
        (["report"], "outputs/mails/report.html"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_whatever_reads_a_run_reads_a_chain(mails, capsys, words, said):
    assert main([words[0], "outputs/mails", *words[1:]]) == 0
    assert said in capsys.readouterr().out
    if words == ["report"]:
        page = Path("outputs/mails/report.html").read_text()
        assert "why</dt>" in page
        assert re.search(r"<dt>data</dt>\s*<dd><bdi>rows.csv</bdi></dd>", page)


def test_a_chain_is_one_notice_one_line_in_the_list_of_runs_and_is_deleted_as_one(folder, capsys):
    notify = "notify.command=echo $ROWMILL_EVENT $ROWMILL_MESSAGE >> told"
    for _ in range(2):
        assert main(["run", "mails.yaml", notify]) == 0
    assert Path("told").read_text() == f"finished mails finished: {ROWS} rows through 3 stages\n"
    assert main(["runs", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (one["name"], one["job"], one["state"], one["rows"]) == ("mails", "label > generate", "finished", ROWS)
    Path("outputs/mails/why/mine.txt").touch()
    assert main(["delete", "outputs/mails", "--yes"]) == 2
    assert open_run("outputs/mails").status["state"] == "finished"
    Path("outputs/mails/why/mine.txt").unlink()
    lease = Lease(Path("outputs/mails"))
    assert main(["delete", "outputs/mails", "--yes"]) == 2
    assert main(["run", "mails.yaml"]) == 2
    lease.release()
    assert main(["delete", "outputs/mails", "--yes"]) == 0
    assert not Path("outputs/mails").exists()


def noting(after, point):
    """Note what engines compute, and die after so many answers, or at the end of the stage (or step) ``point``."""
    notes = os.open("notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = [0]

    def open_engine(ready, share, original=session.open_engine):
        engine = original(ready, share)
        step = engine.step

        def noted():
            generations = step()
            for one in generations:
                count[0] += 1
                os.write(notes, f"{ready.run_dir.name} {one.key[0]}\n".encode())
            if after is not None and count[0] > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return generations

        engine.step = noted
        return engine

    def drive(run, *args, original=stages.drive, **options):
        found = original(run, *args, **options)
        if run.run_dir.name == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    session.open_engine, stages.drive = open_engine, drive
    if point == "publish":
        stages.write_dataset = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)


def killing(after, words=(), point=None):
    noting(after, point)
    os._exit(main(["run", "mails.yaml", *words]))


def test_a_kill_within_and_between_stages_loses_nothing_and_repeats_nothing(folder, mails_rows, capsys):
    for after, point in ((13, None), (None, "sorted"), (9, None), (None, "kind"), (None, "publish")):
        assert Fork(killing, after, (), point).wait() == -signal.SIGKILL
        chain = open_run("outputs/mails")
        assert chain.status["state"] == "interrupted"
        assert [row["label"] for row in chain.rows()] == [mails_rows[row["row"]]["label"] for row in chain.rows()]
        for words in (["status"], ["watch"], ["export", "-"]):
            assert main([words[0], "outputs/mails", *words[1:]]) == 0
    assert Fork(killing, None).wait() == 0
    computed = Counter(Path("notes").read_text().splitlines())
    recorded = sum(len(list(run.rows())) for run in open_run("outputs/mails").parts)
    assert len(computed) == recorded
    assert sum(computed.values()) - recorded <= 2 * 8  # in the batches of steps that died before their commit
    assert runs.rows_of("mails") == mails_rows


@pytest.fixture(scope="module")
def mails_rows(done):
    return runs.rows_of("mails", done / "outputs")


def test_a_killed_supervisor_takes_its_worker_with_it_and_the_same_line_resumes(folder, mails_rows):
    process = runs.subprocess.Popen(runs.command("run", "mails.yaml"), cwd=folder, **runs.settings(delay=0.1))
    while not runs.finished("mails/why"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    runs.outcome(process)
    while open_run("outputs/mails").status["pid"] is not None:
        time.sleep(0.05)
    before = runs.finished("mails/why")
    assert before < len(list(open_run("outputs/mails/sorted").rows()))
    assert main(["run", "mails.yaml"]) == 0
    assert open_run("outputs/mails/sorted").status["sessions"] == 2
    assert runs.rows_of("mails") == mails_rows


def test_ctrl_c_prints_the_line_that_goes_on_with_the_chain(folder):
    said = runs.interrupt(["mails.yaml"], after=10)
    assert "rowmill run mails.yaml" in said


def test_what_a_chain_is_is_on_the_disk_before_its_first_answer(folder, monkeypatch):
    synced = []

    def publish(temporary, path, original=disk.publish_file):
        original(temporary, path)
        synced.append(path.name)

    monkeypatch.setattr(disk, "publish_file", publish)
    runs.interrupt(["mails.yaml"], after=1)
    assert synced[0] == "chain.json"


@pytest.mark.parametrize(("file", "words", "said"), [
    ("run.db", ["mails.yaml"], "belongs to a run"),
    ("chain.json", ["job=generate", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}"], "to a chain"),
])  # fmt: skip
def test_a_run_and_a_chain_do_not_share_a_folder(folder, file, words, said):
    Path("outputs/mails").mkdir(parents=True)
    Path("outputs/mails", file).touch()
    with pytest.raises(UserError, match=said):
        run([*words, "run_name=mails"])


def test_a_row_in_error_goes_no_further_and_the_chain_ends_with_1(folder):
    assert main(["run", "mails.yaml", "stages.sorted.prompt.user={{ 1 // (id - 3) }} {{ text }}"]) == 1
    odd = open_run("outputs/mails")
    assert [(one["row"], one["error"].partition(":")[0]) for one in odd.errors] == [(3, "prompt.user")]
    assert [(row["stage"], row["label"]) for row in odd.rows() if row["id"] == 3] == [("sorted", None)]
    assert odd.status["errors"] == 1
    assert len(odd.parts) == 3


def test_rows_that_are_added_go_through_all_stages_and_nothing_is_asked_twice(folder, monkeypatch, mails_rows):
    asked = []
    add = FakeEngine.add
    monkeypatch.setattr(FakeEngine, "add", lambda self, found: asked.extend(found) or add(self, found))
    lines = Path("rows.csv").read_text()
    Path("rows.csv").write_text("".join(lines.splitlines(keepends=True)[:21]))
    run(["mails.yaml", "dataset.limit=10"])
    assert len(run(["mails.yaml", "dataset.limit=20"])["stages"]) == 3
    Path("rows.csv").write_text(lines)
    run(["mails.yaml", "resume=extend"])
    assert runs.rows_of("mails") == mails_rows
    assert len(asked) == sum(part.status["rows"] for part in open_run("outputs/mails").parts)


def test_a_chain_that_grows_has_no_finished_output_until_the_last_stage_has_grown(folder, mails_rows, monkeypatch):
    lines = Path("rows.csv").read_text()
    Path("rows.csv").write_text("".join(lines.splitlines(keepends=True)[:21]))
    run(["mails.yaml"])
    Path("rows.csv").write_text(lines)
    drive = stages.drive

    def stopping(one, *args, **options):
        drive(one, *args, **options)
        raise KeyboardInterrupt

    def not_publishing(*args):
        raise KeyboardInterrupt

    for name, stop in (("drive", stopping), ("publish", not_publishing)):
        with monkeypatch.context() as patch:
            patch.setattr(stages, name, stop)
            with pytest.raises(KeyboardInterrupt):
                run(["mails.yaml", "resume=extend"])
        assert open_run("outputs/mails").status["state"] == "interrupted"
        assert not Path("outputs/mails/state.json").exists()
    run(["mails.yaml", "resume=extend"])
    assert runs.rows_of("mails") == mails_rows


def test_a_stage_without_rows_has_nothing_to_do_and_neither_have_those_behind_it(folder):
    figures = run(["mails.yaml", "stages.why.where=label == a and confidence > 2"])
    assert [one["state"] for one in figures["stages"]] == ["finished"] * 3
    assert (figures["state"], figures["finished"]) == ("finished", ROWS)
    assert {row["stage"] for row in runs.rows_of("mails")} == {"sorted"}


def test_a_stage_added_behind_leaves_the_others_as_they_are_and_force_starts_all_over(folder):
    text = Path("mails.yaml").read_text()
    Path("mails.yaml").write_text(text[: text.index("  - {name: kind")])
    run(["mails.yaml"])
    Path("mails.yaml").write_text(text)
    run(["mails.yaml"])
    chain = open_run("outputs/mails")
    assert [part.status["sessions"] for part in chain.parts] == [2, 2, 1]
    with pytest.raises(
        UserError, match="its stage 2 was why, where: label == a, and now is why, where: label == b; put"
    ):
        run(["mails.yaml", "stages.why.where=label == b"])
    Path("fewer.yaml").write_text(text[: text.index("  - {name: kind")])
    with pytest.raises(UserError, match="its stage 3 was kind, and now is missing"):
        run(["fewer.yaml"])
    assert run(["mails.yaml", "resume=force"])["path"] == "outputs/mails-2"
    assert [part.status["sessions"] for part in open_run("outputs/mails-2").parts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stages.kind.prompt.user={{ why_tex }}"], "stage kind: prompt.user: no column 'why_tex'.*why_text"),
        (["stages.kind.where=labl == a"], "stage kind: where: no column 'labl'"),
        (
            ["stages.kind.where=label == a or label == c"],
            "stage kind: where: .* no label 'c'; valid: a, b",
        ),
        (["stages.kind.where=label > 5"], "stage kind: where: the column label has no label '5'"),
        (["stages.kind.job=labl"], "stage kind: .*there is no such job"),
        (["stages.why.dataset.path=x.csv"], "the rows of a later stage are those of the one before"),
        (["stages.why.notify.macos=true"], "stages.why.notify.macos"),
        (["stages.other.seed=1"], "there is no such stage.*sorted"),
        (["stages.sorted.where=a == b"], "the first stage reads dataset.where"),
        (["stages.why.merge=replace"], "no stage before makes text"),
        (["stages.kind.merge=over"], "it must be add or replace"),
        (["stages.why.job=label", "stages.why.job.labels=[x,y]", "stages.why.merge=replace"], "that it replaces"),
        (["stages=[{job: label}]"], "stage 1 needs a name"),
        (["stages=[{name: a}, {name: A}]"], "two stages are called a"),
        (["stages.why.output.keep=[id]"], "keeps the row's number"),
        (["cascade.agree=0.9"], "two stages"),
    ],
)
def test_what_is_wrong_with_any_stage_is_said_before_the_first_begins(folder, words, said):
    with pytest.raises(UserError, match=said):
        run(["mails.yaml", *words])
    assert not Path("outputs").exists()


def test_what_is_about_one_run_names_the_stages(mails, capsys):
    assert main(["repair", "outputs/mails"]) == 2
    assert "outputs/mails/sorted, outputs/mails/why, outputs/mails/kind" in capsys.readouterr().err


def test_a_preview_shows_the_prompts_of_all_stages(folder, capsys):
    assert main(["preview", "mails.yaml"]) == 0
    said, told = capsys.readouterr()
    assert "columns of stages whose names are taken: text of why is why_text" in told
    assert "stage 3 of 3, kind" in said
    assert "with dataset.limit=20" in said and "--trial" not in said  # which a chain refuses
    assert "What is (text of why)? text number 0" in said.replace("]", "").replace("[shared: user: ", "")
    assert not Path("outputs").exists()


def test_stages_that_share_a_model_load_it_once(folder, monkeypatch):
    from runner.engine import weights
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(Path("tiny"))
    loaded = []
    load = weights.load_lazily
    monkeypatch.setattr(weights, "load_lazily", lambda folder, **how: loaded.append(folder) or load(folder, **how))
    model = ["model.path=tiny", "engine.backend=cpu", "prompt.chat=false", "dataset.limit=2", "output.report=false"]
    run(["mails.yaml", "stages=[{name: a}, {name: b, merge: replace}]", "job=label", "job.labels=[a,b]", *model,
         "prompt.user={{ text }}"])  # fmt: skip
    assert len(loaded) == 1
    assert {row["stage"] for row in runs.rows_of("mails")} == {"b"}


def test_with_a_key_rows_in_another_order_are_asked_about_by_no_stage_again(folder, monkeypatch):
    header, *rows = Path("rows.csv").read_text().splitlines(keepends=True)
    run(["mails.yaml", "dataset.key=id"])
    before = {row["id"]: row for row in runs.rows_of("mails")}
    Path("rows.csv").write_text("".join([header, *reversed(rows)]))
    monkeypatch.setattr(FakeEngine, "add", lambda self, found: pytest.fail("asked again") if list(found) else None)
    run(["mails.yaml", "dataset.key=id", "resume=extend"])
    assert runs.rows_of("mails") == [before[at] for at in reversed(range(ROWS))]


def test_training_data_of_a_later_answer_has_its_own_prompt_or_none(mails, tmp_path, capsys):
    target = str(tmp_path / "train.jsonl")
    assert main(["export", "outputs/mails", target, "--format", "chat", "--completion", "why_text"]) == 2
    assert "the stage why: export outputs/mails/why" in capsys.readouterr().err
    template = "{{ label }}: {{ why_text }}"
    assert main(["export", "outputs/mails", target, "--format", "chat", "--completion", template]) == 2
    assert "the stage why: export outputs/mails/why" in capsys.readouterr().err
    assert main(["export", "outputs/mails/why", target, "--format", "chat"]) == 0
    asked = [one["messages"][0]["content"] for one in json_lines(target)]
    assert asked == [f"Why a: text number {row['id']}" for row in mails.rows() if row["why_text"] is not None]


def test_a_stage_may_have_any_name(folder):
    stages = "stages=[{name: Größe}, {name: 'null'}]"
    figures = run(["mails.yaml", "dataset.limit=2", stages, "job=generate", "prompt.user={{ text }}"])
    assert [(one["name"], one.get("finished")) for one in figures["stages"]] == [("Größe", 2), ("null", 2)]


def test_a_chain_that_is_refused_leaves_the_finished_one_as_it_is(folder, capsys):
    assert main(["run", "mails.yaml", "dataset.gold=gold"]) == 0
    before = {path: path.read_bytes() for path in Path("outputs/mails").glob("*.json")}
    for words in (["dataset.limit=9", "dataset.gold=null"], ["stages.kind.prompt.user=Else: {{ text }}"]):
        assert main(["run", "mails.yaml", *words]) == 2
        assert "belongs to a different run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("outputs/mails").glob("*.json")} == before
    assert open_run("outputs/mails").status["state"] == "finished"


def test_chains_that_differ_in_a_key_of_a_stage_are_one_line_and_the_same_line_goes_on(folder, capsys):
    words = ["run", "-m", "mails.yaml", "dataset.limit=3", "stages.why.prompt.user='A {{ text }}','B {{ text }}'"]
    for _ in range(2):
        assert main([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(one["path"], one["finished"]) for one in found] == [(f"outputs/mails-{n}-text", 3) for n in "AB"]
        assert [len(one["stages"]) for one in found] == [3, 3]
    assert open_run("outputs/mails-B-text/why").config["prompt"]["user"] == "B {{ text }}"
    assert main([*words[:-1], "stages.why.prompt.user='A {{ txt }}','B'"]) == 2
    assert main(["run", "-m", "mails.yaml", "run_name=a,b", "stages.nope.seed=1"]) == 2
    assert not Path("outputs/a").exists()
