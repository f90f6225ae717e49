"""What one session of a run promises: resume, refusals, figures, and an end when it is asked for."""

import contextlib
import datetime
import json
import os
import shlex
import signal
import sqlite3
import threading
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from runner import open_run, run
from runner.config.load import load_config
from runner.engine.fake import FakeEngine
from runner.results.status import read_status
from runner.sequences import Generation, Work
from runner.session import session
from runner.session.prepare import prepare
from runner.signals import stop_on_signals
from runner.types import UserError
from tests.support import runs
from tests.support.families import save_family
from tests.support.starts import INSTALLED

ROWS = 60


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder, cache):
    write_csv("mail.csv", ROWS)


def write_csv(name, rows):
    lines = [f"{i},mail number {i},{'ham' if i % 2 else 'spam'}" for i in range(rows)]
    Path(name).write_text("\n".join(["id,text,kind", *lines]) + "\n")


def overrides(*more):
    words = ["job=label", "job.labels=[ham,spam]", "dataset.path=mail.csv", "prompt.user='Ham or spam? {{ text }}'"]
    return runs.overrides(*words, "run_name=mail", *more)


def rows_of(path):
    return datasets.load_from_disk(str(path)).to_list()


def sessions_of(path="outputs/mail"):
    with sqlite3.connect(Path(path) / "run.db") as database:
        return database.execute("SELECT why, provenance FROM sessions ORDER BY session").fetchall()


def interrupt(*more):
    return runs.interrupt(overrides(*more))


# The figures


def test_run_returns_the_figures_of_status_and_the_path():
    figures = run(overrides("dataset.gold=kind", "output.keep=[id,kind]"))
    assert figures["path"] == "outputs/mail"
    assert (figures["rows"], figures["finished"], figures["errors"], figures["state"]) == (ROWS, ROWS, 0, "finished")
    assert {"rows_per_s", "prompt_tokens", "cached_tokens", "completion_tokens", "model_share"} <= figures.keys()
    assert figures["evaluation"]["rows"] == ROWS
    status = runs.rowmill("status", "outputs/mail", "--json")
    assert json.loads(status.stdout) == {k: v for k, v in figures.items() if k != "path"}
    assert list(rows_of("outputs/mail")[7]) == ["id", "kind", "label", "confidence", "probabilities", "error", "usage"]


def working(step):
    def worked(engine):
        engine.work = Work(prefilled=40, padded=10, lanes=3, slots=4, model_s=1e-9)
        return step(engine)

    return worked


def test_the_share_of_time_in_the_model_is_kept_when_the_engine_knows_it(monkeypatch):
    assert run(overrides())["model_share"] is None
    monkeypatch.setattr(FakeEngine, "step", working(FakeEngine.step))
    figures = run(overrides("run_name=other"))
    assert 0 < figures["model_share"] < 1
    assert figures["slot_occupancy"] == 0.75 and figures["padding_share"] == 0.2
    assert json.loads(sessions_of("outputs/other")[0][1])["model_s"] == 1e-9


def test_the_resolved_configuration_lies_in_the_run_directory():
    run(overrides())
    config = yaml.safe_load(Path("outputs/mail/config.yaml").read_text())
    assert config["job"]["labels"] == ["ham", "spam"]
    assert config["dataset"]["path"] == "mail.csv"
    assert config["date"] == prepare(load_config(overrides())).date


# Resume


def test_a_finished_run_is_only_told_again(monkeypatch):
    first = run(overrides())
    monkeypatch.setattr(session, "open_engine", lambda ready: pytest.fail("nothing is to be computed"))
    again = run(overrides())
    assert {**again, "sessions": 1} == first
    assert again["sessions"] == 2


def test_an_interrupted_run_goes_on_with_another_batch_size_and_ends_the_same():
    run(overrides("run_name=whole"))
    interrupt()
    assert sessions_of()[0][0] == "interrupted"
    figures = run(overrides("engine.batch_size=7"))
    assert figures["state"] == "finished"
    labels = [[(row["label"], row["confidence"]) for row in rows_of(f"outputs/{name}")] for name in ("whole", "mail")]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("prompt.user='Spam? {{ text }}'", "prompt.user: "),
        ("job.labels=[ham,spam,other]", "job.labels: "),
        ("job.method=generate", 'job.method: "choice" -> "generate"'),
        ("dataset.limit=50", "dataset.limit: null -> 50"),
        ("engine.temperature=0.5", "engine.temperature: 0.0 -> 0.5"),
        ("seed=1", "seed: 0 -> 1"),
        ("output.keep=[id]", "keep.text: "),
        ("output.shard_rows=7", "shard_rows: 1000 -> 7"),
    ],
)
def test_resume_with_a_change_that_matters_is_refused_with_what_changed(change, line):
    interrupt()
    before = {path.name: path.read_bytes() for path in Path("outputs/mail").glob("*.arrow")}
    with pytest.raises(UserError) as refusal:
        run(overrides(change))
    assert refusal.value.exit_code == 2
    assert line in str(refusal.value)
    assert "resume=force" in str(refusal.value)
    assert before == {path.name: path.read_bytes() for path in Path("outputs/mail").glob("*.arrow")}


