"""Promises of runner/memory.py; those of sizes are in tests/test_preview.py."""

import shutil

import pytest

from runner import memory
from tests.support.tiny import tiny_folder

pytestmark = pytest.mark.usefixtures("cpu")


def test_the_context_length_is_found_under_its_names():
    assert memory.context_length({"n_positions": 5}) == 5
    assert memory.context_length({"text_config": {"max_position_embeddings": 6}}) == 6
    assert memory.context_length({"model_type": "llama"}) is None


def test_the_fingerprint_is_the_contents_not_the_place(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    assert memory.weights_hash(folder) == memory.weights_hash(tmp_path / "two")
    weights = tmp_path / "two" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    for limit in (memory._HASHED_WHOLE_BYTES, 100):
        monkeypatch.setattr(memory, "_HASHED_WHOLE_BYTES", limit)
        monkeypatch.setattr(memory, "_BLOCK_BYTES", 64)
        assert memory.weights_hash(folder) != memory.weights_hash(tmp_path / "two")
