"""Promises of runner/models/tensors.py; those of sizes are in tests/session/test_preview.py."""

import shutil

import pytest

from runner.models import tensors
from tests.support.tiny import tiny_folder

pytestmark = pytest.mark.usefixtures("cpu")


def test_the_context_length_is_found_under_its_names():
    assert tensors.context_length({"n_positions": 5}) == 5
    assert tensors.context_length({"text_config": {"max_position_embeddings": 6}}) == 6
    assert tensors.context_length({"model_type": "llama"}) is None


def test_the_fingerprint_is_the_contents_not_the_place(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    assert tensors.weights_hash(folder) == tensors.weights_hash(tmp_path / "two")
    weights = tmp_path / "two" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    # Bounds so low that a small file is large.
    for limit in (tensors._HASHED_WHOLE_BYTES, 100):
        monkeypatch.setattr(tensors, "_HASHED_WHOLE_BYTES", limit)
        monkeypatch.setattr(tensors, "_BLOCK_BYTES", 64)
        assert tensors.weights_hash(folder) != tensors.weights_hash(tmp_path / "two")
