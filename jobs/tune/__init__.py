"""The command ``tune``: what is fastest for a model on this machine, measured once and used by later runs.

No run needs it: a run finds its batch size while it works, and measures once what sharing a prefix costs. ``tune``
takes a few minutes to try all that a run decides by a default or a quick measurement, and keeps what it finds:

    rowmill tune model=gpt_oss_20b_q6g32
    rowmill tune tune.quick=true

What it measures, on made-up tokens:

    ``ways``: A decode step's attention over one shared copy of a prefix, and over a copy for each sequence, by the
        number of sequences and the length of the prefix. Runs take the faster way.
    ``prefill``: Prompt tokens a second by the number of them in a step.
    ``decode``: Tokens a second by the number of sequences at once. A run begins with the number that was chosen, and
        still takes more if that makes it faster.
    ``buffers``: On Metal, both of these by the size of command buffers, in a process of its own for each.

Candidates are measured three times, in turns with the usual setting. That one stays unless another is faster in every
turn, and by 3% in the median (command buffers: 2%), so that the load of other programs rarely decides; close them all
the same. On a slow machine the largest sizes are not tried.

Each measurement is kept at once: after an interruption the same command goes on with the rest, and after a complete one
it measures anew. Results apply to models of the same dimensions with the same ``engine.kv_bits`` and
``engine.max_kv_size`` on this machine, until MLX or rowmill is updated. Keys that you set yourself
(``engine.batch_size``, ``engine.prefill_tokens``) take precedence.

The table is for you; ``tune.json`` in ``output.dir`` is for whoever works on rowmill: times, versions, the device and
its memory, the model's dimensions, and no path, user or host name (see ``rowmill help metal``).

Modules:
buffers  Metal's command buffers of several sizes, tried in processes of their own.
found    What is measured and chosen, kept as it comes.
measure  Attention by its ways, tokens a second by batch size and step size; what is best becomes the choice.
rates    Tokens a second of a loaded model, prefilling and decoding made-up prompts.
report   What was measured as a table, and as JSON to send in.
turns    Sizes measured in turns, and which of them is faster beyond what the turns differ by.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from jobs.tune.found import Found
from jobs.tune.measure import measure_all
from jobs.tune.report import as_json
from runner.config.compose import Composer
from runner.config.conf import OutputDirConf
from runner.engine.conf import EngineConf
from runner.keys import check_keys
from runner.machine import device, tuned
from runner.models import resolve
from runner.models.recipes import ModelConf


@dataclass
class TuneConf:
    """What to measure.

    Attributes:
        quick: Only the usual sizes, half of them and twice as much; attention only until sharing is faster.
    """

    quick: bool = False


@dataclass
class TuneRunConf:
    """The groups of ``rowmill tune``."""

    tune: TuneConf = field(default_factory=TuneConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    output: OutputDirConf = field(default_factory=OutputDirConf)
    offline: bool = False


def run_tune(overrides: Sequence[str], config_dir: str | None = None) -> tuple[dict[str, Any], Path]:
    """Measure, keep, and write ``tune.json``: what it holds, and where it is. Raises UserError, KeyboardInterrupt."""
    typed, _ = Composer(TuneRunConf, "tune", config_dir).typed(overrides)
    conf = cast(TuneRunConf, typed)
    check_keys(conf)
    conf.engine.refuse_fake("tune")
    folder = resolve.model_folder(conf.model, conf.offline)
    config = resolve.read_config(folder)
    environment = dict(os.environ)  # without what preparing a device changes: each process does that itself
    found_device = device.set_up(conf.engine.backend)
    conf.output.check()
    place = found_device.kind, found_device.place, conf.engine.costly(config)
    before = tuned.record(*place)
    tuned.keep(*place, before)  # told now if it cannot be, before anything is measured
    found = Found.of(before, conf.tune.quick, lambda record: tuned.keep(*place, record))
    task = {"model": str(folder), "engine": asdict(conf.engine), "quick": conf.tune.quick}
    began = time.perf_counter()
    try:
        measure_all(found, task, found_device, config, environment)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("interrupted; what was measured is kept, and the same command goes on") from stop
    finally:
        sent = as_json(found, found_device, config, time.perf_counter() - began)
        path = conf.output.write("tune.json", sent)
    return sent, path
