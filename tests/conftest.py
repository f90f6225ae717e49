import gc
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if importlib.util.find_spec("rowmill") is None:  # a checkout that is not installed: pyproject.toml names the folder
    _file = Path(__file__).parents[1] / "runner" / "rowmill" / "__init__.py"
    _spec = importlib.util.spec_from_file_location("rowmill", _file, submodule_search_locations=[str(_file.parent)])
    sys.modules["rowmill"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["rowmill"])

# MLX compiles for CPUs with g++, a second for each expression. Tests about what is compiled enable it again, and so
# do processes of tests that ask for it, see tests/support/runs.py.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

# No examples fail because the machine is busy.
settings.register_profile("rowmill", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("slow", settings.get_profile("rowmill"), max_examples=300)
settings.load_profile("rowmill")


def pytest_configure(config):
    """Sets full lengths up, and for workers side by side (pytest-xdist) what they must not share.

    That is threads, and what MLX compiles.
    """
    if config.getoption("--slow"):
        settings.load_profile("slow")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tempfile.mkdtemp(prefix=f"rowmill-{worker}-")  # a library half written by one is opened by another
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def pytest_collection_finish():
    """Leaves what all tests have imported out of later collections of garbage: every run ends with one."""
    gc.collect()
    gc.freeze()


_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Now and then the same with what tests have imported and kept since."""
    if next(_ended) % 20 == 0:
        gc.collect()
        gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow at their full length")


@pytest.fixture
def slow(request):
    """Whether tests marked slow run at full length."""
    return request.config.getoption("--slow")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A tiny random llama as a model folder."""
    from tests.support.tiny import save_tiny_llama

    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def gpt_oss():
    """gpt-oss-20b's tokenizer, where it lies beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "gpt-oss-20b"
    if not (folder / "tokenizer.json").exists():
        pytest.skip("the tokenizer of gpt-oss-20b is not beside the checkout")
    from tests.support.prompts import plain_tokenizer

    return plain_tokenizer(folder)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    """What is written in this process needs to survive no power cut; ``checkpoint/test_power.py`` sees to those."""
    monkeypatch.setattr("runner.disk.sync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _asleep_or_not(monkeypatch):
    """Hundreds of short runs in this process hold off no sleep, which takes two processes each."""
    from runner.night.awake import Awake

    monkeypatch.setattr("runner.night.night.Awake", lambda wanted: Awake(wanted=False))


@pytest.fixture
def start():
    """Starts a process as ``tests.support.runs`` says; what still runs when the test has ended is killed."""
    from tests.support.runs import settings
    from tests.support.starts import Popen

    processes = []

    def started(command, **options):
        processes.append(Popen(command, **settings(**options)))
        return processes[-1]

    yield started
    for process in processes:
        with process:
            process.kill()


@pytest.fixture(scope="session")
def cpu():
    """MLX set up on this machine's CPU."""
    from runner.machine.device import set_up

    set_up("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of rowmill's."""
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
