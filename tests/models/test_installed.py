"""Promises of runner/models/{installed,listing}.py: what Ollama and LM Studio have is found, and only read."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from runner.cli import main
from runner.config.load import load_config
from runner.models import resolve
from runner.models.gguf.pieces import CONVERSION
from runner.models.installed import all_installed, find
from runner.models.listing import loss_of
from runner.types import UserError
from tests.support import ggufs
from tests.support.tiny import tiny_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def pull(home, name, tag, content=b"GGUF", host="registry.example", **kinds):
    """As Ollama keeps what it has pulled: a manifest that names blobs by their digests."""
    models = home / ".ollama" / "models"
    digest = hashlib.sha256(content).hexdigest()
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)}]
    layers += [{"mediaType": f"application/vnd.ollama.image.{kind}", "digest": "sha256:0"} for kind in kinds]
    manifest = models / "manifests" / host / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    (models / "blobs").mkdir(exist_ok=True)
    (models / "blobs" / f"sha256-{digest}").write_bytes(content)
    return models / "blobs" / f"sha256-{digest}"


def download(home, name, folder=".lmstudio"):
    file = home / folder / "models" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"GGUF")
    return file


def test_a_model_of_ollama_is_found_by_its_name_and_tag(home):
    latest, small = pull(home, "library/llama3.2", "latest", b"3B"), pull(home, "library/llama3.2", "1b", b"1B")
    hub = pull(home, "someone/Model-GGUF", "Q4_K_M", b"hub", host="hub.example")
    found = {name: find(f"ollama:{name}").path for name in ("llama3.2", "llama3.2:1b", "someone/model-gguf")}
    assert found == {"llama3.2": latest, "llama3.2:1b": small, "someone/model-gguf": hub}
    assert find("ollama:hub.example/someone/Model-GGUF:Q4_K_M").path == hub
    assert {find(f"ollama:{name}:1b").path for name in ("library/llama3.2", "registry.example/library/llama3.2")} == {
        small
    }
    cloud = pull(home, "library/large", "cloud").parents[1] / "manifests/registry.example/library/large/cloud"
    cloud.write_text('{"layers": null}')
    with pytest.raises(UserError, match="it runs in Ollama's cloud"):
        find("ollama:large")


def test_under_wsl_the_models_of_windows_are_found(home, monkeypatch):
    monkeypatch.setattr("runner.models.installed.WINDOWS", home / "mnt")
    user = home / "mnt" / "c" / "Users" / "me"
    ours, theirs = pull(user, "library/phi4", "latest"), download(home / "mnt" / "d", "maker/A-GGUF/A-Q4_0.gguf", "lm")
    (user / ".lmstudio").mkdir()
    (user / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": "D:\\lm\\models"}))
    assert (find("ollama:phi4").path, find("lmstudio:a").path) == (ours, theirs)


def test_a_name_that_two_hosts_have_is_told_apart_by_the_host(home, monkeypatch):
    first = pull(home, "library/phi4", "latest", b"first", host="registry.ollama.ai")
    other = pull(home, "library/phi4", "latest", b"other", host="hub.example")
    assert [one.address for one in all_installed()] == ["ollama:hub.example/phi4:latest", "ollama:phi4:latest"]
    assert [find(one.address).path for one in all_installed()] == [other, first]
    with pytest.raises(UserError, match=r"several: ollama:hub.example/phi4:latest .*, ollama:phi4:latest .*choose one"):
        find("ollama:phi4")
    same = [pull(home, "library/qwen3", tag) for tag in ("4b", "4b-q4_K_M")]
    assert find("ollama:qwen3").path in same  # two tags of one file


def test_several_tags_or_quantisations_ask_for_one(home):
    pull(home, "library/qwen3", "4b"), pull(home, "library/qwen3", "8b", b"8B")
    with pytest.raises(UserError, match=r"has several: ollama:qwen3:4b \(.*\), ollama:qwen3:8b .*choose one"):
        find("ollama:qwen3")
    four = download(home, "maker/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf")
    download(home, "maker/Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf")
    download(home, "maker/Qwen3-4B-GGUF/mmproj-F16.gguf")
    below = download(home, "maker/Large-GGUF/UD-Q2_K_XL/Large-UD-Q2_K_XL.gguf")
    assert find("lmstudio:large@Q2_K_XL").path == find("lmstudio:maker/Large-GGUF").path == below
    with pytest.raises(
        UserError, match=r"has several: lmstudio:maker/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M .*Q8_0 .*choose one"
    ):
        find("lmstudio:qwen3-4b")
    names = [
        "qwen3-4b@q4_k_m",
        "maker/Qwen3-4B-GGUF:Q4_K_M",
        "Qwen3-4B-Q4_K_M",
        "maker/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",
    ]
    assert {find(f"lmstudio:{name}").path for name in names} == {four}


def test_what_is_not_there_lists_what_is(home):
    with pytest.raises(UserError, match=r"Ollama has no such model on this machine; it has no models in .*\.ollama"):
        find("ollama:phi")
    pull(home, "library/gemma3", "270m")
    with pytest.raises(UserError, match=r"it has ollama:gemma3:270m \("):
        find("ollama:phi")
    for at in range(12):
        pull(home, f"library/a{at}", "latest")
    pull(home, "library/phi4-mini", "latest")
    with pytest.raises(UserError, match=r"it has ollama:phi4-mini:latest .* and 2 others$"):  # the likest first
        find("ollama:phi4mini")


def test_what_cannot_be_used_says_why(home):
    pull(home, "library/tuned", "latest", adapter=True)
    with pytest.raises(UserError, match="an adapter beside, which is not read"):
        find("ollama:tuned")
    pull(home, "library/gone", "latest", b"gone").unlink()
    with pytest.raises(UserError, match="is missing: pull it again"):
        find("ollama:gone")


@pytest.mark.parametrize(
    "damaged", ["", "\0", "[]", "{}", '{"layers": [null]}', '{"layers": ["x"]}', '{"layers": [{"size": null}]}']
)
def test_a_damaged_manifest_is_listed_with_its_problem_and_hides_no_other_model(home, damaged):
    good = pull(home, "library/good", "latest")
    manifest = home / ".ollama/models/manifests/registry.example/library/bad/latest"
    manifest.parent.mkdir()
    manifest.write_text(damaged)
    manifest.with_name(".DS_Store").write_bytes(b"\xff")
    assert find("ollama:good").path == good
    assert [one.address for one in all_installed()] == ["ollama:bad:latest", "ollama:good:latest"]
    with pytest.raises(UserError, match=r"bad/latest is damaged: pull it again"):
        find("ollama:bad")


def test_a_config_beside_gguf_files_makes_no_mlx_model_of_them(home):
    file = download(home, "maker/Tiny-GGUF/Tiny-Q4_0.gguf")
    file.with_name("config.json").write_text('{"model_type": "llama"}')
    assert [one.path for one in all_installed()] == [find("lmstudio:tiny").path] == [file]
    assert resolve.is_model_folder(file.parent) is False
    file.with_name("model.safetensors").touch()
    assert resolve.is_model_folder(file.parent) is True


def test_links_to_nowhere_and_odd_settings_hide_no_other_model(home):
    good = download(home, "someone/Good/good-Q4_0.gguf")
    (good.parent / "lost-Q8_0.gguf").symlink_to("/nowhere/lost.gguf")
    download(home, "someone/Mlx/config.json").with_name("model.safetensors").symlink_to("/nowhere/model.safetensors")
    (home / ".lmstudio/settings.json").write_text('{"downloadsFolder": 5}')
    (home / ".lmstudio-home-pointer").write_bytes(b"\xff\xfe")
    assert find("lmstudio:good").path == good
    assert [one.size_bytes for one in all_installed()] == [4, 0]


def test_a_folder_that_may_not_be_read_is_said_and_hides_no_other_model(home, monkeypatch):
    """As of Ollama's service on Linux, whose models lie in the home of its own user."""
    good, asked = download(home, "someone/Good/good-Q4_0.gguf"), Path.stat

    def stat(path, **options):
        if ".ollama" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return asked(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert [one.path for one in all_installed()] == [good]
    with pytest.raises(UserError, match=r"no models in .*\.ollama/models \(which you may not read\)"):
        find("ollama:any")


def test_other_folders_count_where_the_programs_were_told_so(home, tmp_path, monkeypatch):
    blob = pull(home, "library/a", "latest")
    shutil.move(home / ".ollama" / "models", tmp_path / "elsewhere")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere"))
    assert find("ollama:a").path == tmp_path / "elsewhere" / "blobs" / blob.name
    old = download(home, "maker/Old-GGUF/Old-Q4_0.gguf", ".cache/lm-studio")
    assert find("lmstudio:old").path == old
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "mine")}))
    mine = tmp_path / "mine" / "maker" / "New-GGUF" / "New-Q4_0-00001-of-00002.gguf"
    mine.parent.mkdir(parents=True)
    mine.touch(), mine.with_name("New-Q4_0-00002-of-00002.gguf").touch()
    assert find("lmstudio:new@q4_0").path == mine


