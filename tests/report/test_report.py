"""The report: one file that opens offline, holds what the run says, and takes nothing in a row for markup."""

import csv
import json
import re
import sqlite3

import numpy as np
import pytest

from runner.checkpoint.records import Staged
from runner.cli import main
from runner.report import charts, write_report
from runner.report.charts import bars, histogram, reliability
from runner.report.figures import reliability as bins_of
from runner.report.page import MOST_BYTES, text_of
from runner.types import UserError
from tests.support.page import Page

KEYS = {
    **{"job": "label", "job.labels": "[ham,spam]", "dataset": "csv", "dataset.path": "mail.csv"},
    **{"dataset.gold": "kind", "engine.backend": "fake", "run_name": "mail"},
    **{"prompt.user": "Ham or spam? {{ text }}", "output.report": "true"},
}
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }} </td></table> \x1b[31m ‮'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_mail(folder, texts):
    with (folder / "mail.csv").open("w", newline="") as file:
        rows = ((i, text, "ham" if i % 2 else "spam") for i, text in enumerate(texts))
        csv.writer(file).writerows([("id", "text", "kind"), *rows])


def run(**keys):
    changed = {**KEYS, **{key.replace("_", ".", 1): value for key, value in keys.items()}}
    return main(["run", *(f"{key}={value}" for key, value in changed.items())])


def report_of(folder, **keys):
    assert run(**keys) in (0, 1)
    content = (folder / "outputs/mail/report.html").read_text()
    page = Page(content)
    assert page.open == []
    return content, page


def test_a_gold_column_called_error_hides_no_error(folder):
    with (folder / "mail.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "error"), ("", "ham"), ("lunch", "spam")])
    content, _ = report_of(folder, dataset_gold="error")
    table = content[content.index("A sample of 2 rows") :]
    assert "is null" in table


def test_a_label_run_s_report(folder):
    write_mail(folder, [f"mail number {i}" for i in range(120)])
    content, page = report_of(folder)
    text = " ".join("".join(page.text).split())
    for said in (
        "120 of 120 rows",
        "accuracy on 120 rows with gold",
        "Reliability",
        "Confusion",
        "50 least confident rows",
    ):
        assert said in text
    assert "A sample of 120 rows" in text
    assert "Ham or spam? {{ text }}" in text
    for name in ("fingerprint", "versions", "machine", "seed"):
        assert name in text
    assert page.seen.count("svg") >= 4
    assert len(content) < MOST_BYTES


def test_nothing_is_fetched_and_ids_are_unique(folder):
    write_mail(folder, [f"mail number {i}" for i in range(40)])
    content, page = report_of(folder)
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", content)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)


def test_charts_take_the_page_s_colours(folder):
    write_mail(folder, [f"mail number {i}" for i in range(40)])
    content, _ = report_of(folder)
    charts = re.findall(r"<svg.*?</svg>", content, re.DOTALL)
    assert charts
    assert all("var(--series)" in chart and "font-family" not in chart for chart in charts)
    assert all(not re.search(r"#[0-9a-f]{6}", chart) for chart in charts)


def test_cells_are_text_and_nothing_else(folder):
    write_mail(folder, [HOSTILE, "plain"] * 10)
    content, page = report_of(folder)
    assert page.seen.count("script") == 1
    assert "img" not in page.seen
    assert content.count("<script>") == 1
    assert "alert(1)" in "".join(page.text)
    assert "{{ 7 * 7 }}" in "".join(page.text)
    assert "\x1b" not in content


def test_labels_may_be_called_anything(folder):
    names = ["<b>ham</b>", "$x_1$ & co", "\u202espam"]
    labels = json.dumps(names)
    write_mail(folder, [f"mail number {i}" for i in range(20)])
    content, page = report_of(folder, job_labels=labels, dataset_gold="null")
    assert page.seen.count("b") == 0
    assert "&lt;b&gt;ham" in content


def test_large_cells_keep_the_file_small(folder):
    write_mail(folder, ["'<&>" * 4000 + str(i) for i in range(300)])
    content, _ = report_of(folder, prompt_user="{{ text[:20] }}")
    assert len(content.encode()) < 2_000_000


def test_errors_by_kind_with_examples(folder):
    write_mail(folder, ["fine", "", *["fine, too"] * 8])
    _, page = report_of(folder, prompt_user="{{ text[0] }} of {{ text }}")
    text = " ".join("".join(page.text).split())
    assert "1 \N{MULTIPLICATION SIGN} prompt.user" in text
    assert "row 1: prompt.user: " in text


def test_without_the_data_set_the_rest_is_there(folder):
    write_mail(folder, [f"mail number {i}" for i in range(20)])
    report_of(folder)
    (folder / "mail.csv").write_text("id,text,kind\n1,changed,ham\n")
    content = write_report(folder / "outputs/mail").read_text()
    assert "can no longer be read" in content
    assert "mail.csv does not hold the rows that" in content
    (folder / "mail.csv").unlink()
    content = write_report(folder / "outputs/mail").read_text()
    assert "accuracy on" not in content
    assert "20 of 20 rows" in content


def test_the_command_finds_the_gold_column_itself(folder, capsys):
    write_mail(folder, [f"mail number {i}" for i in range(20)])
    report_of(folder)
    (folder / "outputs/mail/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "outputs/mail"]) == 0
    assert capsys.readouterr().out == "outputs/mail/report.html\n"
    assert "accuracy on 20 rows with gold" in (folder / "outputs/mail/report.html").read_text()


def test_an_unfinished_run_has_a_report_too(folder):
    write_mail(folder, [f"mail number {i}" for i in range(20)])
    report_of(folder)
    with sqlite3.connect(folder / "outputs/mail/run.db") as connection:  # as if 12 rows were staged, 8 not done
        connection.execute("DELETE FROM shards")
        body = '{"label":"ham","confidence":0.75,"probabilities":{"ham":0.75,"spam":0.25}}'
        rows = [Staged(i, None, 10, 0, 0, "choice", 0, None, body).values() for i in range(12)]
        connection.executemany(f"INSERT INTO staged VALUES ({', '.join('?' * 10)})", rows)
    page = Page(write_report(folder / "outputs/mail").read_text())
    text = " ".join("".join(page.text).split())
    assert "interrupted 12 of 20 rows" in text
    assert "A sample of 12 rows" in text
    assert "mail number 11" in text


def test_a_folder_that_is_no_run_is_refused(folder, capsys):
    with pytest.raises(UserError, match="not a run directory"):
        write_report(folder)
    assert main(["report", "nowhere"]) == 2


def test_a_report_that_fails_does_not_fail_the_run(folder, monkeypatch, caplog):
    write_mail(folder, ["a", "b"])
    monkeypatch.setattr("runner.report.page.render", lambda figures: 1 / 0)
    assert run() == 0
    assert "no report: ZeroDivisionError" in caplog.text


def test_the_fake_engine_writes_none_unless_asked(folder):
    write_mail(folder, ["a", "b"])
    assert run(output_report="null") == 0
    assert not (folder / "outputs/mail/report.html").exists()


def test_reliability_bins():
    confidence = np.array([0.55, 0.58, 0.95, 1.0, 0.91, np.nan, 0.2])
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, np.nan])
    assert bins_of(confidence, right) == [(pytest.approx(0.565), 0.5, 2), (pytest.approx(0.95333, abs=1e-4), 2 / 3, 3)]


@pytest.mark.filterwarnings("error")
def test_charts_of_odd_values():
    assert histogram("x", np.zeros(0), "x") == ""
    assert histogram("x", np.full(9, 3.0), "x") == ""
    assert "<svg" in histogram("x", np.array([1.0, np.inf, np.nan, 2.0]), "x")
    assert "rows beyond" in histogram("x", np.array([*range(1000), 10**7]), "x")
    assert bars("x", {}, "x") == reliability([]) == ""
    assert "a\\x10b" in bars("x", {"a\x10b": 1}, "x")
    assert "好" in bars("x", {"好": 1}, "x")
    assert "76 others" in bars("x", {f"label {i}": 100 - i for i in range(100)}, "x")


def test_texts_are_cut_and_made_visible():
    assert text_of("a" * 10, 4) == "aaaa… and 6 characters"
    assert text_of("a\x00\x1bb\ud800", 10) == "a\\x00\\x1bb\ufffd"


def test_the_speed_does_not_jump_at_a_mark_that_follows_closely():
    times = [*range(1, 31), 30.01]
    marks = [{"active_s": at, "elapsed_s": at, "finished": int(2 * at) + (at > 30), "session": 1} for at in times]
    # In the picture, a speed is a coordinate.
    _, rates = charts._rates(marks)
    assert max(rates) < 3
    assert charts._rates(marks)[0][-1] == 30.01
