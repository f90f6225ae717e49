"""Weights in the hub's form to a quantised MLX folder, a few tensors in memory at a time."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.cache import sync_below
from runner.checkpoint.lease import LOCK, Lease
from runner.disk import sync_folder
from runner.disk.errors import disk_errors
from runner.keys import key
from runner.models import adapters
from runner.models.tensors import Tensor, read_tensors, weight_count
from runner.models.transfer import Bar, check_room, save_tensors
from runner.types import UserError
from runner.words import size as size_text

log = logging.getLogger("rowmill")

SHARD_GB = 2  # what is held in memory at once
# What quantising a value takes at its peak, its result included: measured on a CPU, 5.7 at 4 bits to 6.2 at 8.
WORK_BYTES = 6.2
LEAST_SHARE = 0.95  # of all values, in tensors of the precision asked for
# What a model needs beside its weights; no Python, nothing that a download could make us run.
_CARRIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USAGE_POLICY*")
_WRITTEN_HERE = ("config.json", "model.safetensors.index.json")


@dataclass
class ConvertConf:
    """MLX's affine quantisation.

    Attributes:
        bits: Bits per weight. null: the recipe's.
        group_size: The number of weights that share a scale. null: the recipe's.
        folder: Where the model goes. null: the cache folder, where ``model=`` with a recipe finds it.
    """

    bits: int | None = key(None, among=(2, 3, 4, 5, 6, 8))
    group_size: int | None = key(None, among=(32, 64, 128))
    folder: str | None = None


@dataclass(frozen=True)
class Precision:
    """Tensors of one kind, layers counted together. ``bits`` a value, scales included; ``group_size`` None: plain."""

    name: str
    bits: float
    group_size: int | None
    tensors: int
    values: int
    size_bytes: int


@dataclass(frozen=True)
class Converted:
    """A model as it lies in ``folder``. ``higher``: what is kept in more bits than asked for."""

    folder: Path
    bits: int
    group_size: int
    weight_bytes: int
    disk_bytes: int
    bits_per_weight: float
    higher: list[Precision]
    seconds: float
    peak_bytes: int


def convert(
    source: Path, folder: Path, bits: int, group_size: int, card: Callable[[Converted], str], memory_bytes: int
) -> Converted:
    """Quantise the model of ``source`` into ``folder``, which appears whole or not at all.

    What is quantised already, as gpt-oss's MXFP4 experts are, is dequantised first. ``card`` writes the model card.
    Raises UserError: ``folder`` exists, the model is none for mlx-lm, its widths do not divide into groups; the disk
    or ``memory_bytes``, what this may take, is too small (exit code 3).
    """
    import mlx.core as mx

    from runner.engine import weights as loading

    refuse_existing(folder)
    began = time.perf_counter()
    mx.reset_peak_memory()
    model, config = loading.load_lazily(source)
    config = quantise(model, config, bits, group_size)
    weights = flat(model)
    planned = {name: Tensor(tuple(array.shape), array.nbytes) for name, array in weights.items()}
    kinds = precisions(planned, config)
    _check_groups(kinds, bits, group_size)
    _check_memory(source, peak(planned, config), memory_bytes)
    planned_bytes = sum(tensor.size_bytes for tensor in planned.values())
    log.info("%s: %d bits in groups of %d, %s to write", source.name, bits, group_size, size_text(planned_bytes))
    with disk_errors(folder.parent), _published(folder) as temporary:
        check_room(folder.parent, planned_bytes)
        carry(source, temporary)
        model.update(_emptied(model))
        write_weights(temporary, weights)
        write_config(temporary, config)
        size, bits_per_weight = _measured(temporary, kinds)
        done = Converted(
            folder,
            bits,
            group_size,
            size,
            sum(path.stat().st_size for path in temporary.iterdir()),
            bits_per_weight,
            [kind for kind in kinds if not _as_asked(kind, bits, group_size)],
            time.perf_counter() - began,
            mx.get_peak_memory(),
        )
        (temporary / "README.md").write_text(card(done), encoding="utf-8")
    return done


def refuse_existing(folder: Path) -> None:
    """UserError if there is something where a converted model is to go."""
    if folder.exists():
        raise UserError(f"{folder} exists already: use it (model.path={folder}), delete it, or set convert.folder=...")


def quantise(model: Any, config: dict[str, Any], bits: int, group_size: int) -> dict[str, Any]:
    """Let ``model`` (in place, lazily) have affine weights of ``bits`` in groups of ``group_size``; its new config."""
    from mlx_lm.utils import dequantize_model, quantize_model

    dequantize_model(model)
    adapters.fuse(model)
    _to_half(model)
    plain = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config")}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints; what it says is measured below
        _, quantised = quantize_model(model, plain, group_size, bits)
    result: dict[str, Any] = quantised
    return result


def _to_half(model: Any) -> None:
    """Float32 becomes bfloat16, so that scales have 16 bits; what the model wants in float32 stays."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    wanted: Callable[[str], bool] = getattr(model, "cast_predicate", lambda name: True)

    def cast(name: str, array: Any) -> Any:
        return array.astype(mx.bfloat16) if array.dtype == mx.float32 and wanted(name) else array

    model.update(tree_map_with_path(cast, model.parameters()))


