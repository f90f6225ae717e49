"""Promises of runner/models/resolve.py."""

import pytest

from runner.models import resolve
from runner.types import UserError
from tests.support.tiny import tiny_folder

pytestmark = pytest.mark.usefixtures("cpu")


def test_a_model_folder_is_itself(tmp_path):
    assert resolve.resolve(str(tiny_folder(tmp_path / "tiny"))) == tmp_path / "tiny"


def test_what_is_no_model_says_what_would_be(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    cases = {"empty": "no config.json", "text.txt": "neither a folder", "none": "does not exist.*hub id"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            resolve.resolve(str(tmp_path / name))


def test_a_revision_is_for_hub_ids(tmp_path):
    with pytest.raises(UserError, match=r"hub ids only"):
        resolve.resolve(str(tiny_folder(tmp_path / "tiny")), revision="main")


def test_a_hub_id_offline_says_that_it_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"owner/name at revision abc: .*not in the cache; run once with a network"):
        resolve.resolve("owner/name", revision="abc", offline=True)


def test_a_hub_model_comes_without_pickle_or_code(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(hub_id, **options):
        asked.update(options)
        return str(tiny_folder(tmp_path / "snapshot"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve.resolve("owner/name", revision="abc") == tmp_path / "snapshot"
    assert asked["revision"] == "abc"
    assert not any(p.endswith((".bin", ".pt", ".py", "*")) for p in asked["allow_patterns"])


def test_the_generation_configs_end_tokens_win(tmp_path):
    folder = tiny_folder(tmp_path / "tiny", eos_token_id=1)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert resolve.read_config(folder)["eos_token_id"] == [1, 2]
    for content, message in (
        ("{", "generation_config.json is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"eos_token_id": "x"}', "an eos_token_id that is no token's number: 'x'"),
    ):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(UserError, match=message):
            resolve.read_config(folder)
