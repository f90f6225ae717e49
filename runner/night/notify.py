"""Notifications of how a run is going: a command, a webhook, a macOS notification."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException

from runner.types import UserError

_COMMAND_SECONDS, _WEBHOOK_SECONDS = 30, 10

log = logging.getLogger("rowmill")


@dataclass
class NotifyConf:
    """Whom to notify when the run finishes, stops, fails, pauses or resumes.

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
    """Raise UserError for a webhook that is not an HTTP address."""
    if conf.webhook is not None and not conf.webhook.startswith(("http://", "https://")):
        raise UserError(
            "notify.webhook", "it must be an address that begins with http:// or https://", value=conf.webhook
        )


def notify(conf: NotifyConf, event: str, message: str, run_dir: str) -> None:
    """Notify everyone; a failure to do so is logged and stops nothing."""
    ways = {"command": (_command, conf.command), "webhook": (_webhook, conf.webhook), "macos": (_desktop, conf.macos)}
    for name, (send, wanted) in ways.items():
        if wanted:
            try:
                send(conf, {"event": event, "message": message, "run": run_dir})
            except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
                log.warning("notify.%s: %s", name, str(error)[:200])


def _command(conf: NotifyConf, notice: dict[str, str]) -> None:
    environment = {**os.environ, **{f"ROWMILL_{name.upper()}": value for name, value in notice.items()}}
    command, nothing = str(conf.command), subprocess.DEVNULL
    done = subprocess.run(command, shell=True, env=environment, timeout=_COMMAND_SECONDS, stdin=nothing, stdout=nothing)
    done.check_returncode()


def _webhook(conf: NotifyConf, notice: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(str(conf.webhook), json.dumps(notice).encode(), headers, method="POST")
    urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS).close()


def _desktop(conf: NotifyConf, notice: dict[str, str]) -> None:
    if sys.platform == "darwin":
        script = 'on run argv\ndisplay notification (item 1 of argv) with title "rowmill"\nend run'
        command = ["osascript", "-e", script, notice["message"]]
        subprocess.run(command, timeout=_WEBHOOK_SECONDS, check=True, capture_output=True)
