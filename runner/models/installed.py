"""Models that Ollama and LM Studio have downloaded, found where these programs keep them, and read only."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from runner.models.gguf.pieces import all_pieces, gguf_files, is_model_folder, name_of
from runner.types import UserError
from runner.words import count_of, size

_OLLAMA_HOST = "registry.ollama.ai"  # which Ollama leaves out of names
_MODEL = "image.model"  # the last part of a layer's mediaType
_BESIDE = {"image.adapter": "an adapter"}  # what a model cannot do without, and is not read
_UNUSED = {"image.template": "template", "image.system": "system prompt", "image.params": "parameters"}
WINDOWS = Path("/mnt")  # where WSL has the drives of Windows
_DRIVE = re.compile(r"([A-Za-z]):[\\/]")
_MOST_NAMED = 12  # in a message
_QUANTISATION = re.compile(r"[-.](?:UD-)?(?P<name>(?:I?Q\d|TQ\d|MXFP4|B?F16|F32)[A-Z0-9_]*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Installed:
    """A model: ``address`` is what ``model=`` takes. ``path``: a GGUF file or an MLX folder.

    ``names``: how else it may be called. ``digest``: the SHA-256 of the file where the program knows it. ``problem``:
    why it cannot be used. ``unused``: what the program keeps beside it, and is not read.
    """

    address: str
    path: Path
    names: tuple[str, ...]
    size_bytes: int
    digest: str | None = None
    problem: str | None = None
    unused: tuple[str, ...] = ()


def scheme(address: str) -> str | None:
    """ollama or lmstudio, where the address begins so."""
    name = address.partition(":")[0]
    return name if name in _PROGRAMS and ":" in address else None


def find(address: str) -> Installed:
    """The model that ``ollama:NAME[:TAG]`` or ``lmstudio:NAME`` means. UserError if there is none, or several."""
    program, asked = address.split(":", 1)
    label, listed, folders = _PROGRAMS[program]
    all_found = sorted(listed(), key=lambda one: one.address)
    found = [one for one in all_found if asked.lower() in (name.lower() for name in one.names)]
    latest = [one for one in found if one.address.endswith(":latest")]
    found = [one for one in found if one.address.lower() == address.lower()] or latest or found
    if len({one.digest or one.address for one in found}) > 1:
        raise UserError("model", f"{label} has several: {_names(found)}; choose one", value=address)
    if not found:
        near = sorted(all_found, key=lambda one: -_likeness(asked, one)) if len(all_found) > _MOST_NAMED else all_found
        there = f"it has {_names(near)}" if all_found else f"it has no models in {', '.join(map(_shown, folders()))}"
        raise UserError("model", f"{label} has no such model on this machine; {there}", value=address)
    if found[0].problem:
        raise UserError("model", found[0].problem, value=address, exit_code=3)
    return found[0]


def all_installed() -> Iterator[Installed]:
    """All models of both programs."""
    for _, listed, _ in _PROGRAMS.values():
        yield from sorted(listed(), key=lambda one: one.address)


def _names(found: list[Installed]) -> str:
    more = f" and {count_of(len(found) - _MOST_NAMED, 'other')}" if len(found) > _MOST_NAMED else ""
    return ", ".join(f"{one.address} ({size(one.size_bytes)})" for one in found[:_MOST_NAMED]) + more


def _likeness(asked: str, one: Installed) -> float:
    return max(SequenceMatcher(None, asked.lower(), name.lower()).ratio() for name in one.names)


def _shown(folder: Path) -> str:
    try:
        folder.exists()
    except PermissionError:
        return f"{folder} (which you may not read)"
    return str(folder)


def _ollama_folders() -> list[Path]:
    if chosen := os.environ.get("OLLAMA_MODELS"):
        return [Path(chosen).expanduser()]
    # The last: of the service that its installer for Linux makes.
    return [*(home / ".ollama" / "models" for home in _homes()), Path("/usr/share/ollama/.ollama/models")]


def _homes() -> list[Path]:
    """The user's, and under WSL those of Windows."""
    return [Path.home(), *_within(WINDOWS / "c" / "Users", "*")]


def _of_ollama() -> Iterator[Installed]:
    """One for each manifest: manifests/HOST/NAMESPACE/MODEL/TAG is JSON that names the blobs.

    The host is left out of an address unless several have a model of that name.
    """
    found: dict[str, dict[str, Installed]] = {}
    for folder in _ollama_folders():
        for file in _files(folder / "manifests"):
            host, *parts, model, tag = file.relative_to(folder / "manifests").parts
            whole = "/".join([*parts, model])
            name = whole.removeprefix("library/")
            names = {name, whole, f"{host}/{name}", f"{host}/{whole}"}
            names |= {f"{one}:{tag}" for one in names}
            address, spellings = f"ollama:{name}:{tag}", tuple(sorted(names))
            if (layers := _layers(file)) is None:
                one = Installed(address, file, spellings, 0, problem=f"{file} is damaged: pull it again")
            else:
                one = _from_layers(folder, address, spellings, layers)
            found.setdefault(address, {}).setdefault(host, one)  # of two folders, the user's own counts
    for address, hosts in found.items():
        for host, one in hosts.items():
            own = len(hosts) == 1 or host == _OLLAMA_HOST
            yield one if own else replace(one, address=address.replace(":", f":{host}/", 1))


