"""Jobs of one's own, as a user writes them."""

import math
from pathlib import Path

from runner.types import Completion

_JOB = """
from dataclasses import dataclass
import pyarrow as pa
from runner.types import Request

@dataclass
class Own:
    def schema(self):
        return pa.schema(SCHEMA)

    def steps(self, row):
        answer = yield Request()
        return COLUMNS
"""


def own_job(columns='{"text": answer.text}', schema='[("text", pa.string())]', more=""):
    """A module with the class ``Own``, which asks once a row; ``more``: of the class."""
    return _JOB.replace("SCHEMA", schema).replace("COLUMNS", columns) + more


def scored(*probabilities):
    """What a job is given of choices with these probabilities."""
    return Completion(finish_reason="choice", logprobs=tuple(map(math.log, probabilities)))


def write_own_job(module, folder="mine"):
    """The choice ``job=own`` for ``--config-dir``."""
    Path(folder, "job").mkdir(parents=True, exist_ok=True)
    Path(folder, "own.py").write_text(module)
    Path(folder, "job/own.yaml").write_text("_target_: own.Own\n")
