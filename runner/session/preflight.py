"""Pre-flight: what a model will take of this machine's memory, held against its limit before weights load.

Weights, KV caches and work space (a tenth, at most 4 GB) share the memory that the device gives, or
``engine.memory_gb``. ``rowmill preview`` and the start of a run say how much each takes. KV of a prefix that rows
share counts once, and what does not fit makes batches smaller.

An example, planned by these numbers and not run on a Mac: labels with gpt-oss-20b for 32 prompts of 2,000 tokens at a
time. A token takes 24,576 bytes in the layers that keep all, 13,056 with ``engine.kv_bits=8``, 6,912 with 4; the 12
layers with a window take 3.1 MB a prompt in any case. If prompts share 1,800 tokens, the caches take 0.32, 0.22 or
0.16 GB, if they share nothing 1.69, 0.94 or 0.55 GB.

    ``24 GB``: Metal gives about 17 GB. ``model=gpt_oss_20b_q4g32``: 13.1 GB of weights, 1.7 of work space, so that 2.3
        GB are left for caches: 32 prompts fit in any case, and 8 bits let more run together.
    ``32 GB``: About 23 GB. ``model=gpt_oss_20b_q6g32``: 18.3 GB and 2.3 of work space leave 2.3 GB as well.
    ``64 GB``: About 51 GB. ``model=gpt_oss_20b_q8g64``: 22.2 GB and 4 of work space leave 25 GB: 256 prompts that share
        nothing fit with 16 bits (13.5 GB).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engine.budget import Budget, KVShape, kv_shape
from runner.engine.conf import EngineConf
from runner.machine.device import Device
from runner.models.listing import loss_of
from runner.models.recipes import ModelConf, largest_that_fits
from runner.models.tensors import read_tensors, weight_bytes, weight_count
from runner.sequences import Sequence as Asked
from runner.session.prepare import Prepared
from runner.session.sample import Length, lengths, look, plan_prefixes
from runner.text.choices import FEW_NODES, choice_tree
from runner.types import UserError
from runner.words import size

log = logging.getLogger("rowmill")
CHECKED_ROWS = 8  # a place, when a run begins


@dataclass(frozen=True)
class Needs:
    """Bytes; None is unknown. ``kv_batch``: for ``batch_size`` sequences, ``kv_alone``: for the costliest by itself.

    ``work``: what activations may take. ``limit``: what weights, caches and work may take together; ``given`` says
    that it is engine.memory_gb and not the machine's.
    """

    weights: int | None
    kv_token: int | None
    kv_batch: int | None
    kv_alone: int | None
    batch_size: int
    work: int
    limit: int
    given: bool

    @property
    def least(self) -> int:
        """What it cannot do without: the weights, one sequence's caches, the work space."""
        return (self.weights or 0) + (self.kv_alone or 0) + self.work

    def summary(self) -> str:
        """All of it in one line for people."""
        weights = "unknown weights" if self.weights is None else f"weights {size(self.weights)}"
        caches = "unknown KV caches"
        if self.kv_batch is not None:
            caches = f"KV caches {size(self.kv_batch)} for {self.batch_size} sequences"
        smaller = ""
        if self.least <= self.limit < (self.weights or 0) + (self.kv_batch or 0) + self.work:
            smaller = ", so batches will be smaller"
        whose = "engine.memory_gb allows" if self.given else "this machine can give"
        return f"{weights}, {caches}, work space {size(self.work)}; {whose} {size(self.limit)}{smaller}"


def estimate(
    folder: Path, config: dict[str, Any], device: Device, engine: EngineConf, lengths: Sequence[Length]
) -> Needs:
    """The needs of a model folder (``config``: its config.json) for a batch of the costliest of ``lengths``."""
    shape = kv_shape(config, device.kind, engine.kv_bits) if lengths else None
    budget = Budget.of(engine, device)
    return Needs(
        weights=weight_bytes(folder, config, device.kind),
        kv_token=shape.token_bytes if shape else None,
        kv_batch=_batch_bytes(shape, lengths, budget.batch_size) if shape else None,
        kv_alone=_batch_bytes(shape, lengths, 1) if shape else None,
        batch_size=budget.batch_size,
        work=budget.work,
        limit=budget.limit,
        given=bool(engine.memory_gb),
    )


