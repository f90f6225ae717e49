import importlib.util
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("rowmill") is None:  # a checkout that is not installed: pyproject.toml names the folder
    _file = Path(__file__).parents[1] / "runner" / "rowmill" / "__init__.py"
    _spec = importlib.util.spec_from_file_location("rowmill", _file, submodule_search_locations=[str(_file.parent)])
    sys.modules["rowmill"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["rowmill"])


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow at their full length")


@pytest.fixture
def slow(request):
    """Whether tests marked slow run at full length."""
    return request.config.getoption("--slow")


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
    from tests.support.prompts import load_tokenizer

    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def cpu():
    """MLX made ready on this machine's CPU."""
    from runner.device import prepare

    prepare("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of rowmill's."""
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
