"""What a job may have beside its two methods is found by name, and a name that is nearly one is not overlooked."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

import runner
from jobs.label import Label
from jobs.synthesize import Synthesize
from runner.config.hooks import Hooks, check_hooks
from runner.types import UserError
from tests.support.jobs import own_job, write_own_job


@dataclass
class Plain:
    variable: str = "a key of the configuration, whatever it is called"

    def schema(self):
        return pa.schema([("text", pa.string())])

    def steps(self, row):
        yield from ()


@pytest.mark.parametrize(
    ("near", "hook"),
    [
        ("preludes", "prelude"),
        ("check_runs", "check_run"),
        ("figure", "figures"),
        ("attempt", "attempts"),
        ("takes_structure", "take_structure"),
        ("check_sources", "check_source"),
        ("choices_names", "choice_names"),
        ("opne", "open"),
        ("begni", "begin"),
    ],
)
def test_a_method_that_is_nearly_called_like_a_hook_is_refused_with_the_right_name(near, hook):
    job = type("Own", (Plain,), {near: lambda self, *given: None})()
    with pytest.raises(UserError, match=f"here: {near} is never called; did you mean {hook}"):
        check_hooks(job, "here")


def test_a_nearly_right_name_is_found_in_a_base_class_and_properties_are_left_alone():
    base = type("Base", (Plain,), {"figure": lambda self, run, source: {}})
    with pytest.raises(UserError, match="figure is never called; did you mean figures"):
        check_hooks(type("Own", (base,), {})(), "here")
    check_hooks(type("Own", (Plain,), {"attempt": property(lambda self: 1 / 0)})(), "here")


def test_a_hook_that_is_no_method_and_a_prelude_without_begin_are_refused():
    with pytest.raises(UserError, match="attempts must be a method"):
        check_hooks(type("Own", (Plain,), {"attempts": 3})(), "here")
    with pytest.raises(UserError, match=r"prelude\(survey\) needs begin\(found\)"):
        check_hooks(type("Own", (Plain,), {"prelude": lambda self, survey: None})(), "here")


def test_jobs_have_the_hooks_that_they_define():
    check_hooks(Plain(), "here")
    assert set(vars(Hooks.of(Plain())).values()) == {None}
    label, synthesize = Hooks.of(Label(["a", "b"])), Hooks.of(Synthesize())
    assert label.surveys and label.figures and label.checks_run and label.checks_source and label.attempts is None
    assert label.choices and label.choices.choice_names() == ["a", "b"]
    assert synthesize.attempts and synthesize.opens and synthesize.figures and synthesize.surveys is None


@pytest.mark.parametrize(
    ("hook", "body"),
    [
        ("open(self, setting)", "raise ValueError('my fault')"),
        ("open(self)", "return None"),
        ("check_run(self, conf)", "raise SystemExit('my fault')"),
        ("check_source(self, source, prompter)", "conf.limit"),
        ("take_structure(self, structure, raw)", "return structure.answers"),
        ("attempts(self)", "return None"),
        ("attempts(self)", "raise ValueError('my fault')"),
        (
            "begin(self, found)",
            "raise ValueError(found)\n\n    def prelude(self, survey):\n        yield Request({'id': 1})",
        ),
    ],
)
def test_what_a_hook_raises_is_told_in_one_line_and_nothing_is_tried_again(hook, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("id\n1\n")
    write_own_job(own_job(more=f"\n    def {hook}:\n        {body}\n"), tmp_path)
    words = ["job=own", "dataset=csv", "dataset.path=rows.csv", "prompt.user='{{ id }}'", "run_name=own"]
    with pytest.raises(UserError, match=rf"the job's {hook.partition('(')[0]}\(\) fails:"):
        runner.run([*words, "engine.backend=fake"], str(tmp_path))
