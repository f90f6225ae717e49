"""Killed with SIGKILL at any moment and run again, a run loses nothing and computes nothing twice.

The processes are real ones that run ``rowmill run``. A few lines around it note what the engine computes and make every
step take a moment, so that kills land in the middle of the work.
"""

import json
import random
import textwrap

import datasets
import pytest

from tests.support import runs
from tests.support.kills import STEP_SECONDS, Run, kill_until_done


@pytest.fixture
def folder(tmp_path, cache):
    lines = [f"{i},{'a text that occurs often' if i % 10 == 3 else f'text number {i}'}" for i in range(200)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    return tmp_path


CHAIN = '''
from dataclasses import dataclass

import pyarrow as pa

from runner.types import Request


@dataclass
class Chain:
    """One request, then two that depend on its answer, so that resume must replay."""

    def schema(self):
        return pa.schema([("text", pa.string()), ("more", pa.list_(pa.string()))])

    def steps(self, row):
        first = yield Request()
        about = f"{row['id']}: {first.text}"
        more = yield [Request(messages=({"role": "user", "content": f"{about} {i}"},), seed=i) for i in range(2)]
        return {"text": first.text, "more": [answer.text for answer in more]}
'''


@pytest.mark.slow
def test_kills_of_a_run_of_several_steps_lose_nothing_and_repeat_nothing(folder, slow):
    (folder / "chain.py").write_text(textwrap.dedent(CHAIN))
    (folder / "own" / "job").mkdir(parents=True)
    (folder / "own" / "job" / "chain.yaml").write_text("_target_: chain.Chain\n")
    overrides = [
        *("--config-dir", "own", "job=chain", "dataset=csv", "dataset.path=rows.csv", "prompt.user='{{ text }}'"),
        *("engine.backend=fake", "engine.batch_size=4", "engine.temperature=0.7", "engine.window=40"),
        *("output.shard_rows=16", "output.report=false"),
    ]
    chance = random.Random(0)
    moments = [(chance.randint(4, 36), chance.uniform(0, STEP_SECONDS)) for _ in range(17 if slow else 9)]
    moments += [(0, chance.uniform(0, 0.5)) for _ in range(3)]  # while it starts
    chance.shuffle(moments)
    with Run(folder, "whole", overrides) as whole, Run(folder, "killed", overrides) as killed:
        whole.start(step_seconds=0)
        counts = kill_until_done(killed, moments)
        whole.finish()

    assert killed.shards() == whole.shards()
    assert [row["id"] for row in killed.rows()] == list(range(200))
    assert killed.committed().keys() == whole.committed().keys()
    assert len(killed.committed()) == 600
    assert sorted(whole.computed()) == sorted(whole.committed().keys())
    middle = {count for count in counts if 0 < count < 600}
    assert len(middle) >= len(moments) // 2  # the kills were spread over the work


def test_kills_of_a_real_model_leave_the_same_labels_and_confidences(folder, slow):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(folder / "tiny")
    overrides = [
        *("job=label", "job.labels=[a,ab,q,x,'7','72']", "dataset=csv", "dataset.path=rows.csv", "model.path=tiny"),
        *("prompt.user='Which letter? {{ text }}'", "prompt.chat=false", "engine.backend=cpu"),
        *("engine.batch_size=4", "engine.window=40", "output.shard_rows=16", "output.report=false"),
    ]
    chance = random.Random(1)
    moments = [(chance.randint(1, 8), chance.uniform(0, 0.05)) for _ in range(20 if slow else 3)]
    whole, killed = (Run(folder, name, overrides, compiles=True) for name in ("whole", "killed"))
    with whole, killed:
        whole.start(step_seconds=0)
        counts = kill_until_done(killed, moments)
        whole.finish()

    assert 0 < counts[-1] < 200
    assert len(killed.committed()) == 200
    distinct = {row["text"] for row in whole.rows()}
    assert len(whole.computed()) == len(distinct) == 181
    pairs = list(zip(killed.rows(), whole.rows(), strict=True))
    for mine, other in pairs:
        assert (mine["id"], mine["label"], mine["error"]) == (other["id"], other["label"], None)
        assert mine["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert len({row["label"] for row, _ in pairs}) > 1
    assert len({json.dumps(row["probabilities"]) for row, _ in pairs}) > 100


@pytest.mark.slow
def test_many_rows_take_no_more_memory_than_few(folder, slow):
    code = """
        import sys
        from runner import run
        from runner.machine.facts import peak_memory
        figures = run(sys.argv[1:])
        peak = peak_memory() / (1 << 20)
        print(figures["finished"], figures["errors"], figures["state"], peak)
    """
    peaks = []
    for rows in (2_000, 1_000_000 if slow else 8_000):
        path = folder / f"{rows}.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"id": {i}, "text": "this is review number {i} of many"}}\n' for i in range(rows))
        overrides = [
            *("engine.backend=fake", "job=label", "job.labels=[good,bad]", "dataset=jsonl", f"dataset.path={path}"),
            *("prompt.user='Good or bad? {{ text }}'", "output.keep=[id]", f"run_name=r{rows}"),
        ]
        done = runs.python(textwrap.dedent(code), *overrides, cwd=folder)
        assert done.returncode == 0, done.stderr
        finished, errors, state, peak = done.stdout.split()
        assert (int(finished), errors, state) == (rows, "0", "finished")
        data = datasets.load_from_disk(str(folder / "outputs" / f"r{rows}"))
        assert data.num_rows == rows
        assert data["id"][:3] + data["id"][-2:] == [0, 1, 2, rows - 2, rows - 1]
        peaks.append(float(peak))
    assert peaks[1] < 1024  # MiB
    assert peaks[1] - peaks[0] < (300 if slow else 100)  # SQLite's cache fills, mapped files are counted
