"""The command line as users type it, with the fake engine."""

import json
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

import conf
from runner import open_run, words
from runner.cli import main
from runner.cli.commands import COMMANDS, GROUPS
from runner.early import raise_again
from tests.support import runs
from tests.support.runs import rowmill

MAIL = "id,text,kind\n1,win money now,spam\n2,see you at lunch,ham\n3,cheap pills,spam\n4,meeting at 3,ham\n"
AS_TYPED = ["job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "dataset.gold=kind"]
AS_TYPED += ['prompt.user="Is this mail ham or spam? Mail: {{ text }}"', "output.keep=[id,kind]"]
FAKE = "engine.backend=fake"


@pytest.fixture
def folder(folder):
    Path("mail.csv").write_text(MAIL)
    Path("rows.jsonl").write_text("".join(json.dumps({"id": i, "text": f"day {i}"}) + "\n" for i in range(600)))
    return folder


def loaded(run_dir):
    import datasets

    return datasets.load_from_disk(str(run_dir))


def test_label_as_the_readme_types_it(folder, capsys):
    assert main(["run", *AS_TYPED, "run_name=mail", FAKE]) == 0
    said = capsys.readouterr().out
    assert re.search(r"accuracy +[01]\.\d{3} \([01]\.\d{3} to [01]\.\d{3}\) on 4 rows", said)
    assert re.search(r"rows +4 of 4, no errors", said)
    assert "outputs/mail" in said
    first = loaded("outputs/mail")[0]
    assert list(first) == ["id", "kind", "label", "confidence", "probabilities", "error", "usage"]
    assert (first["id"], first["kind"], first["error"]) == (1, "spam", None)
    assert first["label"] in ("ham", "spam")


def test_unmatched_answers_are_rows_in_error_and_exit_code_1(folder, capsys):
    words = ["job.method=generate", "engine.batch_size=8", "engine.max_tokens=4", "run_name=mail2", FAKE]
    assert main(["run", *AS_TYPED, *words]) == 1
    assert "4 with an error" in capsys.readouterr().out
    assert all(row["error"] for row in loaded("outputs/mail2"))


@pytest.mark.parametrize(
    "job", ["defaults: [label]\nlabels: [good, bad]\n", "_target_: jobs.label.Label\nlabels: [good, bad]\n"]
)
def test_labels_of_ones_own_in_a_folder(job, folder, capsys):
    for name, content in {"job": job, "prompt": "user: '{{ text }}'\n"}.items():
        (folder / "my_conf" / name).mkdir(parents=True)
        (folder / "my_conf" / name / "my_labels.yaml").write_text(content)
    words = ["job=my_labels", "dataset=jsonl", "dataset.path=rows.jsonl", "dataset.limit=500", FAKE]
    assert main(["run", "--config-dir", "my_conf", *words]) == 0
    data = loaded("outputs/my_labels-jsonl")
    assert len(data) == 500
    assert set(data["label"]) <= {"good", "bad"}


def test_data_sets_and_prompts_of_ones_own_in_a_folder(folder):
    for name, content in {
        "dataset/days": "kind: jsonl\npath: rows.jsonl\nlimit: 7\n",
        "prompt/short": "chat: false\nuser: 'Day: {{ text }}'\n",
    }.items():
        file = folder / "my_conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert main(["run", "--config-dir", "my_conf", "job=generate", "dataset=days", "prompt=short", FAKE]) == 0
    assert len(loaded("outputs/generate-days")) == 7


def test_options_may_stand_between_overrides(folder, capsys):
    assert main(["run", *AS_TYPED, "--json", "run_name=mail", FAKE]) == 0
    figures = json.loads(capsys.readouterr().out)
    asked = {"rows", "finished", "errors", "rows_per_s", "prompt_tokens", "cached_tokens", "completion_tokens"}
    assert asked | {"state", "path"} <= figures.keys()
    assert (figures["rows"], figures["finished"], figures["state"]) == (4, 4, "finished")


def test_status(folder, capsys):
    main(["run", *AS_TYPED, "run_name=mail", FAKE])
    capsys.readouterr()
    assert main(["status", "outputs/mail"]) == 0
    assert re.search(r"state +finished\nrows +4 of 4, no errors", capsys.readouterr().out)
    assert main(["status", "outputs/mail", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] == 4


@pytest.mark.parametrize("words", [["status", "nope"], ["status"], ["status", "a", "b"], ["nope"], ["run", "--nope"]])
def test_wrong_commands_cost_one_line(words, folder, capsys):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_run_from_python(folder):
    from runner import run

    figures = run(overrides=[*AS_TYPED, "run_name=mail", FAKE])
    assert figures["path"] == "outputs/mail"
    assert figures["finished"] == 4


def test_the_model_of_a_preview_and_a_help_is_not_loaded():
    lazy = ["mlx", "transformers", "datasets", "pyarrow", "hydra", "tqdm"]
    script = "import sys, runner.cli as cli\ntry: cli.main(['run', '--help'])\nexcept SystemExit: pass\n"
    script += f"print([name for name in {lazy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_group_file_and_command():
    help_text = rowmill("run", "--help").stdout
    for file in Path(next(iter(conf.__path__))).glob("*/*.yaml"):
        if file.stem != "default":
            assert file.stem in help_text, file
    commands = rowmill("--help").stdout
    assert [line.strip(":") for line in commands.splitlines() if line.endswith(":")][1:] == [*map(str.lower, GROUPS)]
    assert all(f"\n  {name} " in commands for name, command in COMMANDS.items() if command.help)
    assert rowmill("--version").stdout.startswith("rowmill ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: rowmill {name} ")
    assert re.search(r"\n\n[A-Z].*\.\n\n", said, re.DOTALL)


def test_a_mistyped_command_is_answered_with_the_right_one(capsys):
    assert main(["statsu", "outputs/mail"]) == 2
    assert (
        capsys.readouterr().err
        == "rowmill: there is no command 'statsu': did you mean 'status'? (see rowmill --help)\n"
    )


def test_a_pipe_gets_plain_lines_and_no_bar(folder):
    done = rowmill("run", *AS_TYPED, "run_name=mail", FAKE)
    assert done.returncode == 0
    assert "%|" not in done.stderr
    assert "\r" not in done.stderr
    assert re.search(r"4 of 4 rows, .* rows/s .*, 0 errors, .* tokens/s, \d+% cached", done.stderr)


def test_a_terminal_gets_a_bar_with_rows_speed_cache_errors_and_eta(folder):
    ours, theirs = pty.openpty()  # one that tells no size, as some do
    done = runs.rowmill("run", *AS_TYPED, "run_name=mail", FAKE, stderr=theirs)
    os.close(theirs)
    seen = b""
    while chunk := _read(ours):
        seen += chunk
    os.close(ours)
    assert done.returncode == 0
    assert re.search(
        r"100%\|█+\| 4 of 4 rows, .* rows/s \(.* overall\), 0 errors, .* tokens/s, \d+% cached", seen.decode()
    )


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the end, on Linux
        return b""


def test_log_lines_leave_out_what_only_machines_read(capsys):
    from runner import cli

    # The program's own way to the terminal; a command would log lines of its own.
    cli._log_to_stderr()
    logging.getLogger("rowmill").info("reading %s", "wheel:a==1/b.csv#sha256=" + 64 * "0")
    logging.getLogger("rowmill").debug("for run.log")
    assert capsys.readouterr().err == "reading wheel:a==1/b.csv\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (3600 * 2000, "2,000 h 0 min")],
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


FREE = ["job=generate", "dataset=jsonl", "dataset.path=rows.jsonl", "prompt.user={{ text }}", FAKE, "run_name=run"]


def quiet(*words, **streams):
    """The exit code of a process whose Python buffers what it prints, as Python does where nobody says otherwise."""
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    return runs.rowmill(*words, env=environment, **streams)


@pytest.fixture
def gone():
    """The end of a pipe that nobody reads."""
    ends = os.pipe()
    os.close(ends[0])
    yield ends[1]
    os.close(ends[1])


@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
def test_a_run_goes_on_when_the_reader_of_its_output_is_gone(folder, gone, stream):
    streams = {name: gone if stream in (name, "both") else subprocess.PIPE for name in ("stdout", "stderr")}
    assert quiet("run", *FREE, **streams).returncode == 0
    status = open_run("outputs/run").status
    assert (status["state"], status["finished"], status["sessions"]) == ("finished", 600, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_output_that_a_full_disk_does_not_take_is_told_in_a_line(folder):
    with Path("/dev/full").open("w") as full:
        assert quiet("run", *FREE, stdout=full, stderr=full).returncode == 3
        done = quiet("run", *FREE, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr.count("rowmill:")) == (3, 1)
        assert done.stderr.splitlines()[-1].startswith("rowmill: the disk is full")
        assert quiet("run", *FREE, stdout=subprocess.PIPE, stderr=full).returncode == 0
        assert quiet("export", "outputs/run", "-", stdout=full, stderr=subprocess.PIPE).returncode == 3
    assert open_run("outputs/run").status["finished"] == 600


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(folder, closed):
    line = shlex.join([sys.executable, "-m", "runner.cli", "run", *FREE])
    assert subprocess.run(f"{line} {closed}", shell=True, capture_output=True, check=False).returncode == 0
    assert open_run("outputs/run").status["finished"] == 600
    line = shlex.join([sys.executable, "-m", "runner.cli", "status", "outputs/run"])
    assert subprocess.run(f"{line} {closed}", shell=True, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_encode_is_printed_as_an_escape_and_bars_are_drawn(folder, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    Path("rows.jsonl").write_text('{"text": "日本"}\n')
    said = rowmill("preview", *FREE).stdout
    assert "\\u65e5\\u672c" in said and f" {'#' * 30} 1\n" in said
    done = rowmill("run", *FREE[:-1], "run_name=本")
    assert (done.returncode, "died" in done.stderr) == (0, False)
    assert "outputs/\\u672c" in done.stdout
    for command in ("status", "watch", "report"):
        done = rowmill(command, "outputs/本")
        assert (done.returncode, done.stderr) == (0, ""), command


def test_ctrl_c_in_a_callback_of_garbage_is_heard(monkeypatch, capfd):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    raise_again()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    garbage = [type("Garbage", (), {})()]
    callback = weakref.ref(garbage[0], lambda _: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            time.sleep(garbage.clear() or runs.SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert callback() is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", [["status", "x"], ["run"], ["--version"]])
@pytest.mark.parametrize("module", ["argparse", "runner.cli.commands", "runner.console"])
def test_ctrl_c_while_modules_are_loaded_ends_with_one_line(command, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.modules.pop({module!r}, None)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    words = [sys.executable, "-m", "runner.cli", *command]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path)
    assert (ended.returncode, ended.stderr.strip()) == (130, "rowmill: interrupted")
