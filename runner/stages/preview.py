"""What a chain would do: a preview of each of its stages."""

from __future__ import annotations

from typing import Any

from runner.chain.folder import Chain
from runner.chain.plan import is_chain
from runner.console import say
from runner.results.show_preview import show_preview
from runner.session.prepare import prepare
from runner.session.preview import preview
from runner.stages.check import afresh, check, placed, reading
from runner.stages.conf import ChainConf
from runner.types import UserError

_TRIAL = "`rowmill run` with dataset.limit=20 runs 20 rows, from which the same chain without it goes on"


def preview_chain(conf: ChainConf, show: bool) -> list[dict[str, Any]]:
    """The figures of each stage, with its ``name`` and whether its rows are ``made_up`` since there are none yet."""
    plan, readies = check(conf, conf.folder)
    found = []
    for at, (stage, ready) in enumerate(zip(conf.stages, readies, strict=True)):
        there = ready if at == 0 else None
        if at and is_chain(conf.folder) and _is_done(Chain(conf.folder), at - 1):
            config = placed(afresh(stage.config), conf.folder)
            before = plan.upto(plan.names[at - 1])
            there = prepare(reading(conf, stage, before, config, conf.folder, readies[0].date))
        if show:
            rows = "" if there else "; the rows are examples, what the stages before will answer in brackets"
            say(f"=== stage {at + 1} of {len(readies)}, {stage.stage.name}{rows}")
        figures = preview(ready.config, show=False, ready=there or ready)
        if show:
            show_preview(figures, _TRIAL)
        found.append({"name": stage.stage.name, "made_up": there is None, **figures})
    return found


def _is_done(chain: Chain, at: int) -> bool:
    run = chain.runs[at] if at < len(chain.runs) else None
    try:
        return run is not None and run.status["finished"] == run.status["rows"]
    except UserError:
        return False
