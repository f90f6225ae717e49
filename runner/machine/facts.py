"""Facts about this process and this machine: memory used, versions, which boot of the system."""

from __future__ import annotations

import contextlib
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
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@lru_cache(maxsize=1)
def boot_id() -> str | None:
    """What tells this boot of the machine from others; None where the system does not say."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, subprocess.SubprocessError):
        return None
