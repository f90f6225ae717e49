"""Models of the hub, fetched from a hub on this machine that cuts lines, sends rubbish and goes silent."""

import hashlib
import shutil
import sys
import time
from inspect import signature
from io import BytesIO
from types import SimpleNamespace

import pytest

from runner.cli import main
from runner.models import hub, resolve
from runner.types import UserError
from tests.support import runs
from tests.support.hub import fake_hub, use

LARGE = 1 << 14


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    """A model with a large file, and what a model does not need."""
    folder = tmp_path_factory.mktemp("repository") / "tiny"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    (folder / "code.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"x" * (2 * LARGE))
    assert (folder / "model.safetensors").stat().st_size > 4 * LARGE
    return folder


@pytest.fixture
def server(folder):
    with fake_hub(folder, "own/tiny", LARGE) as running:
        yield running


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """This process asks the fake hub; the folder of its cache."""
    use(server, tmp_path / "hub", monkeypatch)
    monkeypatch.setattr(hub, "LARGE_BYTES", LARGE)
    return tmp_path / "hub"


def weights(server):
    return (server.folder / "model.safetensors").read_bytes()


def begins(server):
    return [begin for name, begin in server.asked if name == "model.safetensors"]


def parts(cache):
    return sorted(cache.rglob("*.part"))


def test_a_model_comes_without_what_it_does_not_need(server, here):
    found = resolve.resolve("own/tiny")
    assert {path.name for path in found.iterdir()} == {
        path.name for path in server.files() if path.suffix not in (".py", ".bin", ".md")
    }
    assert (found / "model.safetensors").read_bytes() == weights(server)
    assert begins(server) == [0]
    assert not parts(here)


def test_what_is_there_is_not_fetched_again(server, here):
    first = resolve.resolve("own/tiny")
    server.asked.clear()
    assert resolve.resolve("own/tiny") == first
    assert resolve.resolve("own/tiny", offline=True) == first
    assert not server.asked


def test_a_short_cut_goes_unnoticed(server, here):
    server.cut = [3 * LARGE]
    found = resolve.resolve("own/tiny")
    assert (found / "model.safetensors").read_bytes() == weights(server)
    assert begins(server)[0] == 0
    assert 0 < begins(server)[1] <= 3 * LARGE


def test_a_line_that_stays_dead_ends_with_what_to_do_and_the_next_one_goes_on(server, here, capsys):
    server.cut = [3 * LARGE] + [0] * 6
    with pytest.raises(UserError, match=r"cut off: .* are kept: run the same command again to resume"):
        resolve.resolve("own/tiny")
    (part,) = parts(here)
    had = part.stat().st_size
    assert 0 < had <= 3 * LARGE
    server.asked.clear()
    server.cut.clear()
    found = resolve.resolve("own/tiny")
    assert begins(server) == [had]
    assert (found / "model.safetensors").read_bytes() == weights(server)
    assert not parts(here)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


def test_a_hub_that_goes_silent_in_a_large_file_ends_with_what_to_do_and_the_next_one_goes_on(server, here, impatient):
    server.stall = 3 * LARGE
    with pytest.raises(UserError, match=r"model.safetensors was cut off: .* are kept: run the same command again"):
        resolve.resolve("own/tiny")
    (part,) = parts(here)
    had = part.stat().st_size
    assert 0 < had <= 3 * LARGE
    server.stall = None
    server.asked.clear()
    assert (resolve.resolve("own/tiny") / "model.safetensors").read_bytes() == weights(server)
    assert begins(server) == [had]


def test_a_hub_that_goes_silent_in_a_small_file_ends_with_a_line(server, here, impatient):
    server.stall, server.stalls = 5, "config.json"
    with pytest.raises(
        UserError, match=r"model.path=own/tiny: .* asking the hub failed: .*; check the name and the network"
    ):
        resolve.resolve("own/tiny")
    server.stall = None
    assert (resolve.resolve("own/tiny") / "model.safetensors").read_bytes() == weights(server)


def test_a_killed_download_goes_on(server, tmp_path, start):
    code = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 10_000\n"
    code += "from runner.models import hub, resolve; hub.LARGE_BYTES = 1000; print(resolve.resolve('own/tiny'))"
    environment = server.environment(tmp_path / "hub")
    server.stall = 4 * LARGE
    child = start([sys.executable, "-c", code], env=environment)
    while not (parts(tmp_path) and parts(tmp_path)[0].stat().st_size):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.kill()
    child.wait()
    had = parts(tmp_path)[0].stat().st_size
    server.stall = None
    server.asked.clear()
    done = runs.python(code, env=environment)
    assert done.returncode == 0, done.stderr
    assert begins(server) == [had]
    assert (
        hashlib.sha256(weights(server)).digest()
        == hashlib.sha256((tmp_path / done.stdout.strip() / "model.safetensors").read_bytes()).digest()
    )


def test_a_file_that_comes_damaged_is_not_kept(server, here):
    server.damaged = ("*.safetensors",)
    with pytest.raises(UserError, match=r"model.safetensors arrived damaged"):
        resolve.resolve("own/tiny")
    assert not parts(here)
    server.damaged = ()
    assert (resolve.resolve("own/tiny") / "model.safetensors").read_bytes() == weights(server)


def test_two_processes_do_not_write_one_file(server, here):
    etag = hashlib.sha256(weights(server)).hexdigest()
    # The other process is this one: it holds the lock as a download does.
    part = hub._part(hub._blob("own/tiny", etag))
    part.parent.mkdir(parents=True)
    with hub._locked("it", "x", part), pytest.raises(UserError, match=r"another process is fetching model.safetensors"):
        resolve.resolve("own/tiny")


@pytest.mark.parametrize("command", ["convert", "run"])
def test_a_full_disk_is_seen_before_anything_is_fetched(server, here, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    rows = tmp_path / "rows.csv"
    rows.write_text("text\na\n")
    run = ["job=generate", "dataset=csv", f"dataset.path={rows}", "prompt.user='{{ text }}'", f"output.dir={tmp_path}"]
    more = run if command == "run" else [f"convert.folder={tmp_path / 'made'}"]
    assert main([command, "model.path=own/tiny", *more]) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "kB are to be fetched, and 1.0 kB are free in " in said
    assert "HF_HOME" in said
    assert not server.asked


def test_what_is_fetched_already_needs_no_room(server, here, monkeypatch):
    first = resolve.resolve("own/tiny")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert resolve.resolve("own/tiny") == first


def test_a_disk_that_fills_up_meanwhile_ends_with_3(server, here, monkeypatch):
    def full(url, file, **_):
        file.write(b"x" * 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(
        UserError, match=r"the disk of .* is full: make room, then run the same command again"
    ) as raised:
        resolve.resolve("own/tiny")
    assert raised.value.exit_code == 3
    assert parts(here)


PAGE = "https://huggingface.co/own/tiny"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("own/tiny", ("own/tiny", None)),
        ("hf.co/own/tiny", ("own/tiny", None)),
        (f"{PAGE}/", ("own/tiny", None)),
        (f"{PAGE}/tree/v2", ("own/tiny", "v2")),
        (f"{PAGE}?library=mlx", ("own/tiny", None)),
        (f"{PAGE}/blob/main/config.json", ("own/tiny", "main")),
        ("ollama:own/tiny:latest", None),
        ("./own/tiny", None),
        ("https://example.org/own/tiny", None),
    ],
)
def test_a_link_to_a_models_page_means_the_model(text, meant):
    found = hub.address_of(text)
    assert (found and found[:2]) == meant and not (found and found.gguf)


def test_of_a_repository_of_gguf_files_the_quantisation_or_a_link_names_one(server, tmp_path, here, monkeypatch):
    names = ["tiny-Q4_K_M.gguf", "tiny-UD-Q4_K_XL.gguf", "Q8_0/tiny-Q8_0-00001-of-00002.gguf"]
    repository = server.folder = tmp_path / "repository"
    for name in [*names, "Q8_0/tiny-Q8_0-00002-of-00002.gguf", "mmproj-tiny-Q8_0.gguf"]:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(b"GGUF" + name.encode())
    # A private name: what becomes of the file is shown elsewhere.
    monkeypatch.setattr(resolve, "_converted", lambda path, widths: path)
    asked = {f"own/tiny:{kind}": name for kind, name in zip(("q4_k_m", "UD-Q4_K_XL", "Q8_0"), names, strict=True)}
    for address, name in (asked | {f"{PAGE}/blob/main/{name}": name for name in names}).items():
        assert resolve.resolve(address).read_bytes() == b"GGUF" + name.encode(), address
    assert {path.name for path in here.rglob("*.gguf")} >= {"tiny-Q8_0-00002-of-00002.gguf"}
    with pytest.raises(UserError, match="it has no such GGUF file; see the files on its page"):
        resolve.resolve("own/tiny:Q4_K")
    with pytest.raises(UserError, match=r"no config.json; .* name the quantisation \(model.path=own/tiny:Q4_K_M\)"):
        resolve.resolve("own/tiny")


def test_a_configuration_alone_makes_no_model_of_a_repository(server, tmp_path, here):
    repository = server.folder = tmp_path / "repository"
    repository.mkdir()
    (repository / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"no \*.safetensors; .* name the quantisation"):
        resolve.resolve("own/tiny")


def test_a_model_that_there_is_not_says_so(server, here):
    with pytest.raises(UserError, match=r"model.path=own/tinny: no such folder here, and not on the hub"):
        resolve.resolve("own/tinny")


def test_the_hub_clients_private_names_are_as_we_use_them():
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers
    from huggingface_hub.utils._http import default_client_factory

    options = {"resume_size": 5, "headers": {}, "expected_size": 9, "displayed_filename": "a"}
    signature(http_get).bind("https://an.address", BytesIO(), **options)
    assert repo_folder_name(repo_id="own/tiny", repo_type="model") == "models--own--tiny"
    assert "user-agent" in build_hf_headers()
    with default_client_factory() as client:
        assert isinstance(client.event_hooks.get("request", []), list)
        request = client.build_request("GET", "https://an.address", timeout=3)
    assert set(request.extensions["timeout"]) == {"connect", "read", "write", "pool"}
