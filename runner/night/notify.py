"""Notifications of how a run is going: a command, a webhook, a macOS notification."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from runner.machine.environ import filled
from runner.types import UserError
from runner.words import first_line

SECRETS = ("command", "webhook")
REFERENCE = re.compile(r"\$\{(?:oc\.env:)?\s*(\w+)\s*(?:,\s*([^{}]*))?\}")

_COMMAND_SECONDS, _WEBHOOK_SECONDS = 30, 10

log = logging.getLogger("rowmill")


@dataclass
class NotifyConf:
    """Whom to notify when the run finishes, stops, fails, pauses or resumes.

    A webhook's address is a secret, and so may a command be: neither is ever written down. Name environment variables
    in them, such as ``notify.webhook='${HOOK}'``, to keep them out of your shell's history, too.

    Attributes:
        command: A shell command. It finds ROWMILL_EVENT (finished, stopped, failed, paused or resumed),
            ROWMILL_MESSAGE and ROWMILL_RUN in its environment.
        webhook: A URL that receives a JSON object with ``event``, ``message`` and ``run`` by POST.
        macos: Show a notification on the desktop.
    """

    command: str | None = None
    webhook: str | None = None
    macos: bool = False


def check_notify(conf: NotifyConf) -> None:
    """Raise UserError for a webhook that is not an HTTP address, or names a variable that is not set."""
    if conf.webhook is not None and not _address(conf.webhook).startswith(("http://", "https://")):
        raise UserError("notify.webhook", "it must be an address that begins with http:// or https://")


def kept(notify: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as they may be written down: without a secret, unless it is but the name of a variable."""
    hidden = {name: None for name in SECRETS if not REFERENCE.fullmatch(str(notify.get(name)))}
    return {**notify, **hidden}


def masked(word: str) -> str:
    """A word of a command line without the secret that it gives."""
    key, sign, value = word.partition("=")
    name = key.lstrip("+").removeprefix("notify.")
    may_be = name == "notify" or (key != name and name in SECRETS)
    is_secret = may_be and value != "null" and not REFERENCE.fullmatch(value)
    return f"{key}{sign}..." if is_secret else word


def notify(conf: NotifyConf, event: str, message: str, run_dir: str) -> None:
    """Notify everyone; a failure to do so is logged and stops nothing."""
    ways = {"command": (_command, conf.command), "webhook": (_webhook, conf.webhook), "macos": (_desktop, conf.macos)}
    for name, (send, wanted) in ways.items():
        if wanted:
            try:
                send(conf, {"event": event, "message": message, "run": run_dir})
            except (OSError, ValueError, HTTPException, subprocess.SubprocessError, UserError) as error:
                log.warning("notify.%s: %s", name, _told(error))


def _told(error: Exception) -> str:
    """What went wrong, without the command or the address: messages of others quote them."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {error.timeout:g} s"
    return re.sub(r"(?<!\w)'.*'|https?:\S+", "...", first_line(error))[:200]


def _command(conf: NotifyConf, notice: dict[str, str]) -> None:
    environment = {**os.environ, **{f"ROWMILL_{name.upper()}": value for name, value in notice.items()}}
    command, nothing = REFERENCE.sub(_for_the_shell, str(conf.command)), subprocess.DEVNULL
    done = subprocess.run(command, shell=True, env=environment, timeout=_COMMAND_SECONDS, stdin=nothing, stdout=nothing)
    done.check_returncode()


def _webhook(conf: NotifyConf, notice: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(_address(str(conf.webhook)), json.dumps(notice).encode(), headers, method="POST")
    urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS).close()


def _address(webhook: str) -> str:
    try:
        return str(filled(webhook, REFERENCE))
    except UserError as error:
        raise error.at("notify.webhook") from None


def _for_the_shell(match: re.Match[str]) -> str:
    name, default = match.groups()
    return f"${{{name}}}" if default is None else f"${{{name}-{default}}}"


def _desktop(conf: NotifyConf, notice: dict[str, str]) -> None:
    if sys.platform == "darwin":
        script = 'on run argv\ndisplay notification (item 1 of argv) with title "rowmill"\nend run'
        command = ["osascript", "-e", script, notice["message"]]
        subprocess.run(command, timeout=_WEBHOOK_SECONDS, check=True, capture_output=True)