def test_resume_after_the_data_changed_is_refused():
    interrupt()
    text = Path("mail.csv").read_text()
    Path("mail.csv").write_text(text.replace("number 9,", "number 90,"))
    with pytest.raises(UserError, match=r"dataset\.fingerprint"):
        run(overrides())


def test_moved_data_that_are_the_same_go_on():
    interrupt()
    Path("elsewhere").mkdir()
    Path("mail.csv").rename("elsewhere/post.csv")
    moved = [word for word in overrides() if not word.startswith("dataset.path")]
    assert run([*moved, "dataset.path=elsewhere/post.csv"])["state"] == "finished"


def test_reading_leaves_no_file_behind():
    run(overrides())
    before = sorted(path.name for path in Path("outputs/mail").iterdir())
    assert prepare(load_config(overrides())).date == datetime.date.today().isoformat()
    read_status(Path("outputs/mail"))
    assert sorted(path.name for path in Path("outputs/mail").iterdir()) == before


def test_resume_force_begins_anew_beside_the_old_run_and_says_where(caplog):
    interrupt()
    old = {path.name: path.read_bytes() for path in Path("outputs/mail").iterdir() if "run.db" in path.name}
    with caplog.at_level("INFO", "rowmill"):
        assert run(overrides("resume=force", "seed=1"))["path"] == "outputs/mail-2"
    assert "outputs/mail-2" in caplog.text
    assert run(overrides("resume=force"))["path"] == "outputs/mail-3"
    assert old == {path.name: path.read_bytes() for path in Path("outputs/mail").iterdir() if "run.db" in path.name}


def test_the_date_is_that_of_the_first_session(monkeypatch):
    interrupt("date=2001-02-03")
    assert run(overrides())["state"] == "finished"
    assert yaml.safe_load(Path("outputs/mail/config.yaml").read_text())["date"] == "2001-02-03"
    with pytest.raises(UserError, match="date"):
        run(overrides("date=2002-02-03"))


@pytest.mark.parametrize("place", ["/proc/rowmill", "/dev/null/x", "mail.csv", "loop", "long/" + "x" * 300])
@pytest.mark.parametrize("more", [[], ["resume=force"]])
def test_an_output_dir_that_cannot_be_made_is_refused_in_one_line(place, more):
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"cannot be written .*choose another output\.dir") as refusal:
        run(overrides(f"output.dir={place}", *more))
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)


def test_rows_in_error_are_tried_once_more_when_asked(monkeypatch):
    """As on a machine with more memory; what was answered before is not computed again."""
    computed = []

    def answer(self, sequence, original=FakeEngine.answer):
        computed.append(sequence.key[0])
        return original(self, sequence)

    def too_small(self, sequence):
        failed = Generation(sequence.key, finish_reason="error", error="too long: for this machine")
        return failed if sequence.key[0] == 9 else answer(self, sequence)

    whole = rows_of(run(overrides("run_name=whole"))["path"])
    monkeypatch.setattr(FakeEngine, "answer", too_small)
    assert run(overrides("output.shard_rows=20"))["errors"] == 1
    monkeypatch.setattr(FakeEngine, "answer", answer)
    assert run(overrides("output.shard_rows=20"))["errors"] == 1
    computed.clear()
    figures = run(overrides("output.shard_rows=20", "resume=errors"))
    assert (figures["errors"], figures["finished"], computed) == (0, ROWS, [9])
    assert rows_of("outputs/mail") == whole


# Stop texts


def generating(*more):
    return [word for word in overrides("job=generate", *more) if not word.startswith("job.labels")]


def test_a_stop_text_ends_the_answer_and_is_left_out_of_it():
    run(generating())
    run(generating("prompt.stop=[' ']", "run_name=stopped"))
    whole, stopped = rows_of("outputs/mail"), rows_of("outputs/stopped")
    assert [row["text"] for row in stopped] == [row["text"].split(" ")[0] for row in whole]
    assert any(" " in row["text"] for row in whole)
    assert {row["usage"]["finish_reason"] for row in stopped} == {"stop"}
    tokens = zip(stopped, whole, strict=True)
    assert all(a["usage"]["completion_tokens"] <= b["usage"]["completion_tokens"] for a, b in tokens)


def test_an_empty_stop_text_is_refused():
    with pytest.raises(UserError, match=r"prompt\.stop: a stop text is empty"):
        run(overrides('prompt.stop=[""]'))


