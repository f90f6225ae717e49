"""The quality of labels, spans, summaries and synthetic texts in a report, as names and values.

Missing figures are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runner.chain.cascade import cascade_lines
from runner.report.figures import Figures
from runner.results import rouge
from runner.results.perplexity import estimate, exp
from runner.results.quality.lines import LINES, set_facts
from runner.results.quality.verdict import verdict
from runner.words import count_of, duration, speed

Facts = list[tuple[str, str]]
MOST_SEATS = 64
LEAST_TEXTS = 10  # of which diversity says something
MOST_LABELS = 100  # with figures of their own
_NAMES = {"accuracy": "accuracy", "kappa": "Cohen's kappa", "macro_f1": "macro F1", "ece": "calibration error (ECE)"}


def sections(figures: Figures, cascade: Mapping[str, Any] | None = None) -> list[tuple[str, Facts]]:
    """Titles and their facts; those without facts are left out."""
    found = [
        ("Stages", chain_facts(figures.status)),
        ("Cascade", cascade_lines(cascade) if cascade else []),
        ("Label quality", label_facts(figures.evaluation or {})),
        ("Seats", seat_facts(figures.status.get("seats", []))),
        ("Spans", span_facts(figures.evaluation or {})),
        *((f"Answers in {name}", answer_facts(found)) for name, found in figures.evaluations.items()),
        ("Perplexity", perplexity_facts(figures)),
        ("Summaries", summary_facts(figures)),
        ("Diversity", diversity_facts(figures)),
        ("Rejected attempts", [(kind, f"{n:,}") for kind, n in (figures.status.get("rejected") or {}).items()][:20]),
    ]
    return [(title, facts) for title, facts in found if facts]


def chain_facts(status: Mapping[str, Any]) -> Facts:
    """A line for each stage of a chain."""
    found = []
    for one in status.get("stages") or []:
        rows = f"{one['finished']:,} of {count_of(one['rows'], 'row')}" if "finished" in one else "no rows"
        work = (
            f", {count_of(one['errors'], 'error')}, {duration(one['active_s'])} at work" if one.get("finished") else ""
        )
        found.append((one["name"], f"{one['state']}: {rows}{work}"))
    return found


def seat_facts(seats: Sequence[Mapping[str, Any]]) -> Facts:
    """What each seat of a fleet was, and its share of the answers: of a chain, of those of its stage."""
    facts = []
    for one in seats[:MOST_SEATS]:
        said = [one.get("device"), f"{one['answers']:,} answers ({one['answers_share']:.0%})"]
        said += [speed(one["rows_per_s"]) if one.get("rows_per_s") else None]
        said += [count_of(one["deaths"], "death") if one.get("deaths") else None, one.get("state"), one.get("why")]
        name = f"{one['stage']}: {one['name']}" if "stage" in one else one["name"]
        facts.append((name, ", ".join(str(part) for part in said if part)))
    return facts


def label_facts(evaluation: Mapping[str, Any]) -> Facts:
    """Overall figures with their 95% intervals; those of each label are a table of their own."""
    if not evaluation.get("rows") or evaluation.keys() <= {"rows", "accuracy", "confusion"}:  # is on the page already
        return []
    intervals = {"ece": evaluation.get("intervals_ece"), **(evaluation.get("intervals") or {})}
    facts = [
        (label, _with_interval(evaluation[name], intervals.get(name)))
        for name, label in _NAMES.items()
        if isinstance(evaluation.get(name), float)
    ]
    if evaluation.get("abstained"):
        facts.append(("abstained", count_of(evaluation["abstained"], "row")))
    return facts


def span_facts(found: Mapping[str, Any]) -> Facts:
    """How many spans are the gold ones, exactly and in part, and of which kinds."""
    if not found.get("rows") or found.get("kind") != "spans":
        return []
    names = {"f1": "F1, exact", "precision": "precision, exact", "recall": "recall, exact", "partial_f1": "F1, partial"}
    facts = [(title, _with_interval(found[name], found["intervals"][name])) for name, title in names.items()]
    facts.append(("rows", f"{found['exact']:.1%} of {found['rows']:,} with gold are without a mistake"))
    for kind, one in found["kinds"].items():
        counts = f"{one['found']:,} found, {one['gold']:,} gold"
        facts.append((kind, f"F1 {_with_interval(one['f1'], one['intervals']['f1'])}, {counts}"))
    return facts


def answer_facts(found: Mapping[str, Any]) -> Facts:
    """The figures of several labels, of levels or of a question, as the terminal shows them."""
    if not found.get("rows") or "kind" not in found:
        return []
    if found["kind"] == "labels":
        said = verdict(found)
        return [("verdict", said), *label_facts(found), *_by_label(found)] if said else label_facts(found)
    facts = set_facts(found) if found["kind"] == "sets" else LINES[found["kind"]](found)
    return [*((name or "and", text) for name, text in facts), *_by_label(found)]


def _by_label(found: Mapping[str, Any]) -> Facts:
    facts = []
    for name, one in list((found.get("classes") or {}).items())[:MOST_LABELS]:
        both = f"precision {one['precision']:.3f}, recall {one['recall']:.3f}, {count_of(one['rows'], 'row')}"
        facts.append((name, f"F1 {_with_interval(one['f1'], one['intervals'].get('f1'))}, {both}"))
    return facts


def summary_facts(figures: Figures) -> Facts:
    """ROUGE against references, and how much shorter the summaries are."""
    scores, facts = figures.rouge or {}, []
    for name, label in rouge.NAMES.items():
        if isinstance(score := scores.get(name), dict):
            facts.append((label, _with_interval(score["f1"], [score["low"], score["high"]])))
    compression = figures.numbers.get("compression")
    if compression is not None and len(compression):
        facts.append(
            ("compression", f"the median document is {np.median(compression):.1f} times as long as its summary")
        )
    return facts


def perplexity_facts(figures: Figures) -> Facts:
    """Of windows with the sums of negative log-likelihoods ``nll`` of ``tokens``: the perplexity, with its interval."""
    nlls, tokens = (figures.numbers.get(name) for name in ("nll", "tokens"))
    if figures.identity.get("figures") != "perplexity" or nlls is None or tokens is None:
        return []
    found = estimate(nlls.tolist(), tokens.tolist())
    spread = None if found.standard_error is None else 1.96 * found.standard_error / found.perplexity
    interval = None if spread is None else [exp(found.nll - spread), exp(found.nll + spread)]
    return [
        ("perplexity", _with_interval(found.perplexity, interval)),
        ("negative log-likelihood", f"{found.nll:.4f} nats a token"),
        ("scored", f"{int(found.tokens):,} tokens in {count_of(found.windows, 'window')}"),
    ]


def diversity_facts(figures: Figures) -> Facts:
    """Of texts: different n-grams among all, how alike the texts are, and how many are copies."""
    found = figures.diversity or {}
    texts = found.get("texts", 0)
    if texts < LEAST_TEXTS:
        return []
    facts = [(f"distinct-{n}", f"{found[f'distinct_{n}']:.3f} of the {n}-grams of {texts:,} texts") for n in (1, 2)]
    if found["self_bleu"] is not None:
        facts.append(("self-BLEU", f"{found['self_bleu']:.3f}"))
    return [*facts, ("copies", f"{found['copies']:,} of {texts:,} texts repeat an earlier one")]


def _with_interval(value: float, interval: Any) -> str:
    if not interval or None in interval:
        return f"{value:.3f}"
    return f"{value:.3f} (95%: {interval[0]:.3f} to {interval[1]:.3f})"
