"""Facts about this process and this machine: memory used, versions, which boot of the system."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMPUTES = ("rowmill", "mlx", "mlx-lm")  # what speed depends on
PACKAGES = (*COMPUTES, "transformers", "datasets", "pyarrow")


def session_facts(device: Any) -> dict[str, Any]:
    """Versions and the machine, for a session's provenance; ``device`` is None for the fake engine."""
    machine: dict[str, Any] = {"platform": platform.platform(), "python": platform.python_version(), "boot": boot_id()}
    machine["cores"] = os.cpu_count()
    if device is not None:
        machine |= {"device": device.kind, "name": device.name, "blas": device.blas, "memory": device.memory_bytes}
    return {"versions": versions(PACKAGES), "machine": machine}


def versions(packages: Iterable[str] = COMPUTES) -> dict[str, str | None]:
    """The versions of packages by name; None for those that are not installed."""
    return {name: package_version(name) for name in packages}


def shown(versions: Mapping[str, str | None]) -> str:
    """Versions on one line."""
    return ", ".join(f"{name} {number or '(not installed)'}" for name, number in versions.items())


@lru_cache
def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def peak_memory() -> int:
    """The most memory that this process has used so far, in bytes."""
    # Linux lets a child's ru_maxrss begin at what its parent had; VmHWM, in KiB, is the process's own.
    for line in read_lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def oom_kills() -> int | None:
    """How many processes the kernel of this machine has killed for memory so far; None where it does not say."""
    counts = (line.removeprefix("oom_kill ") for line in read_lines("/proc/vmstat") if line.startswith("oom_kill "))
    return next(map(int, counts), None)


@lru_cache(maxsize=1)
def boot_id() -> str | None:
    """What tells this boot of the machine from others; None where the system does not say."""
    if sys.platform == "darwin":
        return output("sysctl", "-n", "kern.bootsessionuuid").strip() or None
    return next(iter(read_lines("/proc/sys/kernel/random/boot_id")), None)


def output(*command: str) -> str:
    """What a command writes, in five seconds at most; "" where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def read_lines(path: str) -> list[str]:
    """The lines of a file of the system; none where it cannot be read."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
