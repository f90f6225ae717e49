"""One conversion in a process of its own, which a damaged file may bring down."""

from __future__ import annotations

import json
import sys

from runner.disk.errors import machine_trouble
from runner.types import EXIT_CANNOT_RUN, UserError


def main(arguments: list[str]) -> int:
    """Convert what the JSON of ``convert.Asked`` says, printing the bytes of each tensor that was read, a number a
    line, and lines for people. On a UserError its message is the last line of stderr, its code the exit code.
    """
    from runner.machine import device

    device.set_up("cpu")  # a fast BLAS counts only where it is opened before MLX
    from runner.models.gguf.convert import Asked, convert_gguf

    try:
        convert_gguf(Asked(*json.loads(arguments[0])), _tell)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        if (trouble := machine_trouble(error)) is None:
            raise
        sys.stderr.write(f"{trouble}\n")
        return EXIT_CANNOT_RUN
    return 0


def _tell(said: int | str) -> None:
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()