# The output's columns


def test_all_columns_are_kept_those_that_the_output_names_itself_under_other_names():
    Path("mail.csv").write_text("id,text,label,error\n1,a,x,y\n2,b,x,y\n")
    run(overrides())
    kept = ["id", "text", "input_label", "input_error"]
    assert list(rows_of("outputs/mail")[0]) == [*kept, "label", "confidence", "probabilities", "error", "usage"]
    run(overrides("output.keep=[]", "run_name=none"))
    assert list(rows_of("outputs/none")[0]) == ["label", "confidence", "probabilities", "error", "usage"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("output.keep=[id,colour]", "output.keep: no column 'colour'; valid: id, text, kind"),
        ("output.keep=[id,id]", "the column 'id' is listed twice"),
        ("dataset.gold=text", "the value 'mail number 0' is not among job.labels (ham, spam)"),
        ("dataset.gold=colour", "dataset.gold: no column 'colour'"),
        ("prompt.user='{{ texd }}'", "prompt.user: no column 'texd'"),
        ("dataset.path=none.csv", "none.csv"),
    ],
)
def test_what_cannot_be_right_is_refused_before_weights_load(monkeypatch, change, problem):
    monkeypatch.setattr(session, "open_engine", lambda ready: pytest.fail("the weights were loaded"))
    with pytest.raises(UserError) as refusal:
        run(overrides(change))
    assert problem in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_kept_column_with_the_name_of_the_jobs_gets_another():
    Path("mail.csv").write_text("id,text,label\n1,a,x\n")
    run(overrides("output.keep=[label]"))
    row = rows_of("outputs/mail")[0]
    assert row["input_label"] == "x"
    assert row["label"] in ("ham", "spam")


@pytest.mark.parametrize("keep", ["null", "[id,label]"])
def test_a_gold_column_named_like_the_jobs_is_kept_as_gold(keep):
    Path("mail.csv").write_text("id,label,text\n1,ham,x\n2,spam,y\n")
    run(overrides("dataset.gold=label", f"output.keep={keep}"))
    names = ["id", "gold", *(["text"] if keep == "null" else []), "label"]
    assert list(rows_of("outputs/mail")[0])[: len(names)] == names
    assert [row["gold"] for row in rows_of("outputs/mail")] == ["ham", "spam"]


def test_a_column_that_datasets_cannot_load_is_left_out_or_refused(caplog):
    table = pa.table({"text": ["a", "b"], "odd": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32()))})
    pq.write_table(table, "mail.parquet")
    parquet = [word for word in overrides() if not word.startswith("dataset")]
    parquet += ["dataset=parquet", "dataset.path=mail.parquet"]
    with caplog.at_level("WARNING", "rowmill"):
        run(parquet)
    assert "column 'odd' is not kept: `datasets` cannot load its type map<string, int32" in caplog.text
    assert list(rows_of("outputs/mail")[0]) == ["text", "label", "confidence", "probabilities", "error", "usage"]
    with pytest.raises(UserError, match=r"output\.keep: column .odd. has type map<string, int32"):
        run([*parquet, "output.keep=[odd]"])


def test_a_loop_that_ends_early_is_not_called_finished(monkeypatch):
    monkeypatch.setattr(session.Loop, "work", lambda self, tick: None)
    with pytest.raises(RuntimeError, match=f"0 of {ROWS} rows"):
        run(overrides())
    assert sessions_of()[0][0] == "RuntimeError"


# Labels as typed


ODD_NAMES = ["yes", "no", "on", "0", "true", "false", "007", "010", "1_0", "1.50", "1.0", "0x1f", "1:30", "+1", "1e3"]
ODD_NAMES += ["2024-01-31", "2024-01-31 10:00:00", ".5", ".inf", "-3"]


def test_labels_are_called_what_was_typed_on_the_command_line_and_in_files():
    assert load_config(overrides(f"job.labels=[{','.join(ODD_NAMES)}]")).job.names == ODD_NAMES
    Path("own/job").mkdir(parents=True)
    lines = "".join(f"  - {name}\n" for name in ODD_NAMES)
    Path("own/job/base.yaml").write_text(f"_target_: jobs.label.Label\nlabels:\n{lines}")
    Path("own/job/mine.yaml").write_text("defaults: [base]\n")
    for job in ("base", "mine"):
        words = [word for word in overrides(f"job={job}") if not word.startswith("job.labels")]
        assert load_config(words, "own").job.names == ODD_NAMES


