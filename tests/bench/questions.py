"""Ten questions a row in one run, against ten runs with one question each: rows/s and prompt tokens computed.

``python -m tests.bench.questions [ROWS [WORDS [KEY=VALUE ...]]]``: film reviews joined to texts of so many words.
Rows/s are of processor time, which does not depend on what else a machine does, without what a run of one row takes.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

from runner import run
from runner.data.conf import DatasetConf
from runner.data.source import open_source

QUESTIONS = [
    {"name": "tone", "ask": "Is the tone of these reviews friendly, neutral or hostile?"},
    {"name": "films", "ask": "How many films are they about: one or several?"},
    {"name": "actors", "ask": "Do they say anything about the actors?"},
    {"name": "story", "ask": "Do they say anything about the story?"},
    {"name": "music", "ask": "Do they say anything about the music?"},
    {"name": "stars", "ask": "How many stars of five would the reviewers give?"},
    {"name": "humour", "ask": "How funny is the film, from 1 to 5?"},
    {"name": "again", "ask": "Would the reviewers watch it again?"},
    {"name": "children", "ask": "Is it a film for children?"},
    {"name": "length", "ask": "Is the film called too long?"},
]
KINDS = {
    "tone": {"labels": ["friendly", "neutral", "hostile"]},
    "films": {"labels": ["one", "several"]},
    "stars": {"scale": [1, 5]},
    "humour": {"scale": [1, 5]},
}


def write_texts(path: Path, rows: int, words: int) -> None:
    """Reviews joined until they have so many words."""
    keys = yaml.safe_load(Path("conf/dataset/movie_reviews.yaml").read_text()) | {"limit": None}
    texts = (row["text"] for row in open_source(DatasetConf.of(keys)).rows())
    with path.open("w") as file:
        for _ in range(rows):
            some: list[str] = []
            while sum(len(text.split()) for text in some) < words:
                some.append(next(texts))
            file.write(json.dumps({"text": " ".join(some)}) + "\n")


def measured(folder: Path, questions: list[dict], more: list[str]) -> tuple[dict, float]:
    """The figures of a run that asks these questions, and its seconds of processor time."""
    asked = json.dumps([one | KINDS.get(one["name"], {"labels": ["yes", "no"]}) for one in questions])
    words = ["job=label", f"job.questions={asked}", "dataset=jsonl", f"dataset.path={folder}/rows.jsonl"]
    words += [f"output.dir={folder}", "resume=force", "output.report=false", "cache=false"]
    began = time.process_time()
    figures = run([*words, 'prompt.user="Reviews: {{ text }}\\n\\n{{ question }}"', *more])
    return figures, time.process_time() - began


def main(rows: str = "40", words: str = "200", *more: str) -> None:
    waiting = [*QUESTIONS[:5], *(one | {"where": "tone_confidence > 0"} for one in QUESTIONS[5:])]
    ways = {"one run": [QUESTIONS], "half of them wait": [waiting], "ten runs": [[one] for one in QUESTIONS]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "rows.jsonl", int(rows) + 1, int(words))
        measured(folder, QUESTIONS, ["dataset.limit=1", *more])  # imports, and what else is done once a process
        for what, asked in ways.items():
            start_s = sum(measured(folder, one, ["dataset.limit=1", *more])[1] for one in asked)
            found = [measured(folder, one, [*more]) for one in asked]
            seconds = sum(taken for _, taken in found) - start_s
            tokens = sum(one["prompt_tokens"] - one["cached_tokens"] for one, _ in found) / (int(rows) + 1)
            print(f"{what}: {int(rows) / seconds:.2f} rows/s, {tokens:.0f} prompt tokens computed a row", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
