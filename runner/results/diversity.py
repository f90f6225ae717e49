"""How different synthetic texts are from each other, and how the share of duplicates grew."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from runner.checkpoint.records import error_kind
from runner.results.run import Run
from runner.text.scripts import ngrams, words

TEXTS = 10_000  # the first so many are measured
SAMPLED, ORDERS = 100, 4  # texts and n-gram lengths of self-BLEU
STRETCHES = 10  # of the attempts
DUPLICATES = ("exact", "near")


def diversity(run: Run) -> dict[str, Any]:
    """Figures over the accepted texts and the rejected attempts of a run.

    ``texts``: how many were measured; ``copies``: those of them that repeat an earlier one. ``distinct_1`` and
    ``distinct_2``: distinct words and pairs of words as shares of all (Li et al. 2016).
    ``self_bleu``: the mean BLEU-4 of up to 100 sampled texts, each against the others (Zhu et al. 2018; counts plus
    one); None for fewer than two. ``duplicates``: for each tenth of the attempts the share that were duplicates.
    """
    texts = list(islice(_texts(run), TEXTS))
    spoken = [words(text) for text in texts]
    figures: dict[str, Any] = {"texts": len(texts), "copies": len(texts) - len(set(texts))}
    figures |= {f"distinct_{n}": distinct(spoken, n) for n in (1, 2)}
    return figures | {"self_bleu": _self_bleu(spoken), "duplicates": _duplicates(run)}


def diversity_lines(figures: dict[str, Any]) -> list[str]:
    """The figures as text, one line each."""
    if not figures["texts"]:
        return []
    bleu = "" if figures["self_bleu"] is None else f", self-BLEU {figures['self_bleu']:.3f}"
    shares = " ".join(f"{share:.0%}" for share in figures["duplicates"])
    return [
        f"distinct-1 {figures['distinct_1']:.3f}, distinct-2 {figures['distinct_2']:.3f}{bleu}",
        f"duplicates among the attempts, by tenths: {shares}",
    ]


def _texts(run: Run) -> Iterator[str]:
    for block in run.blocks(["text"]):
        yield from block.table.column("text").drop_null().to_pylist()


def distinct(texts: list[list[str]], n: int) -> float:
    """Different n-grams as a share of all n-grams (Li et al. 2016); 0 without any."""
    grams = Counter(gram for words in texts for gram in ngrams(words, n))
    return len(grams) / grams.total() if grams else 0.0


def _self_bleu(texts: list[list[str]]) -> float | None:
    chosen = Random("self-bleu").sample(texts, min(SAMPLED, len(texts)))
    chosen = [words for words in chosen if words]
    if len(chosen) < 2:
        return None
    return math.fsum(_bleu(at, chosen) for at in range(len(chosen))) / len(chosen)


def _bleu(at: int, texts: list[list[str]]) -> float:
    """BLEU of one text with all the others as references."""
    words, others = texts[at], texts[:at] + texts[at + 1 :]
    logs = 0.0
    for n in range(1, ORDERS + 1):
        mine = Counter(ngrams(words, n))
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= Counter(gram for gram in ngrams(other, n) if gram in mine)
        logs += math.log(((mine & most).total() + 1) / (mine.total() + 1))
    closest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return math.exp(logs / ORDERS + min(0.0, 1 - closest / len(words)))


def _duplicates(run: Run) -> list[float]:
    status, counts = run.status, [0] * STRETCHES
    attempts = status["finished"] + sum(status["rejected"].values())
    for one in run.rejected():
        if error_kind(one["reason"]) in DUPLICATES and one["attempt"] < attempts:
            counts[one["attempt"] * STRETCHES // attempts] += 1
    sizes = [len(range(-(-i * attempts // STRETCHES), -(-(i + 1) * attempts // STRETCHES))) for i in range(STRETCHES)]
    return [count / size if size else 0.0 for count, size in zip(counts, sizes, strict=True)]
