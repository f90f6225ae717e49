"""A model folder as modules of MLX: its weights, made ready for the device, and its tokenizer."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.machine.device import Device
from runner.models import adapters
from runner.models.quantised import methods
from runner.models.resolve import check_shards, read_config
from runner.types import UserError
from runner.words import first_line, size

log = logging.getLogger("rowmill")

_kept: dict[tuple[Path, str], tuple[Any, dict[str, Any]]] | None = None  # None: weights go with their engine


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Inside, the weights that were loaded last stay for the next engine that needs the same, until ``forget``."""
    global _kept
    outer, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = outer


def forget() -> None:
    """Let kept weights go, as a pause does that gives the memory back."""
    if _kept:
        _kept.clear()


def load(folder: Path, device: Device, limit: int | None = None) -> tuple[Any, dict[str, Any]]:
    """The model with its weights in memory, and its configuration.

    On a CPU the weights are float32 and not quantised, whatever the folder holds: MLX's other kernels are 10 to 20
    times slower there. On Metal they stay as they are; for CUDA see
    ``runner.engine.kernels.cuda``. No code of the folder is run.
    ``limit``: the bytes that they may take (None: all of the device's).
    Raises UserError, exit code 3 for what mlx-lm or this machine cannot run, 2 for a damaged folder.
    """
    if _kept is not None and (folder, device.kind) in _kept:
        log.info("the model is loaded already")
        return _kept[folder, device.kind]
    forget()
    model, config = load_lazily(folder, packed=device.kind != "cpu")
    if device.kind == "cpu":
        _to_float32(model)
    adapters.fuse(model)
    limit = device.memory_bytes if limit is None else limit
    _check_memory(folder, model, limit, device.kind)
    if device.kind == "cuda":
        from runner.engine.kernels.cuda.prepare import prepare

        prepare(model, limit)
    _evaluate(folder, model)
    if _kept is not None:
        _kept[folder, device.kind] = model, config
    return model, config


def load_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    """The folder's tokenizer in mlx-lm's wrapper; loads no weights. Raises UserError for a damaged one."""
    from mlx_lm.utils import load_tokenizer as mlx_lm_load_tokenizer

    end = config.get("eos_token_id")
    return _whatever_the_model(folder, config, lambda **how: mlx_lm_load_tokenizer(folder, how, end))


def load_plain_tokenizer(folder: Path) -> Any:
    """The same without mlx-lm's wrapper, and without MLX: for a process that has no model."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # as mlx-lm does: PyTorch is not needed
    from transformers import AutoTokenizer

    return _whatever_the_model(folder, read_config(folder), lambda **how: AutoTokenizer.from_pretrained(folder, **how))


def _whatever_the_model(folder: Path, config: dict[str, Any], load: Callable[..., Any]) -> Any:
    """A tokenizer, also where transformers refuses the model's configuration, of which tokenizers need nothing: it does
    so for rotary positions of models that it does not know. Raises UserError.
    """
    try:
        return load(trust_remote_code=False)
    except Exception as error:  # whatever transformers meets in the files
        try:
            return load(trust_remote_code=False, config=_bare_config(config))
        except Exception:
            raise UserError(f"the tokenizer in {folder} does not load: {first_line(error)}") from error


def _bare_config(config: dict[str, Any]) -> Any:
    """Of the model's type as transformers has it, or of none."""
    from transformers import AutoConfig, PreTrainedConfig

    try:
        return AutoConfig.for_model(config["model_type"])
    except (KeyError, ValueError):
        return PreTrainedConfig()


def load_lazily(folder: Path, packed: bool = False) -> tuple[Any, dict[str, Any]]:
    """The model as its folder holds it, with its adapter, and its configuration; tensors are read when used.

    ``packed``: what GPTQ, AWQ and others have quantised stays so, as ``runner.models.quantised`` says; otherwise it is
    dequantised. Raises UserError.
    """
    from mlx_lm.utils import _get_classes, load_model

    config = read_config(folder)
    settings = methods.settings_of(config)
    check_shards(folder)
    changed: dict[str, Any] = {}
    classes = _get_classes
    if methods.is_ours(folder, config):
        from runner.models.quantised import loading

        changed = {"quantization": loading.ANY, "quantization_config": {}}
        classes = loading.classes(settings, packed)
    try:
        loaded: tuple[Any, dict[str, Any]] = load_model(
            folder, lazy=True, model_config=changed, get_model_classes=classes, trust_remote_code=False
        )
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no weights (model*.safetensors); other formats are not read") from error
    except Exception as error:  # whatever the model's own class meets in a configuration or weights that do not fit
        method = settings.get("quant_method")
        unable = method or "not supported" in str(error) or "trust_remote_code" in str(error)
        reason = "mlx-lm cannot run it" if unable else "it is damaged or incomplete"
        reason += f", as it is quantised by {method}" if method else ""
        raise UserError(f"{folder}: {reason}: {first_line(error)}", exit_code=3 if unable else 2) from error
    model, config = loaded
    _check_types(folder, model)
    adapters.apply(model, folder, config)
    return model, config


def _check_types(folder: Path, model: Any) -> None:
    """UserError for weights that are whole numbers without scales: quantised in a way that mlx-lm does not know."""
    import mlx.core as mx

    for name, module in model.named_modules():
        weight = module.get("weight")
        if isinstance(weight, mx.array) and "scales" not in module and not mx.issubdtype(weight.dtype, mx.inexact):
            kind = str(weight.dtype).rpartition(".")[2]
            raise UserError(f"{folder}: mlx-lm cannot run it: {name}.weight is {kind}, without scales", exit_code=3)


def _to_float32(model: Any) -> None:
    """Lazily replace quantised layers by plain ones and all floating parameters by float32.

    Scales become float32 before they are multiplied, so nothing is rounded to the type that they were stored in.
    """
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _check_memory(folder: Path, model: Any, limit: int, kind: str) -> None:
    from mlx.utils import tree_flatten

    needed = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    if needed > limit:
        have = f"{size(limit)} on this {kind}"
        raise UserError(f"{folder}: the weights take {size(needed)}, and there are {have}", exit_code=3)


def _evaluate(folder: Path, model: Any) -> None:
    """Read the weights, one after the other: what dequantising takes beside its result is then one tensor's."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    try:
        for _, array in tree_flatten(model.parameters()):
            mx.eval(array)
    except RuntimeError as error:
        raise UserError(f"{folder}: the weights are damaged: {first_line(error)}; fetch the model again") from error
