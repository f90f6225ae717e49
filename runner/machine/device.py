"""The device that MLX runs on, and what has to be set up before MLX is loaded."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.machine import metal
from runner.machine.blas import open_blas
from runner.machine.facts import output, read_lines
from runner.machine.tuned import USUAL, Tuned
from runner.types import UserError

log = logging.getLogger("rowmill")

BACKENDS = ("auto", "cpu", "metal", "cuda")
_RAM_SHARE = 0.7
_LEAST_MACOS = (14,)


@dataclass(frozen=True)
class Device:
    """``kind`` is cpu, metal or cuda; ``blas`` the library put in place of MLX's own (None: none, or not needed).

    ``memory_bytes`` is what weights and caches together may take. ``tuned``: what ``rowmill tune`` found here.
    """

    kind: str
    name: str
    blas: str | None
    memory_bytes: int
    tuned: Tuned = USUAL

    @property
    def place(self) -> str:
        """By which what was measured here is found: on a CPU its cores are told apart, too."""
        return place(self.kind, self.name)


def set_up(backend: str = "auto", config: Mapping[str, Any] | None = None) -> Device:
    """Load MLX for ``backend`` (see BACKENDS) and say what it runs on; call before the process's first ``mlx`` import.

    ``config``: what ``EngineConf.costly`` makes of the model's, for which ``rowmill tune`` may have found something.

    On a CPU ``mx.compile`` writes C++ and calls g++ at run time; without g++ it is switched off, and nothing needs it.
    Raises UserError, exit code 3, where the machine has no such backend.
    """
    if backend not in BACKENDS:
        raise UserError("engine.backend", f"it can be {', '.join(BACKENDS)}", value=backend)
    _check_mac()
    if config and backend in ("auto", "metal") and (name := metal.chip()):
        metal.set_buffers(Tuned.of("metal", name, config).buffers)
    blas = _open_blas() if sys.platform == "linux" and backend != "cuda" else None
    mx = _import_mlx()
    kind = _kind(mx, backend)
    if kind == "cpu":
        # Two or more streams run side by side only if MLX orders their common graph by breadth, whatever its width.
        os.environ.setdefault("MLX_BFS_MAX_WIDTH", "4096")
        mx.set_default_device(mx.cpu)
        if shutil.which("g++") is None:
            mx.disable_compile()
    _import_mlx_lm()
    name = metal.chip() or _name(mx)
    tuned = Tuned.of(kind, place(kind, name), config) if config else USUAL
    device = Device(kind, name, blas if kind == "cpu" else None, _memory_bytes(mx, kind), tuned)
    _report(device)
    return device


def place(kind: str, name: str) -> str:
    """See ``Device.place``."""
    return f"{name}, streams: {cpu_streams()}" if kind == "cpu" else name


@contextlib.contextmanager
def wired(device: Device | None) -> Iterator[None]:
    """On Metal, let the system keep up to ``memory_bytes`` of the model's memory resident meanwhile.

    The limit from before is restored. Before macOS 15 the system ignores it.
    """
    if device is None or device.kind != "metal":
        yield
        return
    mx = _import_mlx()
    before = mx.set_wired_limit(device.memory_bytes)
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)


def _check_mac() -> None:
    """Raises UserError, exit code 3, on a Mac that MLX has no build for."""
    if platform.system() != "Darwin":
        return
    if platform.machine() != "arm64":
        translated = output("sysctl", "-n", "sysctl.proc_translated").strip() == "1"  # by Rosetta
        what = "this Python is an Intel build (arm64 Python needed)" if translated else "this is an Intel Mac"
        raise UserError(f"MLX needs a Mac with Apple silicon; {what}", exit_code=3)
    found = platform.mac_ver()[0]
    if tuple(int(part) for part in re.findall(r"\d+", found)[:1]) < _LEAST_MACOS:
        raise UserError(
            f"MLX needs macOS 14 or newer; this is macOS {found}: update it in System Settings", exit_code=3
        )


def _import_mlx() -> Any:
    try:
        import mlx.core as mx
    except ImportError as error:
        raise UserError(
            f"MLX does not load here: {error}; install rowmill again for this machine", exit_code=3
        ) from error
    return mx


def _import_mlx_lm() -> None:
    """Load mlx-lm, whose import sets a limit of open files: never below what it is, nor above what it may be."""
    set_limit = resource.setrlimit

    def raise_limit(kind: int, wanted: tuple[int, int], /) -> None:
        soft, hard = resource.getrlimit(kind)
        if 0 <= soft < wanted[0]:  # below 0 there is none
            set_limit(kind, (wanted[0] if hard < 0 else min(wanted[0], hard), hard))

    resource.setrlimit = raise_limit
    try:
        import mlx_lm.utils  # noqa: F401
    finally:
        resource.setrlimit = set_limit


def _kind(mx: Any, backend: str) -> str:
    found = "metal" if mx.metal.is_available() else "cuda" if mx.device_count(mx.gpu) else "cpu"
    if backend not in ("auto", "cpu", found):
        raise UserError(
            "engine.backend",
            f"on this machine MLX has only {found}; use engine.backend=auto",
            value=backend,
            exit_code=3,
        )
    return "cpu" if backend == "cpu" else found


def _name(mx: Any) -> str:
    return str(mx.device_info(mx.default_device()).get("device_name", "unknown"))


def _memory_bytes(mx: Any, kind: str) -> int:
    key = {"metal": "max_recommended_working_set_size", "cuda": "free_memory"}.get(kind)
    known = mx.device_info(mx.default_device()).get(key) if key else None
    return int(known or _RAM_SHARE * _available_ram())


def _available_ram() -> int:
    """Bytes of RAM available without swapping, within the container's limit; all of it where that is unknown."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in read_lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = read_lines("/sys/fs/cgroup/memory.max"), read_lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        available = min(available, max(0, int(limit[0]) - int(used[0])))
    return available


def _report(device: Device) -> None:
    gigabytes = device.memory_bytes / 1e9
    log.info("device: %s (%s), %.1f GB for the model", device.kind, device.name, gigabytes)
    if device.blas:
        log.info("BLAS: %s", Path(device.blas).name)
    elif device.kind == "cpu" and sys.platform == "linux":
        log.warning("no fast BLAS found: the model runs about 50 times slower; install OpenBLAS or faiss-cpu")


def _open_blas() -> str | None:
    """A fast BLAS; of one thread for each caller, as the engine calls from as many streams as there are cores."""
    if not _threads_asked():
        os.environ["OMP_NUM_THREADS"] = "1"  # read once, when an OpenMP build of BLAS is opened
    return open_blas(single=cpu_streams() > 1)


def _threads_asked() -> bool:
    return any(name in os.environ for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))


def cpu_streams() -> int:
    """How many streams keep all cores busy; 1 where the user gave BLAS threads of its own."""
    if _threads_asked() and os.environ.get("OMP_NUM_THREADS") != "1":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _cgroup_cores() or cores)


def _cgroup_cores() -> int | None:
    """The whole cores that a container's CPU quota is worth, None without a quota."""
    quota = read_lines("/sys/fs/cgroup/cpu.max")
    if not quota or not quota[0].split()[0].isdigit():
        return None
    microseconds, period = quota[0].split()
    return max(1, math.ceil(int(microseconds) / int(period)))
