"""A hub of one model on this machine: the few calls that the hub's client makes, files with ranges, and cut lines."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as the model ``name``, those of ``large`` bytes as the hub does large files.

    ``cut``: how many bytes of a matching file are sent before the line goes dead, once for each entry. ``asked``: the
    ranges of all GETs of files; ``damaged``: patterns of files sent with their last byte changed; ``stall``: behind
    how many bytes the line of a file that matches ``stalls`` goes silent.
    """

    daemon_threads = True

    def __init__(self, folder, name, large=1 << 16):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.name, self.large = folder, name, large
        self.cut, self.asked, self.damaged, self.stall, self.stalls = [], [], (), None, "*.safetensors"

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, cache):
        """What makes a process use this hub, with a cache of its own."""
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
        return {"HF_ENDPOINT": self.address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", **quiet}

    def files(self):
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def fake_hub(folder, name, large=1 << 16):
    hub = FakeHub(folder, name, large)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def use(hub, cache, monkeypatch):
    """Let the hub's client in this process ask ``hub``, keep files in ``cache`` and not wait between attempts."""
    constants = {"ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache), "DOWNLOAD_CHUNK_SIZE": 1000}
    constants["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        hub, path = self.server, self.path.partition("?")[0]
        if path == f"/api/models/{hub.name}" or path.startswith(f"/api/models/{hub.name}/revision/"):
            listed = [{"rfilename": str(file.relative_to(hub.folder))} for file in hub.files()]
            self._json({"id": hub.name, "modelId": hub.name, "sha": COMMIT, "siblings": listed}, body)
        elif path.startswith(f"/api/models/{hub.name}/tree/"):
            self._json([self._listed(file) for file in hub.files()], body)
        elif path.startswith(f"/{hub.name}/resolve/"):
            self._file(hub.folder / path.split("/", 5)[5], body)
        else:
            self.send_response(200 if path == "/" else 404)
            if path != "/":
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, value, body):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _listed(self, file):
        size, etag = file.stat().st_size, _etag(self.server, file)
        entry = {"type": "file", "path": str(file.relative_to(self.server.folder)), "oid": etag[:40], "size": size}
        return entry | ({"lfs": {"oid": etag, "size": size, "pointerSize": 1}} if len(etag) == 64 else {})

    def _file(self, file, body):
        hub, data = self.server, file.read_bytes()
        if any(fnmatch(file.name, pattern) for pattern in hub.damaged):
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if body:
            hub.asked.append((file.name, begin))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_etag(hub, file)}"')
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        stop = len(data)
        if hub.cut and len(data) >= hub.large:
            stop = begin + hub.cut.pop(0)
        if hub.stall is not None and fnmatch(file.name, hub.stalls):
            self.wfile.write(data[begin : hub.stall])
            time.sleep(30)
            return
        self.wfile.write(data[begin:stop])
        if stop < len(data):
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)


def _etag(hub, file):
    data = file.read_bytes()
    return hashlib.sha256(data).hexdigest() if len(data) >= hub.large else hashlib.sha1(data).hexdigest()
