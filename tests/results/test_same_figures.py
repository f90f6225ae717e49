"""The figures of a run are the same on the screen, in the report, in ``--json`` and from Python."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

import runner
from runner import run
from runner.checkpoint.counts import SessionWork
from runner.cli import main
from runner.config.load import load_config
from runner.results.status import read_status
from runner.session.session import run_session
from tests.support.jobs import own_job, write_own_job
from tests.support.page import Page
from tests.support.runs import StopAfter, overrides, write_rows

pytestmark = pytest.mark.usefixtures("folder")


def page_text(path):
    page = Page((Path(path) / "report.html").read_text())
    return " ".join(" ".join(page.text).split())


@pytest.mark.parametrize("interruptions", [0, 2])
def test_shares_and_speeds_are_the_same_everywhere(interruptions, tiny_model_folder, capsys):
    texts = (f"the same for all of the rows and long: number {i % 30}" for i in range(40))
    Path("rows.csv").write_text("\n".join(["text", *texts]) + "\n")
    model = (f"model.path={tiny_model_folder}", "engine.backend=auto", "engine.max_tokens=4", "prompt.chat=false")
    words = overrides(*model, "output.report=true")
    for _ in range(interruptions):
        with pytest.raises(KeyboardInterrupt):
            run_session(load_config(words), StopAfter(4))
    figures = run(words)
    status = read_status(Path("outputs/run"))
    assert figures["cached_share"] == status["cached_tokens"] / status["prompt_tokens"] > 0
    assert figures["cached_share"] <= figures["best_cached_share"] <= 1
    capsys.readouterr()
    assert main(["status", "outputs/run"]) == 0
    said, page = capsys.readouterr().out, page_text("outputs/run")
    shown = f"{status['cached_share']:.1%}"
    assert f"({shown} from cache, {status['best_cached_share']:.1%} at best)" in said
    assert f"{shown} of prompt tokens cached" in page
    assert f"{status['tokens_per_s']:,.0f} tokens/s" in said
    assert f"{status['tokens_per_s']:,.0f} tokens per second" in page
    assert main(["status", "outputs/run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == runner.open_run("outputs/run").status == status


@pytest.mark.parametrize("seconds", [0.003, 0.7, 3.7, 333.0])
def test_speeds_are_rounded_alike_on_the_screen_and_in_the_report(seconds, capsys):
    write_rows(20)
    run(overrides())
    with sqlite3.connect("outputs/run/run.db") as connection:
        connection.execute("UPDATE progress SET elapsed_s = ?", (seconds,))
    connection.close()
    assert main(["report", "outputs/run"]) == main(["status", "outputs/run"]) == 0
    said, page = capsys.readouterr().out, page_text("outputs/run")
    rows, unit, tokens = re.search(r"speed +([\d.,]+) rows/(s|min), ([\d,]+) tokens/s", said).groups()
    assert f" {rows} rows per {'second' if unit == 's' else 'minute'} {tokens} tokens per second" in page


def test_what_a_cache_missed_is_a_share_whatever_sessions_came_to():
    assert SessionWork(prompt=100, cached=30, served=20, shareable=75).missed_share == 0.5
    assert SessionWork(prompt=100, cached=60, shareable=20).missed_share == 0
    assert SessionWork(prompt=100, cached=10, shareable=400).missed_share == 1
    assert SessionWork(prompt=100, served=100, shareable=100).missed_share is None


FIGURES = """
    def figures(self, run, source):
        return {"rows": 0.5, "job_rows": 1, "report": "mine", "mean": 2}
"""


def test_figures_of_a_job_called_like_the_run_s_own_get_another_name(tmp_path, caplog):
    write_rows(3)
    write_own_job(own_job(more=FIGURES), tmp_path / "mine")
    figures = run(overrides("job=own", "output.report=true"), "mine")
    assert (figures["rows"], figures["job_rows"], figures["job_rows_"], figures["mean"]) == (3, 1, 0.5, 2)
    assert figures["report"].endswith("report.html") and figures["job_report"] == "mine"
    assert "the job's figure rows is called job_rows_ here" in caplog.text
