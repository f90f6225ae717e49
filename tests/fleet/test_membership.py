"""Who takes part in a fleet: seats that join late, wait, differ, or are all gone."""

import os
import time

import pytest

import runner
from runner.cli import main
from runner.engine.conf import EngineConf
from runner.fleet import fleet, membership, start
from runner.fleet.conf import FleetConf
from runner.fleet.handshake import handshake_of
from runner.fleet.protocol import GoneError, Spec
from runner.models.recipes import ModelConf
from runner.types import UserError
from tests.support import runs
from tests.support.fleets import install, seats, select
from tests.support.stores import open_store

ROWS = 300


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.write_rows(ROWS)
    monkeypatch.setattr(membership, "SEARCH_S", 0.02)
    monkeypatch.setattr(fleet, "NOTE_S", 0.05)


def words(*more):
    return runs.overrides("output.shard_rows=64", "engine.window=64", *more)


@pytest.fixture
def expected():
    """The shards of a run by one process."""
    runner.run(words("run_name=alone"))
    return runs.shards("alone")


def together(*more):
    figures = runner.run(words("run_name=fleet", "fleet=local", *more))
    return figures, runs.shards("fleet")


def test_a_seat_that_joins_late_takes_part(expected, monkeypatch):
    def present():
        return ["a", "b"] if any(link.turns > 3 for link in transport.links["a"]) else ["a"]

    transport = install(monkeypatch, {"a": [{"delay_s": 0.03}], "b": [{}]})
    transport.present = present
    _, found = together()
    assert found == expected
    answers = {one["name"]: one["answers"] for one in seats()}
    assert answers["b"] > answers["a"] > 0


def test_when_all_seats_are_gone_the_run_waits_for_one_to_come_back_and_says_so(expected, monkeypatch, caplog, capsys):
    gone, doing, shown = [], [], []

    def present():
        first = [link for links in transport.links.values() for link in links[:1]]
        if len(first) == 2 and all(link.is_killed for link in first):
            gone.append(time.monotonic())
            doing.append(runner.open_run("outputs/fleet").status["doing"])
            capsys.readouterr()
            assert main(["status", "outputs/fleet"]) == 0
            shown.append(capsys.readouterr().out)
            return ["a", "b"] if time.monotonic() > gone[0] + 0.5 else []
        return [] if any(link.turns > 1 for link in first) else ["a", "b"]

    lost = GoneError("because its node is gone", is_blameless=True)
    transport = install(monkeypatch, {"a": [{"dies": 2, "error": lost}, {}], "b": [{"dies": 2, "error": lost}, {}]})
    transport.present = present
    _, found = together()
    assert found == expected
    assert gone and select("SELECT * FROM deaths") == []
    assert f"running (process {os.getpid()}), waiting for a seat\n" in "".join(shown)
    assert "waiting for a seat" in doing and "no seat is at work: waiting for a seat" in caplog.text
    assert caplog.text.count("no seat is at work") == 1 and runner.open_run("outputs/fleet").status["doing"] is None


def test_a_seat_that_waits_for_its_place_makes_way_for_others_and_a_run_without_one_says_so(expected, monkeypatch):
    """Though only one seat is wanted; and it has not died."""
    doing = []

    def taken(place):
        if place == "a":
            return bool(transport.links["a"])
        doing.append(runner.open_run("outputs/fleet").status["doing"])
        return len(doing) < 10

    transport = install(monkeypatch, {"a": [{"freezes": -1}], "b": [{}]}, taken=taken)
    transport.present = lambda: ["a", "b"] if transport.links["a"] else ["a"]
    figures, found = together("fleet.seats=1")
    assert found == expected
    assert {one["name"]: one["deaths"] for one in figures["seats"]} == {"b": 0}
    assert doing[-1] == "waiting for a seat"


