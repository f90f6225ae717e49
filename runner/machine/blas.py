"""A fast BLAS in the place of the one that MLX's wheel for Linux links.

That is a reference BLAS, which reaches some 2 GF/s. The dynamic linker resolves a symbol to the first library that
offers it globally, so a real BLAS opened with RTLD_GLOBAL *before* the first ``import mlx.core`` takes the reference
library's place: 50 to 150 GF/s on a core.
"""

from __future__ import annotations

import _ctypes
import ctypes
import ctypes.util
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.machine.facts import read_lines

log = logging.getLogger("rowmill")

# The mark of an optimised library: reference BLAS has none of these symbols.
_OPTIMISED = ("openblas_get_config", "bli_info_get_version_str", "MKL_Get_Version")
# libopenblas needs the other three, which its wheel keeps beside it under other names.
_CARRIED = ("libquadmath", "libgfortran", "libgomp", "libopenblas")
# Versions of OpenBLAS before 0.3.25 use the kernels of 2004 on CPUs that they do not know, such as Intel's since 2021.
_UNKNOWN = b"Prescott"
# Other kernels, the fastest first, with what the CPU must have for them.
_KERNELS = {"SkylakeX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "Haswell": {"avx2", "fma"}}
_CHOICE = "OPENBLAS_CORETYPE"  # read when the library is opened
_opened: str | None = None  # the BLAS that an earlier call in this process put in place


def open_blas(single: bool) -> str | None:
    """Open a fast BLAS for all libraries loaded after it; its path or name, None if there is none.

    ``single``: one thread for each caller.
    """
    global _opened
    if "mlx.core" not in sys.modules:
        _opened = _open_system_blas(single) or _open_carried_blas(single)
    elif _opened is None:
        log.warning("mlx was imported before runner.machine.device.set_up(): it keeps the BLAS it has")
    return _opened


def _open_system_blas(single: bool) -> str | None:
    for stem in ("openblas", "blis", "mkl_rt", "blas"):
        name = ctypes.util.find_library(stem)
        if name and _is_optimised(name):
            return _open(name, single)
    return None


def _is_optimised(name: str) -> bool:
    """Whether this library has the CBLAS interface and is not the reference one; opens it, but not for good."""
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return False
    found = hasattr(library, "cblas_sgemm") and any(hasattr(library, symbol) for symbol in _OPTIMISED)
    _close(library)
    return found


def _open_carried_blas(single: bool) -> str | None:
    """The OpenBLAS inside the faiss-cpu wheel, opened without importing faiss."""
    opened = None
    for path in _carried_libraries():
        opened = _open(str(path), single)
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


def _open(name: str, single: bool) -> str | None:
    try:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        if kernels := _better_kernels(library, _cpu_flags):
            library = _open_again(name, library, kernels)
    except OSError as error:
        log.debug("%s does not open: %s", name, error)
        return None
    if single and hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(1)
    return name


def _better_kernels(library: ctypes.CDLL, cpu_flags: Callable[[], set[str]]) -> str | None:
    """The kernels that an OpenBLAS should use, if it does not know this CPU and nobody has chosen any."""
    if _CHOICE in os.environ or _kernels(library) != _UNKNOWN:
        return None
    flags = cpu_flags()
    return next((name for name, needed in _KERNELS.items() if needed <= flags), None)


def _kernels(library: ctypes.CDLL) -> bytes | None:
    if not hasattr(library, "openblas_get_corename"):
        return None
    library.openblas_get_corename.restype = ctypes.c_char_p
    named: bytes = library.openblas_get_corename()
    return named


def _open_again(name: str, library: ctypes.CDLL, kernels: str) -> ctypes.CDLL:
    log.info("%s does not know this CPU and is told to use its kernels for %s", Path(name).name, kernels)
    _close(library)
    os.environ[_CHOICE] = kernels
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    finally:
        del os.environ[_CHOICE]


def _close(library: ctypes.CDLL) -> None:
    _ctypes.dlclose(library._handle)  # on Linux only


def _cpu_flags() -> set[str]:
    """What this CPU can do, by Linux's names; nothing where that is not told."""
    flags = (set(line.split()) for line in read_lines("/proc/cpuinfo") if line.startswith("flags"))
    return next(flags, set())