def flat(model: Any) -> dict[str, Any]:
    """The model's tensors by name."""
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def write_weights(folder: Path, weights: dict[str, Any]) -> None:
    """Compute and write ``weights`` (emptied) as shards with an index; one shard and one tensor's work in memory."""
    import mlx.core as mx
    from mlx_lm.utils import make_shards

    total = sum(array.nbytes for array in weights.values())
    shards = make_shards(weights, SHARD_GB)
    weights.clear()
    index: dict[str, str] = {}
    bar = Bar(total=total, desc="weights")
    for number in range(len(shards)):
        shard, shards[number] = shards[number], {}
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        for array in shard.values():  # one after the other: together, all their plain weights would be in memory
            mx.eval(array)
            bar.update(array.nbytes)
        save_tensors(folder / name, shard)
        index |= dict.fromkeys(shard, name)
        log.info(
            "weights: %d of %d files written, %s", number + 1, len(shards), size_text((folder / name).stat().st_size)
        )
        del shard, array
        mx.clear_cache()
    bar.close()
    listed = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed, indent=1) + "\n")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """config.json as mlx-lm writes it."""
    from mlx_lm.utils import save_config

    save_config(dict(config), folder / "config.json")


def carry(source: Path, folder: Path) -> None:
    """Copy the tokenizer, its chat template, the generation defaults and the licence."""
    for path in sorted({path for pattern in _CARRIED for path in source.glob(pattern)}):
        if path.is_file() and path.name not in _WRITTEN_HERE:
            shutil.copyfile(path, folder / path.name)


def precisions(tensors: dict[str, Tensor], config: dict[str, Any]) -> list[Precision]:
    """Tensors by kind, in their order: layers' numbers count as one, a matrix and its scales as one tensor."""
    kinds: dict[tuple[str, float, int | None], list[tuple[int, int]]] = {}
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        if last in ("scales", "biases") and f"{layer}.scales" in tensors:
            continue
        count = weight_count(name, tensors, config)
        size, group = tensor.size_bytes, None
        if last == "weight" and (scales := tensors.get(f"{layer}.scales")):
            group = count // max(1, math.prod(scales.shape))
            biases = tensors.get(f"{layer}.biases")
            size += scales.size_bytes + (biases.size_bytes if biases else 0)
        kind = (re.sub(r"\.\d+(?=\.)", ".*", name), 8 * size / count, group)
        kinds.setdefault(kind, []).append((count, size))
    return [
        Precision(*kind, len(found), sum(count for count, _ in found), sum(size for _, size in found))
        for kind, found in kinds.items()
    ]


def _check_groups(kinds: list[Precision], bits: int, group_size: int) -> None:
    """UserError if much stays in other precision: quantize_model leaves out what it cannot divide, silently."""
    asked = sum(kind.values for kind in kinds if _as_asked(kind, bits, group_size))
    total = sum(kind.values for kind in kinds)
    if asked < LEAST_SHARE * total:
        smaller = "; try convert.group_size=32" if group_size > 32 else ""
        share = f"only {asked / total:.0%} of the weights can be quantised to {bits} bits"
        raise UserError(
            "convert.group_size",
            f"{share}: widths must be multiples of the group size{smaller}",
            value=group_size,
        )


def _as_asked(kind: Precision, bits: int, group_size: int) -> bool:
    nominal = bits + 32 / group_size  # with a scale and a bias of 16 bits for each group
    return kind.group_size == group_size and abs(kind.bits - nominal) < 1e-6


def peak(tensors: dict[str, Tensor], config: dict[str, Any]) -> int:
    """Bytes of memory that ``write_weights`` takes at most: a shard, and the work on the tensor that joins it."""
    held = most = 0
    for name, tensor in tensors.items():
        if held + tensor.size_bytes > SHARD_GB << 30:
            held = 0
        quantised = f"{name.rpartition('.')[0]}.scales" in tensors
        work = int(WORK_BYTES * weight_count(name, tensors, config)) if quantised else tensor.size_bytes
        most, held = max(most, held + work), held + tensor.size_bytes
    return most


def _check_memory(source: Path, needed: int, memory_bytes: int) -> None:
    if needed > memory_bytes:
        have = f"only {size_text(memory_bytes)} are available"
        raise UserError(
            f"{source}: converting takes {size_text(needed)} of memory, but {have}: close other programs", exit_code=3
        )


@contextlib.contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to fill, leased; it becomes ``folder`` if all goes well, and goes away if not.

    What a killed process left there is cleared by the next one.
    """
    temporary = folder.with_name(f".part-{folder.name}")
    temporary.mkdir(parents=True, exist_ok=True)
    lease = Lease(temporary)
    try:
        for path in temporary.iterdir():
            if path.name != LOCK:
                path.unlink()
        yield temporary
        sync_below(temporary)
        (temporary / LOCK).unlink()
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        lease.release()


def _emptied(model: Any) -> Any:
    import mlx.core as mx
    from mlx.utils import tree_map

    return tree_map(lambda _: mx.array([]), model.parameters())


def _measured(written: Path, planned: list[Precision]) -> tuple[int, float]:
    """Weight bytes and bits a weight, read back from the headers of the files; RuntimeError if not as planned."""
    found = precisions(read_tensors(written), json.loads((written / "config.json").read_text()))
    if set(found) != set(planned):
        raise RuntimeError(f"{written} does not hold what was planned: {set(found) ^ set(planned)}")
    size = sum(kind.size_bytes for kind in found)
    return size, 8 * size / sum(kind.values for kind in found)
