"""rowmill: put a prompt through every row of a data set with one local LLM, resumably."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"


def run(overrides: Sequence[str] = (), config_dir: str | None = None) -> dict[str, Any]:
    """Run or resume what the Hydra overrides describe; the figures of ``rowmill status --json`` and ``path``.

    In the main thread SIGINT and SIGTERM end the run after the step in flight; their handlers are restored. Raises
    runner.types.UserError for a wrong configuration or input, KeyboardInterrupt after an interrupted run was made safe.
    """
    from runner.interrupt import stop_on_signals

    with stop_on_signals() as stop:
        from runner.config import load_config
        from runner.session import run_session

        return run_session(load_config(overrides, config_dir), stop)