@pytest.mark.parametrize(("dies", "told"), [(None, 2), (1, 4)])
def test_a_taken_place_is_told_to_be_another_programs_later_where_a_seat_of_ours_died(dies, told, monkeypatch, caplog):
    """Ray may find out late that its node is gone; until then the place seems to be taken."""
    said = []

    def taken(place):
        if place == "b" or (dies and not transport.links["a"]):
            return False
        said.append("1 seat in use by other programs, until they end: a" in caplog.text)
        return len(said) <= told + 1

    caplog.set_level("INFO")
    for name, value in [("SEARCH_S", 0.0), ("TAKEN", 2), ("DIED", 4)]:
        monkeypatch.setattr(membership, name, value)
    lost = GoneError("because its node is gone", is_blameless=True)
    transport = install(monkeypatch, {"a": [{"dies": dies, "error": lost}, {}], "b": [{"delay_s": 0.02}]}, taken=taken)
    together()
    assert said.index(True) == told


@pytest.mark.parametrize("waits", [[False], [True] * 3 + [False]])
def test_a_schedule_holds_before_the_first_seat_too_and_a_long_pause_ends_models_that_load(
    waits, monkeypatch, tmp_path
):
    transport = install(monkeypatch, {"a": [{"freezes": -1}]})
    spec, left = Spec(ModelConf(), EngineConf(backend="fake"), keep_awake=False), list(waits)

    def wait(beat, release):
        if left == [True, False]:
            release()
            assert [link.is_killed for link in transport.links["a"]] == [True]
        return left.pop(0)

    with open_store(tmp_path / "run") as store, pytest.raises(KeyboardInterrupt):
        start.open_fleet(FleetConf(), spec, handshake_of(None), store, wait, lambda: False, lambda doing: None)
    assert left == [] and all(link.is_killed for link in transport.links["a"]) and transport.is_closed
    assert len(transport.links["a"]) == len(waits) // 2


def test_no_seat_for_too_long_ends_with_3(monkeypatch):
    lost = GoneError("because its node is gone", is_blameless=True)
    transport = install(monkeypatch, {"a": [{"dies": 2, "error": lost}]})
    transport.present = lambda: [] if any(link.is_killed for link in transport.links["a"]) else True
    with pytest.raises(UserError, match="no seat") as raised:
        together("engine.stall_minutes=0.01")
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("handshake", "line"),
    [
        ({"weights": "other"}, "seat b is left out: its model files differ from the driver's: other is not"),
        ({"tokenizer": "other"}, "seat b is left out: its tokenizer differs from the driver's: other is not"),
        ({"mlx": "0.1"}, "seat b is left out: its mlx differs from the driver's: 0.1 is not"),
        ({"mlx_lm": None}, "seat b is left out: its mlx-lm differs from the driver's: None is not"),
        ({"rowmill": "0.0.1"}, "seat b is left out: its rowmill differs from the driver's: 0.0.1 is not"),
    ],
)
def test_a_seat_that_differs_is_left_out_with_a_line_that_names_the_difference(handshake, line, monkeypatch, caplog):
    monkeypatch.setattr(membership.Membership, "ours", None, raising=False)
    transport = install(monkeypatch, {"a": [{"delay_s": 0.01}], "b": [{"handshake": handshake}]})
    original = membership.Membership.__init__

    def init(self, transport, spec, ours, *rest):
        original(self, transport, spec, ours._replace(weights="ours", tokenizer="ours", mlx="1.0", mlx_lm="1.0"), *rest)

    monkeypatch.setattr(membership.Membership, "__init__", init)
    same = {"weights": "ours", "tokenizer": "ours", "mlx": "1.0", "mlx_lm": "1.0"}
    transport.plans["a"] = [{"delay_s": 0.01, "handshake": same}]
    transport.plans["b"] = [{"handshake": same | handshake}]
    figures, _ = together()
    assert figures["finished"] == ROWS
    assert len([message for message in caplog.messages if message.startswith(line)]) == 1
    (b,) = [one for one in seats() if one["name"] == "b"]
    assert (b["state"], b["answers"]) == ("left out", 0)
    transport.plans.pop("a")
    transport.plans["b"] = [{"handshake": same | handshake}]
    with pytest.raises(UserError, match="no seat is left: b: its") as raised:
        runner.run(words("run_name=none", "fleet=local"))
    assert raised.value.exit_code == 3


def test_other_chips_are_refused_for_those_who_want_that(monkeypatch, caplog):
    install(monkeypatch, {"a": [{"delay_s": 0.01}], "b": [{"handshake": {"device": "another"}}]})
    together("fleet.same_device=true")
    states = {one["name"]: one["state"] for one in seats()}
    assert sorted(states.values()) == ["ended", "left out"]
