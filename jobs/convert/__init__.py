"""The command ``convert``: from overrides to a model folder with its card.

``rowmill convert`` makes a quantised MLX folder from a hub id or a folder, with a model card. It needs memory for a few
tensors at a time, not for the whole model. Weights quantised in another way (the MXFP4 experts of gpt-oss) are
dequantised first. It prints the bits per weight, read back from the files, and what stays in higher precision.

    rowmill convert model.path=openai/gpt-oss-20b convert.bits=6 convert.group_size=32

The recipes ``gpt_oss_20b_q8g64``, ``_q6g32``, ``_q5g32`` and ``_q4g32`` take 22.26, 18.34, 15.72 and 13.11 GB on disk
(measured with random weights in the real shapes).

Modules:
card      A converted model's card: what it is made from, what it weighs, what was measured here and what was not.
quantise  Weights in the hub's form to a quantised MLX folder, a few tensors in memory at a time.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from jobs.convert.card import model_card
from jobs.convert.quantise import ConvertConf, Converted, convert, refuse_existing
from runner.config.compose import Composer
from runner.engine.budget import Budget
from runner.engine.conf import EngineConf
from runner.keys import check_keys
from runner.models import resolve
from runner.models.recipes import DEFAULT_BITS, DEFAULT_GROUP_SIZE, ModelConf, converted_folder
from runner.types import UserError

CARD_FILES = ("README.md", "LICENSE*", "NOTICE*", "USAGE_POLICY*")


@dataclass
class ConvertRunConf:
    """The groups of ``rowmill convert``; ``model`` says what to convert, ``engine.backend`` where to compute."""

    convert: ConvertConf = field(default_factory=ConvertConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    offline: bool = False


def run_convert(overrides: Sequence[str], config_dir: str | None = None) -> Converted:
    """Fetch what is missing, convert, publish. Raises UserError."""
    typed, _ = Composer(ConvertRunConf, "convert", config_dir).typed(overrides)
    conf = cast(ConvertRunConf, typed)
    check_keys(conf)
    given = any(word.startswith("model.path=") for word in overrides)
    base = conf.model.path if given or not conf.model.base else conf.model.base
    if not base:
        raise UserError("convert needs a model: model.path=openai/gpt-oss-20b, a folder, or model=gpt_oss_20b_q4g32")
    bits = conf.convert.bits or conf.model.bits or DEFAULT_BITS
    group_size = conf.convert.group_size or conf.model.group_size or DEFAULT_GROUP_SIZE
    adapter = conf.model.adapter
    folder = Path(conf.convert.folder or converted_folder(base, bits, group_size, adapter)).expanduser()
    refuse_existing(folder)
    _make_parent(folder)
    source = resolve.resolve(base, conf.model.revision, conf.offline, also=CARD_FILES)
    source = resolve.with_adapter(source, adapter, conf.offline)
    from runner.machine import device

    found = device.set_up(conf.engine.backend if conf.engine.backend != "fake" else "auto")
    machine = f"{found.name} ({found.kind}), {platform.system()} {platform.machine()}"
    limit = Budget.of(conf.engine, found).limit

    def card(done: Converted) -> str:
        return model_card(done, base, source, machine, adapter)

    return convert(source, folder, bits, group_size, card, limit)


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.disk_usage(folder.parent)
    except OSError as error:
        raise UserError("convert.folder", f"{error}; choose another folder", value=folder) from error
