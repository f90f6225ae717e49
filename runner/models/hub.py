"""Models from the hub, in the hub client's own cache: disk space is checked first, cut-off downloads resume.

By itself the client waits forever for a server that accepts connections and stays silent; here it gives up. And it
keeps whole files only: a model's few large ones would begin again after every interruption, so they are fetched here,
into the cache's blobs, where the client then finds them.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from runner.disk import file_sha256, lock
from runner.models.transfer import SPARE_DISK_BYTES, Bar
from runner.types import UserError
from runner.words import AGAIN, count_of, first_line
from runner.words import size as size_text

log = logging.getLogger("rowmill")

# No pickle, no Python: nothing that a download could make us run.
MODEL_FILES = ("*.json", "model*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
LARGE_BYTES = 32 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SHA256 = re.compile(r"[0-9a-f]{64}")  # a large file's etag on the hub
_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?]+)(?:/(?P<file>[^?]+))?)?(?::(?P<quantisation>[\w.-]+))?/?(?:\?.*)?"
)


class Address(NamedTuple):
    """A model of the hub: ``id`` is owner/name; ``gguf``: the patterns of the GGUF file that is meant, if one is."""

    id: str
    revision: str | None
    gguf: tuple[str, ...]


def address_of(text: str) -> Address | None:
    """What ``owner/name``, ``owner/name:Q4_K_M`` or a link to a page or a file means; None: nothing of the hub."""
    if not (found := _ADDRESS.fullmatch(text)):
        return None
    gguf: tuple[str, ...] = ()
    if (file := found["file"]) and file.lower().endswith(".gguf"):
        gguf = (file, re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-[0-9]*-of-\1", file))
    elif kind := found["quantisation"]:
        spellings = dict.fromkeys((kind, kind.upper(), kind.lower()))
        ends = (".gguf", ".GGUF", "-[0-9]*-of-[0-9]*.gguf")
        gguf = tuple(f"*[-.]{spelling}{end}" for spelling in spellings for end in ends)
    return Address(found["id"], found["revision"], gguf)


def snapshot(
    hub_id: str, revision: str | None = None, offline: bool = False, wanted: Iterable[str] = MODEL_FILES
) -> Path:
    """The folder of a model at a revision (None: the newest); what is not in the cache is fetched.

    ``wanted``: patterns of files. With ``offline``, or if the hub does not answer, only the cache is used.
    Raises UserError; exit code 3 where the disk is too small.
    """
    from huggingface_hub import errors, snapshot_download

    model = hub_id + (f" at revision {revision}" if revision else "")
    wanted = list(wanted)
    cached = not reachable(hub_id, offline)
    try:
        if not cached:
            _fetch_large(model, hub_id, revision, wanted)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, local_files_only=cached))
    except UserError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        hint = "no such folder here, and not on the hub (a private or gated model needs `hf auth login`)"
        raise _refusal(model, hint) from error
    except errors.LocalEntryNotFoundError as error:
        if offline:
            hint = "no such folder here, and not in the cache; run once with a network and without offline"
        else:
            hint = "no such folder here, not in the cache, and the hub does not answer; check the network"
        raise _refusal(model, hint) from error
    except Exception as error:  # the hub's client lets the errors of its HTTP library through
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            full = f"the disk of {_cache()} is full: make room, then {AGAIN}"
            raise _refusal(model, full, exit_code=3) from error
        hint = "run once with a network and without offline" if offline else "check the name and the network"
        asked = f"no such folder here, and asking the hub failed: {first_line(error)}"
        raise _refusal(model, f"{asked}; {hint}") from error


def _refusal(model: str, text: str, exit_code: int | None = None) -> UserError:
    return UserError("model.path", text, value=model, exit_code=exit_code)


def _fetch_large(model: str, hub_id: str, revision: str | None, wanted: list[str]) -> None:
    """Check the disk space, then fetch the large files that are missing; nothing if the hub does not list them."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, snapshot_download

    ask: Any = snapshot_download
    try:
        files = ask(hub_id, revision=revision, allow_patterns=wanted, dry_run=True, tqdm_class=_Silent)
    except errors.DryRunError:  # the client knows what else to try, and what to say
        return
    missing = [file for file in files if file.will_download]
    parts: list[tuple[str, str, Path, int]] = []
    for file in missing:
        if (file.file_size or 0) >= LARGE_BYTES:
            url = hf_hub_url(hub_id, file.filename, revision=file.commit_hash)
            found = get_hf_file_metadata(url)
            if found.size and _SHA256.fullmatch(found.etag or ""):
                parts.append((file.filename, url, _blob(hub_id, str(found.etag)), found.size))
    needed = sum(file.file_size or 0 for file in missing) - sum(_size(_part(blob)) for _, _, blob, _ in parts)
    if missing:
        _check_disk(model, needed)
        log.info("fetching %s: %s in %s", hub_id, size_text(needed), count_of(len(missing), "file"))
    for name, url, blob, size in parts:
        _fetch(model, name, url, blob, size)


