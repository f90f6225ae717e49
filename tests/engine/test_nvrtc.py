"""CUDA kernels are compiled once a machine, before they are used; the compiler here only notes what it is given."""

# Kernels and what compiles them are private to their modules, and there is no CUDA here to run them with.
import mlx.core as mx
import pytest

from runner.cache import cache_dir
from runner.engine.kernels.cuda import attention, experts, nvrtc


class Compiler:
    includes = ()

    def __init__(self):
        self.compiled = []

    def version(self):
        return 13, 0

    def compile(self, source, options):
        self.compiled.append((source, options))
        return b"cubin"


@pytest.fixture
def compiler(monkeypatch, cache):
    made = Compiler()
    monkeypatch.setattr(nvrtc, "_compiler", lambda: made)
    monkeypatch.setattr(mx, "device_info", lambda device: {"architecture": "sm_90"})
    return made


@pytest.fixture
def launched(monkeypatch):
    found = []

    def launch(*, name, compiled_source, output_shapes, output_dtypes, **_):
        found.append((name, compiled_source))
        return [mx.zeros(*one) for one in zip(output_shapes, output_dtypes, strict=True)]

    monkeypatch.setattr(mx.fast, "precompiled_cuda_kernel", launch)
    return found


def test_a_program_has_the_types_of_its_arrays_and_the_constants_of_its_template():
    kernel = nvrtc.Kernel(["x", "at"], ["y"], "body;", "header", bounds=(64, 2))
    template = [("T", mx.float16), ("D", 64), ("SINKS", False)]
    assert kernel.source(template, [mx.float16, mx.int32], [mx.float32]).splitlines() == [
        "header",
        'extern "C" __global__ __launch_bounds__(64, 2) void KERNEL(const __half* x, const int* at, float* y) {',
        "using T = __half;",
        "constexpr int D = 64;",
        "constexpr bool SINKS = false;",
        "body;",
        "}",
    ]


def test_a_program_is_compiled_once_a_machine_and_again_if_what_was_kept_is_damaged(compiler):
    assert nvrtc.cubin_of("one") == nvrtc.cubin_of("one") == nvrtc.cubin_of("two") == b"cubin"
    assert [source for source, _ in compiler.compiled] == ["one", "two"]
    assert all("--gpu-architecture=sm_90a" in options for _, options in compiler.compiled)  # Hopper's own instructions
    for file in cache_dir().rglob("*.json"):
        file.write_bytes(b"\0" * 100)
    assert nvrtc.cubin_of("one") == b"cubin"
    assert len(compiler.compiled) == 3


def test_what_attention_launches_is_compiled_before(compiler, launched):
    kernels = attention.Kernels(64, 4, 0.125)
    kernels.compile(mx.bfloat16)
    known = [dict(one.forms) for one in (kernels._finish, kernels._segment, kernels._prompts)]
    kernels._error(mx.bfloat16)
    assert [one.forms for one in (kernels._finish, kernels._segment, kernels._prompts)] == known
    assert {name for name, _ in launched} <= {name for _, (name, _) in _forms(kernels)}
    assert {cubin for _, cubin in launched} == {b"cubin"}


def test_what_experts_launch_is_compiled_before(compiler, launched):
    kernels = experts.Kernels(experts.Form(6, 32, 64, 128, 2, True))
    known = [dict(one.forms) for one in kernels._project.values()]
    kernels._error()
    assert [one.forms for one in kernels._project.values()] == known
    assert [len(forms) for forms in known] == [1, 1, 1, 1]


def _forms(kernels):
    """Reads the private kernels, which nobody else needs one by one."""
    every = (kernels._slots, kernels._finish, kernels._segment, kernels._prompts)
    return [item for one in every for item in one.forms.items()]