def refusal(needs: Needs, model: ModelConf, folder: Path, config: dict[str, Any], kind: str) -> str | None:
    """Why the model cannot run within the limit, and what could; None if it can."""
    if needs.least <= needs.limit:
        return None
    needed, have = f"{needs.least / 1e9:.0f}", f"{needs.limit / 1e9:.0f}"
    if needed == have or needs.limit < 10e9:
        needed, have = f"{needs.least / 1e9:.1f}", f"{needs.limit / 1e9:.1f}"
    spare = needs.limit - needs.work - (needs.kv_alone or 0)
    variant = largest_that_fits(model.path or folder.name, model.base, _weights(folder, config), spare)
    other = f"model={variant.name}" if variant and kind != "cpu" else "a smaller model"
    whose = "engine.memory_gb allows" if needs.given else "this machine can give"
    larger = "a larger engine.memory_gb" if needs.given else "engine.memory_gb"
    return f"needs {needed} GB, {whose} {have} GB; try {other} or {larger}"


def check(
    model: ModelConf,
    folder: Path,
    config: dict[str, Any],
    device: Device,
    engine: EngineConf,
    lengths: Sequence[Length],
) -> None:
    """Tell what is needed. Raises UserError, exit code 3, for what cannot fit."""
    needs = estimate(folder, config, device, engine, lengths)
    log.info("memory: %s", needs.summary())
    if lost := loss_of(folder):
        log.info("model: %s", lost)
    if why := refusal(needs, model, folder, config, device.kind):
        raise UserError(f"{model.path or folder.name} {why}", exit_code=3)


def _batch_bytes(shape: KVShape, lengths: Sequence[Length], batch_size: int) -> int:
    """The caches of the ``batch_size`` costliest sequences, and the longest shared prefix once."""
    own = sorted((shape.sequence_bytes(tokens, shared) for tokens, shared in lengths), reverse=True)
    return sum(own[:batch_size]) + max(shared for _, shared in lengths) * shape.token_bytes


def _weights(folder: Path, config: dict[str, Any]) -> int:
    """How many there are; 0 where the files do not say."""
    try:
        tensors = read_tensors(folder)
    except (OSError, ValueError, KeyError, struct.error):
        return 0
    return sum(weight_count(name, tensors, config) for name in tensors)


def check_memory(ready: Prepared) -> None:
    """State what the run will take, from a few of its rows. Raises UserError, exit code 3, for what cannot fit."""
    if ready.folder is None or ready.device is None:  # each seat of a fleet checks its own
        return
    looked = look(ready, CHECKED_ROWS)
    plan_prefixes(looked.sequences)
    conf = ready.config.conf
    check(conf.model, ready.folder, ready.model_config, ready.device, conf.engine, lengths(looked.sequences))
    if said := labels_line(looked.sequences, Budget.of(conf.engine, ready.device)):
        log.info("%s", said)


def labels_line(sequences: Sequence[Asked], budget: Budget) -> str:
    """What many labels take of the work space; "" where they are few."""
    most = max((one for one in sequences if one.choices), key=lambda one: len(one.choices or ()), default=None)
    if most is None or most.choices is None or len(tree := choice_tree(most.choices).tokens) <= FEW_NODES:
        return ""
    count, nodes = len(most.choices), len(tree) + 1
    pieces = f"up to {budget.prefill_tokens:,} of them at once, with {size(budget.logits)} of logits in the work space"
    cut = "the likely ones of " if most.cut else ""
    return f"labels: {count:,}, scored in {cut}{nodes:,} places of their tree, {pieces}"
