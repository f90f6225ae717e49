"""Promises of runner/models/gguf/settings/rotary.py: positions are stretched as llama.cpp stretches them."""

import json

import numpy as np
import pytest

from runner.models.gguf.convert import Asked, convert_gguf
from runner.types import UserError
from tests.support import ggufs

LINEAR = {"rope_type": "linear", "type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "type": "yarn", "factor": 4.0}
pytestmark = pytest.mark.usefixtures("cpu")


def stretched(tmp_path, extra=None, **keys):
    original, config = ggufs.random_model("llama", num_hidden_layers=1)
    path = ggufs.write_model(tmp_path / "tiny.gguf", "llama", original, config, extra, **keys)
    (tmp_path / "out").mkdir()
    convert_gguf(Asked(str(path), str(tmp_path / "out")))
    return json.loads((tmp_path / "out" / "config.json").read_text()).get("rope_scaling")


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({}, None),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, LINEAR),
        ({"rope__scaling__factor": 4.0}, LINEAR),
        ({"rope__scale_linear": 4.0}, LINEAR),
        ({"rope__scaling__factor": 0.0}, None),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0},
            {**YARN, "original_max_position_embeddings": 512},
        ),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 128,
                "rope__scaling__yarn_beta_fast": 16.0,
            },
            {**YARN, "original_max_position_embeddings": 128, "beta_fast": 16.0},
        ),
    ],
    ids=str,
)
def test_positions_are_stretched_as_the_file_says_and_where_it_does_not_as_llama_cpp_takes_it(tmp_path, keys, scaling):
    assert stretched(tmp_path, **keys) == scaling


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope__scaling__type": "longrope"}, "scaled by longrope are not supported"),
        ({"rope__scaling__type": "yarn", "rope__scaling__attn_factor": 1.2}, "an attention factor of their own"),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 2.0}, "stretched in two ways"),
    ],
    ids=str,
)
def test_positions_that_mlx_lm_would_stretch_differently_are_refused(tmp_path, keys, message):
    both = {"rope_freqs.weight": np.full(8, 2, np.float32)} if "two ways" in message else None
    with pytest.raises(UserError, match=message):
        stretched(tmp_path, both, **keys)
