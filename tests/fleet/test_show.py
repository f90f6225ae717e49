"""What the commands say of seats: fleet, status, watch and the report agree."""

import contextlib
import json
import signal

import pytest
from rich.console import Console

import runner
from runner.cli import main
from runner.fleet import fleet, show
from runner.report.quality import seat_facts
from tests.support import runs
from tests.support.fleets import ROWS, select, wait_for_seats, words

pytestmark = pytest.mark.usefixtures("slow_rows")


def test_the_command_fleet_shows_the_seats(capsys, monkeypatch):
    wait_for_seats(monkeypatch, 2)
    runner.run(words("run_name=fleet"))
    capsys.readouterr()
    assert main(["fleet", "outputs/fleet", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in shown] == ["ended", "ended"]
    assert sum(one["answers"] for one in shown) == ROWS
    assert main(["fleet", "outputs/fleet"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("fake", "ended", "rowmill 0.1.0", "share", "rows"))
    runner.run(runs.overrides("run_name=alone"))
    capsys.readouterr()
    assert main(["fleet", "outputs/alone"]) == 0
    assert "no fleet" in capsys.readouterr().out


def test_shares_are_of_all_answers_also_of_those_without_a_fleet(capsys):
    runs.interrupt(runs.overrides("output.shard_rows=64", "run_name=fleet"))
    ((alone,),) = select("SELECT count(*) FROM completions")
    runner.run(words("run_name=fleet", "fleet.seats=1"))
    capsys.readouterr()
    assert main(["fleet", "outputs/fleet"]) == 0
    said = capsys.readouterr().out
    assert 0 < alone < ROWS and f"\n{alone} answers came without a fleet\n" in said
    share = f"{(ROWS - alone) / ROWS:.0%}"
    assert f" {share} " in said
    status = runner.open_run("outputs/fleet").status
    assert status["seats"][0]["answers_share"] == (ROWS - alone) / ROWS
    assert seat_facts(status["seats"])[0][1].startswith(f"fake, {ROWS - alone} answers ({share})")
    assert main(["watch", "outputs/fleet"]) == 0
    assert f" {share} " in capsys.readouterr().out


def test_status_counts_the_seats_of_the_latest_session_and_those_before_it(capsys, monkeypatch):
    def step(self, original=fleet.Fleet.step):
        if len(self.membership.at_work()) == number:
            patch.undo()
            signal.raise_signal(signal.SIGINT)
        return original(self)

    for number, line in [
        (2, "2 ended; rowmill fleet"),
        (2, "2 ended; rowmill fleet"),
        (1, "1 ended, 1 only in earlier ones; rowmill fleet"),
        (0, "none in the latest session, 2 only in earlier ones; rowmill fleet"),
    ]:
        more = [f"fleet.seats={number}"] if number else ["fleet=none", "fleet.seats=null"]
        ends = pytest.raises(KeyboardInterrupt) if number else contextlib.nullcontext()
        with ends, monkeypatch.context() as patch:
            wait_for_seats(patch, number)
            patch.setattr(fleet.Fleet, "step", step)
            runner.run(words("run_name=fleet", *more))
        capsys.readouterr()
        assert main(["status", "outputs/fleet"]) == 0
        assert f"seats    {line}" in capsys.readouterr().out


def test_names_of_seats_and_devices_are_shown_as_they_are(capsys):
    one = {"name": "mac[red]:1", "device": "gpu (NVIDIA [vGPU] 8Q)", "state": "ended", "answers": 3, "run_answers": 3}
    one["answers_share"] = 1.0
    show.show_fleet([one], Console(width=100))
    assert "mac[red]:1  gpu (NVIDIA [vGPU] 8Q)" in capsys.readouterr().out
