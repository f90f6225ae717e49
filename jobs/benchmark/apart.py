"""A measurement in a process of its own: the task goes in as JSON, what was measured comes out as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from runner.types import UserError


def apart(module: str, name: str, task: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What ``module``, run as a program that calls ``tell``, says of the task.

    Raises UserError: the child's own, or with exit code 3 that ``name`` ended otherwise.
    """
    child = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-m", module],  # its package has imported it already
        input=json.dumps(task),
        text=True,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if child.returncode:
        raise UserError(f"{name} ended with exit code {child.returncode}", exit_code=3)
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    if "refused" in answer:
        raise UserError(name, answer["refused"], exit_code=answer["exit_code"])
    return answer


def tell(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """In the child: do the task on the standard input."""
    try:
        answer = measure(json.load(sys.stdin))
    except UserError as problem:
        answer = {"refused": str(problem), "exit_code": problem.exit_code}
    sys.stdout.write(json.dumps(answer) + "\n")
