"""Promises of runner/cache.py."""

import os
from pathlib import Path

from runner import cache as module
from runner.cache import cache_dir, hold, kept_sha256, publish
from runner.disk import file_sha256


def test_of_two_processes_the_first_publishes(tmp_path):
    folder = tmp_path / "made"

    def build(temporary):
        (temporary / "mine").touch()
        folder.mkdir(exist_ok=True)
        (folder / "theirs").touch()

    publish(folder, build)
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_process_left_is_deleted_before_it_is_made_again_and_what_others_make_stays(tmp_path):
    """A process holds a lock on its temporary folder, which the kernel takes from a killed one."""
    killed, works, old, young = (tmp_path / f".part-{name}" for name in ("killed", "works", "old", "young"))
    for part in (killed, works, old, young):
        part.mkdir()
        (part / "half a model").touch()
    hold(killed).close()
    os.utime(old, (0, 0))
    present: list[Path] = []
    with hold(works):
        publish(tmp_path / "made", lambda folder: present.extend(path for path in (killed, old) if path.exists()))
    assert not present and {path.name for path in tmp_path.iterdir()} == {"made", works.name, young.name}


def test_the_hash_of_a_file_is_computed_once_until_it_is_written_to(tmp_path, monkeypatch, cache):
    computed = []
    monkeypatch.setattr(module, "file_sha256", lambda path: computed.append(path) or file_sha256(path))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"first")
    for _ in range(2):  # it may still be written to
        assert kept_sha256(file) == file_sha256(file)
    assert len(computed) == 2
    monkeypatch.setattr(module.time, "time", lambda: file.stat().st_ctime + 60)
    assert {kept_sha256(file) for _ in range(3)} == {file_sha256(file)} and len(computed) == 3
    before = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept_sha256(file) == file_sha256(file)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ROWMILL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ROWMILL_CACHE")
    assert cache_dir().name == "rowmill"
