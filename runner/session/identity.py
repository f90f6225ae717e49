"""What decides a run's output, and what else is worth knowing about a session later."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from runner.checkpoint.growth.extend import Growth
from runner.config.job import job_folders
from runner.custom.code import job_code
from runner.data.conf import DatasetConf
from runner.data.stdin import keep_copy
from runner.keys import later_keys, said
from runner.machine.facts import session_facts
from runner.session.prepare import Prepared

_ENGINE = (
    *("max_tokens", "max_kv_size", "kv_bits", "temperature", "top_p", "top_k", "min_p"),
    *("reasoning_effort", "think_tokens"),
)


def identity(ready: Prepared) -> dict[str, Any]:
    """All that decides what comes out; two runs that share it give the same output.

    Where the data lie does not count: their fingerprint does.
    """
    plain, conf = ready.config.plain, ready.config.conf
    engine = said(conf.engine, {name: plain["engine"][name] for name in _ENGINE})
    found = ready.hooks.fingerprints.fingerprint() if ready.hooks.fingerprints else None
    return {
        "job": said(ready.config.job, plain["job"]) | (found if isinstance(found, dict) else {}),
        "code": job_code(plain["job"], job_folders(ready.config.config_dir)),
        "prompt": _prompt(ready),
        "dataset": {**DatasetConf.identifying(plain["dataset"]), "fingerprint": ready.source.fingerprint},
        "model": _model(ready),
        "engine": engine,
        "calibrate": plain["calibrate"],
        "keep": dict(ready.keep.columns),
        **({"files": found} if isinstance(found, str) else {}),
        "seed": conf.seed,
        "date": ready.date,
        **({"made": True} if ready.attempts is not None else {}),
        **({"reader": job_code(plain["dataset"], job_folders(ready.config.config_dir))} if conf.dataset.target else {}),
        **_answers(ready),
    }


def growth(ready: Prepared) -> Growth | None:
    """How the run may get more rows."""
    conf, spool = ready.config.conf, ready.source.spool
    if ready.attempts is not None:
        return None
    extends = None if conf.dataset.shuffle_seed is not None else conf.resume == "extend"
    if spool is None:
        return Growth(ready.source, extends)
    return Growth(ready.source, extends, lambda: keep_copy(spool, ready.run_dir, anew=True))


def _model(ready: Prepared) -> dict[str, Any]:
    if ready.weights is None:
        return {"backend": "fake"}
    conf = ready.config.conf.model
    adapter = {"adapter": conf.adapter} if conf.adapter else {}
    return {"path": conf.path, "revision": conf.revision, **adapter, "weights": ready.weights}


def scope(ready: Prepared) -> dict[str, Any]:
    """What decides the answer to a request beside the request itself, in whichever run it is asked."""
    conf = ready.config.conf
    model = {name: value for name, value in _model(ready).items() if name in ("backend", "weights")}
    prompt = {name: getattr(conf.prompt, name) for name in ("chat", "stop", "answer_prefix", "thinking_tags")}
    bits = {"kv_bits": conf.engine.kv_bits} if conf.engine.kv_bits else {}
    return {"model": model, "max_kv_size": conf.engine.max_kv_size, **bits, "prompt": prompt}


def _answers(ready: Prepared) -> dict[str, Any]:
    output = ready.config.conf.output
    if ready.structure is None and not output.reasoning:
        return {}
    body = ready.structure.body if ready.structure else None
    return {"answers": {"grammar": body, "raw": output.raw, "reasoning": output.reasoning}}


def _prompt(ready: Prepared) -> dict[str, Any]:
    """The prompt's keys; the structure that it brings along counts elsewhere, where examples lie does not."""
    prompt, later = ready.config.plain["prompt"], later_keys(ready.config.conf.prompt)
    found = {k: v for k, v in prompt.items() if k not in ("output", "examples_from") and (v or k not in later)}
    if (examples := ready.prompter.examples) is None:
        return found
    chosen = {k: v for k, v in prompt["examples_from"].items() if v is not None and k != "path"}
    return found | {"examples_from": {**chosen, "fingerprint": examples.fingerprint}}


def provenance(ready: Prepared) -> dict[str, Any]:
    """What is worth knowing later about a session, beyond its identity."""
    plain = ready.config.plain
    return {
        **session_facts(ready.device),
        "engine": plain["engine"],
        "dataset": plain["dataset"]["path"],
        **({"config_dir": ready.config.config_dir} if ready.config.conf.dataset.target else {}),
        "prompt_sha256": hashlib.sha256(json.dumps(_prompt(ready), sort_keys=True).encode()).hexdigest(),
        "quantization": _quantization(ready.model_config),
        "commit": _commit(ready.folder),
    }


def _quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    """How the model's weights are quantised, single layers that differ left out; None if they are not."""
    found = config.get("quantization") or config.get("quantization_config") or {}
    return {name: value for name, value in found.items() if not isinstance(value, dict | list)} or None


def _commit(folder: Path | None) -> str | None:
    """The commit of a model from the hub, whose cache has a folder for each."""
    return folder.name if folder is not None and folder.parent.name == "snapshots" else None