@pytest.mark.usefixtures("cpu")
def test_a_model_of_either_is_converted_and_nothing_is_written_where_it_lies(home, cache, tmp_path, capsys, in_process):
    model, config = ggufs.random_model("llama", num_hidden_layers=1)
    file = ggufs.write_model(tmp_path / "m.gguf", "llama", model, config)
    blob = pull(home, "library/tiny", "latest", file.read_bytes(), template=True)
    before = sorted(home.rglob("*"))
    for path in before:
        if path.is_dir():
            path.chmod(0o555)
    try:
        folder = resolve.resolve("ollama:tiny")
    finally:
        for path in before:
            if path.is_dir():
                path.chmod(0o755)
    assert sorted(home.rglob("*")) == before and folder.is_relative_to(cache)
    assert folder.name.startswith(f"ollama-tiny-latest-{blob.name.removeprefix('sha256-')[:16]}")
    pull(home, "library/renamed", "8b", file.read_bytes())
    assert resolve.resolve("ollama:renamed:8b") == folder  # one file by another name
    shutil.rmtree(home / ".ollama/models/manifests/registry.example/library/renamed")
    assert "file: ollama:tiny:latest\n" in (folder / CONVERSION).read_text()
    (home / ".lmstudio" / "models" / "maker").mkdir(parents=True)
    mlx = tiny_folder(home / ".lmstudio" / "models" / "maker" / "Tiny-MLX")
    assert resolve.resolve("lmstudio:tiny") == mlx
    assert main(["models", "--json"]) == 0
    listed = {one["model"] for one in json.loads(capsys.readouterr().out)}
    assert listed == {f"model.path={folder}", "model=ollama:tiny:latest", "model=lmstudio:maker/Tiny-MLX"}


@pytest.mark.parametrize("address", ["ollama:llama3.2:1b", "lmstudio:maker/Qwen3-4B-GGUF@q4_k_m"])
def test_model_takes_the_address(address):
    words = [
        "engine.backend=fake",
        "dataset=csv",
        "dataset.path=a.csv",
        "job=label",
        "job.labels=[a,b]",
        "prompt.user=x",
    ]
    assert load_config([*words, f"model={address}"]).conf.model.path == address


def test_what_a_conversion_lost_is_said_of_its_folder(tmp_path):
    assert loss_of(tmp_path) is None
    (tmp_path / CONVERSION).write_text("file: a.gguf\nperplexity: {converted: 20.2, file: 20.0, tokens: 256}\n")
    assert loss_of(tmp_path) == "made of a.gguf, rounded: perplexity of a short text 20.00 -> 20.20 (+1.0%)"
    (tmp_path / CONVERSION).write_text("file: a.gguf\n")
    assert loss_of(tmp_path) is None
