import errno
import json
import logging
import os
from pathlib import Path

import pytest

from jobs import tune
from jobs.tune import buffers, measure, rates, turns
from jobs.tune.found import Found
from jobs.tune.turns import best
from runner import cache
from runner.cli import main
from runner.engine.attention import copies
from runner.engine.budget import Budget
from runner.engine.conf import EngineConf
from runner.machine import device, metal
from runner.machine.device import set_up
from runner.models.resolve import read_config


@pytest.fixture
def words(tiny_model_folder, tmp_path, monkeypatch, cache):
    """The command for a tiny model, with clocks that need no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(copies, "way", lambda _, prefix, count, copied: lambda: 1.0 if copied == (count <= 4) else 2.0)
    monkeypatch.setattr(measure.Rates, "prefill", lambda rates, size: 1000.0 + size)
    decode = measure.Rates.decode
    monkeypatch.setattr(measure.Rates, "decode", lambda *one: 100.0 * one[2] if decode(*one) else 0.0)
    monkeypatch.setattr(turns, "TURNS", 2)
    monkeypatch.setattr(rates, "PREFIX", 20)
    monkeypatch.setattr(measure, "BATCH_SIZE", {"cpu": 4})
    return ["tune", f"model.path={tiny_model_folder}", "engine.backend=cpu", "tune.quick=true"]


def test_what_is_measured_is_used_by_later_runs_and_can_be_sent_in(
    words, tiny_model_folder, tmp_path, capsys, monkeypatch
):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "up to 4 sequences" in shown and "tokens/s, by sequences at once" in shown and "some turns" in shown
    sent = json.loads((tmp_path / "outputs" / "tune.json").read_text())
    assert sent["complete"] and sent["chosen"]["copies"] == [4, 4, 4] and sent["chosen"]["prefill_tokens"] == 1024
    assert [*sent["measured"]["decode"]][:2] == ["2", "4"] and min(map(min, sent["measured"]["decode"].values())) > 0
    private = (str(tmp_path), str(tiny_model_folder), os.uname().nodename, str(Path.home()))
    assert not [word for word in private if word and word in json.dumps(sent)]

    config = read_config(tiny_model_folder)
    found = set_up("cpu", config)
    assert found.tuned.prefill_tokens == 1024 == Budget.of(EngineConf(), found).prefill_tokens
    assert Budget.of(EngineConf(), found).batch_size == sent["chosen"]["batch_size"] == found.tuned.batch_size
    assert Budget.of(EngineConf(batch_size=3, prefill_tokens=7), found).batch_size == 3
    others = {"model_type": "another"}, EngineConf(kv_bits=8).costly(config), EngineConf(max_kv_size=99).costly(config)
    assert {set_up("cpu", other).tuned for other in (*others, None)} == {(None, None, None)}
    monkeypatch.setattr(device, "cpu_streams", lambda: 3)
    assert set_up("cpu", config).tuned.prefill_tokens is None


def test_an_interruption_keeps_what_was_measured_and_the_same_command_goes_on(words, tmp_path, monkeypatch, capsys):
    def interrupted(rates, size):
        if size > 256:
            raise KeyboardInterrupt
        return 5.0

    with monkeypatch.context() as patched:
        patched.setattr(measure.Rates, "prefill", interrupted)
        assert main(words) == 130
    assert "what was measured is kept" in capsys.readouterr().err
    sent = json.loads((tmp_path / "outputs" / "tune.json").read_text())
    assert not sent["complete"] and sent["measured"]["prefill"] == {"256": [5.0]}
    monkeypatch.setattr(copies, "way", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(measure.Rates, "decode", lambda rates, prefill, count: None)
    assert main([*words, "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert sent["measured"]["prefill"] == {"256": [5.0], "512": [1512.0] * 2, "1024": [2024.0] * 2}
    assert sent["chosen"]["batch_size"] is None and sent["measured"]["decode"] == {"2": None}


@pytest.mark.parametrize(("size", "chosen"), [(256, None), (512, None), (1024, 1024)])
def test_a_slow_machine_tries_no_larger_sizes_and_takes_none_that_is_worse_than_usual(size, chosen, monkeypatch):
    now = [0.0]

    def rate(tried):
        now[0] += turns.MOST_SECONDS + 1 if tried == size else 1
        return float(tried)

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    found = Found({}, {}, False, lambda record: None)
    assert turns.in_turns(found, "prefill", (256, 512, 1024, 2048), 512, rate) == chosen
    assert [*found.measured["prefill"]] == [str(tried) for tried in (256, 512, 1024) if tried <= size]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tune, "measure_all", lambda *_: pytest.fail("measured"))
    assert main([*words, "output.dir=file/below"]) != 0
    assert "file/below cannot be written" in capsys.readouterr().err
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path / "file" / "cache"))
    assert main(words) != 0
    assert "file/cache cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("record", [{"complete": False, "quick": True}, {"measured": 3}, {"measured": {"decode": 1}}])
def test_of_a_damaged_record_nothing_is_taken(record):
    found = Found.of({"complete": False, "quick": True, "chosen": {}} | record, True, lambda record: None)
    assert (found.measured, found.chosen) == ({}, {})


def test_a_disk_that_fills_up_is_told_and_not_that_its_choice_is_used(words, tmp_path, monkeypatch, capsys):
    keep = cache.keep

    def full_with_figures(key, found):
        if "prefill" in found.get("measured", {}):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(key, found)

    monkeypatch.setattr(cache, "keep", full_with_figures)
    assert main(words) == 3
    shown = capsys.readouterr()
    assert "used from now on" not in shown.out and "full" in shown.err.lower()
    monkeypatch.setattr(cache, "keep", keep)
    assert main(words) == 0
    assert "going on after an interruption" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ({8: [50, 50, 50], 16: [98, 97, 99], 32: [100, 99, 101], 64: [70, 71, 70]}, 16),  # nearly as fast as 32
        ({16: [98, 97, 99], 64: [97, 98, 98]}, None),
        ({16: [130, 90, 120], 64: [100, 95, 99]}, None),  # in one turn the usual one was faster
        ({16: [102, 103, 102], 64: [100, 101, 100]}, None),
        ({16: [90, 90], 32: [100, 100]}, 32),  # the usual one had no room
    ],
)
def test_what_is_usual_stays_unless_another_size_is_faster_in_every_turn(measured, chosen):
    assert best(measured, usual=64) == chosen


def test_sizes_that_may_be_the_best_are_measured_in_turns_with_the_usual_one():
    asked = []
    rates = iter([50.0, 95.0, 100.0, 97.0, 98.0, 99.0, 100.0, 100.0, 99.0])

    def rate(size):
        asked.append(size)
        return next(rates)

    found = Found({}, {}, False, lambda record: None)
    assert turns.in_turns(found, "decode", (8, 16, 32), 16, rate) is None
    assert asked == [8, 16, 32, 16, 32, 16, 32] and found.measured["decode"]["8"] == [50.0]


def test_packed_caches_are_never_copied_and_nothing_is_measured_for_it(words, monkeypatch, capsys):
    monkeypatch.setattr(copies, "way", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(measure.Rates, "decode", lambda *_: None)
    assert main([*words, "engine.kv_bits=8", "--json"]) == 0
    assert "copies" not in json.loads(capsys.readouterr().out)["chosen"]


def test_command_buffers_are_tried_in_environments_of_their_own_and_taken_if_they_gain(monkeypatch):
    speeds = {None: 1.0, "100": 1.01, "200": 1.01, "500": 1.5, "2000": 1.0}
    seen = []

    def apart(module, name, task, environment):
        seen.append(environment)
        return {"decode": 10 * speeds[environment.get(metal.OPERATIONS)], "prefill": 20}

    monkeypatch.setattr(buffers, "apart", apart)
    found = Found({}, {}, False, logging.debug)
    buffers.measure_buffers(found, {"model": "m"}, {"PATH": "p"})
    assert found.chosen["buffers"] == (500, 500)
    assert seen[0] == {"PATH": "p"} and seen[4][metal.MEGABYTES] == "2000"
    assert [one.get(metal.OPERATIONS) for one in seen[5:]] == [None, "500"] * 2


def test_command_buffers_that_a_user_sets_are_left_alone():
    environment = {}
    metal.set_buffers((500, 400), environment)
    assert environment == {metal.OPERATIONS: "500", metal.MEGABYTES: "400"}
    metal.set_buffers((1, 1), environment)
    metal.set_buffers(None, environment)
    assert environment[metal.OPERATIONS] == "500"
    alone = {metal.MEGABYTES: "9"}
    metal.set_buffers((1, 1), alone)
    assert alone == {metal.MEGABYTES: "9"}


def test_on_a_mac_what_was_tuned_is_set_before_mlx_starts(monkeypatch, cache):
    from runner.machine import tuned

    monkeypatch.setattr(metal, "chip", lambda: "Apple M1")
    monkeypatch.setattr(metal, "set_buffers", lambda size: done.append(size))
    # The import of MLX: what was done before it is the promise.
    monkeypatch.setattr(device, "_import_mlx", lambda: pytest.fail("MLX starts"))
    tuned.keep("metal", "Apple M1", {"hidden_size": 8}, {"chosen": {"buffers": [2000, 1000]}})
    for backend in ("auto", "cpu"):
        done = []
        with pytest.raises(pytest.fail.Exception, match="MLX starts"):
            set_up(backend, {"hidden_size": 8, "_name_or_path": "elsewhere"})
        assert done == ([(2000, 1000)] if backend == "auto" else [])
