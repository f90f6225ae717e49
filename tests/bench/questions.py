"""Ten questions a row in one run, against ten runs with one question each: rows/s and prompt tokens computed.

``python -m tests.bench.questions [ROWS [WORDS [KEY=VALUE ...]]]``: film reviews joined to texts of so many words.
"""

import json
import sys
import tempfile
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


def measured(folder: Path, name: str, questions: list[dict], more: list[str]) -> dict:
    """The figures of a run that asks these questions."""
    asked = json.dumps([one | KINDS.get(one["name"], {"labels": ["yes", "no"]}) for one in questions])
    words = ["job=label", f"job.questions={asked}", "dataset=jsonl", f"dataset.path={folder}/rows.jsonl"]
    words += [f"output.dir={folder}", f"run_name={name}", "output.report=false", "cache=false"]
    return run([*words, 'prompt.user="Reviews: {{ text }}\\n\\n{{ question }}"', *more])


def main(rows: str = "40", words: str = "200", *more: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "rows.jsonl", int(rows), int(words))
        together = measured(folder, "together", QUESTIONS, list(more))
        apart = [measured(folder, one["name"], [one], list(more)) for one in QUESTIONS]
    seconds = sum(one["active_s"] for one in apart)
    for what, found, taken in (("one run", [together], together["active_s"]), ("ten runs", apart, seconds)):
        tokens = sum(one["prompt_tokens"] - one["cached_tokens"] for one in found)
        print(f"{what}: {int(rows) / taken:.2f} rows/s, {tokens / int(rows):.0f} prompt tokens computed a row")
    print(f"{seconds / together['active_s']:.1f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])
