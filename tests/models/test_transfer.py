"""Downloads and conversions show how far they are: a bar on a terminal, lines with sizes elsewhere."""

import sys

import pytest

from runner.models import transfer
from runner.models.transfer import Bar


@pytest.fixture
def now(monkeypatch):
    """The time, in a list, which passes only when told to."""
    now = [0.0]
    monkeypatch.setattr(transfer.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_a_minute_has_the_sizes(now, caplog, capsys):
    caplog.set_level("INFO", "rowmill")
    with Bar(total=3_000_000_000, initial=500_000_000, desc="model.safetensors") as bar:
        for _ in range(4):
            now[0] += 30
            bar.update(250_000_000)
    lines = ["model.safetensors: 1.00 GB of 3.00 GB", "model.safetensors: 1.50 GB of 3.00 GB"]
    assert caplog.messages == lines
    assert "%|" not in capsys.readouterr().err


def test_on_a_terminal_a_bar_has_the_sizes(now, caplog, capsys, monkeypatch):
    caplog.set_level("INFO", "rowmill")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar(total=2_000_000_000, desc="tiny.gguf") as bar:
        now[0] += 100
        bar.update(1_000_000_000)
        bar.refresh()
    shown = capsys.readouterr().err
    assert "tiny.gguf:  50%" in shown
    assert "1.00G/2.00G" in shown
    assert not caplog.messages