def _from_layers(folder: Path, address: str, names: tuple[str, ...], layers: list[dict[str, Any]]) -> Installed:
    kinds = {str(layer.get("mediaType")).rpartition("vnd.ollama.")[2]: layer for layer in layers}
    model = kinds.get(_MODEL, {})
    digest = str(model.get("digest", "")).removeprefix("sha256:")
    path = folder / "blobs" / f"sha256-{digest}"
    problem = next(
        (f"it has {what} beside, which is not read" for kind, what in _BESIDE.items() if kind in kinds), None
    )
    if not layers:
        problem = "it runs in Ollama's cloud, and has no file here"
    elif not digest:
        problem = "it is not a GGUF file"
    elif not os.path.isfile(path):  # noqa: PTH113 False in a folder of another user, too
        problem = f"its file {path} is missing: pull it again"
    unused = tuple(what for kind, what in _UNUSED.items() if kind in kinds)
    return Installed(address, path, names, model.get("size", 0), digest, problem, unused)


def _layers(file: Path) -> list[dict[str, Any]] | None:
    try:
        layers = json.loads(file.read_text(encoding="utf-8"))["layers"] or []
        return [{**layer, "size": int(layer.get("size", 0))} for layer in layers]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _lm_studio_folders() -> list[Path]:
    homes = [home / name for home in _homes() for name in (".lmstudio", ".cache/lm-studio")]
    pointer = Path.home() / ".lmstudio-home-pointer"
    if pointer.is_file():
        homes.insert(0, Path(pointer.read_text(encoding="utf-8", errors="replace").strip()))
    return list(dict.fromkeys(_models_of(home) for home in homes))


def _models_of(home: Path) -> Path:
    """Where LM Studio keeps models: in its own folder, or where its settings say."""
    try:
        chosen = json.loads((home / "settings.json").read_text(encoding="utf-8")).get("downloadsFolder")
    except (OSError, ValueError, AttributeError):
        chosen = None
    if not chosen or not isinstance(chosen, str):
        return home / "models"
    if drive := _DRIVE.match(chosen):
        return WINDOWS / drive[1].lower() / chosen[3:].replace("\\", "/")
    return Path(chosen).expanduser()


def _of_lm_studio() -> Iterator[Installed]:
    """One for each GGUF model of PUBLISHER/REPOSITORY/, in folders of it, too, and for each MLX folder."""
    for folder in _lm_studio_folders():
        for repository in (path for path in _within(folder, "*/*") if path.is_dir()):
            name = "/".join(repository.relative_to(folder).parts)
            if is_model_folder(repository):
                total = sum(file.stat().st_size for file in repository.glob("*.safetensors") if file.is_file())
                yield Installed(f"lmstudio:{name}", repository, _spellings(name), total)
            places = (repository, *(path for path in _within(repository, "**/*") if path.is_dir()))
            yield from (_from_file(name, file) for place in places for file in gguf_files(place))


def _from_file(repository: str, file: Path) -> Installed:
    try:
        pieces, problem = all_pieces(file), None
    except UserError as error:
        pieces, problem = [file], str(error)
    stem = name_of(file)
    own = _spellings(repository)
    quantisation = _QUANTISATION.search(stem)
    names = {*own, *(f"{one}/{stem}" for one in own), *(f"{one}/{file.name}" for one in own), stem, file.name}
    if quantisation:
        names |= {f"{one}{mark}{quantisation['name']}" for one in own for mark in ":@"}
    address = f"lmstudio:{repository}/{stem}"
    return Installed(
        address, file, tuple(sorted(names)), sum(piece.stat().st_size for piece in pieces), problem=problem
    )


def _spellings(repository: str) -> tuple[str, ...]:
    """With the publisher and without, with the format and without, as LM Studio lists it."""
    short = repository.rpartition("/")[2]
    plain = re.sub(r"-(gguf|mlx)$", "", short, flags=re.IGNORECASE)
    return tuple(dict.fromkeys((repository, short, plain)))


def _files(folder: Path) -> Iterator[Path]:
    """Files three levels deep or deeper, but for hidden ones, which file managers leave."""
    found = (path for path in _within(folder, "**/*") if path.is_file() and not path.name.startswith("."))
    return (path for path in found if len(path.relative_to(folder).parts) >= 3)


def _within(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder; nothing in one that may not be read, as that of a service's own user."""
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


_PROGRAMS: dict[str, tuple[str, Callable[[], Iterator[Installed]], Callable[[], list[Path]]]] = {
    "ollama": ("Ollama", _of_ollama, _ollama_folders),
    "lmstudio": ("LM Studio", _of_lm_studio, _lm_studio_folders),
}
