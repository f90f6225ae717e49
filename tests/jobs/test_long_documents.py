"""Documents longer than the context: killed at any moment, as long as a book, many at a time."""

import json
import random
import textwrap

import datasets
import pytest

from tests.support import runs
from tests.support.kills import Run, kill_until_done

KILLS = 5


def prose(tokens, seed=0):
    """Paragraphs of about so many bytes, which are the tokens of the models in these tests."""
    chance = random.Random(seed)
    words = [
        "the",
        "old",
        "mill",
        "stood",
        "by",
        "water",
        "and",
        "nobody",
        "knew",
        "who",
        "had",
        "built",
        "its",
        "wheel",
        "or",
        "why",
        "it",
        "turned",
        "at",
        "night",
    ]
    text = ""
    paragraphs = []
    while sum(map(len, paragraphs)) < tokens:
        text = ". ".join(" ".join(chance.choices(words, k=chance.randint(5, 20))) for _ in range(5))
        paragraphs.append(f"{text.capitalize()}.\n\n")
    return "".join(paragraphs)


def test_kills_in_the_middle_of_documents_lose_only_what_was_in_flight(tmp_path, cache):
    (tmp_path / "books").mkdir()
    for i in range(6):
        (tmp_path / "books" / f"{i}.txt").write_text(prose(1500 + 2500 * (i % 3), seed=i))
    overrides = [
        *("job=summarize", "job.chunk_tokens=500", "job.overlap_tokens=40", "job.intermediate=true", "job.fan_in=3"),
        *("dataset=documents", "dataset.path=books", "engine.backend=fake", "engine.batch_size=2"),
        *("engine.max_tokens=200", "engine.temperature=0.7", "output.shard_rows=2", "output.keep=[file]"),
    ]
    chance = random.Random(0)
    moments = [(chance.randint(2, 6), chance.uniform(0, 0.02)) for _ in range(KILLS)]
    with Run(tmp_path, "whole", overrides) as whole, Run(tmp_path, "killed", overrides) as killed:
        whole.start(step_seconds=0)
        counts = kill_until_done(killed, moments)
        whole.finish()
    assert killed.shards() == whole.shards()
    assert killed.committed().keys() == whole.committed().keys()
    assert len([count for count in counts if 0 < count < len(whole.committed())]) >= KILLS - 2
    computed = killed.computed()
    assert len(computed) - len(set(computed)) <= 2 * KILLS  # a batch of two for each
    rows = killed.rows()
    assert [row["file"] for row in rows] == [f"{i}.txt" for i in range(6)]
    assert max(row["levels"] for row in rows) >= 3
    assert all(row["summary"] and row["error"] is None for row in rows)


@pytest.mark.slow
def test_a_book_of_300_000_tokens_takes_little_more_memory_than_a_chapter(tmp_path, cache, slow):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(tmp_path / "tiny")
    code = """
        import sys
        from runner import run
        from runner.machine.facts import peak_memory
        figures = run(sys.argv[1:])
        peak = peak_memory() / (1 << 20)
        print(figures["finished"], figures["errors"], peak)
    """
    peaks = []
    for tokens in (30_000, 296_000) if slow else (4_000, 10_000):
        (tmp_path / f"{tokens}.jsonl").write_text(json.dumps({"text": prose(tokens)}) + "\n")
        overrides = [
            *(
                "job=summarize",
                "job.chunk_tokens=300",
                "job.retries=0",
                "dataset=jsonl",
                f"dataset.path={tokens}.jsonl",
            ),
            *("prompt.user='{{ step }}: {{ passage }}'", "prompt.chat=false", "model.path=tiny", "engine.backend=cpu"),
            *("engine.max_tokens=16", "engine.batch_size=32", "output.keep=[]", f"run_name=r{tokens}"),
            "output.report=false",
            "engine.memory_gb=0.6",  # bounds what MLX keeps of freed buffers, 60 MB
        ]
        done = runs.python(textwrap.dedent(code), *overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        finished, errors, peak = done.stdout.split()
        assert (finished, errors) == ("1", "0")
        (row,) = datasets.load_from_disk(str(tmp_path / "outputs" / f"r{tokens}"))
        assert row["tokens"] >= tokens
        assert row["chunks"] >= tokens / 300
        peaks.append(float(peak))
    assert peaks[1] - peaks[0] < 100  # MiB


def test_slots_are_taken_while_documents_wait_for_their_parts(tmp_path, monkeypatch, cache, slow):
    from runner import run
    from tests.support.tiny import save_tiny_llama

    monkeypatch.chdir(tmp_path)
    save_tiny_llama(tmp_path / "tiny")
    documents, size = (40, 8) if slow else (8, 2)
    lines = [json.dumps({"text": prose(500 + 500 * (i % 4), seed=i)}) for i in range(documents)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    overrides = [
        *("job=summarize", "job.chunk_tokens=300", "job.retries=0", "dataset=jsonl", "dataset.path=rows.jsonl"),
        *("prompt.user='{{ step }}: {{ passage }}'", "prompt.chat=false", "model.path=tiny", "engine.backend=cpu"),
        *("engine.max_tokens=16", f"engine.batch_size={size}", "output.report=false"),
    ]
    figures = run(overrides)
    assert (figures["finished"], figures["errors"]) == (documents, 0)
    assert figures["slot_occupancy"] > 0.8


def test_steps_of_different_documents_share_batches(tmp_path, monkeypatch, cache):
    """Merging waits for its parts: meanwhile the slots are other documents'."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": prose(2000 + 3000 * (i % 4), seed=i)}) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    from runner import run
    from runner.session import session

    steps = []
    original = session.open_engine

    def counting(*given):
        engine = original(*given)
        step = engine.step

        def counted():
            generations = step()
            steps.append([generation.key for generation in generations])
            return generations

        engine.step = counted
        return engine

    monkeypatch.setattr(session, "open_engine", counting)
    overrides = ["job=summarize", "job.chunk_tokens=1000", "dataset=jsonl", "dataset.path=rows.jsonl"]
    run([*overrides, "engine.max_tokens=100", "engine.backend=fake", "engine.batch_size=16"])
    answered = [len(keys) for keys in steps if keys]
    assert sum(answered) / (16 * len(answered)) > 0.8
    assert any(len({row for row, _ in keys}) > 8 for keys in steps)
