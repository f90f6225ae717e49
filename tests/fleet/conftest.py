import subprocess

import pytest

from tests.support import fleets, runs
from tests.support.starts import Popen


@pytest.fixture
def slow_rows(tmp_path, monkeypatch):
    """A folder with rows that take seats long enough to be seen, killed and joined."""
    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROWMILL_FAKE_DELAY", "0.01")
    runs.write_rows(fleets.ROWS)
