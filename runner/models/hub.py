"""Models of the hub, in the hub client's own cache: the disk is looked at first, and a cut download goes on.

By itself the client waits for ever for a server that takes connections and is silent; here it gives up. And it keeps
whole files only. A model's few large ones would begin again after every interruption, so they are
fetched here, into the cache's blobs, where the client then finds them.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runner.cache import file_sha256
from runner.types import UserError
from runner.words import first_line

log = logging.getLogger("rowmill")

# No pickle, no Python: nothing that a download could make us run.
MODEL_FILES = ("*.json", "model*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
LARGE_BYTES = 32 << 20
SPARE_DISK_BYTES = 200 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SHA256 = re.compile(r"[0-9a-f]{64}")  # a large file's etag on the hub


def snapshot(hub_id: str, revision: str | None = None, offline: bool = False, also: Iterable[str] = ()) -> Path:
    """The folder of a model at a revision (None: the newest), fetched as far as it is not in the cache.

    ``also``: patterns of files beside those that a model needs. With ``offline``, or where no hub answers, the cache
    has to do. Raises UserError; exit code 3 where the disk is too small.
    """
    from huggingface_hub import errors, snapshot_download

    at = f"model.path={hub_id}" + (f" at revision {revision}" if revision else "")
    wanted = [*MODEL_FILES, *also]
    cached = not reachable(hub_id, offline)
    try:
        if not cached:
            _fetch_large(at, hub_id, revision, wanted)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, local_files_only=cached))
    except UserError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        hint = "no such folder here, and not on the hub (a private or gated model needs `hf auth login`)"
        raise UserError(at, hint) from error
    except errors.LocalEntryNotFoundError as error:
        if offline:
            hint = "no such folder here, and not in the cache; run once without offline, and with a network"
        else:
            hint = "no such folder here, not in the cache, and the hub does not answer; check the network"
        raise UserError(at, hint) from error
    except Exception as error:  # the hub's client lets the errors of its HTTP library through
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise UserError(
                f"{at}: the disk of {_cache()} is full: make room, then type the same line again", exit_code=3
            ) from error
        hint = "run once without offline, and with a network" if offline else "check the name and the network"
        raise UserError(
            f"{at}: no such folder here, and the hub cannot be asked: {first_line(error)}; {hint}"
        ) from error


def _fetch_large(at: str, hub_id: str, revision: str | None, wanted: list[str]) -> None:
    """Look at the disk, then fetch the large files that are missing; nothing where the hub does not tell."""
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
        _check_disk(at, needed)
        log.info("fetching %s: %.2f GB in %d files", hub_id, needed / 1e9, len(missing))
    for name, url, blob, size in parts:
        _fetch(at, name, url, blob, size)


def _check_disk(at: str, needed: int) -> None:
    place = next(folder for folder in (_cache(), *_cache().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_DISK_BYTES:
        room = f"{needed / 1e9:.2f} GB are to be fetched, and {free / 1e9:.2f} GB are free in {_cache()}"
        raise UserError(at, f"{room}; make room, or let HF_HOME name a folder on another disk", exit_code=3)


def _fetch(at: str, name: str, url: str, blob: Path, size: int) -> None:
    """The file at ``url``, on from where an earlier download was cut off, as ``blob``, which its SHA-256 names."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = _part(blob)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _alone(at, name, part) as file:
        if not blob.exists():
            had = min(file.seek(0, os.SEEK_END), size)
            file.seek(had)
            if had:
                log.info("%s: going on at %.2f of %.2f GB", name, had / 1e9, size / 1e9)
            try:
                http_get(
                    url, file, resume_size=had, headers=build_hf_headers(), expected_size=size, displayed_filename=name
                )
            except Exception as error:  # of the HTTP library
                if isinstance(error, OSError) and error.errno in _NO_SPACE:
                    raise
                done = f"{_size(part) / 1e9:.2f} of {size / 1e9:.2f} GB are kept"
                again = "type the same line again, and it goes on there"
                raise UserError(
                    f"{at}: the download of {name} was cut off: {first_line(error)}; {done}: {again}"
                ) from error
            file.flush()
            os.fsync(file.fileno())
            if file_sha256(part) != blob.name:
                part.unlink()
                raise UserError(at, f"{name} came damaged: its SHA-256 is not {blob.name}; type the same line again")
            part.rename(blob)
        part.unlink(missing_ok=True)


@contextmanager
def _alone(at: str, name: str, part: Path) -> Iterator[Any]:
    """The partial file, open and locked. UserError while another process has it."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(at, f"another process is fetching {name}: wait for it") from error
        yield file


class _Silent(tqdm):  # type: ignore[type-arg]
    """A bar that does not show."""

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
    """Whether the hub may be asked for ``what``: not with ``offline``, nor if it does not answer, which is told.

    From then on each request gives up when nothing comes for HF_HUB_DOWNLOAD_TIMEOUT seconds (10 by default).
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
