"""What the prelude promises: asked once for a run, recorded, the same after a kill."""

import io
import itertools
import json
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from jobs.label import prior
from runner import open_run, run
from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.source import DataSource
from runner.data.survey import Survey
from runner.engine.fake import FakeEngine
from runner.results.watch import watch
from runner.session import session
from runner.types import UserError

ROWS = 60


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder):
    lines = [f"{i},mail number {i},{'ham' if i % 2 else 'spam'}" for i in range(ROWS)]
    (folder / "mail.csv").write_text("\n".join(["id,text,kind", *lines]) + "\n")


def label(*more):
    words = ("engine.backend=fake", "engine.batch_size=4", "job=label", "job.labels=[ham,spam]", "dataset=csv")
    words += ("dataset.path=mail.csv", "prompt.user='Ham or spam? {{ text }}'", "run_name=mail")
    keys = [word.split("=")[0] for word in more]
    return run(overrides=[word for word in words if word.split("=")[0] not in keys] + list(more))


def rows_of(path="outputs/mail"):
    import datasets

    return datasets.load_from_disk(path).to_list()


def found(path="outputs/mail"):
    with sqlite3.connect(f"{path}/run.db") as database:
        return json.loads(database.execute("SELECT found FROM prelude").fetchone()[0])


def count_computed(monkeypatch):
    computed = []

    def answer(self, sequence, original=FakeEngine.answer):
        computed.append(sequence.key)
        return original(self, sequence)

    monkeypatch.setattr(FakeEngine, "answer", answer)
    return computed


def test_status_and_watch_say_what_goes_on_before_the_first_row(monkeypatch, caplog):
    caplog.set_level("INFO", "rowmill")
    seen = []

    def answer(self, sequence, original=FakeEngine.answer):
        shown = io.StringIO()
        watch("outputs/mail", Console(file=shown, width=120))
        seen.append((status := open_run("outputs/mail").status)["doing"])
        assert status["doing"] is None or status["doing"] in shown.getvalue()
        return original(self, sequence)

    def opened(*given, original=session.open_engine):
        seen.append(open_run("outputs/mail").status["doing"])
        return original(*given)

    monkeypatch.setattr(FakeEngine, "answer", answer)
    monkeypatch.setattr(session, "open_engine", opened)
    label("job.prior=batch", "job.prior_rows=4", "dataset.gold=kind", "calibrate.rows=0.1")
    order = [doing for doing, _ in itertools.groupby(seen)]
    assert order == ["loading the model", "measuring the prior", "calibrating", "computing the first rows", None]
    assert "measuring the prior" in caplog.messages
    assert open_run("outputs/mail").status["doing"] is None


def raw(rows):
    return np.array([[row["logprobs"]["ham"], row["logprobs"]["spam"]] for row in rows])


def test_the_batch_prior_is_that_of_the_rows_drawn_and_no_row_is_computed_twice(monkeypatch):
    computed = count_computed(monkeypatch)
    label("job.prior=batch", "job.prior_rows=20", "job.logprobs=true")
    assert len(computed) == ROWS
    assert sum(row == -1 for row, _ in computed) == 20
    rows, told = rows_of(), found()["prior"]
    drawn = Survey(source(), 0).sample(20, "prior")
    want = prior.batch_prior(raw([rows[at] for at in drawn]))
    assert list(told["logprobs"].values()) == pytest.approx(want.tolist())
    assert (told["kind"], told["rows"]) == ("batch", 20)
    for row, scores in zip(rows, raw(rows) - want, strict=True):
        assert row["label"] == ["ham", "spam"][scores.argmax()]
        assert row["confidence"] == pytest.approx(np.exp(prior.log_softmax(scores)).max())


def source(**conf):
    table = pa.table({"kind": ["ham" if i % 2 else "spam" for i in range(ROWS)], "text": ["x"] * ROWS})
    return DataSource(DatasetConf(path="x", **conf), Loaded(table, "contents"))


def test_samples_depend_on_the_seed_and_the_purpose_alone():
    one = Survey(source(), 1)
    assert one.sample(10, "prior") == Survey(source(), 1).sample(10, "prior")
    assert one.sample(10, "prior").keys() != one.sample(10, "calibrate").keys()
    assert one.sample(10, "prior").keys() != Survey(source(), 2).sample(10, "prior").keys()
    assert len(one.sample(10_000, "prior")) == ROWS


def test_calibration_takes_its_share_of_the_rows_with_their_gold_labels():
    known = Survey(source(gold="kind"), 0, 0.25).calibration()
    assert len(known) == 15
    assert all(gold == row["kind"] == ("ham" if at % 2 else "spam") for at, (row, gold) in known.items())
    assert Survey(source(gold="kind"), 0, 0.0).calibration() == {}


def test_the_temperature_is_that_of_the_share_and_moves_every_confidence_if_it_is_kept():
    label("calibrate.rows=0.5", "dataset.gold=kind", "job.logprobs=true", "job.prior=content_free")
    rows, told = rows_of(), found()
    share = told["calibration"]["rows"]
    bias = np.array(list(told["prior"]["logprobs"].values()))
    gold = np.array([0 if at % 2 else 1 for at in share])
    temperature = prior.fit_temperature(raw([rows[at] for at in share]) - bias, gold)
    assert told["calibration"]["fitted"] == pytest.approx(temperature)
    kept = told["calibration"]["temperature"]
    assert kept in (1.0, told["calibration"]["fitted"])
    for row, scores in zip(rows, (raw(rows) - bias) / kept, strict=True):
        assert row["confidence"] == pytest.approx(np.exp(prior.log_softmax(scores)).max())


@pytest.mark.parametrize("after", [1, 3, 5, 8, 14])
def test_a_run_killed_in_or_after_the_prelude_ends_with_the_same_prior(monkeypatch, after):
    settings = ("job.prior=batch", "job.prior_rows=20", "job.logprobs=true", "calibrate.rows=0.3", "dataset.gold=kind")
    label(*settings, "run_name=whole")
    steps = []

    def step(self, original=FakeEngine.step):
        steps.append(1)
        if len(steps) == after:
            raise RuntimeError("killed")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            label(*settings)
    computed = count_computed(monkeypatch)
    label(*settings)
    assert len(computed) == ROWS - 4 * (after - 1)  # what was recorded before is not asked again
    assert found() == found("outputs/whole")
    whole = rows_of("outputs/whole")
    assert [{**row, "usage": None} for row in rows_of()] == [{**row, "usage": None} for row in whole]


def test_a_prelude_that_fails_ends_the_run_in_one_line():
    with pytest.raises(UserError, match=r"before the first row failed: prompt\.user"):
        label("job.prior=content_free", "prompt.user='{{ (text | int) // (text | int) }}'")


def test_another_prior_is_another_run():
    label("job.prior=batch")
    with pytest.raises(UserError, match=r"job\.prior: \"batch\" -> \"none\""):
        label()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["calibrate.rows=0.3"], r"dataset\.gold must name"),
        (["calibrate.rows=1.5", "dataset.gold=kind"], "at most 0.9"),
        (["calibrate.rows=0.3", "dataset.gold=kind", "job.method=generate"], r"only job\.method=choice"),
        (["job.method=generate", "job.votes=3"], r"engine\.temperature=0 all answers are the same"),
    ],
)
def test_what_cannot_be_done_fails_before_the_run(words, problem):
    with pytest.raises(UserError, match=problem):
        label(*words)
