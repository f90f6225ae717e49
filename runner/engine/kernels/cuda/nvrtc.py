"""CUDA kernels, compiled several at once and kept for the next start.

MLX compiles a custom kernel when it is first used, one after the other and in every process anew. With NVRTC, the
compiler that MLX has loaded, this can be done before; ``mx.fast.precompiled_cuda_kernel`` then runs the kernel.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import os
import sysconfig
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from runner.cache import remember, remembered

_TYPES = {
    mx.bfloat16: "__nv_bfloat16",
    mx.float16: "__half",
    mx.float32: "float",
    mx.int32: "int",
    mx.uint32: "unsigned",
    mx.uint8: "unsigned char",
    mx.bool_: "bool",
}
_MAPS = Path("/proc/self/maps")  # which libraries this process has loaded

Template = Iterable[tuple[str, Any]]


class Kernel:
    """A CUDA kernel of a ``source``, the body of a function, with ``header`` before it.

    ``inputs`` and ``outputs`` are the names of its parameters, pointers to the arrays' types. ``bounds``: threads of a
    block, and blocks that are to fit on a multiprocessor at once, for which the compiler uses no more registers.
    """

    def __init__(
        self,
        inputs: list[str],
        outputs: list[str],
        source: str,
        header: str,
        *,
        shared_memory: int = 0,
        bounds: tuple[int, int] | None = None,
    ) -> None:
        self.names = inputs, outputs
        self.text, self.header, self.shared_memory = source, header, shared_memory
        self.bounds = f"__launch_bounds__({bounds[0]}, {bounds[1]}) " if bounds else ""
        self.forms: dict[tuple[tuple[str, Any], ...], tuple[str, Future[bytes]]] = {}

    def __call__(
        self, inputs: list[Any], template: Template, output_dtypes: list[mx.Dtype], **launch: Any
    ) -> list[mx.array]:
        """``launch``: grid (in threads), threadgroup and output_shapes, as ``mx.fast.cuda_kernel`` takes them.

        Raises RuntimeError if the kernel does not compile.
        """
        form = self.forms.get(tuple(template)) or self.compile(template, [one.dtype for one in inputs], output_dtypes)
        name, cubin = form
        return mx.fast.precompiled_cuda_kernel(
            name=name,
            compiled_source=cubin.result(),
            inputs=inputs,
            output_dtypes=output_dtypes,
            scalars=[],
            shared_memory=self.shared_memory,
            ensure_row_contiguous=True,
            **launch,
        )

    def compile(self, template: Template, inputs: list[mx.Dtype], outputs: list[mx.Dtype]) -> tuple[str, Future[bytes]]:
        """Begin to compile the kernel for a template, which tells the types of all its inputs and outputs, unless that
        has been begun: its name, and what becomes of it.
        """
        key = tuple(template)
        if key not in self.forms:
            source = self.source(key, inputs, outputs)
            name = f"rowmill_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
            self.forms[key] = name, _workers().submit(cubin_of, source.replace("KERNEL", name))
        return self.forms[key]

    def source(self, template: Template, inputs: list[mx.Dtype], outputs: list[mx.Dtype]) -> str:
        """The program of one kernel, whose name is KERNEL."""
        parameters = [f"const {_TYPES[kind]}* {name}" for kind, name in zip(inputs, self.names[0], strict=True)]
        parameters += [f"{_TYPES[kind]}* {name}" for kind, name in zip(outputs, self.names[1], strict=True)]
        constants = "\n".join(_constant(name, value) for name, value in template)
        return (
            f'{self.header}\nextern "C" __global__ {self.bounds}void KERNEL({", ".join(parameters)}) {{\n'
            f"{constants}\n{self.text}\n}}\n"
        )


@lru_cache(maxsize=4096)
def numbers(*given: int) -> Any:
    """What a kernel is told in int32, in memory of the device's own, where the result of an operation lies: a page that
    the host writes to as well would come and go for each.
    """
    made = mx.array([*given, 0, 0, 0], mx.int32) + 0  # few bytes would lie in the host's memory
    mx.async_eval(made)  # or each recording would compute it again
    return made


def _constant(name: str, value: Any) -> str:
    if isinstance(value, mx.Dtype):
        return f"using {name} = {_TYPES[value]};"
    return f"constexpr {type(value).__name__} {name} = {str(value).lower()};"  # of bool or int


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "compile")


def cubin_of(source: str) -> bytes:
    """A program compiled for this machine's GPU: from the cache, or by NVRTC. Raises RuntimeError if it is wrong."""
    compiler = _compiler()
    architecture = mx.device_info(mx.gpu)["architecture"]
    own = "a" if architecture == "sm_90" else ""  # instructions that no later one has
    options = [f"--gpu-architecture={architecture}{own}", "--std=c++17", "-default-device"]
    key = "kernel", compiler.version(), options, source
    if kept := remembered(key):
        return base64.b64decode(kept["cubin"])
    cubin = compiler.compile(source, [*options, *(f"--include-path={folder}" for folder in compiler.includes)])
    remember(key, {"cubin": base64.b64encode(cubin).decode()})
    return cubin


class Compiler:
    """NVRTC, by the path of its library."""

    def __init__(self, path: Path) -> None:
        try:
            self.library = ctypes.CDLL(str(path))
        except OSError as error:
            raise RuntimeError(str(error)) from error
        self.includes = [folder for folder in _include_folders(path) if folder.is_dir()]

    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def compile(self, source: str, options: list[str]) -> bytes:
        """Raises RuntimeError with the compiler's first words if the source is wrong."""
        program = ctypes.c_void_p()
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        self._check(
            self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        )
        try:
            if self.library.nvrtcCompileProgram(program, len(options), words):
                raise RuntimeError(self._read(program, "ProgramLog").decode(errors="replace").strip("\0\n"))
            return self._read(program, "CUBIN")
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        content = ctypes.create_string_buffer(size.value)
        self._check(getattr(self.library, f"nvrtcGet{what}")(program, content))
        return content.raw

    def _check(self, result: int) -> None:
        if result:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"NVRTC: {self.library.nvrtcGetErrorString(result).decode()}")


@cache
def _compiler() -> Compiler:
    """The one that MLX has loaded, else one among Python's packages. Raises RuntimeError where there is none."""
    lines = _MAPS.read_text().splitlines() if _MAPS.exists() else []
    found = [Path(line.split(maxsplit=5)[-1]) for line in lines if "libnvrtc.so" in line]
    found += sorted(_packages().glob("nvidia/*/lib/libnvrtc.so*"))
    if not found:
        raise RuntimeError("there is no NVRTC to compile them")
    return Compiler(found[0])


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _include_folders(library: Path) -> list[Path]:
    """Where CUDA's headers can lie: beside the library, among Python's packages, where the system keeps CUDA."""
    packages = _packages()
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    own = [library.parent.parent / "include", *sorted(packages.glob("nvidia/*/include"))]
    system = [Path(home) / "include" for home in homes if home]
    return [path for folder in [*own, packages / "mlx" / "include", *system] for path in (folder, folder / "cccl")]
