"""What device.set_up promises. MLX is loaded once in a process, so each real preparation has a process of its own."""

# Facts are asked for by functions private to the module: `set_up` asks this machine alone, and once a process.
import logging
import sys

import pytest

from runner.machine import blas, device
from runner.types import UserError
from tests.support import runs

linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX on other systems brings a fast BLAS")

FORWARD = """
import resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))  # below the one that mlx-lm sets when it is imported
from runner.machine.device import set_up
made = set_up("cpu")
import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs
model = Model(ModelArgs("llama", 64, 2, 128, 4, 1e-5, 100))
print(model(mx.array([[1, 2, 3]])).sum().item() is not None)
a = mx.random.normal((512, 512))
mx.eval(a, a @ a)
start = time.process_time()
mx.eval(*[a @ (a + i) for i in range(8)])
print(8 * 2 * 512**3 / (time.process_time() - start) / 1e9)
import ctypes, os
from runner.machine import blas
print(made.blas and blas._better_kernels(ctypes.CDLL(made.blas), blas._cpu_flags), "OPENBLAS_CORETYPE" in os.environ)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
print(made.kind, made.memory_bytes, made.blas)
"""


def python(code, **environment):
    done = runs.python(code, env=environment, compiles=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_module_does_not_load_mlx():
    assert python("import sys, runner.machine.device; print('mlx.core' in sys.modules)") == ["False"]


def test_a_forward_pass_on_the_cpu_needs_no_compiler_and_few_open_files(tmp_path):
    answer, *_, files, made = python(FORWARD, PATH=str(tmp_path))
    kind, memory_bytes, _ = made.split(" ", 2)
    assert (answer, kind, files) == ("True", "cpu", "300 300")
    assert int(memory_bytes) > 0


@linux
def test_a_fast_blas_takes_the_place_of_the_reference_one():
    _, gigaflops, kernels, _, made = python(FORWARD)
    assert float(gigaflops) > 6  # a second of processor time; the reference BLAS reaches 2
    assert kernels == "None False"  # there are none that are better for this CPU
    assert "None" not in made


@linux
def test_says_so_when_mlx_was_there_first():
    code = "import logging; logging.basicConfig(); import mlx.core, sys; sys.stderr = sys.stdout;"
    code = code.replace("logging.basicConfig()", "logging.basicConfig(stream=__import__('sys').stdout)")
    assert (
        "mlx was imported before" in python(code + "import runner.machine.device as d; print(d.set_up('cpu').blas)")[0]
    )


@linux
def test_a_second_call_knows_what_the_first_one_opened():
    code = "import runner.machine.device as d; print(d.set_up('cpu').blas); print(d.set_up('cpu').blas)"
    first, second = python(code)[-2:]
    assert first == second != "None"


@linux
def test_warns_where_there_is_no_fast_blas(monkeypatch, caplog):
    monkeypatch.setattr(blas.ctypes.util, "find_library", lambda stem: None)
    monkeypatch.setattr(blas.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.setattr(blas, "_opened", None)
    assert blas.open_blas(single=True) is None
    with caplog.at_level(logging.INFO, "rowmill"):
        device._report(device.Device("cpu", "a CPU", None, 1))
    assert "no fast BLAS" in caplog.text


@linux
def test_a_reference_blas_is_not_taken_for_a_fast_one():
    assert not blas._is_optimised("libm.so.6")
    assert not blas._is_optimised("libdoes-not-exist.so")


class FakeBlas:
    """An OpenBLAS that says which kernels it uses."""

    def __init__(self, kernels):
        self.openblas_get_corename = lambda: kernels


@pytest.mark.parametrize(
    ("kernels", "flags", "better"),
    [
        (b"Prescott", "avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl", "SkylakeX"),
        (b"Prescott", "avx2 fma avx512f", "Haswell"),  # such as Xeon Phi
        (b"Prescott", "avx", None),
        (b"Zen", "avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl", None),
    ],
)
def test_cpus_that_a_blas_does_not_know_get_kernels_that_they_can_run(monkeypatch, kernels, flags, better):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert blas._better_kernels(FakeBlas(kernels), lambda: set(flags.split())) == better
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")  # the user's own choice
    assert blas._better_kernels(FakeBlas(kernels), lambda: set(flags.split())) is None


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(UserError, match=r"engine.backend=gpu.*auto, cpu, metal, cuda") as raised:
        device.set_up("gpu")
    assert raised.value.exit_code == 2


class FakeMlx:
    gpu = "gpu"

    def __init__(self, metal, gpus, info):
        self.metal = self
        self.is_available = lambda: metal
        self.device_count = lambda kind: gpus
        self.default_device = lambda: None
        self.device_info = lambda where: info


def test_a_missing_backend_is_the_machines_fault():
    with pytest.raises(UserError, match="on this machine MLX has only cpu") as raised:
        device._kind(FakeMlx(False, 0, {}), "metal")
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(("metal", "gpus", "kind"), [(True, 1, "metal"), (False, 1, "cuda"), (False, 0, "cpu")])
def test_auto_takes_the_fastest_and_cpu_stays_cpu(metal, gpus, kind):
    mx = FakeMlx(metal, gpus, {})
    assert device._kind(mx, "auto") == kind
    assert device._kind(mx, "cpu") == "cpu"


def test_memory_is_what_the_machine_recommends_for_its_kind():
    info = {"max_recommended_working_set_size": 7, "free_memory": 5}
    mx = FakeMlx(True, 1, info)
    assert (device._memory_bytes(mx, "metal"), device._memory_bytes(mx, "cuda")) == (7, 5)
    assert device._memory_bytes(mx, "cpu") > 1e6


def test_a_container_limits_memory_and_threads(monkeypatch):
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable: 8000 kB"],
        "/sys/fs/cgroup/memory.max": ["5000"],
        "/sys/fs/cgroup/memory.current": ["1000"],
        "/sys/fs/cgroup/cpu.max": ["150000 100000"],
    }
    monkeypatch.setattr(device, "read_lines", files.__getitem__)
    assert device._available_ram() == 4000
    assert device._cgroup_cores() == 2
    files["/sys/fs/cgroup/memory.max"], files["/sys/fs/cgroup/cpu.max"] = ["max"], ["max 100000"]
    assert device._available_ram() == 8000 * 1024
    assert device._cgroup_cores() is None
