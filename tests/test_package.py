"""What is installed: every package and data file, and ``import rowmill`` with all that a job is written with."""

import fnmatch
import importlib
import inspect
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import runs

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = ("runner", "jobs", "conf")


@pytest.fixture
def rowmill():
    return importlib.import_module("rowmill")


def folders(pattern):
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob(pattern) if "__pycache__" not in path.parts]


def test_a_wheel_holds_every_folder_with_code():
    expand = pytest.importorskip("setuptools.config.expand")
    places = {}
    found = expand.find_packages(**SETUPTOOLS["packages"]["find"], root_dir=ROOT, fill_package_dir=places)
    assert places == {"rowmill": "runner/rowmill"}
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in folders("__init__.py")}
    assert sorted(found) == sorted(there - {"runner.rowmill"} | {"rowmill"})


def test_a_wheel_holds_every_file_that_is_not_code():
    patterns = SETUPTOOLS["package-data"]["*"]
    files = [path for path in folders("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md")]
    programs = [ROOT / path for path in SETUPTOOLS["script-files"]]
    assert programs and all(path in files for path in programs)
    files = [path for path in files if path not in programs]
    left_out = [path for path in files if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
    assert left_out == []
    assert {path.suffix for path in files} >= {".cu", ".yaml", ".j2", ".css", ".js"}
    assert all((path.parent / "__init__.py").exists() for path in files), "package data lies in packages"


def test_rowmill_has_what_a_job_and_a_reader_need(rowmill):
    import runner
    from runner import types

    assert rowmill.run is runner.run
    assert rowmill.open_run is runner.open_run
    assert rowmill.Request is types.Request
    assert all(getattr(rowmill, name) is not None for name in rowmill.__all__)
    assert rowmill.__all__ == sorted(rowmill.__all__)


def test_what_is_public_says_what_it_is(rowmill):
    named = [getattr(rowmill, name) for name in rowmill.__all__]
    assert all(inspect.getdoc(one) for one in named if inspect.isclass(one) or inspect.isfunction(one))
    assert (Path(rowmill.__file__).parent / "py.typed").exists()


def test_rowmill_says_which_name_it_lacks(rowmill):
    with pytest.raises(AttributeError, match="no attribute 'Rum'"):
        _ = rowmill.Rum


def test_importing_rowmill_loads_nothing_heavy():
    heavy = ["mlx", "transformers", "datasets", "pyarrow", "hydra", "numpy"]
    script = f"import sys, rowmill; print([name for name in {heavy} if name in sys.modules])"
    assert runs.python(script).stdout == "[]\n"


def test_rowmill_is_a_program_and_a_module(tmp_path):
    done = runs.ended([sys.executable, "-m", "rowmill", "--version"], cwd=tmp_path)
    assert done.stdout.startswith("rowmill ")
