"""How close summaries are to reference texts: ROUGE-1, ROUGE-2 and ROUGE-L, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from runner.data.cells import shown
from runner.data.source import DataSource
from runner.results.run import Run
from runner.text.scripts import words
from runner.types import UserError
from runner.words import count_of

NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
KINDS = tuple(NAMES)


def need_rouge(gold: str) -> None:
    """UserError if the package that computes the scores is not installed."""
    if find_spec("rouge_score") is None:
        raise UserError(
            "dataset.gold",
            "scores need the package rouge-score: pip install 'rowmill[summarize]'; or dataset.gold=null for no scores",
            value=gold,
        )


def evaluate_summaries(run: Run, source: DataSource) -> dict[str, Any]:
    """``rows`` with a reference (the gold column) and, for each of KINDS, the mean F1 with its 95% interval.

    The interval is a percentile bootstrap over rows, with a fixed seed. A row without a summary scores 0.
    """
    import numpy as np

    from runner.results.quality.bootstrap import RESAMPLES, interval

    scores = np.array(list(_scores(run, source)))
    if not len(scores):
        return {"rows": 0}
    rng = np.random.default_rng(0)
    drawn = np.array([scores[rng.integers(0, len(scores), len(scores))].mean(axis=0) for _ in range(RESAMPLES)])
    figures: dict[str, Any] = {"rows": len(scores)}
    for kind, mean, means in zip(KINDS, scores.mean(axis=0), drawn.T, strict=True):
        low, high = interval(means)
        figures[kind] = {"f1": float(mean), "low": low, "high": high}
    return figures


def _scores(run: Run, source: DataSource) -> Iterator[tuple[float, ...]]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(KINDS, tokenizer=Words())
    for start, table in run.blocks(["summary"]):
        references = shown(source.table(start, start + len(table), [source.conf.gold or ""]).column(0))
        for reference, summary in zip(references, table.column("summary").to_pylist(), strict=True):
            if reference:
                score = scorer.score(str(reference), summary or "")
                yield tuple(score[kind].fmeasure for kind in KINDS)


class Words:
    """The words of rouge-score, stemmed, and those with other letters than a to z, of which it would leave pieces."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._usual = DefaultTokenizer(use_stemmer=True).tokenize

    def tokenize(self, text: str) -> list[str]:
        if text.isascii():
            return list(self._usual(text))
        return [one for word in words(text) for one in (self._usual(word) if word.isascii() else [word])]


def rouge_lines(rouge: dict[str, Any]) -> list[str]:
    """The scores as text, one line each."""
    lines = ["{} {f1:.3f} ({low:.3f} to {high:.3f})".format(name, **rouge[kind]) for kind, name in NAMES.items()]
    return [*lines, f"mean F1 and its 95% interval over {count_of(rouge['rows'], 'row')} with a reference"]