def _check_disk(model: str, needed: int) -> None:
    place = next(folder for folder in (_cache(), *_cache().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_DISK_BYTES:
        space = f"{size_text(needed)} are to be fetched, and {size_text(free)} are free in {_cache()}"
        hint = "make room, or set HF_HOME to a folder on another disk"
        raise _refusal(model, f"{space}; {hint}", exit_code=3)


def _fetch(model: str, name: str, url: str, blob: Path, size: int) -> None:
    """Fetch ``url``, from where an earlier download was cut off, as ``blob``, whose name is its SHA-256."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = _part(blob)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _locked(model, name, part) as file:
        if not blob.exists():
            start = min(file.seek(0, os.SEEK_END), size)
            file.seek(start)
            if start:
                log.info("%s: resuming at %s of %s", name, size_text(start), size_text(size))
            try:
                http_get(
                    url,
                    file,
                    resume_size=start,
                    headers=build_hf_headers(),
                    expected_size=size,
                    displayed_filename=name,
                    tqdm_class=Bar,
                )
            except Exception as error:  # of the HTTP library
                if isinstance(error, OSError) and error.errno in _NO_SPACE:
                    raise
                done = f"{size_text(_size(part))} of {size_text(size)} are kept"
                cut_off = f"the download of {name} was cut off: {first_line(error)}"
                raise _refusal(model, f"{cut_off}; {done}: {AGAIN} to resume") from error
            file.flush()
            os.fsync(file.fileno())
            if file_sha256(part) != blob.name:
                part.unlink()
                raise _refusal(model, f"{name} arrived damaged: its SHA-256 is not {blob.name}; {AGAIN}")
            part.rename(blob)
        part.unlink(missing_ok=True)


@contextmanager
def _locked(model: str, name: str, part: Path) -> Iterator[Any]:
    """The partial file, open and locked. UserError while another process has it."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        if not lock(file.fileno()):
            raise _refusal(model, f"another process is fetching {name}: wait for it")
        yield file


class _Silent(tqdm):  # type: ignore[type-arg]
    """A progress bar that is not shown."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **{**options, "disable": True})


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _blob(hub_id: str, etag: str) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return _cache() / repo_folder_name(repo_id=hub_id, repo_type="model") / "blobs" / etag


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def reachable(what: str, offline: bool) -> bool:
    """Whether the hub may be asked for ``what``: not with ``offline``, nor if it does not answer, which is logged.

    From then on each request gives up after HF_HUB_DOWNLOAD_TIMEOUT seconds (10 by default) without data.
    """
    if offline:
        return False
    from huggingface_hub import constants, get_session, set_client_factory

    set_client_factory(_client)
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of whatever HTTP library the client uses
        log.warning("the hub does not answer: looking for %s in the cache", what)
        return False
    return True


def _client() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks.get("request", []), _bound]}
    return client


def _bound(request: Any) -> None:
    from huggingface_hub import constants

    asked = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    bound = {kind: asked.get(kind) or constants.HF_HUB_DOWNLOAD_TIMEOUT for kind in kinds}
    request.extensions = {**request.extensions, "timeout": bound}
