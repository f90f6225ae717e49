"""From the configuration to a fleet."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from runner.checkpoint.store import Store
from runner.engine.conf import EngineConf
from runner.fleet.conf import FleetConf
from runner.fleet.fleet import Fleet, Wait
from runner.fleet.local import LocalTransport, local_gpus
from runner.fleet.protocol import Handshake, Spec, Transport
from runner.models.recipes import ModelConf
from runner.text.prompter import PromptConf

log = logging.getLogger("rowmill")


def spec_of(model: ModelConf, engine: EngineConf, prompt: PromptConf, offline: bool, keep_awake: bool) -> Spec:
    """What seats are opened with. The model's name goes to them, not its files: a path is that of this machine."""
    model = dataclasses.replace(model, path=_absolute(model.path), adapter=_absolute(model.adapter))
    return Spec(model, engine, prompt.chat, tuple(prompt.stop), offline, keep_awake)


def _absolute(path: str | None) -> str | None:
    local = path and Path(path).expanduser()
    return str(local.absolute()) if local and local.exists() else path


def open_fleet(
    conf: FleetConf,
    spec: Spec,
    ours: Handshake,
    store: Store,
    wait: Wait,
    stopped: Callable[[], bool],
    tell: Callable[[str | None], None],
    quarantines: bool = True,
) -> Fleet:
    """Seats at work, at least one of them; see Fleet. UserError, exit code 3, if there are none."""
    return Fleet(transport_of(conf), spec, ours, conf, store.seats, store.flight, wait, stopped, tell, quarantines)


def transport_of(conf: FleetConf) -> Transport:
    """The way to the seats."""
    if conf.kind == "ray":
        from runner.fleet.ray.connect import connect

        if (transport := connect(conf.address)) is not None:
            return transport
        log.info("no Ray cluster runs here: the seats are on this machine")
    gpus = local_gpus()
    return LocalTransport(conf.seats or len(gpus) or 1, gpus)