def test_labels_in_a_mapping_are_called_what_was_typed():
    Path("own/job").mkdir(parents=True)
    pairs = [f"  {name}: {name}\n" for name in ODD_NAMES]
    Path("own/job/mine.yaml").write_text("_target_: jobs.label.Label\nlabels:\n" + "".join(pairs))
    words = [word for word in overrides("job=mine") if not word.startswith("job.labels")]
    job = load_config(words, "own").job
    assert job.names == ODD_NAMES
    assert [choice.description for choice in job.choices] == ODD_NAMES


def test_a_label_that_is_null_is_refused():
    with pytest.raises(UserError, match=r"job\.labels: a label's name must be a text, and it is missing"):
        load_config(overrides("job.labels=[a,null]"))


def test_classes_are_called_what_was_typed():
    conf = load_config(overrides("dataset.classes=[true,1.50,007,2]")).conf
    assert conf.dataset.classes == ["true", "1.50", "007", 2]


# Signals


def test_handlers_are_restored_and_other_threads_leave_them_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(overrides())
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    figures = []
    thread = threading.Thread(target=lambda: figures.append(run(overrides("run_name=thread"))))
    thread.start()
    thread.join()
    assert figures[0]["state"] == "finished"


def test_before_the_loop_a_signal_ends_at_once_in_it_the_second_ctrl_c_does():
    with stop_on_signals() as stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        with stop.gently():
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_asked()
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_in_python_says_how_to_go_on():
    assert interrupt().splitlines()[-1] == shlex.join(["rowmill", "run", *overrides()])
    forced = interrupt("resume=force").splitlines()[-1]
    assert "resume=force" not in forced
    assert shlex.split(forced)[-1] == "run_name=mail-2"


@pytest.fixture
def start(start):
    """Starts the program as it is installed, which is the one that its lines name."""
    return lambda *more, **options: start([*INSTALLED, "run", *overrides(*more)], **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_the_process_with_130_and_a_line_that_resumes_when_pasted(start, number):
    process = start(delay=0.1)
    while process.poll() is None and runs.finished("mail") < 8:
        time.sleep(0.02)
    process.send_signal(number)
    code, _, errors = runs.outcome(process)
    assert code == 130, errors
    assert "Traceback" not in errors
    assert 8 <= runs.finished("mail") < ROWS
    assert runs.finished("mail") % 4 == 0  # whole steps
    command = errors.strip().splitlines()[-1]
    again = runs.ended(["sh", "-c", command] if number == signal.SIGINT else shlex.split(command))
    assert again.returncode == 0, again.stderr
    assert runs.finished("mail") == ROWS


def test_a_second_ctrl_c_ends_at_once(start):
    process = start(delay=300)
    while process.poll() is None and not Path("outputs/mail/config.yaml").exists():
        time.sleep(0.02)
    time.sleep(0.5)  # let the step begin; a signal before that ends at once as well
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, _, errors = runs.outcome(process)
    assert code == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_data_are_read_leaves_no_traceback(start, number):
    os.mkfifo("fifo.csv")
    process = start("dataset.path=fifo.csv")
    with _writer("fifo.csv"):  # who reads waits for what is never written
        process.send_signal(number)
        code, _, errors = runs.outcome(process)
    assert code == 130, errors
    assert "Traceback" not in errors


@contextlib.contextmanager
def _writer(path):
    """Opens a fifo when somebody reads it."""
    while True:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            break
        time.sleep(0.02)
    yield
    os.close(descriptor)


def test_a_thought_ends_at_its_budget_and_the_answer_follows_with_stop_texts_in_force(tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>"
    save_family(tmp_path / "thinker", template, tags=("<think>", "</think>"))
    words = ["model.path=thinker", "engine.backend=cpu", "job=generate", "dataset=csv", "dataset.path=mail.csv"]
    words += ["prompt.user={{ text }}", "dataset.limit=3", "engine.max_tokens=24"]
    words += ["output.reasoning=true", "output.keep=[]"]
    free = run([*words, "run_name=free"])
    assert (free["thoughts_ended"], free["error_kinds"]) == (0, {"cut off": 3})
    ended = run([*words, "run_name=ended", "engine.think_tokens=6"])
    assert (ended["thoughts_ended"], ended["errors"], ended["forced_tokens"] > 0) == (3, 0, True)
    rows = list(open_run("outputs/ended").rows())
    assert all(row["reasoning"] and row["text"] for row in rows)
    letter = rows[0]["text"][2]
    stopped = run([*words, "run_name=stopped", "engine.think_tokens=6", f"prompt.stop=[{json.dumps(letter)}]"])
    assert stopped["thoughts_ended"] == 3
    first = next(iter(open_run("outputs/stopped").rows()))
    assert first["text"] == rows[0]["text"].partition(letter)[0]
    with pytest.raises(UserError, match=r"think_tokens=24: it must be less than engine.max_tokens=24"):
        run([*words, "run_name=late", "engine.think_tokens=24"])
