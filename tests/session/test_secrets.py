"""What a run's folder tells others: nothing secret, and nothing at all unless it is shared."""

import logging
import stat
from pathlib import Path

import pytest

from runner import open_run, run
from runner.cli import main
from runner.config.load import load_config
from runner.night.notify import NotifyConf, kept, masked, notify
from runner.types import UserError

SECRET = "s3cr3t-token"
BASE = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "prompt.user={{ text }}", "engine.backend=fake"]


@pytest.fixture(autouse=True)
def folder(folder):
    Path("mail.csv").write_text("text\nhello\nworld\n")
    return folder


def contents(folder):
    return b"".join(file.read_bytes() for file in Path(folder).rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "words",
    [
        [f"notify.webhook=http://127.0.0.1:1/{SECRET}", f"notify.command=echo {SECRET} > /dev/null; exit 3"],
        ["notify.webhook=http://127.0.0.1:1/${TOKEN}", "notify.command=echo ${oc.env:TOKEN} > /dev/null"],
        ["notify.webhook=http://127.0.0.1:1/${oc.env:TOKEN}", "notify.command='true $TOKEN'"],
        ["dataset.encoding=${oc.env:ENCODING,utf-8}", "dataset.path=${oc.env:TOKEN}/../mail.csv"],
    ],
)
def test_no_secret_is_written_into_a_run_or_what_is_made_of_it(words, monkeypatch, capfd):
    monkeypatch.setenv("TOKEN", SECRET)
    Path(SECRET).mkdir()
    keys = {word.partition("=")[0] for word in words}
    base = [word for word in BASE if word.partition("=")[0] not in keys]
    assert main(["run", *base, *words, "run_name=x", "output.report=true"]) == 0
    assert main(["export", "outputs/x", "rows.jsonl"]) == 0
    assert main(["run", *base, *words, "run_name=x"]) == 0
    said = "".join(capfd.readouterr())
    assert SECRET.encode() not in contents("outputs") + Path("rows.jsonl").read_bytes()
    assert SECRET not in said or "dataset.path" in keys  # a path is shown, but not kept


def test_what_the_environment_gives_is_kept_by_its_name_and_read_again(monkeypatch):
    monkeypatch.setenv("MAILS", "mail.csv")
    base = [word for word in BASE if not word.startswith("dataset.path")]
    run([*base, "dataset.path=${oc.env:MAILS}", "run_name=x"])
    found = open_run("outputs/x")
    assert found.config["dataset"]["path"] == "${oc.env:MAILS}"
    assert found.source.conf.path == "mail.csv"
    monkeypatch.delenv("MAILS")
    with pytest.raises(UserError, match="environment variable MAILS is not set"):
        _ = open_run("outputs/x").source


@pytest.mark.parametrize(
    "key", ["engine.max_tokens", "schedule.window", "dataset.key", "dataset.delimiter", "output.keep"]
)
def test_what_the_environment_gives_is_not_shown_in_an_error(key, monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET)
    value = "[x${oc.env:TOKEN}]" if key == "output.keep" else "${oc.env:TOKEN}"
    with pytest.raises(UserError) as refusal:
        run([*BASE, f"{key}={value}"])
    assert SECRET not in str(refusal.value) and "${oc.env:TOKEN}" in str(refusal.value)


def test_a_variable_that_is_not_set_is_told_before_the_run():
    with pytest.raises(UserError, match=r"^notify\.webhook: the environment variable NOWHERE is not set"):
        load_config([*BASE, "notify.webhook=${NOWHERE}"])


def test_a_wrong_address_is_refused_without_showing_it():
    with pytest.raises(UserError) as refusal:
        load_config([*BASE, f"notify.webhook=ftp://x/{SECRET}"])
    assert SECRET not in str(refusal.value)
    assert refusal.value.key == "notify.webhook"


def test_the_shell_and_the_webhook_get_the_values(monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET)
    notify(NotifyConf("echo ${oc.env:TOKEN} $TOKEN ${NOT_SET-none} ${oc.env:NOT_SET,other} > told"), "finished", "", "")
    assert Path("told").read_text() == f"{SECRET} {SECRET} none other\n"


@pytest.mark.parametrize(
    "conf",
    [
        NotifyConf(f"exit 7; {SECRET}"),
        NotifyConf(webhook=f"http://127.0.0.1:1/{SECRET}"),
        NotifyConf(webhook=f"http://127.0.0.1:1/a b{SECRET}\n"),
        NotifyConf(webhook=f"nothing:{SECRET}"),
    ],
)
def test_what_goes_wrong_with_a_notice_is_told_without_the_secret(conf, caplog):
    with caplog.at_level(logging.WARNING, logger="rowmill"):
        notify(conf, "finished", "", "")
    assert "notify." in caplog.text
    assert SECRET not in caplog.text


def test_a_command_line_is_shown_without_secrets():
    assert masked(f"notify.webhook=https://x/{SECRET}") == "notify.webhook=..."
    assert masked("++notify.command=x") == "++notify.command=..."
    for word in ("notify.webhook=${HOOK}", "notify.command=null", "notify.macos=true", "prompt.user=notify.webhook=x"):
        assert masked(word) == word
    assert kept({"command": "x", "webhook": "${oc.env:HOOK}", "macos": True}) == {
        "command": None,
        "webhook": "${oc.env:HOOK}",
        "macos": True,
    }


def modes(path):
    found = [Path(path), *(file for file in Path(path).rglob("*") if file.name != "__pycache__")]
    return {stat.S_IMODE(file.stat().st_mode) for file in found if file.is_dir()}, {
        stat.S_IMODE(file.stat().st_mode) for file in found if file.is_file()
    }


def test_nobody_else_can_read_a_run_unless_it_is_shared():
    words = [*BASE, "output.report=true"]
    run([*words, "run_name=own"])
    assert modes("outputs/own") == ({0o700}, {0o600})
    run([*words, "run_name=ours", "output.shared=true"])
    folders, files = modes("outputs/ours")
    assert folders == {0o755}
    assert files == {0o644}
