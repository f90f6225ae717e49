"""Whatever happens to seats, a fleet's run has the shards of a run by one process."""

import os
import pickle
import re
import time
from pathlib import Path

import pytest

import runner
from runner import report
from runner.checkpoint import marks
from runner.cli import main
from runner.engine.conf import EngineConf
from runner.fleet import fleet, membership, start
from runner.fleet.conf import FleetConf
from runner.fleet.handshake import handshake_of
from runner.fleet.protocol import KNOWN, GoneError, Receiver, Sender, Spec, packed
from runner.models.recipes import ModelConf
from runner.sequences import Sequence
from runner.text.choices import Choices
from tests.support import runs
from tests.support.fleets import install, seats, select
from tests.support.stores import open_store

ROWS = 300
FEWER = "dataset.limit=80"


@pytest.fixture(autouse=True)
def folder(folder, monkeypatch):
    runs.write_rows(ROWS)
    gold = "".join(f"{row},text number {row},{row % 2}\n" for row in range(ROWS))
    Path("gold.csv").write_text(f"id,text,gold\n{gold}")
    monkeypatch.setattr(membership, "SEARCH_S", 0.02)
    monkeypatch.setattr(fleet, "NOTE_S", 0.05)


def words(*more):
    return runs.overrides("output.shard_rows=64", "engine.window=64", *more)


def alone(*more):
    figures = runner.run(words("run_name=alone", *more))
    return figures, runs.shards("alone")


def together(*more):
    figures = runner.run(words("run_name=fleet", "fleet=local", *more))
    return figures, runs.shards("fleet")


JOBS = {
    "generate": [],
    "drawn": ["engine.temperature=0.7"],
    "label": ["job=label", "job.labels=[ham,spam]"],
    "structured": ["output.schema={type: object, properties: {n: {type: integer}}, required: [n]}"],
    "synthesize": ["job=synthesize", "job.target=40", "job.ahead=8"],
    "spans": ["job=spans", "job.kinds={person: a name, place: a town}", FEWER],
    "thinking": ["engine.think_tokens=8", "engine.max_tokens=20", FEWER],
    "questions": [
        "job=label",
        "job.questions=[{name: tone, labels: [warm, cold]}, {name: haste, scale: [1, 5], where: {tone: cold}}]",
        "prompt.user='{{ text }} {{ question }}'",
        FEWER,
    ],
    "examples": [
        "job=label",
        "job.labels=['0','1']",
        "dataset.path=gold.csv",
        "dataset.gold=gold",
        "prompt.examples_from.select=nearest",
        "prompt.examples_from.k=2",
        FEWER,
    ],
}


@pytest.mark.parametrize("job", JOBS)
def test_shards_are_those_of_one_process(job, monkeypatch):
    _, expected = alone(*JOBS[job])
    install(monkeypatch, {"a": [{}], "b": [{}], "c": [{}]})
    figures, found = together(*JOBS[job])
    assert found == expected
    assert figures["errors"] == 0
    assert sum(one["answers"] for one in seats()) == select("SELECT count(*) FROM completions WHERE seat NOTNULL")[0][0]


