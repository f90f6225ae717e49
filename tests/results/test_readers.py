"""Every reader of a run directory on runs that are part finished, of every kind, sound and damaged."""

import contextlib
import json
import shutil
import sqlite3

import pytest

import runner
from runner.cli import main
from runner.cli.output import FORMATS
from runner.config.load import load_config
from runner.session.session import run_session
from runner.types import UserError
from tests.support.runs import StopAfter, json_lines

ROWS = 60
SHARD_ROWS = {"renamed": 1000}  # whose rows are all staged; 5 elsewhere
LABEL = ["job=label", "job.labels=[ham,spam]", "dataset.gold=kind", "prompt.user=Ham or spam? {{ text }}"]
RENAMED = ["job=label", "job.labels=[ham,spam]", "dataset.gold=label"]
RUNS = {
    "renamed": [*RENAMED, "prompt.user=Ham or spam? {{ text }}"],
    "all": LABEL,
    "kept_null": [*LABEL, "output.keep=null"],
    "kept_none": [*LABEL, "output.keep=[]"],
    "synthesize": ["job=synthesize", "job.target=40", "job.ahead=16"],
    "summarize": ["job=summarize", "dataset.gold=summary_of_old"],
    "perplexity": [],
}
INPUTS = {"renamed": ["text", "gold"], "all": ["text", "kind", "summary_of_old"]}
INPUTS |= {"kept_null": INPUTS["all"], "summarize": INPUTS["all"]}
ANSWERS = {"renamed": "label", "all": "label", "kept_null": "label", "kept_none": "label", "synthesize": "text"}
ANSWERS |= {"summarize": "summary", "perplexity": "nll"}


def write_rows(folder):
    for name, gold in (("rows", "kind"), ("named", "label")):
        rows = [{"text": f"mail {i} about tea.", gold: "ham" if i % 2 else "spam"} for i in range(ROWS)]
        rows = [{**row, "summary_of_old": "tea"} for row in rows] if name == "rows" else rows
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def begin(name, tiny_model_folder):
    if name == "perplexity":
        from jobs.perplexity import Asked, run_perplexities

        words = ["dataset.path=sea.txt", f"model.path={tiny_model_folder}", "engine.backend=cpu", "engine.batch_size=1"]
        words += ["perplexity.window=64", "run_name=perplexity"]
        run_perplexities(Asked(words), StopAfter(4))
        return
    data = "named" if name == "renamed" else "rows"
    fixed = ["dataset=jsonl", f"dataset.path={data}.jsonl", "engine.backend=fake", "engine.batch_size=4"]
    fixed += ["engine.window=24", f"output.shard_rows={SHARD_ROWS.get(name, 5)}", f"run_name={name}"]
    run_session(load_config([*fixed, *RUNS[name]]), StopAfter(14))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, tiny_model_folder):
    """A folder with a part-finished run of each kind."""
    folder = tmp_path_factory.mktemp("readers")
    with contextlib.chdir(folder):
        write_rows(folder)
        (folder / "sea.txt").write_text("\n".join(f"ship {i} came home with salt and wind" for i in range(40)))
        for name in RUNS:
            with pytest.raises(KeyboardInterrupt):
                begin(name, tiny_model_folder)
    return folder


@pytest.fixture(params=RUNS)
def name(request, outputs, monkeypatch):
    """One kind of run; the current folder is that of the runs."""
    monkeypatch.chdir(outputs)
    return request.param


@pytest.fixture
def run(name):
    return runner.open_run(f"outputs/{name}")


def lines(*words):
    """What a command says to a program."""
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*map(str, words)]) == 0
    return said.getvalue()


def test_the_runs_are_part_finished(run, name):
    status = run.status
    assert status["state"] == "interrupted"
    assert 0 < status["finished"] < status["rows"]
    with sqlite3.connect(run.path / "run.db") as connection:
        assert connection.execute("SELECT count(*) FROM staged").fetchone()[0] > 0


def test_status_and_watch_count_what_is_finished(run, name):
    finished = len(list(run.rows()))
    assert json.loads(lines("status", run.path, "--json"))["finished"] == finished
    assert f"{finished:,} of {run.status['rows']:,} rows" in lines("watch", run.path)


def test_rows_have_their_input_and_their_answer(run, name):
    rows = list(run.rows())
    numbers = [row["row"] for row in rows]
    assert numbers == sorted(set(numbers))
    assert list(rows[0])[1:] == [*INPUTS.get(name, []), *run.columns.job, "error", "usage"]
    assert all(row[ANSWERS[name]] is not None for row in rows)
    for row in rows if name in INPUTS else ():
        assert row["text"] == f"mail {row['row']} about tea."
    if name == "renamed":
        assert [row["gold"] for row in rows] == ["ham" if number % 2 else "spam" for number in numbers]
    assert run.take(numbers[:3]) == {row.pop("row"): row for row in rows[:3]}
    assert run.errors == []


