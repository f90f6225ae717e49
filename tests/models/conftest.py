import json

import pytest

from runner.models import resolve
from runner.models.gguf import convert
from runner.types import UserError


@pytest.fixture
def in_process(monkeypatch):
    """Conversions without a process of their own, which takes seconds to start."""

    def followed(command, shown, total):
        said = []
        try:
            convert.convert_gguf(convert.Asked(*json.loads(command[-1])), said.append)
        except UserError as error:
            return error.exit_code, str(error)
        return 0, ""

    # The private name is what starts it.
    monkeypatch.setattr(resolve, "_followed", followed)
