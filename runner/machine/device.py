"""The device that MLX runs on, and what has to be set up before MLX is loaded.

MLX's wheel for Linux links a reference BLAS that reaches some 2 GF/s. The dynamic linker resolves a symbol to the first
library that offers it globally, so a real BLAS opened with RTLD_GLOBAL *before* the first ``import mlx.core`` takes the
reference library's place: 80 to 160 GF/s on the same two cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.util
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.machine import metal
from runner.machine.tuned import USUAL, Tuned
from runner.types import UserError

log = logging.getLogger("rowmill")

BACKENDS = ("auto", "cpu", "metal", "cuda")
_RAM_SHARE = 0.7
_LEAST_MACOS = (14,)
# The mark of an optimised library: reference BLAS has none of these symbols.
_OPTIMISED = ("openblas_get_config", "bli_info_get_version_str", "MKL_Get_Version")
# libopenblas needs the other three, which its wheel keeps beside it under other names.
_CARRIED = ("libquadmath", "libgfortran", "libgomp", "libopenblas")
_opened: str | None = None  # the BLAS that an earlier call in this process put in place


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
        what = "this Python is an Intel build (arm64 Python needed)" if _translated() else "this is an Intel Mac"
        raise UserError(f"MLX needs a Mac with Apple silicon; {what}", exit_code=3)
    found = platform.mac_ver()[0]
    if tuple(int(part) for part in re.findall(r"\d+", found)[:1]) < _LEAST_MACOS:
        raise UserError(
            f"MLX needs macOS 14 or newer; this is macOS {found}: update it in System Settings", exit_code=3
        )


def _translated() -> bool:
    """Whether this process runs under Rosetta, an Intel program on Apple silicon."""
    command = ["sysctl", "-n", "sysctl.proc_translated"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "1"


def _import_mlx() -> Any:
    try:
        import mlx.core as mx
    except ImportError as error:
        raise UserError(
            f"MLX does not load here: {error}; install rowmill again for this machine", exit_code=3
        ) from error
    return mx


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
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        available = min(available, max(0, int(limit[0]) - int(used[0])))
    return available


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _report(device: Device) -> None:
    gigabytes = device.memory_bytes / 1e9
    log.info("device: %s (%s), %.1f GB for the model", device.kind, device.name, gigabytes)
    if device.blas:
        log.info("BLAS: %s", Path(device.blas).name)
    elif device.kind == "cpu" and sys.platform == "linux":
        log.warning("no fast BLAS found: the model runs about 50 times slower; install OpenBLAS or faiss-cpu")


def _open_blas() -> str | None:
    """Open a fast BLAS for all libraries loaded after it; its path or name, None if there is none."""
    if not _threads_asked():
        os.environ["OMP_NUM_THREADS"] = "1"  # read once, when an OpenMP build of BLAS is opened
    global _opened
    if "mlx.core" not in sys.modules:
        _opened = _open_system_blas() or _open_carried_blas()
    elif _opened is None:
        log.warning("mlx was imported before runner.machine.device.set_up(): it keeps the BLAS it has")
    return _opened


def _open_system_blas() -> str | None:
    for stem in ("openblas", "blis", "mkl_rt", "blas"):
        name = ctypes.util.find_library(stem)
        if name and _is_optimised(name):
            return _open(name)
    return None


def _is_optimised(name: str) -> bool:
    """Whether this library has the CBLAS interface and is not the reference one; opens it, but not globally."""
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return False
    return hasattr(library, "cblas_sgemm") and any(hasattr(library, symbol) for symbol in _OPTIMISED)


def _open_carried_blas() -> str | None:
    """The OpenBLAS inside the faiss-cpu wheel, opened without importing faiss."""
    opened = None
    for path in _carried_libraries():
        opened = _open(str(path))
        if opened is None:
            return None
    return opened


def _carried_libraries() -> Iterator[Path]:
    """The libraries of the faiss-cpu wheel in the order in which they need one another; none without OpenBLAS."""
    spec = importlib.util.find_spec("faiss")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent.parent / "faiss_cpu.libs"
    if any(folder.glob(f"{_CARRIED[-1]}*")):
        for stem in _CARRIED:
            yield from sorted(folder.glob(f"{stem}*"))


def _open(name: str) -> str | None:
    try:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        log.debug("%s does not open: %s", name, error)
        return None
    _limit_threads(library)
    return name


def _limit_threads(library: ctypes.CDLL) -> None:
    """One thread for each caller: the engine calls from as many streams as there are cores."""
    if cpu_streams() > 1 and hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(1)


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
    quota = _lines("/sys/fs/cgroup/cpu.max")
    if not quota or not quota[0].split()[0].isdigit():
        return None
    microseconds, period = quota[0].split()
    return max(1, math.ceil(int(microseconds) / int(period)))