def test_the_data_set_of_whole_shards(run, name):
    shards = run.status["shards"]
    if not shards:
        with pytest.raises(UserError, match="no finished shard yet"):
            _ = run.dataset
        return
    whole = {int(file.stem.removeprefix("data-")) for file in run.path.glob("data-*.arrow")}
    size = run.identity["shard_rows"]
    expected = [row[ANSWERS[name]] for row in run.rows() if row["row"] // size in whole]
    assert shards == len(whole)
    assert run.dataset[ANSWERS[name]][:] == expected


def test_the_report_has_its_figures(run, name):
    path = lines("report", run.path).strip()
    assert path.endswith("report.html")
    page = (run.path / "report.html").read_text()
    assert ("Cohen&#39;s kappa" in page or "Cohen's kappa" in page) == (ANSWERS[name] == "label")


def test_evaluation_against_the_gold_column(run, name, capsys):
    gold = {"renamed": "label"}.get(name, "kind")
    if ANSWERS[name] != "label":
        assert main(["evaluate", str(run.path), "--gold", gold]) == 2
        assert "has no column label" in capsys.readouterr().err
        return
    figures = json.loads(lines("evaluate", run.path, "--gold", gold, "--json"))
    rows = list(run.rows())
    right = [row["label"] == ("ham" if row["row"] % 2 else "spam") for row in rows]
    assert figures["rows"] == len(rows)
    assert figures["accuracy"] == pytest.approx(sum(right) / len(right))
    if name == "renamed":
        assert json.loads(lines("evaluate", run.path, "--gold", "gold", "--json")) == figures


def test_a_run_agrees_with_itself(run, name):
    figures = json.loads(lines("diff", run.path, run.path, "--json"))
    assert figures["configuration"] == figures["versions"] == []
    assert figures["rows"] == run.status["finished"]
    assert set(figures["columns"].values()) == {1.0}


REFUSED = {  # part of the message, by run and format; the rest is written
    **{(name, "openai-batch"): "was not made from dataset=openai_batch" for name in RUNS},
    ("perplexity", "label-studio"): "has nothing to annotate: none of the columns",
    ("perplexity", "argilla"): "has nothing to annotate: none of the columns",
    **{("perplexity", kind): "--completion COLUMN is needed" for kind in ("chat", "alpaca", "prompt-completion")},
    ("perplexity", "join"): "was not made row by row from its data set",
    ("summarize", "label-studio"): "uses no column of the input",
    ("summarize", "argilla"): "uses no column of the input",
    **{("summarize", kind): "--prompt TEMPLATE is needed" for kind in ("chat", "alpaca", "prompt-completion")},
    ("synthesize", "label-studio"): "uses no column of the input",
    ("synthesize", "argilla"): "uses no column of the input",
}


@pytest.mark.parametrize("kind", [*FORMATS, "join"])
def test_export_in_each_format(run, name, kind, tmp_path, capsys):
    target = tmp_path / "rows"
    words = ["export", str(run.path), str(target), *(["--format", kind] if kind != "join" else [])]
    words += ["--format", "jsonl", "--join"] if kind == "join" else []
    code = main(words)
    said = capsys.readouterr()
    if (name, kind) in REFUSED:
        assert code == 2
        assert REFUSED[name, kind] in said.err
        assert len(said.err.strip().splitlines()) == 1
        assert not target.exists()
        return
    assert code == 0, said.err
    assert f"{run.status['finished']:,} " in said.out
    if kind in ("jsonl", "join"):
        rows = json_lines(target)
        assert [row["row"] for row in rows] == [row["row"] for row in run.rows()]
    if kind == "join" and name != "synthesize":
        assert all(row.get("input_text", row["text"]) == f"mail {row['row']} about tea." for row in rows)


def test_the_card_for_the_hub_says_what_the_run_was(run, name):
    from runner.export.hub import card
    from runner.export.select import Selection
    from runner.results.quality.rescore.decision import Decision

    schema = next(run.blocks()).table.schema
    said = card("me/data", Selection(run, False, None, None), 3, schema)
    assert f"| job | `{run.identity['job']['_target_']}` |" in said
    assert f"{run.status['rows']:,} in the {'input' if run.is_row_by_row else 'run'}" in said
    assert ("Measured with rowmill" in said) == (name == "perplexity")
    anew = Selection(run, False, None, None, Decision(prior=False, threshold=0.5))
    decided = "| labels | decided anew: without the prior, with a label from confidence 0.5 on |"
    assert (decided in said, decided in card("me/data", anew, 3, schema)) == (False, True)


# Damage

READERS = {
    "status": lambda path, to: main(["status", path]),
    "watch": lambda path, to: main(["watch", path]),
    "report": lambda path, to: main(["report", path]),
    "evaluate": lambda path, to: main(["evaluate", path, "--gold", "kind"]),
    "diff": lambda path, to: main(["diff", path, path]),
    "export": lambda path, to: main(["export", path, f"{to}/rows.jsonl"]),
    "chat": lambda path, to: main(["export", path, f"{to}/rows.jsonl", "--format", "chat"]),
    "rows": lambda path, to: list(runner.open_run(path).rows()),
    "dataset": lambda path, to: runner.open_run(path).dataset,
    "errors": lambda path, to: runner.open_run(path).errors,
}


@pytest.fixture
def copy(outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(outputs)
    return shutil.copytree(outputs / "outputs" / "all", tmp_path / "copy")


def refusal(reader, copy, capsys):
    """What a reader says of a damaged run: one line, and nothing is written."""
    try:
        code = READERS[reader](str(copy), copy.parent)
    except UserError as error:
        return str(error)
    said = capsys.readouterr()
    assert code == 2, said
    assert not (copy.parent / "rows.jsonl").exists()
    return said.err.strip()


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_checkpoint_is_told_in_one_line(copy, reader, capsys):
    data = bytearray((copy / "run.db").read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    (copy / "run.db").write_bytes(data)
    for log in copy.glob("run.db-*"):
        log.unlink()
    said = refusal(reader, copy, capsys)
    assert "run.db is damaged" in said
    assert "rowmill repair" in said
    assert "\n" not in said


@pytest.mark.parametrize("reader", READERS)
def test_a_changed_row_is_refused(copy, reader, capsys):
    with contextlib.closing(sqlite3.connect(copy / "run.db")) as connection, connection:
        connection.execute("UPDATE staged SET body = replace(body, 'ham', 'egg')")
    said = refusal(reader, copy, capsys)
    assert "a row of the table staged does not match its checksum" in said
    assert "\n" not in said


@pytest.mark.parametrize("reader", ["report", "evaluate", "diff", "export", "chat", "rows", "dataset", "errors"])
def test_a_changed_shard_is_refused(copy, reader, capsys):
    file = min(copy.glob("data-*.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert f"{file.name} cannot be read" in refusal(reader, copy, capsys)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("loss", ["DELETE FROM run", "DROP TABLE staged", "empty", "missing"])
def test_a_checkpoint_that_has_lost_something_is_called_damaged(copy, reader, loss, capsys):
    if loss in ("empty", "missing"):
        for file in copy.glob("run.db*"):
            file.unlink()
        (copy / "run.db").touch() if loss == "empty" else None
    else:
        with contextlib.closing(sqlite3.connect(copy / "run.db")) as connection, connection:
            connection.execute(loss)
    said = refusal(reader, copy, capsys)
    assert "run.db is damaged" in said and "rowmill repair" in said and "\n" not in said


def test_other_damaged_files_are_named(copy, capsys):
    (copy / "state.json").write_text("{")
    assert "cannot be read as a data set" in refusal("dataset", copy, capsys)
    for text in ("][ : :", ""):
        (copy / "config.yaml").write_text(text)
        assert "config.yaml cannot be read" in refusal("export", copy, capsys)


def test_a_changed_prelude_is_refused(copy, capsys):
    with contextlib.closing(sqlite3.connect(copy / "run.db")) as connection, connection:
        connection.execute("DELETE FROM prelude")
        connection.execute("INSERT INTO prelude VALUES ('{}', 1)")
    assert "table prelude does not match its checksum" in refusal("evaluate", copy, capsys)


# Identities of earlier versions


def as_before(run_dir, change):
    """Give a run the identity that an earlier version would have written."""
    from runner.checkpoint.records import with_crc

    identity = change(json.loads((run_dir / "identity.json").read_text()))
    (run_dir / "identity.json").write_text(json.dumps(identity))
    with contextlib.closing(sqlite3.connect(run_dir / "run.db")) as connection, connection:
        connection.execute("DELETE FROM run")
        connection.execute("INSERT INTO run VALUES (?, ?)", with_crc(json.dumps(identity)))


@pytest.mark.parametrize("name", ["renamed", "kept_null", "perplexity"], indirect=True)
def test_a_run_of_an_earlier_version_is_read_and_resumed(name, outputs, tiny_model_folder):
    expected = list(runner.open_run(f"outputs/{name}").rows())
    kept_before = shutil.copytree(outputs / "outputs" / name, outputs / "before" / name)
    try:
        drop = ("keep", "made") if name == "perplexity" else ()
        as_before(
            outputs / "outputs" / name,
            lambda identity: (
                {key: list(value) if key == "keep" else value for key, value in identity.items() if key not in drop}
                | ({"dataset": {**identity["dataset"], "path": "sea.txt"}} if name == "perplexity" else {})
            ),
        )
        run = runner.open_run(f"outputs/{name}")
        assert list(run.rows()) == expected
        assert run.columns.kept.get("gold") == ("label" if name == "renamed" else None)
        with contextlib.suppress(KeyboardInterrupt):
            begin(name, tiny_model_folder)
        assert list(run.rows())[: len(expected)] == expected or run.status["finished"] > len(expected)
        assert run.status["sessions"] == 2
    finally:
        shutil.rmtree(outputs / "outputs" / name)
        shutil.move(kept_before, outputs / "outputs" / name)
