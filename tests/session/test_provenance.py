"""A run directory says what made it: prompt, model, versions, machine."""

import hashlib
import json
import sqlite3
from pathlib import Path

from runner.cli import main

# Models of the hub and quantised ones are not at hand: their two facts are read by themselves.
from runner.session.identity import _commit, _quantization


def test_each_session_says_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mail.csv").write_text("text\na\nb\n")
    keys = ["job=generate", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "run_name=x"]
    assert main(["run", *keys, "prompt.user={{ text }}?"]) == 0
    with sqlite3.connect("outputs/x/run.db") as connection:
        identity = json.loads(connection.execute("SELECT identity FROM run").fetchone()[0])
        said = json.loads(connection.execute("SELECT provenance FROM sessions").fetchone()[0])
    assert identity["prompt"]["user"] == "{{ text }}?"
    assert identity["seed"] == 0
    prompt = json.dumps(identity["prompt"], sort_keys=True).encode()
    assert said["prompt_sha256"] == hashlib.sha256(prompt).hexdigest()
    assert said["versions"]["mlx"]
    assert said["versions"]["mlx-lm"]
    assert said["machine"]["cores"] >= 1
    assert said["dataset"] == "mail.csv"


def test_quantisation_and_commit_of_a_model():
    quantization = {"group_size": 32, "bits": 6, "model.embed": {"bits": 8}}
    assert _quantization({"quantization": quantization}) == {"group_size": 32, "bits": 6}
    assert _quantization({}) is None
    assert _commit(Path("models--a--b/snapshots/0f16a3")) == "0f16a3"
    assert _commit(Path("my/folder")) is None
    assert _commit(None) is None
