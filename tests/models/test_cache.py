"""Promises of runner/cache.py."""

from runner.cache import cache_dir, publish


def test_of_two_processes_the_first_publishes(tmp_path):
    folder = tmp_path / "made"

    def build(temporary):
        (temporary / "mine").touch()
        folder.mkdir(exist_ok=True)
        (folder / "theirs").touch()

    publish(folder, build)
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ROWMILL_CACHE")
    assert cache_dir().name == "rowmill"
