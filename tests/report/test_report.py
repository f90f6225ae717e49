"""The report: one file that opens offline, holds what the run says, and takes nothing in a row for markup."""

import csv
import json
import re
import sqlite3

import numpy as np
import pytest

from runner import open_run
from runner.checkpoint.records import Staged, with_crcs
from runner.cli import main
from runner.report import charts, write_report
from runner.report.charts import bars, histogram, reliability
from runner.report.page import MOST_BYTES
from runner.report.tables import text_of
from runner.types import UserError
from tests.support.page import Page

KEYS = {
    **{"job": "label", "job.labels": "[ham,spam]", "dataset": "csv", "dataset.path": "mail.csv"},
    **{"dataset.gold": "kind", "engine.backend": "fake", "run_name": "mail"},
    **{"prompt.user": "Ham or spam? {{ text }}", "output.report": "true"},
}
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }} </td></table> \x1b[31m ‮'


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
    table = content[content.index('id="rows"') :]
    assert "is null" in table


def test_structs_show_no_nulls_for_members_that_other_rows_have(folder):
    rows = [{"text": "a", "name": {"en": "Chad", "of": [{"fr": "Tchad"}]}}, {"text": "b", "name": {"de": "Tschad"}}]
    (folder / "mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"dataset": "jsonl", "dataset.path": "mail.jsonl", "dataset.gold": "null", "output.keep": "[name]"}
    assert main(["run", *(f"{key}={value}" for key, value in (KEYS | given).items())]) == 0
    texts = (folder / "outputs/mail/report.html").read_text().replace("&#34;", '"').replace("&quot;", '"')
    assert '{"en": "Chad", "of": [{"fr": "Tchad"}]}' in texts
    assert '{"de": "Tschad"}' in texts


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
        "always answering 'ham' would be right in 50.0%",
        "if all were ham",
        "rows (support)",
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
    assert "row 1 (1): prompt.user: " in text


def test_without_the_data_set_the_rest_is_there(folder):
    write_mail(folder, [f"mail number {i}" for i in range(20)])
    report_of(folder)
    (folder / "mail.csv").write_text("id,text,kind\n1,changed,ham\n")
    content = write_report(open_run(folder / "outputs/mail")).read_text()
    assert "can no longer be read" in content
    assert "mail.csv does not hold the rows that" in content
    (folder / "mail.csv").unlink()
    content = write_report(open_run(folder / "outputs/mail")).read_text()
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
        rows = with_crcs([Staged(i, None, 10, 0, 0, "choice", 0, None, body) for i in range(12)])
        connection.executemany(f"INSERT INTO staged VALUES ({', '.join('?' * 10)})", rows)
    page = Page(write_report(open_run(folder / "outputs/mail")).read_text())
    text = " ".join("".join(page.text).split())
    assert "interrupted 12 of 20 rows" in text
    assert "A sample of 12 rows" in text
    assert "mail number 11" in text


def test_a_folder_that_is_no_run_is_refused(folder, capsys):
    with pytest.raises(UserError, match="not a run directory"):
        write_report(open_run(folder))
    assert main(["report", "nowhere"]) == 2


def test_a_report_that_fails_does_not_fail_the_run(folder, monkeypatch, caplog):
    write_mail(folder, ["a", "b"])
    monkeypatch.setattr("runner.report.page.render", lambda *figures: 1 / 0)
    assert run() == 0
    assert "no report: ZeroDivisionError" in caplog.text


def test_the_fake_engine_writes_none_unless_asked(folder):
    write_mail(folder, ["a", "b"])
    assert run(output_report="null") == 0
    assert not (folder / "outputs/mail/report.html").exists()


@pytest.mark.filterwarnings("error")
def test_charts_of_odd_values():
    assert histogram("x", np.zeros(0), "x") == ""
    assert histogram("x", np.full(9, 3.0), "x") == ""
    assert "<svg" in histogram("x", np.array([1.0, np.inf, np.nan, 2.0]), "x")
    assert "rows beyond" in histogram("x", np.array([*range(1000), 10**7]), "x")
    assert bars({}) == reliability([]) == ""
    assert "a\\x10b" in bars({"a\x10b": 1})
    assert "<bdi>好 &lt;b&gt;</bdi>" in bars({"好 <b>": 1})
    assert "76 others" in bars({f"label {i}": 100 - i for i in range(100)})


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


def test_the_curve_of_less_than_a_row_a_second_is_in_rows_a_minute():
    marks = [{"active_s": at, "elapsed_s": at, "finished": at // 20, "session": 1} for at in (20.0, 40.0, 60.0)]
    assert "Rows per minute over the run: between 3.0 and 3.0" in charts.speed(marks)


def write_labels(folder, count, rows):
    names = [f"{'label' if count < 77 else 'what all of the others begin with'} {i:02}" for i in range(count)]
    with (folder / "mail.csv").open("w", newline="") as file:
        golds = (names[i * 7 % count] for i in range(rows))
        csv.writer(file).writerows([("id", "text", "kind"), *((i, f"mail {i}", gold) for i, gold in enumerate(golds))])
    return f"[{','.join(names)}]"


@pytest.mark.parametrize(("count", "shown"), [(8, 8), (20, 20), (77, 24)])
def test_the_confusion_matrix_has_as_many_labels_as_can_be_read(folder, count, shown):
    content, _ = report_of(folder, job_labels=write_labels(folder, count, 3 * count))
    matrix = content[content.index('<table class="confusion') :].partition("</table>")[0]
    assert matrix.count('<th scope="row">') == matrix.count('<th scope="col">') == shown
    heads = re.findall(r'scope="row"><bdi>([^<]+)', matrix)
    assert len(set(heads)) == shown and max(map(len, heads)) <= 32
    assert ("<small>" in matrix) is (count <= 12)  # shares beside the counts
    assert (f"{count - shown} others are left out" in content) is (count > shown)
    assert content.count("(support)") == 1
    by_label = content[content.index("By label") :].partition("</table>")[0]
    assert by_label.count("<tr>") == count + 1
    assert "Most frequent mistakes" in content


def test_wrong_and_failed_rows_are_marked_and_can_be_chosen_and_sorted(folder):
    write_mail(folder, [f"mail {i}" if i != 3 else "" for i in range(60)])
    content, _ = report_of(folder)
    rows = list(open_run("outputs/mail").rows())
    wrong = [row["row"] for row in rows if row["label"] != row["kind"]]
    assert content.count('<span class="mark">wrong</span>') == len(wrong) - 1
    assert content.count('<span class="mark">error</span>') == 1
    assert f"{len(wrong)} wrong rows" in content and "1 row with an error" in content
    for value in ("sample", "wrong", "failed", "unsure"):
        assert f'<option value="{value}">' in content
    assert '<option value="" hidden>' in content  # what the choice of an order shows while a heading was clicked
    found = re.findall(r'<tr data-why="([a-z ]+)" data-doubt="([^"]*)"', content)
    assert len(found) == 60
    assert [bool(doubt) for _, doubt in found] == [row["error"] is None for row in rows]
    assert ["wrong" in why for why, _ in found] == [row["row"] in wrong for row in rows]


def test_a_structured_run_shows_its_answers_first_and_charts_them(folder):
    own = {"kind": {"enum": ["a", "b", "c"]}, "ok": {"type": "boolean"}}
    own["tags"] = {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 2}
    own["at"] = {"type": "object", "properties": {"city": {"enum": ["Rome", "Bonn"]}}, "required": ["city"]}
    (folder / "schema.json").write_text(json.dumps({"type": "object", "properties": own, "required": list(own)}))
    columns = [f"c{i}" for i in range(9)]
    with (folder / "mail.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *([f"{name} {i}" for name in columns] for i in range(40))])
    words = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "output.report=true"]
    assert main(["run", *words, "prompt.user={{ c1 }}", "output.schema=schema.json", "run_name=mail"]) == 0
    content = (folder / "outputs/mail/report.html").read_text()
    heads = re.findall(r'<th scope="col" class="(\w+)( more)?" data-name="(\w+)">', content)
    names = [name for _, _, name in heads]
    assert names == ["row", *own, *columns]
    assert [name for _, more, name in heads if more] == ["c4", "c5", "c6", "c7", "c8"]
    assert [*re.findall(r'<input type="checkbox" value="(\w+)"', content)] == [*own, *columns]
    charts_of = content[content.index("What the answers hold") : content.index("<h2>Rows</h2>")]
    for name in ("kind", "ok", "tags", "at.city"):
        assert f"<figcaption>{name}</figcaption>" in charts_of
    assert "All 40 rows are finished, none with an error." in content


def test_an_error_is_in_the_verdict_of_a_run_without_gold(folder):
    write_mail(folder, ["a", "", "c", ""])
    content, _ = report_of(folder, dataset_gold="null")
    assert "All 4 rows are finished, 2 (50.0%) with an error, most often: prompt.user." in content