def test_sequences_arrive_as_they_were_sent_and_a_shared_prefix_goes_once():
    group, other = (3, 500), (500,)
    prefixes = [range(500), range(500), range(7, 507), range(7, 507), range(4)]
    shared = [group, group, other, other, ()]
    sent = [
        Sequence((row, 0), [*prefix, 70_000 + row], 5, choices=((1,), (2, 3)), boundaries=boundaries)
        for row, (prefix, boundaries) in enumerate(zip(prefixes, shared, strict=True))
    ]
    asks = pickle.loads(packed(Sender().asks_of(sent)))
    assert Receiver().sequences_of(asks) == sent
    assert [len(ids) // 4 for _, ids, *_ in asks] == [501, 1, 501, 1, 5]


def test_what_sequences_have_in_common_goes_once_a_seat_and_a_seat_keeps_the_latest():
    """However many of them there are, also some that were forgotten in between, and in whichever calls."""
    labels = [Choices((number, token) for token in range(2000)) for number in range(KNOWN + 2)]
    few = [None, *labels[:2], *labels[:2], labels[0]]
    sent = [Sequence((row, 0), [1], 5, choices=some, grammar="g") for row, some in enumerate([*few, *labels, *few])]
    sender, receiver, sizes, got = Sender(), Receiver(), [], []
    for one in sent:
        message = packed(sender.asks_of([one]))
        sizes.append(len(message))
        got += receiver.sequences_of(pickle.loads(message))
    assert got == sent
    assert all((size > 5000) == (row in {1, 2, *range(8, 24), 25, 26}) for row, size in enumerate(sizes))
    assert max(sizes[:1] + sizes[3:8]) < 500


def test_a_fleet_without_work_hears_those_that_join(monkeypatch, tmp_path):
    install(monkeypatch, {"a": [{}], "b": [{"slow_s": 0.3}]})
    spec = Spec(ModelConf(), EngineConf(backend="fake"), keep_awake=False)
    with open_store(tmp_path / "run") as store:
        ours, wait, said = handshake_of(None), lambda beat, release: True, []
        idle = start.open_fleet(FleetConf(), spec, ours, store, wait, lambda: False, said.append)
        until = time.monotonic() + 60
        while len(idle.membership.at_work()) < 2 and time.monotonic() < until:
            assert idle.step() == []
            time.sleep(0.01)
        assert {member.place for member in idle.membership.at_work()} == {"a", "b"}
        assert set(idle.membership.pids_here()) == {os.getpid()}
        idle.close()


def test_the_checkpoint_says_which_seat_gave_each_answer_and_who_took_part(monkeypatch):
    install(monkeypatch, {"a": [{"delay_s": 0.01}], "b": [{"delay_s": 0.01}]})
    together()
    one, other = seats()
    assert {one["name"], other["name"]} == {"a", "b"}
    assert one["answers"] + other["answers"] == ROWS
    assert min(one["answers"], other["answers"]) > 0
    assert {one["device"], one["rowmill"], one["state"]} == {"fake", one["rowmill"], "ended"}
    noted = runner.open_run("outputs/fleet").marks[-1]["seats"]
    assert noted is None or set(noted) <= {str(one["seat"]), str(other["seat"])}


def test_status_watch_and_report_show_what_each_seat_did(monkeypatch, capsys):
    monkeypatch.setattr(marks, "EVERY_SECONDS", 0.02)
    install(monkeypatch, {"left": [{"delay_s": 0.01}], "right": [{"delay_s": 0.01}]})
    figures, _ = together("engine.batch_size=4")
    answers = {one["name"]: one["answers"] for one in figures["seats"]}
    assert answers == {one["name"]: one["answers"] for one in seats()} and min(answers.values()) > 0
    assert main(["status", "outputs/fleet"]) == 0
    assert "seats    2 ended" in capsys.readouterr().out
    assert main(["watch", "outputs/fleet"]) == 0
    assert re.search(r"left +ended", capsys.readouterr().out)
    page = report.write_report(runner.open_run("outputs/fleet"), None, figures).read_text()
    assert "Answers per second of 2 seats: " in page
    assert f"fake, {answers['left']} answers ({answers['left'] / ROWS:.0%})" in page
    figures, _ = alone()
    assert figures["seats"] == []


@pytest.mark.parametrize("dies", range(6))
def test_a_seat_that_dies_at_any_turn_changes_nothing(dies, monkeypatch):
    _, expected = alone()
    install(monkeypatch, {"a": [{"dies": dies}, {}], "b": [{"delay_s": 0.005}]})
    _, found = together()
    assert found == expected
    assert [row["error"] for row in runs.rows_of("fleet")] == [None] * ROWS
    assert [one["deaths"] for one in seats() if one["name"] == "a"] == [1]
    ((why, memory),) = select("SELECT why, memory FROM deaths") or [("of SIGKILL on seat a", 0)]
    assert (why, memory) == ("of SIGKILL on seat a", 0)


def test_a_seat_that_gives_no_sign_of_life_costs_its_rows_in_flight_only_and_they_are_not_blamed(monkeypatch):
    monkeypatch.setattr(membership, "WAIT_S", 0.1)
    monkeypatch.setattr(fleet, "WAIT_S", 0.1)
    _, expected = alone()
    install(monkeypatch, {"a": [{"freezes": 2}, {"freezes": 0}], "b": [{"delay_s": 0.02}]})
    _, found = together("fleet.grace_s=1")
    assert found == expected
    assert select("SELECT * FROM deaths") == []


def test_a_run_begins_alone_goes_on_with_three_and_ends_with_two(monkeypatch):
    _, expected = alone("output.shard_rows=64")
    assert "interrupted" in runs.interrupt(words("run_name=fleet"))
    install(monkeypatch, {"a": [{}], "b": [{}], "c": [{}]})
    steps = []

    def stop_after(self, original=fleet.Fleet.step):
        steps.append(1)
        if len(steps) == 3:
            import signal

            signal.raise_signal(signal.SIGINT)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(fleet.Fleet, "step", stop_after)
        with pytest.raises(KeyboardInterrupt):
            together()
    before = dict(select("SELECT row, body FROM completions"))
    assert 0 < len(before) < ROWS
    install(monkeypatch, {"a": [{}], "b": [{}]})
    figures, found = together()
    assert found == expected
    assert figures["sessions"] == 3
    assert before.items() <= dict(select("SELECT row, body FROM completions")).items()


def test_an_interrupted_fleet_keeps_what_its_seats_were_at(monkeypatch):
    import signal

    install(monkeypatch, {"a": [{"delay_s": 0.1}], "b": [{"delay_s": 0.1}]})
    steps = []

    def stop_after(self, original=fleet.Fleet.step):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(fleet.Fleet, "step", stop_after)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        together()
    kept = dict(select("SELECT seat, count(*) FROM completions GROUP BY seat"))
    assert len(kept) == 2


def test_seats_at_one_to_ten_get_shares_of_one_to_ten(monkeypatch):
    runs.write_rows(2000)
    install(monkeypatch, {"fast": [{"delay_s": 0.01}], "slow": [{"delay_s": 0.1}]})
    together("engine.batch_size=8", "engine.window=2000")
    slow, fast = sorted(seats(), key=lambda one: one["answers"])
    whole = slow["rows_per_s"] + fast["rows_per_s"]  # as they were: nothing else keeps this machine's time
    assert (slow["name"], fast["name"]) == ("slow", "fast")
    assert slow["answers"] / 2000 == pytest.approx(slow["rows_per_s"] / whole, rel=0.2)


def test_lack_of_memory_makes_the_batches_of_that_seat_smaller_and_no_others(monkeypatch):
    dead = {"dies": 1, "error": GoneError("because memory ran out", memory=True)}
    transport = install(monkeypatch, {"a": [dead, {"delay_s": 0.01}], "b": [{"delay_s": 0.01}]})
    together("engine.batch_size=10")
    # What a seat was opened with is known to it alone.
    shares = {place: [link.seat._spec.share for link in links] for place, links in transport.links.items()}
    assert shares == {"a": [1.0, 0.7], "b": [1.0]}
    transport = install(monkeypatch, {"a": [{}], "b": [{}]})
    runs.write_rows(ROWS)
    runner.run(words("run_name=fleet", "fleet=local", "engine.batch_size=10", "resume=auto"))
    assert select("SELECT sum(memory) FROM deaths") in ([(None,)], [(0,)])


def test_a_pause_gives_the_memory_back_and_changes_nothing(monkeypatch):
    _, expected = alone()
    transport = install(monkeypatch, {"a": [{"delay_s": 0.005}], "b": [{"delay_s": 0.005}]})
    steps = []

    def releasing(self, original=fleet.Fleet.step):
        steps.append(1)
        if len(steps) in (2, 4):
            self.release()  # whether a private engine is there shows that its memory is given back
            assert all(link.seat._engine is None for links in transport.links.values() for link in links)
        return original(self)

    monkeypatch.setattr(fleet.Fleet, "step", releasing)
    _, found = together()
    assert found == expected
